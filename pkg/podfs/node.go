package podfs

import (
	"encoding/binary"
	"hash/fnv"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// node is what the kernel knows by a number. It stands for one file at one path: where another file takes the path
// (a rename over it, a volume's new content), that is another node, and descriptors and pages of the old one keep what
// they had. Directories, and what has been bound into the debuggee's root by itself, keep their node (fixed), because
// a bind mount holds on to it for ever.
type node struct {
	id     uint64
	parent uint64    // the number of its directory
	path   string    // where the debuggee sees it
	real   string    // where it lies in the pod; differs from path below a link that was resolved here
	limit  string    // the path of the innermost such link above it, or ""
	via    []string  // where the links above it led
	host   bool      // the host's view of it
	dual   bool      // has two views: nothing about it may be cached
	target string    // of a symlink
	link   wire.Attr // of a symlink, which never changes
	ident  identity
	fixed  bool

	// Guarded by FS.mu.
	lookups uint64 // the kernel's references
	gone    bool   // something else, or nothing, is at path now
	t       *treeNode

	content // of a regular file that is cached
}

// identity tells a file from another one that takes its path.
type identity struct {
	typ, ino, extra uint64
}

type nodeKey struct {
	path string
	host bool
}

// identify returns e's identity. A symlink's inode may be given to the next one at once, so its time and target count.
func identify(e *entry, fixed bool) identity {
	typ := uint64(e.typ())
	switch {
	case typ == unix.S_IFDIR || fixed:
		return identity{typ: typ}
	case typ == unix.S_IFLNK:
		h := fnv.New64a()
		h.Write([]byte(e.target))
		return identity{typ, e.attr.Ino ^ uint64(e.attr.Ctime), h.Sum64()}
	case e.t != nil:
		return identity{typ, e.t.key, 1}
	}
	return identity{typ: typ, ino: e.attr.Ino}
}

// place is where a look-up ended: all that a node is made of.
type place struct {
	name string
	path string
	real string
	lim  string
	via  []string
	host bool
	dual bool
	e    entry
}

// bound tells whether the path is one that is bound into the debuggee's root by itself.
func (f *FS) bound(p string) bool {
	return p == "/" || f.perProc[p] || f.cfg.Covered(p) && !f.cfg.Covered(path.Dir(p))
}

// remember returns the node of what lies at p, with one reference more, or nil where the layout has changed since l,
// on which p was found.
func (f *FS) remember(dir *node, p *place, l *layout) *node {
	key := nodeKey{p.path, p.host}
	fixed := p.e.fixed || f.bound(p.path)
	id := identify(&p.e, fixed)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.layout.Load() != l {
		return nil
	}
	if n := f.byPath[key]; n != nil && !p.e.left {
		if n.ident == id && n.real == p.real && slices.Equal(n.via, p.via) {
			n.lookups++
			n.t = p.e.t
			return n
		}
		n.gone = true
	}
	n := &node{
		id: f.nextID, parent: dir.id, path: p.path, real: p.real, limit: p.lim, via: p.via, host: p.host, dual: p.dual,
		target: p.e.target, link: p.e.attr, ident: id, fixed: fixed, lookups: 1, t: p.e.t,
	}
	f.nextID++
	f.nodes[n.id] = n
	if n.gone = p.e.left; !n.gone {
		f.byPath[key] = n
	}
	return n
}

// forget takes references back.
func (f *FS) forget(id, lookups uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[id]
	if n == nil || id == fuse.FUSE_ROOT_ID {
		return
	}
	if n.lookups -= min(lookups, n.lookups); n.lookups > 0 {
		return
	}
	delete(f.nodes, id)
	if key := (nodeKey{n.path, n.host}); f.byPath[key] == n {
		delete(f.byPath, key)
	}
}

// node returns the node of a number that the kernel used, or nil (it never does so after it has forgotten it).
func (f *FS) node(id uint64) *node {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.nodes[id]
}

// tree returns n's entry in a small volume, if it lies in one, and whether n is still at its path.
func (f *FS) tree(n *node) (t *treeNode, gone bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return n.t, n.gone
}

// child finds name in the directory n. It must not be shown a place that was found on another layout: l is the one it
// used.
func (r *request) child(n *node, name string) (p place, l *layout, err error) {
	f := r.f
	l = f.layout.Load()
	p = place{name: name, path: join(n.path, name), real: join(n.real, name), lim: n.limit, via: n.via, host: n.host, dual: n.dual}
	if len(name) > maxName || len(p.path) >= maxPath || len(p.real) >= maxPath {
		return p, l, syscall.ENAMETOOLONG
	}
	p.dual = p.dual || f.perProc[p.path]
	if p.dual && (n.host || f.hostView(r.pid)) {
		p.host = !f.perProc[p.path] // that one is bound, and so must be one node for both views
		p.e, err = hostEntry(p.path)
		return p, l, err
	}
	t, gone := f.tree(n)
	if t != nil && gone { // removed by a change of its volume while somebody is in it
		if p.e.t = t.children[name]; p.e.t == nil {
			return p, l, syscall.ENOENT
		}
		p.e.attr, p.e.target, p.e.until = p.e.t.attr(), p.e.t.target, time.Now().Add(f.ttl)
	} else if p.e, err = r.at(p.real); err != nil {
		return p, l, err
	}
	if p.e.typ() == unix.S_IFLNK {
		err = r.link(n, &p)
	}
	return p, l, err
}

// link decides how the symlink p in the directory n is shown.
func (r *request) link(n *node, p *place) error {
	if r.f.plainLink(n, p.path, p.e.target) {
		return nil
	}
	real, e, err := r.resolve(n.real, p.e.target)
	// A link to a directory that encloses it would be a tree without end for whoever walks it.
	if errno(err) == syscall.ELOOP || err == nil && e.typ() == unix.S_IFDIR && slices.Contains(n.via, real) {
		p.e.target = p.name // a link to itself: it can be seen, and following it is ELOOP
		return nil
	}
	if err != nil {
		return err
	}
	if e.typ() == unix.S_IFDIR {
		p.via = append(slices.Clone(n.via), real)
		p.lim = p.path
	}
	if p.e.until.Before(e.until) {
		e.until = p.e.until
	}
	e.fixed = false
	p.real, p.e = real, e
	return nil
}

// plainLink tells whether a symlink at p in the directory n may be shown as one.
func (f *FS) plainLink(n *node, p, target string) bool {
	limit := n.limit
	if limit == "" {
		limit = "/"
	}
	if f.cfg.Apart && strings.HasPrefix(target, "/") {
		return false
	}
	return !f.bound(p) && staysCovered(f.cfg.Covered, n.path, limit, target)
}

// shownIno makes an inode number of a path and the pod's own: unique over the pod's many file systems, which are one
// here, and the same each time.
func shownIno(real string, own uint64) uint64 {
	h := fnv.New64a()
	h.Write([]byte(real))
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], own)
	h.Write(b[:])
	return h.Sum64() | 2 // neither 0 nor FUSE's root
}

