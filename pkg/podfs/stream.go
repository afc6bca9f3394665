package podfs

import (
	"context"
	"errors"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/stepin-dev/stepin/pkg/wire"
)

const (
	// readAhead is how far a file that is read in order is fetched ahead of its reader. Two requests of 1 MiB under way
	// carry 20 MB/s at 100 ms, and hide the round trip from a slower reader.
	readAhead = 2 << 20

	// maxBlocks bounds the parts of one file that are kept: the reader's, those ahead, and one that it has left.
	maxBlocks = 4

	// aheadMemory bounds the parts of all files together. Where it is used up, reads fetch just what they ask for.
	aheadMemory = 64 << 20
)

// errClosed is a read of a stream that has been closed.
var errClosed = errors.New("podfs: stream closed")

// stream reads a large file part by part, ahead of a reader that goes through it in order.
type stream struct {
	f    *FS
	real string
	file File
	ctx  context.Context // ends with close
	stop context.CancelFunc

	mu     sync.Mutex
	attr   wire.Attr // the file's when its parts were fetched
	blocks []*block  // in order of their start; no two overlap
	next   int64     // where the last read ended
	streak int       // reads in order before this
	pinned bool      // another file is at the path now: parts stay as they are
	closed bool
}

// block is a part of a file.
type block struct {
	off   int64
	size  int // asked for
	since time.Time
	done  chan struct{} // closed when data and err are set
	data  []byte        // shorter than size at the end of the file
	err   error
}

func newStream(f *FS, real string, file File, a wire.Attr) *stream {
	s := &stream{f: f, real: real, file: file, attr: a}
	s.ctx, s.stop = context.WithCancel(f.base)
	if head := file.Head(); len(head) > 0 {
		b := &block{size: len(head), data: head, since: time.Now(), done: make(chan struct{})}
		close(b.done)
		s.blocks = []*block{b}
		f.aheadMem.Add(int64(b.size))
	}
	return s
}

// close lets the file go. Reads under way end.
func (s *stream) close() {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.clear()
	s.mu.Unlock()
	if s.stop(); !closed {
		go s.file.Close() // may speak to the pod
	}
}

// clear forgets all parts. The caller holds mu.
func (s *stream) clear() {
	for _, b := range s.blocks {
		s.f.aheadMem.Add(-int64(b.size))
	}
	s.blocks = nil
}

// read fills buf from off on; less than all only at the file's end, or where an error comes after some bytes.
func (s *stream) read(r *request, buf []byte, off int64) (int, error) {
	n := 0
	for n < len(buf) {
		b, err := s.block(r, off+int64(n), len(buf)-n)
		if err == nil {
			_, err = wait(r, b.done)
		}
		if err == nil && b.err != nil {
			s.remove(b)
			err = b.err
		}
		if err != nil {
			if n > 0 {
				return n, nil
			}
			return 0, err
		}
		got := 0
		if at := off + int64(n) - b.off; at < int64(len(b.data)) {
			got = copy(buf[n:], b.data[at:])
		}
		n += got
		if got == 0 || len(b.data) < b.size && off+int64(n) >= b.off+int64(len(b.data)) {
			break // the file ends here
		}
	}
	s.ahead(off, off+int64(n))
	return n, nil
}

// block returns the part that holds off, fetched or under way.
func (s *stream) block(r *request, off int64, want int) (*block, error) {
	for range maxRetries {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return nil, errClosed
		}
		i := slices.IndexFunc(s.blocks, func(b *block) bool { return off >= b.off && off < b.off+int64(b.size) })
		if i < 0 {
			b := s.start(off, s.length(off, want))
			s.mu.Unlock()
			return b, nil
		}
		b := s.blocks[i]
		old := !s.pinned && time.Since(b.since) >= s.f.ttl
		s.mu.Unlock()
		if !old {
			return b, nil
		}
		if err := s.check(r); err != nil {
			return nil, err
		}
	}
	return nil, syscall.EIO
}

