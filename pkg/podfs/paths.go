package podfs

import (
	"context"
	"io"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// What follows answers for paths as a mount of the FS would, where there is no FUSE to mount it: with the same volumes,
// links, inode numbers, modes and times that things are remembered. A path is absolute, and need not be clean: each link
// and .. is followed where it stands (path_resolution(7)). An errno is a syscall.Errno, as the kernel would say it.

// Stat returns what the debuggee sees of a path; of a link itself where it is not followed.
func (f *FS) Stat(ctx context.Context, p string, follow bool) (wire.Attr, error) {
	r := f.begin(ctx.Done(), &fuse.InHeader{})
	defer r.end()
	n, a, err := r.walk(p, follow)
	if err != nil {
		return wire.Attr{}, errno(err)
	}
	return f.shown(n, a), nil
}

// ReadLink returns a link's text.
func (f *FS) ReadLink(ctx context.Context, p string) (string, error) {
	r := f.begin(ctx.Done(), &fuse.InHeader{})
	defer r.end()
	n, _, err := r.walk(p, false)
	switch {
	case err != nil:
		return "", errno(err)
	case n.ident.typ != unix.S_IFLNK:
		return "", syscall.EINVAL
	}
	return n.target, nil
}

// RealPath returns the path of what a path leads to, without links and dots.
func (f *FS) RealPath(ctx context.Context, p string) (string, error) {
	r := f.begin(ctx.Done(), &fuse.InHeader{})
	defer r.end()
	n, _, err := r.walk(p, true)
	if err != nil {
		return "", errno(err)
	}
	return n.path, nil
}

// ReadDir lists a directory, without . and ..; of the attributes there are the number and the type.
func (f *FS) ReadDir(ctx context.Context, p string) ([]wire.DirEntry, error) {
	r := f.begin(ctx.Done(), &fuse.InHeader{})
	defer r.end()
	n, _, err := r.walk(p, true)
	if err != nil {
		return nil, errno(err)
	}
	if n.ident.typ != unix.S_IFDIR {
		return nil, syscall.ENOTDIR
	}
	var d listing
	if err := r.list(n, &d); err != nil {
		return nil, errno(err)
	}
	out := make([]wire.DirEntry, len(d.items))
	for i := range d.items {
		ino, mode := (&server{f}).direntOf(n, &d.items[i])
		out[i] = wire.DirEntry{Name: wire.Name(d.items[i].name), Attr: wire.Attr{Ino: ino, Mode: mode}}
	}
	return out, nil
}

// ReadFile reads a whole regular file, EFBIG beyond limit bytes, and returns its status at that time. Each part has the
// deadline of a request.
func (f *FS) ReadFile(ctx context.Context, p string, limit int64) ([]byte, wire.Attr, error) {
	r := f.begin(ctx.Done(), &fuse.InHeader{})
	defer r.end()
	n, a, err := r.walk(p, true)
	if err != nil {
		return nil, a, errno(err)
	}
	switch n.ident.typ {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		return nil, a, syscall.EISDIR
	default:
		return nil, a, syscall.ENXIO // what open(2) says of a socket
	}
	if n.t != nil {
		return n.t.data, f.shown(n, a), nil
	}
	file, err := r.open(n.real)
	if err != nil {
		return nil, a, errno(err)
	}
	defer file.Close()
	content, err := f.whole(ctx, file, limit)
	if err != nil {
		return nil, a, errno(err)
	}
	return content, f.shown(n, file.Attr()), nil
}

// whole reads an open file to its end, which may be another than its size says (as in /proc).
func (f *FS) whole(ctx context.Context, file File, limit int64) ([]byte, error) {
	if int64(file.Attr().Size) > limit {
		return nil, syscall.EFBIG
	}
	content := append([]byte(nil), file.Head()...)
	if len(content) < wire.HeadLen {
		return content, nil
	}
	buf := make([]byte, wire.MaxRead)
	for int64(len(content)) <= limit {
		r := f.begin(ctx.Done(), &fuse.InHeader{})
		n, err := ask(r, &f.counters.readAt, func(ctx context.Context) (int, error) { return file.ReadAt(ctx, buf, int64(len(content))) }, nil)
		r.end()
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

// walk returns a node, which no kernel knows of, for what lies at a path, and its status as the pod has it.
func (r *request) walk(p string, follow bool) (*node, wire.Attr, error) {
	root := r.f.node(fuse.FUSE_ROOT_ID)
	way, attr, rest := []*node{root}, []wire.Attr{madeDir()}, splitTarget(p)
	directory := wantsDirectory(p)
	for links := 0; len(rest) > 0; {
		at, name := way[len(way)-1], rest[0]
		rest = rest[1:]
		if at.ident.typ != unix.S_IFDIR {
			return nil, wire.Attr{}, syscall.ENOTDIR
		}
		if name == ".." {
			way, attr = way[:max(1, len(way)-1)], attr[:max(1, len(way)-1)]
			continue
		}
		c, _, err := r.child(at, name)
		if err != nil {
			return nil, wire.Attr{}, err
		}
		if c.e.typ() == unix.S_IFLNK && (follow || directory || len(rest) > 0) {
			if links++; links > maxLinks {
				return nil, wire.Attr{}, syscall.ELOOP
			}
			if strings.HasPrefix(c.e.target, "/") {
				way, attr = way[:1], attr[:1]
			}
			directory = directory || len(rest) == 0 && wantsDirectory(c.e.target)
			rest = append(splitTarget(c.e.target), rest...)
			continue
		}
		fixed := c.e.fixed || r.f.bound(c.path)
		way = append(way, &node{path: c.path, real: c.real, limit: c.lim, via: c.via, host: c.host, dual: c.dual, target: c.e.target,
			ident: identify(&c.e, fixed), fixed: fixed, t: c.e.t})
		attr = append(attr, c.e.attr)
	}
	at := way[len(way)-1]
	if directory && at.ident.typ != unix.S_IFDIR {
		return nil, wire.Attr{}, syscall.ENOTDIR
	}
	return at, attr[len(attr)-1], nil
}

// wantsDirectory tells whether a path is a directory's by its end.
func wantsDirectory(p string) bool {
	return strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || strings.HasSuffix(p, "/..")
}

// shown is a status as the debuggee sees it.
func (f *FS) shown(n *node, a wire.Attr) wire.Attr {
	var s fuse.Attr
	f.show(&s, n, a)
	a.Ino, a.Mode, a.Nlink, a.UID, a.GID = s.Ino, s.Mode, s.Nlink, s.Uid, s.Gid
	return a
}