// show fills in what the debuggee sees of a status.
func (f *FS) show(out *fuse.Attr, n *node, a wire.Attr) {
	own := a.Ino
	if n.fixed || a.Mode&unix.S_IFMT == unix.S_IFDIR {
		own = 0
	}
	out.Ino = shownIno(n.real, own)
	out.Size = a.Size
	out.Blocks = (a.Size + 511) / 512
	out.Mode = ShownMode(a.Mode)
	out.Nlink = a.Nlink
	if out.Nlink == 0 || a.Mode&unix.S_IFMT == unix.S_IFDIR {
		out.Nlink = 1 // of a directory: "unknown" to find(1), which else counts on links for its subdirectories
	}
	out.Uid, out.Gid = f.cfg.Uid, f.cfg.Gid
	out.Rdev = a.Rdev
	out.Blksize = 4096
	out.Mtime, out.Mtimensec = split(a.Mtime)
	out.Ctime, out.Ctimensec = split(a.Ctime)
	out.Atime, out.Atimensec = split(a.Atime)
}

func split(ns int64) (uint64, uint32) {
	t := time.Unix(0, ns)
	return uint64(t.Unix()), uint32(t.Nanosecond())
}

// ShownMode is the mode of a file whose owner is shown as the debuggee: what anyone may do in the pod, he may. Whether
// the pod's process may read it is told at the open. No file gives another's rights.
func ShownMode(m uint32) uint32 {
	m &^= unix.S_ISUID | unix.S_ISGID
	return m | (m&0o050)<<3 | (m&0o005)<<6
}

// content is the content of a regular file which the kernel caches: what READ is answered from, so that all
// descriptors of the file agree.
type content struct {
	cmu   sync.Mutex
	opens int       // descriptors that use it
	attr  wire.Attr // the newest that the Source said
	known bool      // attr is set
	data  *snapshot // nil while no descriptor is open
	hash  uint64    // of the last data; 0 where there was none
}

// snapshot is a file's content at one moment: data, or, of one that has grown, a stream.
type snapshot struct {
	attr   wire.Attr
	data   []byte
	stream *stream
}
