package mux

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// maxPending bounds what waits to be written; more gathered at once would only delay the heartbeat behind it.
	maxPending = 64 << 10

	// frameHeader is the size of yamux's header: version, type, flags, stream, length (yamux spec.md, Framing).
	frameHeader = 12

	// behind is how soon after a write the next one comes if more was waiting already. Only then is it worth handing over
	// to another goroutine, which costs a lone request some ten microseconds each way.
	behind = 10 * time.Microsecond

	// maxAlone is how much is written at once: with more, whoever has sent it can fetch the next meanwhile.
	maxAlone = 4 << 10
)

// batch gathers what yamux writes while the connection is busy with what it wrote before; what is small and comes alone
// is written at once. yamux writes a frame's header and its body one by one, and each write costs a message and several
// system calls in every process on the way to a pod: in a port-forward that was a third of a small request.
//
// Goroutines: run, which ends with Close or the first failed write.
type batch struct {
	io.ReadWriteCloser

	mu      sync.Mutex
	changed sync.Cond
	pending []byte
	spare   []byte    // to gather in next
	ready   int       // of pending: all but a header whose body is still to come
	held    bool      // pending ends in one
	busy    bool      // somebody is writing
	last    time.Time // the end of the last write
	closed  bool
	err     error           // of a write
	waiting []chan struct{} // see written
}

func newBatch(rw io.ReadWriteCloser) *batch {
	b := &batch{ReadWriteCloser: rw}
	b.changed.L = &b.mu
	go b.run()
	return b
}

// Write takes all of p, waiting only while too much is pending. A failed write is the error of all later ones.
func (b *batch) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.ready >= maxPending && b.err == nil && !b.closed {
		b.changed.Wait()
	}
	switch {
	case b.err != nil:
		return 0, b.err
	case b.closed:
		return 0, net.ErrClosed
	}
	b.pending = append(b.pending, p...)
	b.held = !b.held && bodyFollows(p)
	if b.held {
		return len(p), nil
	}
	alone := !b.busy && b.ready == 0 && len(b.pending) <= maxAlone && time.Since(b.last) > behind
	b.ready = len(b.pending)
	if alone {
		b.flush()
	} else {
		b.changed.Broadcast()
	}
	return len(p), b.err
}

// bodyFollows says whether p is the header of a data frame that is not empty: yamux writes its body next.
func bodyFollows(p []byte) bool {
	const data = 0
	return len(p) == frameHeader && p[1] == data && binary.BigEndian.Uint32(p[8:]) > 0
}

// run writes what Write has not written itself.
func (b *batch) run() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.err == nil && (!b.closed || b.ready > 0) {
		if b.ready == 0 || b.busy {
			b.changed.Wait()
			continue
		}
		b.flush()
	}
	b.tell()
	b.closed = true
	b.changed.Broadcast()
}

// flush writes what is ready, whole. The lock is held, but for the write itself.
func (b *batch) flush() {
	out := b.pending[:b.ready]
	b.pending, b.spare = append(b.spare[:0], b.pending[b.ready:]...), nil
	b.ready, b.busy = 0, true
	b.mu.Unlock()
	_, err := b.ReadWriteCloser.Write(out)
	b.mu.Lock()
	b.spare, b.busy, b.err, b.last = out[:0], false, err, time.Now()
	if b.ready == 0 || err != nil {
		b.tell()
	}
	b.changed.Broadcast()
}

// written is closed when all that has been taken is written, or never will be.
func (b *batch) written() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make(chan struct{})
	b.waiting = append(b.waiting, all)
	if b.err != nil || b.ready == 0 && !b.busy {
		b.tell()
	}
	return all
}

func (b *batch) tell() {
	for _, all := range b.waiting {
		close(all)
	}
	b.waiting = nil
}

// Close closes the connection at once; who wants the last words heard waits for written first.
func (b *batch) Close() error {
	b.mu.Lock()
	b.closed = true
	b.changed.Broadcast()
	b.mu.Unlock()
	return b.ReadWriteCloser.Close()
}
