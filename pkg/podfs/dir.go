package podfs

import (
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// dirItem is one name of a listing.
type dirItem struct {
	name string
	e    entry
	plus bool // e holds all that a look-up would find
}

// listing is an open directory: what was in it when it was opened or last read from the start.
type listing struct {
	mu    sync.Mutex
	items []dirItem
	l     *layout
	at    time.Time
}

func (s *server) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n := s.node(in.NodeId)
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	r := s.begin(cancel, &in.InHeader)
	defer r.end()
	if s.base.Err() != nil {
		return status(s.ended(r.ctx))
	}
	d := &listing{}
	if err := r.list(n, d); err != nil {
		return status(err)
	}
	out.Fh = s.keep(&handle{n: n, dir: d})
	return fuse.OK
}

func (s *server) ReleaseDir(in *fuse.ReleaseIn) { s.drop(in.Fh) }

// list fills d.
func (r *request) list(n *node, d *listing) error {
	f := r.f
	d.at, d.l = time.Now(), f.layout.Load()
	if n.dual && (n.host || f.hostView(r.pid)) {
		var err error
		d.items, err = hostList(n.path)
		return err
	}
	t, gone := f.tree(n)
	switch {
	case t != nil:
		d.items = treeItems(t, d.at.Add(f.ttl))
	case gone:
		return syscall.ENOENT
	default:
		list, err := r.readDir(n.real)
		if err != nil && d.l.below[n.real] == nil {
			return err
		}
		d.items = f.sourceItems(n, list, d.at, err == nil)
	}
	if !gone {
		d.items = f.mountItems(n, d)
	}
	return nil
}

func treeItems(t *treeNode, until time.Time) []dirItem {
	items := make([]dirItem, 0, len(t.names))
	for _, name := range t.names {
		c := t.children[name]
		items = append(items, dirItem{name, entry{attr: c.attr(), target: c.target, t: c, until: until}, true})
	}
	return items
}

// sourceItems takes over a listing of the Source, and what it says of each name, so that looking them up costs nothing.
func (f *FS) sourceItems(n *node, list []wire.DirEntry, at time.Time, complete bool) []dirItem {
	good := list[:0]
	items := make([]dirItem, 0, len(list))
	for _, e := range list {
		if e.Name == "" || e.Name == "." || e.Name == ".." || len(e.Name) > maxName || strings.ContainsAny(string(e.Name), "/\x00") {
			continue // no such name can be; the kernel would refuse the whole directory
		}
		good = append(good, e)
		link := e.Attr.Mode&unix.S_IFMT == unix.S_IFLNK
		items = append(items, dirItem{string(e.Name), entry{attr: e.Attr, target: string(e.Target), until: at.Add(f.ttl)}, !link || e.Target != ""})
	}
	if complete {
		f.cache.putList(n.real, good, at, f.ttl)
	}
	return items
}

// mountItems puts the volumes that lie in n in the place of what was found.
func (f *FS) mountItems(n *node, d *listing) []dirItem {
	names := d.l.below[n.real]
	if names == nil {
		return d.items
	}
	over := map[string]bool{}
	for _, name := range names {
		over[name] = true
	}
	items := make([]dirItem, 0, len(d.items)+len(names))
	for _, it := range d.items {
		if !over[it.name] {
			items = append(items, it)
		}
	}
	for _, name := range names {
		e, known, err := f.inMemory(d.l, join(n.real, name))
		items = append(items, dirItem{name, e, known && err == nil})
	}
	return items
}

// rewound fills d again where a program reads an open directory from the start a second time.
func (r *request) rewound(n *node, d *listing, off uint64) error {
	if off != 0 || time.Since(d.at) < r.f.ttl {
		return nil
	}
	return r.list(n, d)
}

func (s *server) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return s.readDir(cancel, in, func(_ *request, _ *node, _ *listing, it *dirItem, ent fuse.DirEntry) bool {
		return out.AddDirEntry(ent)
	})
}

// ReadDirPlus answers with attributes, each of which is a look-up that the kernel need not make.
func (s *server) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return s.readDir(cancel, in, func(r *request, n *node, d *listing, it *dirItem, ent fuse.DirEntry) bool {
		e := out.AddDirLookupEntry(ent)
		if e == nil {
			return false
		}
		if it == nil || !it.plus || n.dual || s.perProc[join(n.path, it.name)] {
			return true // NodeId 0: only the name
		}
		p := place{name: it.name, path: join(n.path, it.name), real: join(n.real, it.name), lim: n.limit, via: n.via, e: it.e}
		if it.e.typ() == unix.S_IFLNK && !s.plainLink(n, p.path, it.e.target) {
			return true
		}
		if c := s.remember(n, &p, d.l); c != nil {
			s.fillEntry(e, c, &p.e)
		}
		return true
	})
}

type addItem func(r *request, n *node, d *listing, it *dirItem, ent fuse.DirEntry) bool

// readDir gives add the entries from in.Offset on, until it has no more room. Offsets 0 and 1 are . and ..
func (s *server) readDir(cancel <-chan struct{}, in *fuse.ReadIn, add addItem) fuse.Status {
	h := s.handle(in.Fh)
	if h == nil || h.dir == nil {
		return fuse.EBADF
	}
	r := s.begin(cancel, &in.InHeader)
	defer r.end()
	d := h.dir
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := r.rewound(h.n, d, in.Offset); err != nil {
		return status(err)
	}
	for off := in.Offset; off < uint64(len(d.items)+2); off++ {
		ent := fuse.DirEntry{Off: off + 1, Mode: unix.S_IFDIR}
		var it *dirItem
		switch off {
		case 0:
			ent.Name = "."
		case 1:
			ent.Name = ".."
		default:
			it = &d.items[off-2]
			ent.Name = it.name
			ent.Ino, ent.Mode = s.direntOf(h.n, it)
		}
		if !add(r, h.n, d, it, ent) {
			break
		}
	}
	return fuse.OK
}

// direntOf returns d_ino and d_type. A link that is resolved here stays a link in the listing: it is one in the pod,
// and programs that walk a tree must not go through it.
func (s *server) direntOf(n *node, it *dirItem) (ino uint64, mode uint32) {
	typ, own := it.e.typ(), it.e.attr.Ino
	if typ == unix.S_IFDIR || it.e.fixed || s.bound(join(n.path, it.name)) {
		own = 0
	}
	return shownIno(join(n.real, it.name), own), typ
}
