package mux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// Stream is one stream of a channel after its reply. One goroutine may read and another write.
type Stream struct {
	c      *Conn
	ys     source
	window *window
	ctx    context.Context
	stop   context.CancelCauseFunc
	owed   int // bytes that Read returned last and the peer has not been told of
	closed atomic.Bool
	sent   atomic.Bool // CloseWrite was called
	reset  atomic.Bool // Reset was called

	wrote  atomic.Uint64             // bytes
	passed atomic.Uint64             // bytes that Read returned and its caller has dealt with
	late   atomic.Pointer[lateReset] // the peer's reset, while there are bytes before it
}

// lateReset is a reset that has overtaken bytes of its stream: it goes by the control stream.
type lateReset struct {
	errno syscall.Errno
	after uint64 // bytes
}

// resetPatience is how long a reader may take to read what came before a reset. The other direction is of no use by
// then, so a reader that stands still learns of it all the same.
const resetPatience = time.Second

// ID is the stream's number, the same on both sides.
func (s *Stream) ID() uint32 { return s.ys.StreamID() }

// Context ends when the stream was closed here, reset by either side, or the channel ended; its cause says which.
func (s *Stream) Context() context.Context { return s.ctx }

// Readable waits until Read would not wait. It holds no buffer meanwhile.
func (s *Stream) Readable() error {
	if s.c.crowded() {
		s.ys.Shrink()
	}
	_, err := s.Read(nil)
	return err
}

// Read reads what has come. Coming back for more tells the peer that the bytes of the call before have been passed
// on. A reset by the peer is returned as its errno, the end of the channel as ErrLost.
func (s *Stream) Read(p []byte) (int, error) {
	s.Settle()
	if l := s.late.Load(); l != nil && s.passed.Load() >= l.after {
		s.cancel(l.errno)
	}
	n, err := s.ys.Read(p)
	s.owed = n
	if cause := context.Cause(s.ctx); cause != nil && err != nil {
		return n, cause
	}
	if err != nil && err != io.EOF {
		return n, fmt.Errorf("%w (%v)", ErrLost, err)
	}
	if err == io.EOF && s.c.session.IsClosed() { // yamux ends its streams cleanly when the connection broke
		return n, ErrLost
	}
	return n, err
}

// Settle tells the peer that what Read returned last has been passed on, as the next Read would. It is for whoever does
// not come back for more soon: what is not settled stays booked in the peer's budget. It belongs to the reader.
func (s *Stream) Settle() {
	if s.owed > 0 {
		s.c.flow.owe(s.ID(), uint32(s.owed))
		s.passed.Add(uint64(s.owed))
		s.owed = 0
	}
}

// Write writes all of p, waiting for the peer's credit.
func (s *Stream) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := s.Reserve(len(p) - done)
		if err != nil {
			return done, err
		}
		m, err := s.writeReserved(p[done : done+n])
		done += m
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// Reserve waits until at least one byte may be sent and returns how many may, at most want. They must be sent with
// writeReserved, or given back with Release.
func (s *Stream) Reserve(want int) (int, error) {
	n, err := s.window.take(s.ctx, want)
	if err != nil {
		if cause := context.Cause(s.ctx); cause != nil {
			return 0, cause
		}
		return 0, err
	}
	return n, nil
}

// Release gives back reserved bytes that were not needed.
func (s *Stream) Release(n int) { s.window.release(n) }

func (s *Stream) writeReserved(p []byte) (int, error) {
	n, err := s.ys.Write(p)
	s.wrote.Add(uint64(n))
	if err != nil {
		if cause := context.Cause(s.ctx); cause != nil {
			return n, cause
		}
		if errors.Is(err, yamux.ErrStreamClosed) {
			return n, syscall.EPIPE
		}
		return n, fmt.Errorf("%w (%v)", ErrLost, err)
	}
	return n, nil
}

// CloseWrite ends the stream in this direction: the peer reads io.EOF after all that was written.
func (s *Stream) CloseWrite() error {
	if s.sent.Swap(true) {
		return nil
	}
	return s.ys.Close()
}

// Close ends the stream in both directions and forgets it. What the peer has not read by then it may still read.
func (s *Stream) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	var err error
	if !s.reset.Load() {
		err = s.CloseWrite()
	}
	s.stop(errClosed)
	// A reader of ours that waits must not wait for ever, and what lies unread must not count for ever.
	_ = s.ys.SetReadDeadline(time.Unix(1, 0))
	s.c.mu.Lock()
	delete(s.c.streams, s.ID())
	s.c.mu.Unlock()
	s.c.flow.owe(s.ID(), allOfIt)
	s.window.end()
	go s.drain()
	return err
}

var errClosed = errors.New("mux: stream closed")

// drainTimeout bounds how long a stream closed here is read on for the peer's end: yamux keeps a stream until both
// sides have closed.
const drainTimeout = 10 * time.Second

// drain ends the stream for yamux, too. After a reset our end of file waits for the peer's: the reset goes by the
// control stream, and must not be overtaken by a clean end.
func (s *Stream) drain() {
	_ = s.ys.SetReadDeadline(time.Now().Add(drainTimeout))
	_, _ = io.Copy(io.Discard, s.ys)
	s.ys.leave()
	_ = s.CloseWrite()
}

// Reset ends the stream the hard way: when the peer has read what was written here before, but soon, its Read and
// Write return errno.
func (s *Stream) Reset(errno syscall.Errno) {
	if s.closed.Load() {
		return
	}
	s.reset.Store(true)
	_ = s.c.Send(wire.KindReset, wire.Reset{Stream: s.ID(), Errno: uint16(errno), After: s.wrote.Load()})
	s.cancel(errno)
}

// resetAfter ends the stream once its reader has dealt with so many bytes, and after resetPatience in any case.
func (s *Stream) resetAfter(errno syscall.Errno, after uint64) {
	s.late.Store(&lateReset{errno, after}) // before the look at passed: either it or the reader sees the other's word
	if s.passed.Load() >= after {
		s.cancel(errno)
		return
	}
	time.AfterFunc(resetPatience, func() {
		if !s.closed.Load() {
			s.cancel(errno)
		}
	})
}

// cancel makes everything that waits on the stream return cause.
func (s *Stream) cancel(cause error) {
	s.stop(cause)
	_ = s.ys.SetReadDeadline(time.Unix(1, 0))
}
