package session

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/kube"
	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

const (
	noteFirst = 500 * time.Millisecond // after the start, which others shall not slow down, and which opens ports
	noteEvery = 2 * time.Second        // between two rounds of notes: a program that opens its ports one by one is two
	noteRetry = 30 * time.Second       // after one that failed
	noteEnd   = time.Second            // for their removal: the session's end waits for it
	noteMost  = 4                      // calls at once
)

// noted is what stands on an agent's Job, as far as this session has written it, and with which of its channels: another one
// may be another Job's.
type noted struct {
	conn *mux.Conn
	text string
}

// noting is the notes of a session in a cluster. It belongs to cluster.note.
type noting struct {
	c    *cluster
	told map[*way]noted
}

// note keeps a note of the session on its agents' Jobs until ctx ends, and takes away what sessions have left that their
// agents do not know any more: those that were killed. It is a comfort for others. What goes wrong is no matter of the user's.
func (c *cluster) note(ctx context.Context) {
	n := &noting{c, map[*way]noted{}}
	defer n.remove()
	for wait := noteFirst; ; wait = noteEvery {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		changed := c.s.changed.listen()
		err := n.round(ctx)
		var again <-chan time.Time
		if fail.CodeOf(err) == fail.ClusterForbidden {
			c.s.log.Debug("this session is not noted on its agents' Jobs", "err", err)
			clear(n.told)
			return
		} else if err != nil {
			c.s.log.Debug("noting the session", "err", err)
			again = time.After(noteRetry)
		}
		select {
		case <-changed:
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

// errLater says that a session has lost its channel, and has yet to be back or to be given up by its agent.
var errLater = errors.New("session: there are notes of sessions that may be gone")

// noteable is an agent that there is a channel to now.
type noteable struct {
	*way
	conn *mux.Conn
}

// agents are those of the session's pods, and the ways to all of these.
func (c *cluster) agents() (reached []noteable, all []*way) {
	c.mu.Lock()
	defer c.mu.Unlock()
	add := func(w *way, l *link) {
		if all = append(all, w); l == nil {
			return
		}
		if conn, _ := l.current(); conn != nil {
			reached = append(reached, noteable{w, conn})
		}
	}
	if c.homeUID == c.firstUID {
		add(&c.first, c.s.link)
	}
	for _, m := range c.members {
		add(&m.way, m.link)
	}
	return reached, all
}

// round writes what has changed, on each Job.
func (n *noting) round(ctx context.Context) error {
	state, _ := n.c.s.State()
	own := &kube.Note{Who: state.Who, Mode: state.Mode, Since: state.Since}
	for _, p := range state.Ports {
		own.Ports = append(own.Ports, wire.Port{Network: p.Network, Port: p.Pod})
	}
	text, err := json.Marshal(own)
	if err != nil {
		return err
	}
	agents, all := n.c.agents()
	maps.DeleteFunc(n.told, func(w *way, _ noted) bool { return !slices.Contains(all, w) })
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(noteMost)
	for _, a := range agents {
		mu.Lock()
		want, before := noted{a.conn, string(text)}, n.told[a.way]
		mu.Unlock()
		if before == want {
			continue
		}
		group.Go(func() error {
			err := n.c.write(ctx, a, own, before.conn != a.conn)
			mu.Lock()
			defer mu.Unlock()
			if n.told[a.way] = want; err != nil {
				n.told[a.way] = noted{} // it may stand there, and is written again
			}
			return err
		})
	}
	return group.Wait()
}

// write writes the note on one Job. A session that is new there clears away after others.
func (c *cluster) write(ctx context.Context, a noteable, own *kube.Note, first bool) error {
	agent := a.known()
	if agent == nil {
		return nil
	}
	id := c.hello.Session
	there, err := agent.Note(ctx, map[string]*kube.Note{id: own})
	if err != nil || !first || len(there) < 2 {
		return err
	}
	asked := &asking{}
	if asked.list(ctx, a.conn); asked.err != nil {
		c.s.log.Debug("asking who left notes", "err", asked.err)
		return nil // the next session asks, too
	}
	gone, later := map[string]*kube.Note{}, false
	for _, other := range there { // each has begun before it wrote, so the agent knew it
		i := slices.IndexFunc(asked.all, func(i wire.SessionInfo) bool { return i.ID == other })
		if i < 0 && other != id {
			gone[other] = nil
		}
		later = later || i >= 0 && asked.all[i].Lost
	}
	if len(gone) > 0 {
		_, err = agent.Note(ctx, gone)
	}
	if err == nil && later {
		err = errLater
	}
	return err
}

// known is the pod's agent, if one has answered.
func (w *way) known() podAgent {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.agent
}

// remove takes the notes away.
func (n *noting) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), noteEnd)
	defer cancel()
	var group errgroup.Group
	group.SetLimit(noteMost)
	for w := range n.told {
		if agent := w.known(); agent != nil {
			group.Go(func() error {
				_, err := agent.Note(ctx, map[string]*kube.Note{n.c.hello.Session: nil})
				return err
			})
		}
	}
	if err := group.Wait(); err != nil {
		n.c.s.log.Debug("taking the session's notes away", "err", err)
	}
}
