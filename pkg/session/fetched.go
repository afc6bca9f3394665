package session

import (
	"context"
	"io"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/podfs"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// fetchedFiles are the pod's files where there is no FUSE to mount them. A link in the last place is followed here, beneath
// the pod's root; the agent resolves the others there.
type fetchedFiles struct{ from files }

// maxFollowed is the kernel's own limit of links (MAXSYMLINKS).
const maxFollowed = 40

// follow returns what is at a path, and the path without a link in the last place.
func (f fetchedFiles) follow(ctx context.Context, name string) (string, wire.Attr, error) {
	for range maxFollowed {
		a, err := f.from.Lstat(ctx, name)
		if err != nil || a.Mode&unix.S_IFMT != unix.S_IFLNK {
			return name, a, err
		}
		to, err := f.from.ReadLink(ctx, name)
		if err != nil {
			return name, a, err
		}
		if strings.HasPrefix(to, "/") {
			name = path.Clean(to)
		} else {
			name = path.Join(path.Dir(name), to) // Join stops .. at the root
		}
	}
	return name, wire.Attr{}, syscall.ELOOP
}

// Stat shows a file as the program's own.
func (f fetchedFiles) Stat(ctx context.Context, name string, follow bool) (a wire.Attr, err error) {
	if follow {
		_, a, err = f.follow(ctx, name)
	} else {
		a, err = f.from.Lstat(ctx, name)
	}
	if a.Mode&unix.S_IFMT != unix.S_IFLNK {
		a.Mode = podfs.ShownMode(a.Mode)
	}
	return a, err
}

// ReadLink reads a link.
func (f fetchedFiles) ReadLink(ctx context.Context, name string) (string, error) {
	return f.from.ReadLink(ctx, name)
}

// ReadDir lists a directory.
func (f fetchedFiles) ReadDir(ctx context.Context, name string) ([]wire.DirEntry, error) {
	at, a, err := f.follow(ctx, name)
	if err != nil {
		return nil, err
	}
	if a.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, syscall.ENOTDIR
	}
	return f.from.ReadDir(ctx, at)
}

// ReadFile reads a whole file.
func (f fetchedFiles) ReadFile(ctx context.Context, name string, limit int64) ([]byte, error) {
	at, _, err := f.follow(ctx, name)
	if err != nil {
		return nil, err
	}
	file, err := f.from.Open(ctx, at)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if int64(file.Attr().Size) > limit {
		return nil, syscall.EFBIG
	}
	content := append([]byte(nil), file.Head()...)
	if len(content) < wire.HeadLen {
		return content, nil // all of it
	}
	buf := make([]byte, wire.MaxRead)
	for int64(len(content)) <= limit {
		n, err := file.ReadAt(ctx, buf, int64(len(content)))
		content = append(content, buf[:n]...)
		if err == io.EOF {
			return content, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, syscall.EFBIG
}
