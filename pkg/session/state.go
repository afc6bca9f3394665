package session

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// State is what a session is doing, as editors are told (docs/protocol.md).
type State struct {
	Target    string      `json:"target"` // as it was written
	Namespace string      `json:"namespace,omitempty"`
	Context   string      `json:"context,omitempty"`
	Mode      string      `json:"mode"`
	Pods      []StatePod  `json:"pods"`
	Ports     []StatePort `json:"ports"` // those that take part; none in mode off
	Who       string      `json:"who"`
	Session   string      `json:"session"` // its id
	Since     time.Time   `json:"since"`
	Paused    bool        `json:"paused"`
}

// StatePod is one of the session's pods.
type StatePod struct {
	Name      string `json:"name"`
	Home      bool   `json:"home"`
	Connected bool   `json:"connected"` // there is a channel to its agent now

	link *link // nil: none yet
}

// StatePort is a port of the debuggee's that stands for one of the pod's.
type StatePort struct {
	Port    uint16 `json:"port"`
	Pod     uint16 `json:"pod"`
	Network string `json:"network"`
}

// State is the session's state now, and what is closed when it may be another.
func (s *Session) State() (State, <-chan struct{}) {
	changed := s.changed.listen() // first: what changes from here on is heard
	st := State{Target: s.target.String(), Who: s.hello.Who, Session: s.hello.Session, Since: s.since.UTC().Truncate(time.Second), Paused: s.stands()}
	st.Namespace, st.Context, st.Pods = s.reach.pods()
	st.Mode, st.Ports = s.ports.taking()
	return st, changed
}

// Sessions lists who is with the session's pods, itself included, as far as their agents answer.
func (s *Session) Sessions(ctx context.Context) []Used {
	list := []Used{}
	for _, a := range s.askOwn(ctx) {
		for _, u := range a.used() {
			if u.ID != "" {
				u.Own = u.ID == s.hello.Session
				list = append(list, u)
			}
		}
	}
	return list
}

// Stop ends a session of this user's that is with one of the session's pods; it may be this one. id may be the beginning of
// one, if it is one's only.
func (s *Session) Stop(ctx context.Context, id string) error {
	if id != "" && strings.HasPrefix(s.hello.Session, id) {
		s.end(errStopped)
		return nil
	}
	_, err := stopAmong(ctx, s.askOwn(ctx), id)
	return err
}

// askOwn asks the session's own agents who uses them, over the channels that there are.
//
// Goroutines: one an agent, at most askMost at once; all have ended when it returns.
func (s *Session) askOwn(ctx context.Context) (asked []*asking) {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	namespace, _, pods := s.reach.pods()
	var group errgroup.Group
	group.SetLimit(askMost)
	for _, p := range pods {
		if p.link == nil {
			continue
		}
		if conn, _ := p.link.current(); conn != nil {
			a := &asking{place: Used{Namespace: namespace, Target: s.target.String(), Pod: p.Name}}
			asked = append(asked, a)
			group.Go(func() error { a.list(ctx, conn); return nil })
		}
	}
	_ = group.Wait()
	return asked
}

// stands says whether the debuggee is at a breakpoint.
func (s *Session) stands() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.paused
}

// taking is the mode, and the ports that take part.
func (p *ports) taking() (mode string, taking []StatePort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	taking = []StatePort{}
	for k, have := range p.open {
		if have.given == nil || p.mode == modeOff || p.mode == modeMirror && k.network != "tcp" {
			continue
		}
		taking = append(taking, StatePort{k.number, have.pod, k.network})
	}
	slices.SortFunc(taking, func(a, b StatePort) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Network, b.Network))
	})
	return p.mode, taking
}

// bell tells any number of listeners that something has changed, not what: many changes may be one. The zero value is ready.
type bell struct {
	mu   sync.Mutex
	next chan struct{} // nil: nobody listens
}

// listen returns what the next ring closes.
func (b *bell) listen() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next == nil {
		b.next = make(chan struct{})
	}
	return b.next
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next != nil {
		close(b.next)
		b.next = nil
	}
}
