package podfs

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// dirSource is a pod whose root is a directory of the test. Calls can be made to hang, to take time or to fail.
type dirSource struct {
	root string

	mu     sync.Mutex
	hang   map[string]chan struct{} // by operation and path, as "open /x", "read /x"; closed at the end of the hanging
	delay  map[string]time.Duration // by operation
	errs   map[string]syscall.Errno // by operation and path
	gone   syscall.Errno            // all calls fail with it
	deaf   bool                     // hanging calls do not heed their context
	lie    map[string]bool          // files that say they are empty
	hung   int                      // calls that hang now
	begun  int                      // calls that have begun to hang
	closed int                      // files closed
	opened int
}

func (s *dirSource) set(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
}

// call does what is wanted of an operation; hangs end with their context.
func (s *dirSource) call(ctx context.Context, op, p string) error {
	s.mu.Lock()
	hang, delay, err, gone, deaf := s.hang[op+" "+p], s.delay[op], s.errs[op+" "+p], s.gone, s.deaf
	if hang != nil {
		s.hung++
		s.begun++
	}
	s.mu.Unlock()
	if gone != 0 {
		return gone
	}
	if hang != nil {
		defer s.set(func() { s.hung-- })
		done := ctx.Done()
		if deaf {
			done = nil
		}
		select {
		case <-done:
			return ctx.Err()
		case <-hang:
		}
	}
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err != 0 {
		return err
	}
	return nil
}

func (s *dirSource) waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hung
}

func (s *dirSource) hangs() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.begun
}

func (s *dirSource) Lstat(ctx context.Context, p string) (wire.Attr, error) {
	if err := s.call(ctx, "lstat", p); err != nil {
		return wire.Attr{}, err
	}
	var st unix.Stat_t
	err := unix.Lstat(s.root+p, &st)
	return s.attr(p, &st), err
}

func (s *dirSource) attr(p string, st *unix.Stat_t) wire.Attr {
	a := hostAttr(st)
	if s.lie[p] {
		a.Size = 0
	}
	return a
}

func (s *dirSource) ReadLink(ctx context.Context, p string) (string, error) {
	if err := s.call(ctx, "readlink", p); err != nil {
		return "", err
	}
	return os.Readlink(s.root + p)
}

func (s *dirSource) ReadDir(ctx context.Context, p string) ([]wire.DirEntry, error) {
	if err := s.call(ctx, "readdir", p); err != nil {
		return nil, err
	}
	list, err := os.ReadDir(s.root + p)
	if err != nil {
		return nil, err
	}
	var out []wire.DirEntry
	for _, e := range list {
		var st unix.Stat_t
		full := filepath.Join(s.root+p, e.Name())
		if unix.Lstat(full, &st) != nil {
			continue
		}
		target, _ := os.Readlink(full)
		out = append(out, wire.DirEntry{Name: wire.Name(e.Name()), Attr: hostAttr(&st), Target: wire.Name(target)})
	}
	return out, nil
}

func (s *dirSource) Open(ctx context.Context, p string) (File, error) {
	if err := s.call(ctx, "open", p); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(s.root+p, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	head := make([]byte, wire.HeadLen)
	n, err := io.ReadFull(f, head)
	if err != nil && !isEOF(err) {
		return nil, err
	}
	s.set(func() { s.opened++ })
	return &dirFile{s: s, p: p, f: f, attr: s.attr(p, &st), head: head[:n:n]}, nil
}

type dirFile struct {
	s    *dirSource
	p    string
	f    *os.File
	attr wire.Attr
	head []byte
}

func (f *dirFile) Attr() wire.Attr { return f.attr }
func (f *dirFile) Head() []byte    { return f.head }
func (f *dirFile) ReadAt(ctx context.Context, b []byte, off int64) (int, error) {
	if err := f.s.call(ctx, "read", f.p); err != nil {
		return 0, err
	}
	return f.f.ReadAt(b, off)
}
func (f *dirFile) Close() error {
	f.s.set(func() { f.s.closed++ })
	return f.f.Close()
}
