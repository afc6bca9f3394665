package child

import (
	"net"
	"slices"
	"sync"
	"syscall"

	"github.com/stepin-dev/stepin/pkg/wire"
)

const (
	// maxWaiting bounds the connections that have shown no token yet: everybody in the pod can make one, and it holds at
	// most the bytes of a hello (package mux) for at most helloTimeout. A session's shows its token within a round trip.
	maxWaiting = 64
	// maxChannels bounds those of sessions. lease.MaxSessions have one each, and some of them another that has not ended yet.
	maxChannels = 256
)

// waiting are the connections that have shown no token yet, the oldest first. When there are too many the oldest is
// closed: whoever only holds connections keeps no session out.
type waiting struct {
	mu    sync.Mutex
	conns []net.Conn
}

// enter takes a connection in; it says whether another had to go for it.
func (w *waiting) enter(conn net.Conn) (full bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if full = len(w.conns) >= maxWaiting; full {
		w.conns[0].Close()
		w.conns = slices.Delete(w.conns, 0, 1)
	}
	w.conns = append(w.conns, conn)
	return full
}

// leave is for one that has shown a token, or has ended. It is not there any more if it had to go for another.
func (w *waiting) leave(conn net.Conn) (there bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.Index(w.conns, conn)
	if i >= 0 {
		w.conns = slices.Delete(w.conns, i, i+1)
	}
	return i >= 0
}

var errTooMany = &wire.Refusal{Errno: syscall.EUSERS, Message: "this agent has too many connections; hint: end sessions that are not needed any more"}
