package session

import (
	"context"
	"sync"
	"time"

	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// reach is how a session gets to its target's agents: on this machine (local.go) or in a cluster (cluster.go).
type reach interface {
	// dial is home's dialer: its first call finds the agent or starts it.
	dial(ctx context.Context, resume string) (*mux.Conn, wire.Welcome, error)
	// try bounds one dial of a link that is down, and final says whether an agent's goodbye is for good.
	try() time.Duration
	final(mux.ByeError) bool
	// news is closed when something has changed that another try of such a link may depend on; nil for never.
	news() <-chan struct{}
	// complete adds to what home's agent says of its pod what only we can know.
	complete(*wire.Pod)
	// follow joins the target's other pods and follows what becomes of them until ctx ends.
	follow(ctx context.Context)
	// note keeps what is said of the session where others see it, until ctx ends.
	note(ctx context.Context)
	// steal completes what is asked of a pod's agent, and names the pod; not ok where another link asks that agent.
	steal(l *link, s *wire.Steal) (pod string, ok bool)
	// pod is the name of the one that sends its requests by a link.
	pod(l *link) string
	// pods are the session's now, and where they are.
	pods() (namespace, context string, pods []StatePod)
	// notice is what home's link has to say.
	notice(line string)
	// close comes after all links are closed.
	close()
}

// links are the ways to the session's pods: home's, which is never removed, and those of the others, which only send
// their requests.
type links struct {
	all     map[*link]bool
	changed chan struct{} // closed and replaced at each change
}

// join adds the way to another pod; false says that the session has ended.
func (s *Session) join(l *link) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	s.links.all[l] = true
	s.links.change()
	s.changed.ring()
	if s.paused {
		l.tell(wire.State{Paused: true})
	}
	return true
}

// part removes it.
func (s *Session) part(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.links.all, l)
	s.links.change()
	s.changed.ring()
}

// leave closes every link, all at once: one that does not answer must not keep the others from giving back what they have.
// The channel that is returned is closed when all have ended.
func (s *Session) leave() <-chan struct{} {
	left := make(chan struct{})
	var leaving sync.WaitGroup
	all, _ := s.each()
	for _, l := range all {
		leaving.Go(l.close)
	}
	go func() {
		leaving.Wait()
		close(left)
	}()
	return left
}

// change is called with the session's mu held.
func (l *links) change() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// each is every link of now, and what is closed when that changes.
func (s *Session) each() ([]*link, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*link, 0, len(s.links.all))
	for l := range s.links.all {
		out = append(out, l)
	}
	return out, s.links.changed
}

// everywhere runs f for each link, those that come later included, until ctx has ended and every f has returned. f ends
// with ctx or with its link.
func (s *Session) everywhere(ctx context.Context, f func(*link)) {
	var running sync.WaitGroup
	defer running.Wait()
	known := map[*link]bool{}
	for {
		all, changed := s.each()
		for _, l := range all {
			if !known[l] {
				known[l] = true
				running.Go(func() { f(l) })
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