// check asks whether parts that are older than attrTTL are still the file's.
func (s *stream) check(r *request) error {
	e, err := r.at(s.real)
	no := errno(err)
	if err != nil && no != syscall.ENOENT && no != syscall.ENOTDIR {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil || e.attr.Ino != s.attr.Ino:
		s.pinned = true
	case differs(e.attr, s.attr):
		s.attr = e.attr
		s.clear()
	default:
		for _, b := range s.blocks {
			b.since = e.until.Add(-s.f.ttl)
		}
	}
	return nil
}

// length is how much to fetch at off for a read of want bytes: much where the file is read in order, little where it
// is read here and there. The caller holds mu.
func (s *stream) length(off int64, want int) int {
	const near = wire.HeadLen // the kernel's reads ahead of a mapping come a little out of order
	n := max(want, wire.HeadLen)
	if off >= s.next-near && off <= s.next+near {
		n = wire.MaxRead
	}
	n = min(n, wire.MaxRead)
	if left := int64(s.attr.Size) - off; left > 0 && left < int64(n) {
		n = int(left)
	}
	for _, b := range s.blocks {
		if b.off > off && b.off < off+int64(n) {
			n = int(b.off - off)
		}
	}
	if s.f.aheadMem.Load()+int64(n) > aheadMemory {
		n = min(n, want)
	}
	return n
}

// start fetches a part. The caller holds mu.
func (s *stream) start(off int64, size int) *block {
	for i := 0; len(s.blocks) >= maxBlocks && i < len(s.blocks); { // the parts furthest behind go first
		select {
		case <-s.blocks[i].done:
			s.f.aheadMem.Add(-int64(s.blocks[i].size))
			s.blocks = slices.Delete(s.blocks, i, i+1)
		default:
			i++
		}
	}
	b := &block{off: off, size: size, since: time.Now(), done: make(chan struct{})}
	i, _ := slices.BinarySearchFunc(s.blocks, off, func(b *block, off int64) int { return int(min(1, max(-1, b.off-off))) })
	s.blocks = slices.Insert(s.blocks, i, b)
	s.f.aheadMem.Add(int64(size))
	go s.fetch(b)
	return b
}

// fetch fills b; it takes at most the request's deadline.
func (s *stream) fetch(b *block) {
	defer close(b.done)
	ctx, end := context.WithTimeout(s.ctx, s.f.cfg.Deadline)
	defer end()
	select {
	case s.f.slots <- struct{}{}:
	case <-ctx.Done():
		b.err = s.f.ended(ctx)
		return
	}
	type read struct {
		data []byte
		err  error
	}
	ready := make(chan read, 1)
	s.f.counters.readAt.Add(1)
	go func() {
		defer func() { <-s.f.slots }()
		data := make([]byte, b.size)
		n, err := s.file.ReadAt(ctx, data, b.off)
		ready <- read{data[:max(0, min(n, len(data)))], err}
	}()
	select {
	case got := <-ready:
		b.data, b.err = got.data, got.err
		if isEOF(b.err) || b.err != nil && len(b.data) == b.size {
			b.err = nil
		}
	case <-ctx.Done():
		b.err = s.f.ended(ctx)
	}
}

// remove forgets a part that could not be fetched, so that the next read tries again.
func (s *stream) remove(b *block) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.blocks, b); i >= 0 {
		s.blocks = slices.Delete(s.blocks, i, i+1)
		s.f.aheadMem.Add(-int64(b.size))
	}
}

// ahead notes a read of [from, to) and fetches what comes next where the file is read in order.
func (s *stream) ahead(from, to int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	const near = wire.HeadLen
	if from >= s.next-near && from <= s.next+near && to > s.next {
		s.streak++
	} else if to != s.next {
		s.streak = 0
	}
	s.next = to
	// One read may be a look at the header; two are a reader.
	if s.streak < 2 || s.closed {
		return
	}
	end := to
	for _, b := range s.blocks { // how far the parts reach without a hole
		if b.off <= end && b.off+int64(b.size) > end {
			end = b.off + int64(b.size)
		}
	}
	for end < to+readAhead && end < int64(s.attr.Size) && len(s.blocks) < maxBlocks+2 {
		size := int(min(int64(s.attr.Size)-end, wire.MaxRead))
		if s.f.aheadMem.Load()+int64(size) > aheadMemory {
			return
		}
		s.start(end, size)
		end += int64(size)
	}
}
