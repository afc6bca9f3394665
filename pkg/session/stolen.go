package session

import (
	"bytes"
	"context"
	"errors"
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
	// endQuiet is how long the debuggee's answer must have paused to be taken for whole, where a stolen connection is to end:
	// longer than for a copy, since here somebody waits for the rest.
	endQuiet = time.Second
	// endBusy is how long a connection may go on that is never quiet so long; then it ends at the first answer.
	endBusy = 5 * time.Second
	// endMost bounds the wait for an answer: somebody is stepping through the debuggee.
	endMost = 30 * time.Minute
	// endClient is how long the client has for its own end once it was told of ours.
	endClient = 5 * time.Second
	endPoll   = 50 * time.Millisecond
)

// stolenFlow is a stolen connection, from the agent's offer to its end. When the mode is switched it ends after the answer
// in progress: the pod's process cannot take part in what has begun without it. What an answer is can be told by its bytes
// and by its silence only, but for HTTP/1, where a request ends the answer before it.
//
// Goroutines: ending, if it is to end; it ends with the flow.
type stolenFlow struct {
	p    *ports
	key  [2]netip.AddrPort
	over chan struct{} // closed by leave

	mu       sync.Mutex
	cancel   context.CancelFunc // of the delivery; nil: not begun, or through
	conn     *net.TCPConn       // nil: not delivered yet
	stream   *mux.Stream
	http     bool      // it began as HTTP/1
	spoke    bool      // the client has
	due      bool      // an answer to what came last
	answered bool      // there was one
	heard    time.Time // the last byte of either
	leaving  bool      // it is to end
	ended    bool      // nothing passes any more
}

func clientAndCalled(in wire.Incoming) [2]netip.AddrPort {
	plain := func(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
	return [2]netip.AddrPort{plain(in.Client), plain(in.Local)}
}

// admit notes a stolen connection until its leave; nil where the port is not the session's any more.
func (p *ports) admit(in wire.Incoming) *stolenFlow {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mode != modeSteal && p.turning == nil {
		return nil
	}
	f := &stolenFlow{p: p, key: clientAndCalled(in), over: make(chan struct{}), heard: time.Now()}
	if p.stolen[f.key] == nil {
		p.stolen[f.key] = map[*stolenFlow]bool{}
	}
	p.stolen[f.key][f] = true
	return f
}

// admitCopy says whether a copy is for the debuggee: not while requests are stolen, and not that of a connection that it
// has itself. It waits for the end of a switch, for only then that is known.
func (p *ports) admitCopy(ctx context.Context, in wire.Incoming) bool {
	for {
		p.mu.Lock()
		turning, ok := p.turning, p.mode == modeMirror && len(p.stolen[clientAndCalled(in)]) == 0
		p.mu.Unlock()
		if turning == nil {
			return ok
		}
		select {
		case <-turning:
		case <-ctx.Done():
			return false
		}
	}
}

func (f *stolenFlow) leave() {
	f.p.mu.Lock()
	delete(f.p.stolen[f.key], f)
	if len(f.p.stolen[f.key]) == 0 {
		delete(f.p.stolen, f.key)
	}
	f.p.mu.Unlock()
	close(f.over)
}

// deliver connects to the debuggee, unless the flow is to end before that is through: then the error gives the connection
// back to the pod.
func (f *stolenFlow) deliver(ctx context.Context, dst netip.AddrPort) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, deliverTimeout)
	defer cancel()
	f.mu.Lock()
	f.cancel = cancel
	leaving := f.leaving
	f.mu.Unlock()
	var conn *net.TCPConn
	err := error(syscall.ECONNREFUSED)
	if !leaving {
		conn, err = f.p.s.deliver(ctx, f.key[0], dst)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cancel = nil; err != nil && f.leaving {
		err = syscall.ECONNREFUSED
	}
	return conn, err
}

// carry is the debuggee's connection as an end for a relay.
func (f *stolenFlow) carry(stream *mux.Stream, conn *net.TCPConn, seen *requests.Flow) mux.End {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stream, f.conn, f.heard = stream, conn, time.Now()
	return stolenEnd{mux.TCP{TCPConn: conn}, f, seen}
}

// stolenEnd reads along what passes.
type stolenEnd struct {
	mux.TCP
	f    *stolenFlow
	seen *requests.Flow // nil: nobody listens
}

func (e stolenEnd) Read(b []byte) (int, error) {
	n, err := e.TCP.Read(b)
	if n > 0 {
		e.f.answer(b[:n])
		e.seen.Debuggee(b[:n])
	}
	if err != nil && !errors.Is(err, net.ErrClosed) {
		e.seen.DebuggeeEnd()
	}
	return n, err
}

// Write drops what comes after the end: the client has been told, and asks again elsewhere.
func (e stolenEnd) Write(b []byte) (int, error) {
	if !e.f.ask(b) {
		return len(b), nil
	}
	e.seen.Client(b)
	return e.TCP.Write(b)
}

// ask notes what the client says, and says whether it passes.
func (f *stolenFlow) ask(data []byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.spoke {
		f.spoke, f.http = true, speaksHTTP(data)
	}
	if f.leaving && f.http && f.answered && !f.due {
		f.finish()
	}
	if f.ended {
		return false
	}
	f.due, f.heard = true, time.Now()
	return true
}

// answer notes what the debuggee says.
func (f *stolenFlow) answer(data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.heard = time.Now()
	switch {
	case f.http && bytes.HasPrefix(data, []byte("HTTP/1.1 100")): // Continue: the answer is yet to come
	case f.http && bytes.HasPrefix(data, []byte("HTTP/1.1 101")): // Switching Protocols
		f.http = false
		fallthrough
	default:
		f.due, f.answered = false, true
	}
}

// end has the flow end after the answer in progress, or go on if it was to end.
func (f *stolenFlow) end(leaving bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.leaving == leaving {
		return
	}
	if f.leaving = leaving; leaving {
		if f.cancel != nil {
			f.cancel()
		}
		go f.ending()
	}
}

func (f *stolenFlow) ending() {
	begun := time.Now()
	tick := time.NewTicker(endPoll)
	defer tick.Stop()
	for {
		f.mu.Lock()
		if !f.leaving { // taken again
			f.mu.Unlock()
			return
		}
		stands := f.p.s.stands()
		quiet := !f.due && (time.Since(f.heard) >= endQuiet || time.Since(begun) >= endBusy)
		if f.conn != nil && (quiet && !(stands && f.spoke) || time.Since(begun) >= endMost) {
			f.finish()
		}
		ended := f.ended
		f.mu.Unlock()
		if ended {
			return
		}
		select {
		case <-tick.C:
		case <-f.over:
			return
		}
	}
}

// finish ends the flow as the debuggee would: its relay reads an end. A client that does not end, too, is reset. It is called
// with mu held.
func (f *stolenFlow) finish() {
	if f.ended {
		return
	}
	f.ended = true
	_ = f.conn.CloseRead()
	_ = f.conn.CloseWrite()
	stream := f.stream
	time.AfterFunc(endClient, func() { stream.Reset(syscall.ECONNRESET) }) // one that has ended does not mind
}
