package files

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Root is a root directory that this process need not have as its own: every path is resolved beneath it, symbolic links
// and ".." included (openat2(2), RESOLVE_IN_ROOT). It owns its descriptor, which goes with its last user: a call that
// hangs in a network file system must not keep another from being made, nor a number be given to another file.
type Root struct{ dir *os.File }

// NewRoot takes dir over. It fails where the kernel, or a seccomp profile, has no openat2.
func NewRoot(dir *os.File) (*Root, error) {
	r := &Root{dir}
	fd, err := r.at("/", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		dir.Close()
		return nil, fmt.Errorf("files: %w", os.NewSyscallError("openat2", err))
	}
	unix.Close(fd)
	return r, nil
}

// pathAttempts at a path during which the kernel saw a rename: it does not know then whether ".." led out (openat2(2), EAGAIN).
const pathAttempts = 64

// at opens name; in flags is whether a link is followed there.
func (r *Root) at(name string, flags int) (fd int, err error) {
	defer runtime.KeepAlive(r)
	relative := strings.TrimPrefix(name, "/")
	if relative == "" {
		relative = "."
	}
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_IN_ROOT}
	for range pathAttempts {
		if fd, err = unix.Openat2(int(r.dir.Fd()), relative, &how); err != unix.EAGAIN && err != unix.EINTR {
			break
		}
	}
	return fd, err
}

// open opens for reading; it neither waits for a FIFO's writer nor takes a terminal.
func (r *Root) open(name string, flags int) (*os.File, error) {
	fd, err := r.at(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|flags)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// path opens what name is, to look at.
func (r *Root) path(name string) (fd int, err error) { return r.at(name, unix.O_PATH|unix.O_NOFOLLOW) }

// ReadFile reads a regular file of the agent's own choice, of which at most limit bytes are wanted; it may be a link.
func (r *Root) ReadFile(name string, limit int) ([]byte, error) {
	fd, err := r.at(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if i, err := f.Stat(); err != nil || !i.Mode().IsRegular() {
		return nil, &os.PathError{Op: "open", Path: name, Err: syscall.EINVAL}
	}
	return io.ReadAll(io.LimitReader(f, int64(limit)))
}
