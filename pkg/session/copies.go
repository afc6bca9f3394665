package session

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/requests"
	"github.com/stepin-dev/stepin/pkg/wire"
)

const (
	// answerQuiet is how long the debuggee's answer to a copy must have paused to be taken for whole.
	answerQuiet = 200 * time.Millisecond
	// answerMost bounds the wait for it: somebody is stepping through the debuggee.
	answerMost = 30 * time.Minute
	answerPoll = 50 * time.Millisecond
)

// serveCopy hands a copy of a connection to the debuggee, like a stolen one, and drops what it answers. Whatever happens
// here the client does not notice.
//
// Goroutines: the caller's, and answers', which ends with the connection.
func (s *Session) serveCopy(l *link, r *mux.Request) {
	var in wire.Incoming
	if err := wire.Decode(r.Body, &in); err != nil {
		r.Refuse(err)
		return
	}
	dst, ok := s.ports.destination("tcp", in.Local)
	if !ok || !s.ports.admitCopy(r.Context(), in) {
		r.Refuse(syscall.ECONNREFUSED)
		return
	}
	defer s.copying.begin(in.Client, dst)()
	ctx, cancel := context.WithTimeout(r.Context(), deliverTimeout)
	conn, err := s.deliver(ctx, in.Client, dst)
	cancel()
	s.log.Debug("copy", "client", in.Client, "local", in.Local, "to", dst, "err", err)
	if err != nil {
		r.Refuse(err)
		return
	}
	defer conn.Close()
	stream, err := r.Accept(nil)
	if err != nil {
		return
	}
	defer stream.Close()
	stop := context.AfterFunc(s.ctx, func() { conn.Close() })
	defer stop()
	seen := s.readAlong(l, in.Client, dst, modeMirror)
	defer seen.End("")
	answers := &answers{conn: conn, seen: seen, over: make(chan struct{})}
	go answers.drop()
	http, err := copyInto(conn, stream, answers)
	switch {
	case errors.Is(err, io.EOF):
		if http {
			answers.wait(s.ctx)
		}
		_ = conn.CloseWrite()
		answers.wait(s.ctx)
	case errors.Is(err, errCut):
		seen.End("bytes of the copy are missing")
		mux.TCP{TCPConn: conn}.Abort()
	case err != nil:
		if http {
			answers.wait(s.ctx)
		}
		mux.TCP{TCPConn: conn}.Abort()
	}
}

// copying is which connections the debuggee has copies of: they lag behind, so that a client's port may come again while
// the debuggee still has the one before.
type copying struct {
	mu  sync.Mutex
	now map[[2]netip.AddrPort]int // by the client's address and the listener's: how many
}

func pairOf(client, dst netip.AddrPort) [2]netip.AddrPort {
	return [2]netip.AddrPort{netip.AddrPortFrom(client.Addr().Unmap(), client.Port()), dst}
}

// begin notes one, until end.
func (c *copying) begin(client, dst netip.AddrPort) (end func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := pairOf(client, dst)
	if c.now == nil {
		c.now = map[[2]netip.AddrPort]int{}
	}
	c.now[k]++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.now[k]--; c.now[k] == 0 {
			delete(c.now, k)
		}
	}
}

// twice says whether there is another than the one that is about to be delivered.
func (c *copying) twice(client, dst netip.AddrPort) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now[pairOf(client, dst)] > 1
}

var errCut = errors.New("session: bytes of a copy are missing")

// copyInto writes a copy to the debuggee. Its error is why there is no more: io.EOF is the client's end, errCut a gap, and
// nil that the debuggee wants no more.
func copyInto(conn *net.TCPConn, stream *mux.Stream, answers *answers) (http bool, err error) {
	chunks := wire.NewChunkReader(stream)
	for first := true; ; first = false {
		ch, err := chunks.Read()
		switch {
		case err != nil:
			return http, err
		case ch.Type == wire.ChunkGap:
			return http, errCut
		case ch.Type != wire.ChunkData:
			continue
		}
		if first {
			http = speaksHTTP(ch.Data)
		}
		answers.asked()
		answers.seen.Client(ch.Data)
		if _, err := conn.Write(ch.Data); err != nil {
			return http, nil
		}
	}
}

// speaksHTTP says whether a connection begins as HTTP does. Its client's end says nothing to a server then but that nobody
// waits for an answer any more.
func speaksHTTP(data []byte) bool {
	line, _, ok := bytes.Cut(data, []byte("\r\n"))
	return ok && bytes.Contains(line, []byte(" HTTP/"))
}

// answers drops what the debuggee says to a copy's client. The client has its answer from the pod, and may have gone long
// before the debuggee, which perhaps stands at a breakpoint, has come to its own: to be told so would only make it stop what
// its developer wants to see. So the end of a connection of HTTP is held back until the debuggee has answered.
type answers struct {
	conn *net.TCPConn
	seen *requests.Flow // nil: nobody listens
	over chan struct{}  // closed when the debuggee says no more

	mu    sync.Mutex
	due   bool // an answer to what was written last
	heard time.Time
}

func (a *answers) drop() {
	defer close(a.over)
	buf := make([]byte, 32<<10)
	for {
		n, err := a.conn.Read(buf)
		if n > 0 {
			a.mu.Lock()
			a.due, a.heard = false, time.Now()
			a.mu.Unlock()
			a.seen.Debuggee(buf[:n])
		}
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				a.seen.DebuggeeEnd()
			}
			return
		}
	}
}

func (a *answers) asked() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.due = true
}

func (a *answers) quiet() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.due && time.Since(a.heard) >= answerQuiet
}

// wait waits until the debuggee has answered.
func (a *answers) wait(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, answerMost)
	defer cancel()
	tick := time.NewTicker(answerPoll)
	defer tick.Stop()
	for !a.quiet() {
		select {
		case <-a.over:
			return
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
