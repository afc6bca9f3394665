package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/peer"
)

// listenOnHost makes the debuggee's port reachable on the developer's loopback, so that a browser reaches it. It
// returns nil where the port is taken: that program has it, and the developer keeps it.
//
// Goroutines: accept (ends with the listener), one a connection.
func (s *Session) listenOnHost(number uint16) io.Closer {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(number))))
	if err != nil {
		s.sayOnce(number, "port %d of this machine's 127.0.0.1 cannot be used to reach the program: %v", number, cause(err))
		return nil
	}
	go s.acceptHost(l, number)
	return l
}

const (
	// hostCallers bounds the callers whose user is not known yet: others' cost no more than these descriptors.
	hostCallers = 64
	// acceptPause is the wait after accept(2) has failed for a while, as with EMFILE; the caller waits in the backlog.
	acceptPause = 100 * time.Millisecond
)

func (s *Session) acceptHost(l net.Listener, number uint16) {
	unchecked := make(chan struct{}, hostCallers)
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.log.Debug("accepting on the loopback", "port", number, "err", err)
			select {
			case <-time.After(acceptPause):
			case <-s.ctx.Done():
				l.Close()
				return
			}
			continue
		}
		unchecked <- struct{}{}
		go s.serveHost(c.(*net.TCPConn), number, func() { <-unchecked })
	}
}

// serveHost joins a caller on the developer's machine to the debuggee. Others than this user get nothing: the
// debuggee acts with the pod's rights. It calls checked as soon as it knows who calls.
func (s *Session) serveHost(c *net.TCPConn, number uint16, checked func()) {
	err := peer.SameUser(c)
	if checked(); err != nil {
		s.log.Warn("refused a caller on the loopback", "port", number, "err", err)
		mux.TCP{TCPConn: c}.Abort()
		return
	}
	const dialTimeout = 10 * time.Second
	ctx, cancel := context.WithTimeout(s.ctx, dialTimeout)
	defer cancel()
	dst, ok := s.ports.destinationFromHost(number)
	if !ok {
		mux.TCP{TCPConn: c}.Abort()
		return
	}
	client := c.RemoteAddr().(*net.TCPAddr).AddrPort()
	if dst.Addr().Is6() {
		client = netip.AddrPortFrom(netip.IPv6Loopback(), client.Port())
	}
	conn, err := s.deliver(ctx, client, dst)
	if err != nil {
		mux.TCP{TCPConn: c}.Abort()
		return
	}
	outer, inner := mux.TCP{TCPConn: c}, mux.TCP{TCPConn: conn}
	stop := context.AfterFunc(s.ctx, func() {
		outer.Abort()
		inner.Abort()
	})
	defer stop()
	join(outer, inner)
}

// destinationFromHost is where a caller of the developer's loopback is delivered: the loopback inside if the debuggee
// listens there, else the address it listens on.
func (p *ports) destinationFromHost(number uint16) (netip.AddrPort, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	have := p.open[portKey{"tcp", number}]
	if have == nil {
		return netip.AddrPort{}, false
	}
	for _, a := range have.addrs {
		switch {
		case a.IsUnspecified(), a.IsLoopback() && a.Is4():
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), number), true
		}
	}
	return netip.AddrPortFrom(have.addrs[0], number), true
}

// sayOnce tells the developer something about a port, once.
func (s *Session) sayOnce(number uint16, format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if _, again := s.said.LoadOrStore(line, true); !again {
		s.notice(line)
	}
}
