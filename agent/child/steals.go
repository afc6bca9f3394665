package child

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"

	"github.com/stepin-dev/stepin/agent/pair"
	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// steal is one steal of one session: its stream's life.
type steal struct {
	session *session
	stream  uint32
	ports   []wire.Port
	probes  probes
	ready   chan struct{} // closed once the session knows that it has the ports
	ctx     context.Context
	cancel  context.CancelFunc
}

// steals is who gets the flows of which TCP port. UDP ports have sockets of their own.
type steals struct {
	mu      sync.Mutex
	tcp     map[uint16]*steal
	all     map[*steal]struct{}
	changed chan struct{} // closed and replaced when a port is entered; nil until somebody waits
}

func (s *steals) add(st *steal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tcp == nil {
		s.tcp, s.all = map[uint16]*steal{}, map[*steal]struct{}{}
	}
	s.all[st] = struct{}{}
	for _, p := range st.ports {
		if p.Network == "tcp" {
			s.tcp[p.Port] = st
		}
	}
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

func (s *steals) remove(st *steal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(st)
}

func (s *steals) forget(st *steal) {
	st.cancel()
	delete(s.all, st)
	for _, p := range st.ports {
		if p.Network == "tcp" && s.tcp[p.Port] == st {
			delete(s.tcp, p.Port)
		}
	}
}

// drop ends all steals of a session.
func (s *steals) drop(owner *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.all {
		if st.session == owner {
			s.forget(st)
		}
	}
}

// find waits until somebody has stolen port, or ctx ends: then it is nil.
func (s *steals) find(ctx context.Context, port uint16) *steal {
	for {
		s.mu.Lock()
		st := s.tcp[port]
		if s.changed == nil {
			s.changed = make(chan struct{})
		}
		changed := s.changed
		s.mu.Unlock()
		if st != nil {
			return st
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// askedPorts reads what a steal or a mirror asks for; what cannot be done is refused.
func askedPorts(r *mux.Request) (ask wire.Steal, ok bool) {
	if !decode(r, &ask) {
		return ask, false
	}
	if ask.Filter != nil {
		r.Refuse(&wire.Refusal{Errno: syscall.EOPNOTSUPP,
			Message: "this agent cannot filter HTTP requests yet; hint: leave incoming.filter out"})
		return ask, false
	}
	if err := checkProbes(ask); err != nil {
		r.Refuse(err)
		return ask, false
	}
	return ask, true
}

// steal has the parent take the ports, says so, and gives them back when the stream ends.
func (c *Child) steal(s *session, r *mux.Request) {
	ask, ok := askedPorts(r)
	if !ok {
		return
	}
	var stolen pair.Stolen
	sockets, err := c.caller.Call(pair.OpSteal, pair.Steal{Channel: s.Channel, Stream: r.ID(), Ports: ask.Ports, Existing: ask.Existing}, &stolen)
	if err != nil {
		r.Refuse(err)
		return
	}
	st := &steal{session: s, stream: r.ID(), ports: ask.Ports, ready: make(chan struct{}),
		probes: probes{ask.Probes, append(slices.Clone(c.start.Gateways), ask.Nodes...)}}
	st.ctx, st.cancel = context.WithCancel(context.Background())
	c.steals.add(st)
	for _, p := range ask.Ports {
		c.trace.note("steal", fmt.Sprintf("%s %d", p.Network, p.Port), false)
	}
	c.log.Debug("stealing", "session", s.Session, "ports", ask.Ports, "closed", stolen.Closed)
	c.receiveDatagrams(st, stolen.UDP, sockets)
	end := func() {
		c.steals.remove(st)
		_, _ = c.caller.Call(pair.OpUnsteal, pair.Unsteal{Channel: s.Channel, Stream: st.stream}, nil)
	}
	stream, err := r.Accept(nil)
	if err != nil {
		end()
		return
	}
	close(st.ready)
	err = untilEnd(stream)
	c.steals.remove(st) // endSession's drop may have come before add
	// A lost channel ends its streams as cleanly as its peer does. Only then does the reservation stay: endSession sees
	// to that.
	if err == io.EOF && s.conn.Send(wire.KindHeartbeat, nil) == nil || s.conn.Err() == nil && stream.Context().Err() != nil {
		end()
	}
	stream.Close()
}

// receiveDatagrams starts a receiver for each UDP socket.
func (c *Child) receiveDatagrams(st *steal, pairs [][2]bool, sockets []*os.File) {
	for _, p := range st.ports {
		if p.Network != "udp" || len(pairs) == 0 {
			continue
		}
		for family, have := range pairs[0] {
			if !have || len(sockets) == 0 {
				continue
			}
			f := sockets[0]
			sockets = sockets[1:]
			conn, err := net.FilePacketConn(f)
			f.Close()
			if err != nil {
				c.log.Error("a stolen UDP port's socket", "port", p.Port, "err", err)
				continue
			}
			go (&receiver{child: c, steal: st, port: p.Port, family: family, conn: conn.(*net.UDPConn)}).run()
		}
		pairs = pairs[1:]
	}
	pair.CloseAll(sockets)
}
