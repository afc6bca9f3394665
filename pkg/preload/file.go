package preload

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// Files are the pod's, for where there is no FUSE (*podfs.FS). Paths are the debuggee's, absolute and not always clean;
// symbolic links never lead out of the pod's root. Errors carry a syscall.Errno.
type Files interface {
	Stat(ctx context.Context, path string, follow bool) (wire.Attr, error)
	ReadLink(ctx context.Context, path string) (string, error)
	// RealPath is where a path leads, without links and dots.
	RealPath(ctx context.Context, path string) (string, error)
	ReadDir(ctx context.Context, path string) ([]wire.DirEntry, error)
	// ReadFile reads a whole regular file, EFBIG beyond limit bytes.
	ReadFile(ctx context.Context, path string, limit int64) ([]byte, wire.Attr, error)
}

// maxFetched bounds a file that is fetched whole, and so held in memory, at its open.
const maxFetched = 64 << 20

// maxStands bounds the directories that stand for the pod's, each an inode of a file system in memory, mostly: those that
// a program stands in, opens (not those that it only lists) or watches.
const maxStands = 1 << 14

// file answers what a program asks about a file of the pod's.
func (s *Server) file(q *question) {
	if s.cfg.Files == nil {
		q.fail(syscall.ENOSYS)
		return
	}
	var body FetchQuestion // PathQuestion has the same shape: flags and one more number
	tail, err := DecodeBody(q.body, &body)
	name := string(tail)
	if err != nil || len(name) >= PathMax || !path.IsAbs(name) {
		q.fail(syscall.EPROTO)
		return
	}
	ctx, stop := q.untilGone(s.ctx)
	defer stop()
	switch q.head.Kind {
	case KindFetch:
		if body.What == FetchWatch {
			err = s.watched(ctx, q, name, int(body.Flags))
		} else {
			err = s.fetch(ctx, q, name, int(body.Flags))
		}
	case KindStat:
		var a wire.Attr
		if a, err = s.cfg.Files.Stat(ctx, name, body.Flags&PathNoFollow == 0); err == nil {
			q.answer(statOf(a), nil)
		}
	case KindLink:
		var to string
		if body.Flags&PathReal != 0 {
			to, err = s.cfg.Files.RealPath(ctx, name)
		} else {
			to, err = s.cfg.Files.ReadLink(ctx, name)
		}
		if err == nil {
			q.answer(nil, []byte(to))
		}
	case KindList:
		err = s.list(ctx, q, name)
	}
	if err != nil {
		q.fail(wire.ErrnoOf(err, syscall.EIO))
	}
}

// fetch answers an open: the whole file in memory, to be read only, or a directory.
func (s *Server) fetch(ctx context.Context, q *question, name string, flags int) error {
	a, err := s.cfg.Files.Stat(ctx, name, flags&unix.O_NOFOLLOW == 0)
	if errors.Is(err, syscall.ENOENT) && flags&unix.O_CREAT != 0 {
		return syscall.EROFS
	}
	if err != nil {
		return err
	}
	directory := a.Mode&unix.S_IFMT == unix.S_IFDIR
	writes := flags&unix.O_PATH == 0 && (flags&unix.O_ACCMODE != unix.O_RDONLY || flags&unix.O_TRUNC != 0)
	switch {
	case flags&(unix.O_CREAT|unix.O_EXCL) == unix.O_CREAT|unix.O_EXCL:
		return syscall.EEXIST
	case directory && (writes || flags&unix.O_CREAT != 0):
		return syscall.EISDIR
	case directory:
		return s.stand(ctx, q, name)
	case flags&unix.O_DIRECTORY != 0:
		return syscall.ENOTDIR
	case a.Mode&unix.S_IFMT == unix.S_IFLNK:
		return syscall.ELOOP
	case writes:
		return syscall.EROFS
	}
	content, a, err := s.cfg.Files.ReadFile(ctx, name, maxFetched)
	if err != nil {
		return err
	}
	if name, err = s.cfg.Files.RealPath(ctx, name); err != nil {
		return err
	}
	f, err := fetched(name, content, a)
	if err != nil {
		return err
	}
	defer f.Close()
	q.answer(nil, nil, f)
	return nil
}

