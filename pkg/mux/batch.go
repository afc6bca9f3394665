package mux

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
)

const (
	// maxPending bounds what waits to be written; more gathered at once would only delay the heartbeat behind it.
	maxPending = 64 << 10

	// frameHeader is the size of yamux's header: version, type, flags, stream, length (yamux spec.md, Framing).
	frameHeader = 12
)

// batch gathers what yamux writes while the connection is busy with what it wrote before. yamux writes a frame's header
// and its body one by one, and each write costs a message and several system calls in every process on the way to a
// pod: in a port-forward that was a third of a small request.
//
// Goroutines: run, which ends with Close or the first failed write.
type batch struct {
	io.ReadWriteCloser

	mu      sync.Mutex
	changed sync.Cond
	pending []byte
	ready   int  // of pending: all but a header whose body is still to come
	held    bool // pending ends in one
	busy    bool // run is writing
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
	if !b.held {
		b.ready = len(b.pending)
		b.changed.Broadcast()
	}
	return len(p), nil
}

// bodyFollows says whether p is the header of a data frame that is not empty: yamux writes its body next.
func bodyFollows(p []byte) bool {
	const data = 0
	return len(p) == frameHeader && p[1] == data && binary.BigEndian.Uint32(p[8:]) > 0
}

// run writes what is ready, whole.
func (b *batch) run() {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []byte
	for b.err == nil && (!b.closed || b.ready > 0) {
		if b.ready == 0 {
			b.changed.Wait()
			continue
		}
		out, b.pending = b.pending, append(out[:0], b.pending[b.ready:]...)
		out, b.ready, b.busy = out[:b.ready], 0, true
		b.changed.Broadcast()
		b.mu.Unlock()
		_, err := b.ReadWriteCloser.Write(out)
		b.mu.Lock()
		b.busy, b.err = false, err
		if b.ready == 0 {
			b.tell()
		}
	}
	b.tell()
	b.closed = true
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
