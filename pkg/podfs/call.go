package podfs

import (
	"context"
	"errors"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// request is one request of the kernel while it is served. All its calls of the Source share one deadline and, once a
// signal has interrupted the caller, one grace.
type request struct {
	f      *FS
	ctx    context.Context
	end    context.CancelFunc
	cancel <-chan struct{} // closed at the kernel's INTERRUPT
	pid    uint32          // of the calling thread
	grace  <-chan time.Time
}

// begin starts to serve a request. The caller ends it.
func (f *FS) begin(cancel <-chan struct{}, h *fuse.InHeader) *request {
	ctx, end := context.WithTimeout(f.base, f.cfg.Deadline)
	return &request{f: f, ctx: ctx, end: end, cancel: cancel, pid: h.Pid}
}

// wait waits until ready has something, and returns it; or the errno with which the request must be answered first.
func wait[T any](r *request, ready <-chan T) (v T, err error) {
	cancel := r.cancel
	for {
		select {
		case v = <-ready:
			return v, nil
		case <-cancel:
			if cancel = nil; r.grace == nil {
				r.grace = time.After(r.f.grace)
			}
		case <-r.grace:
			return v, syscall.EINTR
		case <-r.ctx.Done():
			return v, r.f.ended(r.ctx)
		}
	}
}

// ended is the errno of a request whose context has ended.
func (f *FS) ended(ctx context.Context) error {
	if f.base.Err() != nil {
		return syscall.ENOTCONN
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return syscall.EIO
	}
	return syscall.EINTR
}

type result[T any] struct {
	v   T
	err error
}

// ask calls the Source in a goroutine of its own, so that even one that does not heed its context cannot hold the
// caller. A result that comes too late goes to drop, where it is not nil.
func ask[T any](r *request, count *atomic.Uint64, do func(context.Context) (T, error), drop func(T)) (T, error) {
	var none T
	if r.ctx.Err() != nil {
		return none, r.f.ended(r.ctx)
	}
	if err := r.slot(); err != nil {
		return none, err
	}
	count.Add(1)
	ready := make(chan result[T], 1)
	go func() {
		defer func() { <-r.f.slots }()
		v, err := do(r.ctx)
		ready <- result[T]{v, err}
	}()
	res, err := wait(r, ready)
	if err == nil {
		return res.v, res.err
	}
	r.end()
	if drop != nil {
		go func() {
			if late := <-ready; late.err == nil {
				drop(late.v)
			}
		}()
	}
	return none, err
}

// slot takes one of the slots for calls.
func (r *request) slot() error {
	select {
	case r.f.slots <- struct{}{}:
		return nil
	default:
	}
	taken := make(chan struct{})
	go func() {
		select {
		case r.f.slots <- struct{}{}:
		case <-r.ctx.Done():
			return
		}
		select {
		case taken <- struct{}{}:
		case <-r.ctx.Done(): // nobody waits any more
			<-r.f.slots
		}
	}()
	_, err := wait(r, taken)
	if err != nil {
		r.end()
	}
	return err
}

// errno is what the kernel is told of err.
func errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	no := syscall.EIO
	switch {
	case errors.Is(err, context.Canceled):
		no = syscall.EINTR
	case errors.Is(err, context.DeadlineExceeded):
		no = syscall.EIO
	default:
		no = wire.ErrnoOf(err, syscall.EIO)
	}
	// The kernel takes ENOSYS as "never ask again", and refuses an answer above 511.
	if no == 0 || no == syscall.ENOSYS || no > 511 {
		return syscall.EIO
	}
	return no
}

func status(err error) fuse.Status { return fuse.Status(errno(err)) }

func (r *request) lstat(p string) (wire.Attr, error) {
	return ask(r, &r.f.counters.lstat, func(ctx context.Context) (wire.Attr, error) { return r.f.cfg.Source.Lstat(ctx, p) }, nil)
}

func (r *request) readLink(p string) (string, error) {
	return ask(r, &r.f.counters.readLink, func(ctx context.Context) (string, error) { return r.f.cfg.Source.ReadLink(ctx, p) }, nil)
}

func (r *request) readDir(p string) ([]wire.DirEntry, error) {
	return ask(r, &r.f.counters.readDir, func(ctx context.Context) ([]wire.DirEntry, error) { return r.f.cfg.Source.ReadDir(ctx, p) }, nil)
}

func (r *request) open(p string) (File, error) {
	return ask(r, &r.f.counters.open, func(ctx context.Context) (File, error) { return r.f.cfg.Source.Open(ctx, p) },
		func(file File) { file.Close() })
}
