// Package podfs serves the pod's files as a FUSE file system whose root is the pod's root, so that every file has the
// pod's own absolute path in it. The namespaces front end binds the covered paths from it into the debuggee's root.
//
// Small volumes lie in memory as Trees and cost no round trip. All else is fetched from a Source when it is asked for:
// a directory with all its attributes at once, a file's first bytes with its open. Everything is read-only.
//
// It holds no policy: which paths are covered, and whose view of a few files is the host's, it asks its Config. It must
// never show a host file for a pod path except by that view, never write a pod's value anywhere but to the kernel, and
// never make a caller wait without a limit.
package podfs

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"log/slog"
	"os"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/wire"
)

const (
	// attrTTL is how long a name, its attributes and its content are believed, by the kernel and here together.
	attrTTL = time.Second

	// interruptGrace is how long a request that a signal has interrupted may still take before it is answered EINTR.
	// Some programs take EINTR for a failure, so most signals should find the answer already there, on a cluster
	// 100 ms away too; and a debugger's stop may not be felt to wait for it.
	interruptGrace = 250 * time.Millisecond

	// defaultDeadline bounds a request where Config.Deadline is 0.
	defaultDeadline = 20 * time.Second

	// maxCalls bounds the calls of the Source under way, abandoned ones included.
	maxCalls = 256

	// maxRequest is the largest read the kernel sends (256 pages); go-fuse calls it MaxWrite.
	maxRequest = 1 << 20

	// maxBackground is the kernel's limit of reads ahead under way, in requests. Its default of 12 would let a few
	// hung pages of one mapped file hold up all others.
	maxBackground = 128
)

// A Source is the pod's files by absolute, clean path. A symlink in the last place is not followed. Errors carry a
// syscall.Errno in their chain, which becomes the debuggee's; other errors become EIO. Calls come from many
// goroutines and must end soon after their context has; where the way to the pod is gone they must fail at once.
type Source interface {
	Lstat(ctx context.Context, path string) (wire.Attr, error)
	ReadLink(ctx context.Context, path string) (string, error)
	// ReadDir lists a directory with the attributes of its entries and the targets of symlinks, without . and ..
	ReadDir(ctx context.Context, path string) ([]wire.DirEntry, error)
	// Open opens a regular file for reading.
	Open(ctx context.Context, path string) (File, error)
}

// A File is an open file of the pod. Its methods are called from many goroutines.
type File interface {
	// Attr is the file's status at the open.
	Attr() wire.Attr
	// Head is what came with the open: the first wire.HeadLen bytes, or all if the file is shorter.
	Head() []byte
	// ReadAt reads as io.ReaderAt does: fewer bytes than len(p), which is at most wire.MaxRead, only with an error.
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
	Close() error
}

// Config is what an FS needs to know.
type Config struct {
	Source Source

	// Covered tells whether the debuggee sees the pod's file at an absolute, clean path, and not the host's.
	Covered func(path string) bool

	// Uid and Gid are shown as every file's owner: the debuggee's own, because others are not mapped in its user
	// namespace and such files would look foreign.
	Uid, Gid uint32

	// Deadline bounds each request; after it the debuggee gets EIO. 0 is 20 s.
	Deadline time.Duration

	// PerProcess are paths that show the host's content to some processes, those for which HostView is true. pid is
	// that of the calling thread.
	PerProcess []string
	HostView   func(pid uint32) bool

	// Apart says that the tree is mounted at a place of its own: an absolute link would lead out of it there, and is
	// resolved here instead.
	Apart bool

	// Files are files with content that the caller has made, by absolute path, in place of the pod's.
	Files map[string][]byte

	// Notice is given lines for the developer: one for each path that the debuggee tried to write to. May be nil.
	Notice func(line string)

	Log *slog.Logger
}

// Stats counts the calls of the Source, each of which is a round trip to the pod.
type Stats struct {
	Lstat, ReadLink, ReadDir, Open, ReadAt uint64
}

// Total is the number of round trips.
func (s Stats) Total() uint64 { return s.Lstat + s.ReadLink + s.ReadDir + s.Open + s.ReadAt }

