package preload

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"os"
	"path"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// Files are the pod's, for where there is no FUSE. Paths are the debuggee's, absolute and clean; symbolic links never
// lead out of the pod's root. Errors carry a syscall.Errno.
type Files interface {
	Stat(ctx context.Context, path string, follow bool) (wire.Attr, error)
	ReadLink(ctx context.Context, path string) (string, error)
	ReadDir(ctx context.Context, path string) ([]wire.DirEntry, error)
	// ReadFile reads a whole regular file, EFBIG beyond limit bytes.
	ReadFile(ctx context.Context, path string, limit int64) ([]byte, error)
}

// maxFetched bounds a file that is fetched whole, and so held in memory, at its open.
const maxFetched = 64 << 20

// file answers what a program asks about a file of the pod's.
func (s *Server) file(q *question) {
	if s.cfg.Files == nil {
		q.fail(syscall.ENOSYS)
		return
	}
	var body PathQuestion // FetchQuestion has the same shape: flags and one more number
	tail, err := DecodeBody(q.body, &body)
	name := string(tail)
	if err != nil || len(name) >= PathMax || !path.IsAbs(name) {
		q.fail(syscall.EPROTO)
		return
	}
	name = path.Clean(name)
	ctx, stop := q.untilGone(s.ctx)
	defer stop()
	switch q.head.Kind {
	case KindFetch:
		err = s.fetch(ctx, q, name, int(body.Flags))
	case KindStat:
		var a wire.Attr
		if a, err = s.cfg.Files.Stat(ctx, name, body.Flags&PathNoFollow == 0); err == nil {
			q.answer(statOf(name, a), nil)
		}
	case KindLink:
		var to string
		if to, err = s.cfg.Files.ReadLink(ctx, name); err == nil {
			q.answer(nil, []byte(to))
		}
	case KindList:
		err = s.list(ctx, q, name)
	}
	if err != nil {
		q.fail(wire.ErrnoOf(err, syscall.EIO))
	}
}

// fetch answers an open: the whole file in memory, to be read only.
func (s *Server) fetch(ctx context.Context, q *question, name string, flags int) error {
	if flags&unix.O_ACCMODE != unix.O_RDONLY || flags&(unix.O_TRUNC|unix.O_CREAT|unix.O_EXCL) == unix.O_CREAT|unix.O_EXCL {
		return syscall.EROFS
	}
	a, err := s.cfg.Files.Stat(ctx, name, flags&unix.O_NOFOLLOW == 0)
	if err != nil {
		return err
	}
	switch a.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return syscall.EISDIR
	case unix.S_IFLNK:
		return syscall.ELOOP
	case unix.S_IFREG:
	default:
		return syscall.ENXIO // what open(2) says of a socket
	}
	if flags&unix.O_DIRECTORY != 0 {
		return syscall.ENOTDIR
	}
	content, err := s.cfg.Files.ReadFile(ctx, name, maxFetched)
	if err != nil {
		return err
	}
	f, err := memfd(path.Base(name), content)
	if err != nil {
		return err
	}
	defer f.Close()
	// A description of its own: read-only, at offset 0.
	ro, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return err
	}
	defer ro.Close()
	q.answer(nil, nil, ro)
	return nil
}

// list answers with a directory's entries in memory.
func (s *Server) list(ctx context.Context, q *question, name string) error {
	entries, err := s.cfg.Files.ReadDir(ctx, name)
	if err != nil {
		return err
	}
	var out []byte
	for _, e := range entries {
		n := string(e.Name)
		out, err = binary.Append(out, binary.LittleEndian, Entry{Inode: inodeOf(path.Join(name, n)), Length: uint16(len(n)), Type: uint8(e.Attr.Mode & unix.S_IFMT >> 12)})
		if err != nil {
			return err
		}
		out = append(out, n...)
	}
	f, err := memfd("directory", out)
	if err != nil {
		return err
	}
	defer f.Close()
	q.answer(ListAnswer{Count: uint32(len(entries))}, nil, f)
	return nil
}

// inodeOf is a number for a file of the pod's by its path: the pod's own would not be known without another question.
func inodeOf(name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return h.Sum64()
}

// statOf is what stat(2) says of a file; it is shown as the program's own, read-only.
func statOf(name string, a wire.Attr) StatAnswer {
	const block = 512 // stat(2), st_blocks
	out := StatAnswer{Inode: inodeOf(name), Size: a.Size, Blocks: (a.Size + block - 1) / block, Mode: a.Mode &^ 0o222,
		Links: max(1, a.Nlink), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	if a.Mode&unix.S_IFMT == unix.S_IFLNK {
		out.Mode = a.Mode
	}
	split := func(ns int64) (int64, uint32) {
		t := time.Unix(0, ns)
		return t.Unix(), uint32(t.Nanosecond())
	}
	out.ATime, out.ATimeNsec = split(a.Atime)
	out.MTime, out.MTimeNsec = split(a.Mtime)
	out.CTime, out.CTimeNsec = split(a.Ctime)
	return out
}