// fetched is a file's content in memory, with its mode and times: a description of its own, read-only, at offset 0.
func fetched(name string, content []byte, a wire.Attr) (*os.File, error) {
	const longest = 249 // memfd_create(2)
	said := fmt.Sprintf("%s%016x", memoryName, a.Ino)
	if len(said)+1+len(name) <= longest {
		said += ":" + name
	}
	f, err := memfd(said, content)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	at := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	times := []unix.Timespec{unix.NsecToTimespec(a.Atime), unix.NsecToTimespec(a.Mtime)}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, at, times, 0); err != nil {
		return nil, err
	}
	ro, err := os.Open(at)
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(os.FileMode(a.Mode & 0o777)); err != nil {
		ro.Close()
		return nil, err
	}
	return ro, nil
}

// stand answers with a directory that stands for the pod's: the kernel takes it for where a program is, and paths beneath
// it are the library's to turn back. It is empty, but for others that stand beneath it.
func (s *Server) stand(ctx context.Context, q *question, name string) error {
	real, err := s.cfg.Files.RealPath(ctx, name)
	if err != nil {
		return err
	}
	return s.place(q, s.cfg.Stand+real, unix.O_RDONLY)
}

// watched answers with something that nothing happens to, as nothing happens to a mount that the kernel does not know the
// changes of: one for each of the pod's files, and none beneath another, whose making would be an event.
func (s *Server) watched(ctx context.Context, q *question, name string, flags int) error {
	a, err := s.cfg.Files.Stat(ctx, name, flags&unix.O_NOFOLLOW == 0)
	if err != nil {
		return err
	}
	if flags&unix.O_DIRECTORY != 0 && a.Mode&unix.S_IFMT != unix.S_IFDIR {
		return syscall.ENOTDIR
	}
	return s.place(q, filepath.Join(s.cfg.Stand+"-watched", fmt.Sprintf("%016x", a.Ino)), unix.O_PATH)
}

// place answers with an empty directory, which it makes: by this descriptor a program that has become another user may go
// there as well, while nobody else finds the way.
func (s *Server) place(q *question, at string, how int) error {
	if _, err := os.Lstat(at); err != nil {
		if s.stands.Add(1) > maxStands {
			return syscall.ENFILE
		}
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
	}
	fd, err := unix.Open(at, how|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), at)
	defer f.Close()
	q.answer(nil, nil, f)
	return nil
}

// list answers with a directory's entries in memory.
func (s *Server) list(ctx context.Context, q *question, name string) error {
	entries, err := s.cfg.Files.ReadDir(ctx, name)
	if err != nil {
		return err
	}
	here := wire.Attr{Mode: unix.S_IFDIR}
	entries = append([]wire.DirEntry{{Name: ".", Attr: here}, {Name: "..", Attr: here}}, entries...)
	var out []byte
	for _, e := range entries {
		out, err = binary.Append(out, binary.LittleEndian, Entry{Inode: e.Attr.Ino, Length: uint16(len(e.Name)), Type: uint8(e.Attr.Mode & unix.S_IFMT >> 12)})
		if err != nil {
			return err
		}
		out = append(out, e.Name...)
	}
	f, err := memfd("directory", out)
	if err != nil {
		return err
	}
	defer f.Close()
	q.answer(ListAnswer{Count: uint32(len(entries))}, nil, f)
	return nil
}

// statOf is what stat(2) says of a file.
func statOf(a wire.Attr) StatAnswer {
	const block = 512 // stat(2), st_blocks
	out := StatAnswer{Inode: a.Ino, Size: a.Size, Blocks: (a.Size + block - 1) / block, Mode: a.Mode, Links: max(1, a.Nlink), UID: a.UID, GID: a.GID}
	split := func(ns int64) (int64, uint32) {
		t := time.Unix(0, ns)
		return t.Unix(), uint32(t.Nanosecond())
	}
	out.ATime, out.ATimeNsec = split(a.Atime)
	out.MTime, out.MTimeNsec = split(a.Mtime)
	out.CTime, out.CTimeNsec = split(a.Ctime)
	return out
}
