package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/stepin-dev/stepin/pkg/kube"
	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// member is the way to a pod that is not the one that the session began with.
type member struct {
	way
	uid     string
	stop    context.CancelFunc
	link    *link // with cluster.mu; nil until it is up for the first time
	parting bool  // its pod is about to end
}

const (
	// maxMembers bounds the pods that send their requests here beside home: each has an agent on its node, a connection and
	// some 100 KiB. What serves more has more requests than one debuggee answers.
	maxMembers = 64
	// maxStarts bounds the agents that start at a time: each is some ten requests to an API server that others need, too.
	maxStarts = 4
)

// crew is the members that run. All but starts belongs to follow.
type crew struct {
	running sync.WaitGroup
	starts  chan struct{} // holds one for each agent that starts
	told    bool          // that there are too many pods
}

// follow keeps a link to each pod but the first for as long as both exist.
func (c *cluster) follow(ctx context.Context) {
	crew := &crew{starts: make(chan struct{}, maxStarts)}
	defer crew.running.Wait()
	watched := make(chan error, 1)
	crew.running.Go(func() {
		watched <- c.workload.Watch(ctx, func([]kube.Pod) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.change()
		})
	})
	for {
		pods, changed := c.meet(ctx, crew)
		c.restarts(pods)
		select {
		case <-changed:
		case err := <-watched:
			if ctx.Err() == nil {
				c.s.notice(fmt.Sprintf("pods that come from now on are not followed: %v", err))
			}
			watched = nil
		case <-ctx.Done():
			return
		}
	}
}

// meet starts a member for each pod that is new, and sees to it that those whose pods have gone do not stay for ever.
func (c *cluster) meet(ctx context.Context, crew *crew) (pods []kube.Pod, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pods = c.workload.Pods()
	for _, p := range pods {
		if p.UID == c.firstUID || c.spent[p.UID] || c.members[p.UID] != nil {
			continue
		}
		if len(c.members) >= maxMembers {
			if !crew.told {
				crew.told = true
				c.s.notice(fmt.Sprintf("%s has more than %d pods: the others keep their requests", c.s.config.Target, maxMembers+1))
			}
			break
		}
		own, stop := context.WithCancel(ctx)
		m := &member{way: way{c: c, pod: p}, uid: p.UID, stop: stop}
		c.members[p.UID] = m
		crew.running.Go(func() { c.accompany(own, m, crew.starts) })
	}
	ended := func(uid string) bool {
		return !slices.ContainsFunc(pods, func(p kube.Pod) bool { return p.UID == uid })
	}
	if !c.parting && c.firstUID != "" && ended(c.firstUID) {
		c.parting = true
		farewell(c.s.link, &c.first)
	}
	for uid, m := range c.members {
		if !m.parting && ended(uid) {
			m.parting = true
			farewell(m.link, &m.way)
			time.AfterFunc(parting, m.stop)
		}
	}
	return pods, c.changed
}

// farewell tells an agent that its pod is about to end, so that it leaves with the container: after that the pod's network
// goes, and what is connected over it would never learn of it.
func farewell(l *link, w *way) {
	if l == nil {
		return
	}
	if conn, _ := l.current(); conn != nil {
		target := wire.Target{Container: w.current().ContainerID, Ending: true}
		go func() { _ = conn.Send(wire.KindTarget, target) }() // to one that is lost there is nothing to say
	}
}

// accompany takes the requests of a member's pod until that has gone. Until then what is under way is brought to its end:
// the link stays for as long as the agent does.
func (c *cluster) accompany(ctx context.Context, m *member, starts chan struct{}) {
	defer func() {
		m.stop()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.members, m.uid)
		c.change()
	}()
	name := m.current().Name
	dial := func(ctx context.Context, resume string) (*mux.Conn, wire.Welcome, error) {
		pod, ok := c.find(m.uid)
		if !ok {
			return nil, wire.Welcome{}, fmt.Errorf("%w: the pod has ended", errGone)
		}
		return m.way.dial(ctx, pod, resume)
	}
	for said := ""; ctx.Err() == nil; {
		o := c.s.linkOptions(dial)
		o.notice = func(line string) { c.s.notice("pod " + name + ": " + line) }
		select {
		case starts <- struct{}{}:
		case <-ctx.Done():
			return
		}
		l, err := newLink(ctx, o)
		<-starts
		if err == nil {
			err = c.keep(ctx, m, l)
		}
		if wasStopped(err) {
			c.s.end(errStopped)
			return
		}
		if _, ok := c.find(m.uid); !ok || ctx.Err() != nil {
			return
		}
		if text := err.Error(); text != said {
			said = text
			c.s.notice(fmt.Sprintf("pod %s keeps its requests: %v", name, err))
		}
		var bye mux.ByeError
		if errors.Is(err, errGone) || errors.As(err, &bye) { // it was stopped
			c.spend(m.uid)
			return
		}
		select {
		case <-time.After(joinRetry):
		case <-ctx.Done():
		}
	}
}

// keep has the link among the session's until it or ctx has ended, and returns why it has.
func (c *cluster) keep(ctx context.Context, m *member, l *link) error {
	defer l.close()
	c.mu.Lock()
	m.link = l
	c.change()
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		m.link = nil
		c.mu.Unlock()
	}()
	if !c.s.join(l) {
		return context.Canceled
	}
	defer c.s.part(l)
	select {
	case <-l.ended:
		return l.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// restarts tells the agents of containers that were restarted.
func (c *cluster) restarts(pods []kube.Pod) {
	type known struct {
		*way
		*link
	}
	c.mu.Lock()
	ways := map[string]known{c.firstUID: {&c.first, c.s.link}}
	for uid, m := range c.members {
		ways[uid] = known{&m.way, m.link}
	}
	c.mu.Unlock()
	for _, p := range pods {
		if k, ok := ways[p.UID]; ok && k.link != nil {
			c.restarted(k.way, k.link, p)
		}
	}
}

// restarted tells an agent which container took the ended one's place, if it is another.
func (c *cluster) restarted(w *way, l *link, p kube.Pod) {
	w.mu.Lock()
	changed := w.pod.ContainerID != p.ContainerID
	if changed {
		w.pod = p
	}
	w.mu.Unlock()
	if !changed {
		return
	}
	c.s.notice("container " + p.Container + " of pod " + p.Name + " was restarted")
	if conn, _ := l.current(); conn != nil {
		go func() { _ = conn.Send(wire.KindTarget, wire.Target{Container: p.ContainerID}) }() // of a channel that is lost: the next dial tells
	}
}
