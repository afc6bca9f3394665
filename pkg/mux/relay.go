package mux

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// End is the other end of a relayed flow: a kernel's socket, or a netstack endpoint.
type End interface {
	io.ReadWriteCloser
	// Readable waits until Read would not wait, without holding a buffer.
	Readable() error
	// CloseWrite sends the peer an end of file and leaves the other direction open.
	CloseWrite() error
	// Abort ends the flow with a reset. It makes a waiting Read, Readable or Write return.
	Abort()
}

// Buffers of the relays. A relay takes one only when there is something to move, and keeps it while the receiver
// stands still: so with many flows they are small.
const (
	largeBuffer = 64 << 10
	smallBuffer = 4 << 10
	manyFlows   = 16 // from here on small buffers; 16 large ones are 1 MiB
)

// Relays counts and serves the relays of one process. The zero value is ready.
type Relays struct {
	running atomic.Int64
	large   sync.Pool
	small   sync.Pool
}

func (r *Relays) buffer() (*[]byte, *sync.Pool) {
	pool, size := &r.large, largeBuffer
	if r.running.Load() > manyFlows {
		pool, size = &r.small, smallBuffer
	}
	if b, ok := pool.Get().(*[]byte); ok {
		return b, pool
	}
	b := make([]byte, size)
	return &b, pool
}

// Relay moves bytes between s and e until both directions have ended, carrying half-closes and resets, and closes
// both. It returns the bytes that went from e into s and the other way.
//
// Goroutines: the caller's for one direction and one more for the other, which has ended when Relay returns.
func (r *Relays) Relay(s *Stream, e End) (up, down int64) {
	r.running.Add(1)
	defer r.running.Add(-1)
	stop := context.AfterFunc(s.ctx, e.Abort) // reset by the peer, or the channel lost: whoever waits on e must return
	done := make(chan struct{})
	go func() {
		defer close(done)
		up = r.up(s, e)
	}()
	down = r.down(s, e)
	<-done
	stop()
	s.Close()
	e.Close()
	return up, down
}

// up moves bytes from e into s. First there must be something to move, then credit for it, then a buffer: an idle flow
// books no credit, and a stalled one holds no buffer.
func (r *Relays) up(s *Stream, e End) (n int64) {
	for {
		if err := e.Readable(); err != nil && err != io.EOF {
			r.endUp(s, err)
			return n
		}
		credit, err := s.Reserve(largeBuffer)
		if err != nil {
			if errors.Is(err, syscall.EPIPE) { // the peer reads no more: as a kernel does with data for a closed socket
				e.Abort()
			}
			return n
		}
		buf, pool := r.buffer()
		m, err := e.Read((*buf)[:min(credit, len(*buf))])
		s.Release(credit - m)
		var werr error
		if m > 0 {
			_, werr = s.writeReserved((*buf)[:m])
			n += int64(m)
		}
		pool.Put(buf)
		if werr != nil {
			return n
		}
		if err != nil {
			r.endUp(s, err)
			return n
		}
	}
}

func (r *Relays) endUp(s *Stream, err error) {
	if err == io.EOF {
		_ = s.CloseWrite()
		return
	}
	s.Reset(wire.ErrnoOf(err, syscall.ECONNRESET))
}

// down moves bytes from s to e.
func (r *Relays) down(s *Stream, e End) (n int64) {
	for {
		err := s.Readable()
		if err == nil {
			buf, pool := r.buffer()
			var m int
			m, err = s.Read(*buf)
			if m > 0 {
				var werr error
				_, werr = e.Write((*buf)[:m])
				if werr != nil {
					s.Reset(wire.ErrnoOf(werr, syscall.ECONNRESET))
				}
				n += int64(m)
				if werr != nil {
					err = werr
				}
			}
			pool.Put(buf)
		}
		switch {
		case err == nil:
		case err == io.EOF:
			_ = e.CloseWrite()
			return n
		default:
			e.Abort()
			return n
		}
	}
}

// TCP is a kernel's TCP socket as an End.
type TCP struct{ *net.TCPConn }

// Readable waits with the runtime's poller.
func (t TCP) Readable() error {
	raw, err := t.SyscallConn()
	if err != nil {
		return err
	}
	var got error
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, got = syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		if got == syscall.EINTR {
			got = nil
		}
		return got != syscall.EAGAIN
	})
	if err != nil {
		return err
	}
	return got
}

// Abort closes the socket with a reset (SO_LINGER 0, socket(7)).
func (t TCP) Abort() {
	_ = t.SetLinger(0)
	_ = t.Close()
}
