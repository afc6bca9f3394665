package preload

import (
	"net"
	"net/netip"
	"sync"
)

// spareListeners is how many idle listeners are kept: as many programs' connects may be under way without a new one.
const spareListeners = 64

// listener waits on a loopback address for one connection at a time.
type listener struct {
	*net.TCPListener
	addr netip.AddrPort
}

// listeners are kept between flows: a new one for each would use up this machine's ports, each of which rests for a
// minute after its last connection (TIME_WAIT).
type listeners struct {
	s *Server

	mu    sync.Mutex
	spare map[netip.Addr][]*listener
	ended bool
}

// take returns a listener at the loopback address that nobody else uses.
func (l *listeners) take(at netip.Addr) (*listener, error) {
	l.mu.Lock()
	if n := len(l.spare[at]); n > 0 {
		last := l.spare[at][n-1]
		l.spare[at] = l.spare[at][:n-1]
		l.mu.Unlock()
		return last, nil
	}
	ended := l.ended
	l.mu.Unlock()
	if ended {
		return nil, net.ErrClosed
	}
	t, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(at, 0)))
	if err != nil {
		return nil, err
	}
	return &listener{t, unmap(t.Addr().(*net.TCPAddr).AddrPort())}, nil
}

// give returns a listener at which nobody is expected any more.
func (l *listeners) give(old *listener) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := old.addr.Addr()
	if l.ended || len(l.spare[at]) >= spareListeners {
		old.Close()
		return
	}
	if l.spare == nil {
		l.spare = map[netip.Addr][]*listener{}
	}
	l.spare[at] = append(l.spare[at], old)
}

func (l *listeners) shut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	for _, spare := range l.spare {
		for _, old := range spare {
			old.Close()
		}
	}
	l.spare = nil
}
