package files

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/wire"
)

const (
	// dataLink is the link that kubelet's atomic writer switches (its volume/util/atomic_writer.go).
	dataLink = "..data"
	// MaxVolume bounds a small volume's tar: the API bounds a ConfigMap at 1 MiB, a projected volume has several.
	MaxVolume = 8 << 20
	// maxDepth of directories; items may have paths of their own, but shallow ones.
	maxDepth = 32
	// attempts to read a volume that is being switched; a switch takes a millisecond and comes once a minute.
	attempts = 10
)

// errChanged says that the volume was switched while it was read.
var errChanged = errors.New("files: volume changed while it was read")

// Snapshot reads a small volume whole as a tar: names relative to it, its own directory as "./", numeric owners, times
// in nanoseconds (PAX). A volume that is one regular file is a tar of one entry, ".". It fails with EFBIG where the
// volume is not small, and with EACCES where one of its files is not for the pod's user: left out it would be missing,
// and not refused.
func (r *Root) Snapshot(volume string) ([]byte, error) {
	if err := check(volume); err != nil {
		return nil, err
	}
	for i := 1; ; i++ {
		raw, err := r.snapshot(volume)
		if !errors.Is(err, errChanged) && !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ESTALE) || i == attempts {
			return raw, err
		}
		if _, err := r.Lstat(volume); err != nil {
			return nil, err
		}
		time.Sleep(time.Duration(i) * time.Millisecond)
	}
}

func (r *Root) snapshot(volume string) ([]byte, error) {
	before, _ := r.Readlink(path.Join(volume, dataLink)) // "" where there is none
	out := &limited{}
	w := tar.NewWriter(out)
	attr, err := r.Lstat(volume)
	if err != nil {
		return nil, err
	}
	if attr.Mode&unix.S_IFMT == unix.S_IFREG {
		err = r.addFile(w, volume, ".", attr)
	} else {
		err = r.addDir(w, volume, ".", attr, 0)
	}
	if err == nil {
		err = w.Close()
	}
	if out.full {
		return nil, syscall.EFBIG
	}
	if after, _ := r.Readlink(path.Join(volume, dataLink)); err == nil && after != before {
		err = errChanged
	}
	return out.Bytes(), err
}

// limited is a buffer that refuses to grow beyond MaxVolume.
type limited struct {
	bytes.Buffer
	full bool
}

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > MaxVolume {
		l.full = true
		return 0, syscall.EFBIG
	}
	return l.Buffer.Write(p)
}

func (r *Root) addDir(w *tar.Writer, from, name string, attr wire.Attr, depth int) error {
	if depth > maxDepth {
		return syscall.ELOOP
	}
	if err := w.WriteHeader(header(tar.TypeDir, name+"/", attr)); err != nil {
		return err
	}
	return r.Readdir(from, func(e wire.DirEntry) error {
		inner, full := path.Join(name, string(e.Name)), path.Join(from, string(e.Name))
		switch e.Attr.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			return r.addDir(w, full, inner, e.Attr, depth+1)
		case unix.S_IFLNK:
			h := header(tar.TypeSymlink, inner, e.Attr)
			h.Linkname = string(e.Target)
			return w.WriteHeader(h)
		case unix.S_IFREG:
			return r.addFile(w, full, inner, e.Attr)
		}
		return nil // a socket or device has no content to carry
	})
}

func (r *Root) addFile(w *tar.Writer, from, name string, attr wire.Attr) error {
	if attr.Size > MaxVolume {
		return syscall.EFBIG
	}
	f, attr, err := r.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, MaxVolume+1))
	if err != nil {
		return err
	}
	h := header(tar.TypeReg, name, attr)
	h.Size = int64(len(content))
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err = w.Write(content)
	return err
}

func header(kind byte, name string, a wire.Attr) *tar.Header {
	return &tar.Header{Format: tar.FormatPAX, Typeflag: kind, Name: name, Mode: int64(a.Mode & 0o7777), Uid: int(a.UID), Gid: int(a.GID),
		ModTime: time.Unix(0, a.Mtime)}
}

// Watch calls changed once for each change of the volumes, and more often than that rather than too seldom, until
// stop is closed or reading fails.
func (r *Root) Watch(volumes []string, stop <-chan struct{}, changed func(volume string)) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("inotify_init1", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	defer f.Close()
	watched, err := r.addWatches(fd, volumes)
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-stop:
			f.Close()
		case <-ended:
		}
	}()
	buf := make([]byte, 16<<10)
	for {
		n, err := f.Read(buf)
		if err != nil {
			return err
		}
		dirty, overflow := parseEvents(buf[:n])
		for wd, v := range watched {
			if overflow || dirty[wd] {
				changed(v)
			}
		}
	}
}

// addWatches adds a watch for each volume. inotify_add_watch(2) knows paths only: a thread that has a working directory
// of its own (CLONE_FS) goes to each, and then ends.
func (r *Root) addWatches(inotify int, volumes []string) (watched map[int32]string, err error) {
	const mask = unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_CREATE | unix.IN_DELETE | unix.IN_CLOSE_WRITE | unix.IN_ATTRIB
	one := func(v string) (int, error) {
		dir, name := v, "."
		if a, err := r.Lstat(v); err == nil && a.Mode&unix.S_IFMT != unix.S_IFDIR {
			dir, name = path.Split(v)
			dir = path.Clean(dir)
		}
		fd, err := r.at(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
		if err != nil {
			return 0, err
		}
		defer unix.Close(fd)
		if err := unix.Fchdir(fd); err != nil {
			return 0, os.NewSyscallError("fchdir", err)
		}
		return unix.InotifyAddWatch(inotify, name, mask)
	}
	watched = map[int32]string{}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its goroutine
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- os.NewSyscallError("unshare", err)
			return
		}
		for _, v := range volumes {
			wd, err := one(v)
			if err != nil {
				done <- os.NewSyscallError("inotify_add_watch", err)
				return
			}
			watched[int32(wd)] = v
		}
		done <- nil
	}()
	return watched, <-done
}