// FS is the file system.
//
// Goroutines: go-fuse's readers, which handle the kernel's requests, from Serve until the mount is gone; one for each
// call of the Source, until it returns (its context ends at the request's deadline, at its interruption or at Close);
// one for each part of a large file under way, likewise. None outlives the mount but for calls of a Source that does
// not heed its context.
type FS struct {
	cfg      Config
	ttl      time.Duration // attrTTL
	grace    time.Duration // interruptGrace
	base     context.Context
	stop     context.CancelFunc
	slots    chan struct{} // taken while the Source is called
	counters counters
	cache    cache
	aheadMem atomic.Int64 // bytes in read-ahead buffers
	wholeMem atomic.Int64 // bytes of files fetched whole because they may be mapped
	refused  refusals
	perProc  map[string]bool

	// layout changes under volumes and is read without a lock.
	layout  atomic.Pointer[layout]
	volumes sync.Mutex // one SetVolume at a time

	mu      sync.RWMutex // guards what follows, and the fields of nodes that say so; held for moments, never over a call
	nodes   map[uint64]*node
	byPath  map[nodeKey]*node
	nextID  uint64
	handles map[uint64]*handle
	nextFh  uint64

	kernel     atomic.Pointer[fuse.Server] // set by Serve before the first request but INIT
	seed       maphash.Seed
	sharedMmap bool // the kernel maps files under direct I/O; set like kernel
	noMmap     bool // for tests: do as if it did not
	done       chan struct{}
}

type counters struct {
	lstat, readLink, readDir, open, readAt atomic.Uint64
}

// New returns a file system that waits for Serve.
func New(cfg Config) *FS {
	if cfg.Deadline <= 0 {
		cfg.Deadline = defaultDeadline
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Covered == nil {
		cfg.Covered = func(string) bool { return false }
	}
	f := &FS{
		cfg: cfg, ttl: attrTTL, grace: interruptGrace, slots: make(chan struct{}, maxCalls), done: make(chan struct{}),
		nodes: map[uint64]*node{}, byPath: map[nodeKey]*node{}, handles: map[uint64]*handle{},
		nextID: fuse.FUSE_ROOT_ID + 1, nextFh: 1, perProc: map[string]bool{},
		seed: maphash.MakeSeed(),
	}
	f.base, f.stop = context.WithCancel(context.Background())
	f.refused.notice = cfg.Notice
	root := &node{id: fuse.FUSE_ROOT_ID, path: "/", real: "/", ident: identity{typ: unix.S_IFDIR}, fixed: true, lookups: 1}
	f.nodes[root.id], f.byPath[nodeKey{"/", false}] = root, root
	for _, p := range cfg.PerProcess {
		f.perProc[path.Clean(p)] = true
	}
	files := map[string]*Tree{}
	for p, data := range cfg.Files {
		files[path.Clean(p)] = NewFile(data, 0o644, time.Now())
	}
	f.layout.Store(newLayout(files))
	return f
}

// Serve starts to serve the /dev/fuse descriptor of a mount that has been made. It takes fd over, and returns when
// the kernel has greeted. Call it once.
func (f *FS) Serve(fd *os.File) error {
	n, err := unix.FcntlInt(fd.Fd(), unix.F_DUPFD_CLOEXEC, 3) // go-fuse owns a number, not an os.File
	fd.Close()
	if err != nil {
		return fmt.Errorf("podfs: taking the FUSE descriptor: %w", err)
	}
	if err := unix.SetNonblock(n, false); err != nil {
		unix.Close(n)
		return fmt.Errorf("podfs: taking the FUSE descriptor: %w", err)
	}
	opts := &fuse.MountOptions{
		Name: "stepin", MaxWrite: maxRequest, MaxBackground: maxBackground,
		EnableSymlinkCaching: true, // a symlink that changes becomes another node
		DisableSplice:        true, // nothing here is a descriptor's content
		ExtraCapabilities:    fuse.CAP_DIRECT_IO_ALLOW_MMAP,
		Logger:               slog.NewLogLogger(f.cfg.Log.Handler(), slog.LevelDebug),
	}
	if f.noMmap {
		opts.ExtraCapabilities = 0
	}
	srv, err := fuse.NewServer(&server{f}, fmt.Sprintf("/dev/fd/%d", n), opts)
	if err != nil {
		return fmt.Errorf("podfs: serving the FUSE descriptor: %w", err)
	}
	go srv.Serve()
	return nil
}

// Close ends the service: requests under way and all later ones fail at once with ENOTCONN. The goroutines that read
// from the kernel end with the mount (Done), which belongs to the holder. Close is idempotent.
func (f *FS) Close() error {
	f.stop()
	return nil
}

// Done is closed when the mount is gone, or Serve's descriptor failed.
func (f *FS) Done() <-chan struct{} { return f.done }

// Stats returns the calls of the Source so far.
func (f *FS) Stats() Stats {
	c := &f.counters
	return Stats{c.lstat.Load(), c.readLink.Load(), c.readDir.Load(), c.open.Load(), c.readAt.Load()}
}

// isEOF tells that a read ended with the file and not with an error.
func isEOF(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }
