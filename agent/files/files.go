// Package files reads the pod's files for a session: attributes, links, directories, parts of files, and small volumes
// whole. Every path is resolved beneath a Root, so no symbolic link leads out. It follows no link in a path's last
// component, opens nothing but regular files, and must never write.
package files

import (
	"errors"
	"io"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// maxPath is PATH_MAX.
const maxPath = 4096

// check refuses what is no absolute, clean path.
func check(name string) error {
	if len(name) >= maxPath {
		return syscall.ENAMETOOLONG
	}
	if !strings.HasPrefix(name, "/") || path.Clean(name) != name || strings.IndexByte(name, 0) >= 0 {
		return syscall.EINVAL
	}
	return nil
}

// Lstat returns the status of name itself.
func (r *Root) Lstat(name string) (wire.Attr, error) {
	if err := check(name); err != nil {
		return wire.Attr{}, err
	}
	fd, err := r.path(name)
	if err != nil {
		return wire.Attr{}, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	err = ignoringEINTR(func() error { return unix.Fstat(fd, &st) })
	return attrOf(&st), err
}

func lstat(dir int, name string) (wire.Attr, error) {
	var st unix.Stat_t
	err := ignoringEINTR(func() error { return unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	return attrOf(&st), err
}

func attrOf(st *unix.Stat_t) wire.Attr {
	return wire.Attr{Ino: st.Ino, Mode: st.Mode, Nlink: uint32(st.Nlink), UID: st.Uid, GID: st.Gid, Rdev: uint32(st.Rdev),
		Size: uint64(st.Size), Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano(), Atime: st.Atim.Nano()}
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); err != syscall.EINTR {
			return err
		}
	}
}

// Readlink returns a link's target.
func (r *Root) Readlink(name string) (string, error) {
	if err := check(name); err != nil {
		return "", err
	}
	fd, err := r.path(name)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	to, err := readlink(fd, "")
	if err == syscall.ENOENT { // what the kernel says of an opened file that is no link
		err = syscall.EINVAL
	}
	return to, err
}

func readlink(dir int, name string) (string, error) {
	buf := make([]byte, maxPath)
	var n int
	err := ignoringEINTR(func() (err error) { n, err = unix.Readlinkat(dir, name, buf); return err })
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// Readdir hands each name of a directory with its attributes to each, in the order of the file system. A name that has
// gone meanwhile, or that may not be looked at, is left out.
func (r *Root) Readdir(name string, each func(wire.DirEntry) error) error {
	if err := check(name); err != nil {
		return err
	}
	d, err := r.open(name, unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer d.Close()
	const batch = 256 // names held at a time, however large the directory
	for {
		names, err := d.Readdirnames(batch)
		for _, n := range names {
			attr, err := lstat(int(d.Fd()), n)
			if err != nil {
				continue
			}
			e := wire.DirEntry{Name: wire.Name(n), Attr: attr}
			if attr.Mode&unix.S_IFMT == unix.S_IFLNK {
				to, err := readlink(int(d.Fd()), n)
				if err != nil {
					continue
				}
				e.Target = wire.Name(to)
			}
			if err := each(e); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Open opens a regular file. It looks before it opens, because opening a device may do something, and again
// afterwards; it does not wait for a FIFO's writer.
func (r *Root) Open(name string) (*os.File, wire.Attr, error) {
	attr, err := r.Lstat(name)
	if err != nil {
		return nil, attr, err
	}
	if err := regular(attr); err != nil {
		return nil, attr, err
	}
	f, err := r.open(name, 0)
	if err != nil {
		return nil, attr, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(f.Fd()), &st); err == nil {
		attr = attrOf(&st)
		err = regular(attr)
	}
	if err != nil {
		f.Close()
		return nil, attr, err
	}
	return f, attr, nil
}

func regular(a wire.Attr) error {
	switch a.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return nil
	case unix.S_IFDIR:
		return syscall.EISDIR
	case unix.S_IFLNK:
		return syscall.ELOOP
	case unix.S_IFBLK, unix.S_IFCHR:
		return syscall.EACCES
	}
	return syscall.ENXIO // as open(2) says of a socket
}

// Head reads up to wire.HeadLen bytes from the beginning.
func Head(f *os.File, a wire.Attr) ([]byte, error) {
	// The files of /proc and /sys say size 0 and have content all the same.
	want := int64(wire.HeadLen)
	if a.Size > 0 {
		want = min(want, int64(a.Size))
	}
	buf := make([]byte, want)
	n, err := f.ReadAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return buf[:n], nil
}

// Volume says what is mounted at name.
func (r *Root) Volume(name string) wire.Volume {
	v := wire.Volume{Path: name}
	a, err := r.Lstat(name)
	if err != nil {
		return v
	}
	v.File = a.Mode&unix.S_IFMT == unix.S_IFREG
	if a.Mode&unix.S_IFMT == unix.S_IFDIR {
		data, err := r.Lstat(path.Join(name, dataLink))
		v.Small = err == nil && data.Mode&unix.S_IFMT == unix.S_IFLNK
	}
	return v
}

// trust are the places where programs look for a machine's TLS trust store (those of Go's crypto/x509 and OpenSSL).
var trust = []string{"/etc/ssl", "/etc/pki/tls", "/etc/pki/ca-trust", "/usr/share/ca-certificates",
	"/usr/local/share/ca-certificates", "/usr/local/share/certs", "/etc/ca-certificates"}

// Trust lists those that the pod has.
func (r *Root) Trust() (have []string) {
	for _, name := range trust {
		if _, err := r.Lstat(name); err == nil {
			have = append(have, name)
		}
	}
	return have
}

// Top lists the names in the pod's root directory.
func (r *Root) Top() ([]string, error) {
	d, err := r.open("/", unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	const most = 1000 // a root directory has two dozen
	names, err := d.Readdirnames(most)
	if err == io.EOF {
		err = nil
	}
	return names, err
}
