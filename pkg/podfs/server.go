package podfs

import (
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// server answers the kernel's requests (include/uapi/linux/fuse.h). What asks for a change is in readonly.go.
type server struct{ *FS }

var _ fuse.RawFileSystem = (*server)(nil)

func (s *server) String() string { return "stepin" }
func (s *server) SetDebug(bool)  {}

// Init is called between the kernel's greeting and the first other request.
func (s *server) Init(srv *fuse.Server) {
	s.kernel.Store(srv)
	s.sharedMmap = !s.noMmap && srv.KernelSettings().Flags64()&fuse.CAP_DIRECT_IO_ALLOW_MMAP != 0
}

// OnUnmount is called when the mount is gone.
func (s *server) OnUnmount() {
	s.stop()
	s.mu.Lock()
	left := s.handles
	s.handles = map[uint64]*handle{}
	s.mu.Unlock()
	for _, h := range left {
		h.close()
	}
	close(s.done)
}

// maxRetries bounds how often a look-up starts again because a volume changed under it.
const maxRetries = 10

func (s *server) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	dir := s.node(h.NodeId)
	if dir == nil {
		return fuse.Status(syscall.ESTALE)
	}
	r := s.begin(cancel, h)
	defer r.end()
	if s.base.Err() != nil {
		return status(s.ended(r.ctx))
	}
	for range maxRetries {
		p, l, err := r.child(dir, name)
		if err != nil {
			return s.absent(&p, err, out)
		}
		if n := s.remember(dir, &p, l); n != nil {
			s.fillEntry(out, n, &p.e)
			return fuse.OK
		}
	}
	return fuse.EIO
}

// absent answers a look-up that found nothing: the kernel may remember that as long as we do.
func (s *server) absent(p *place, err error, out *fuse.EntryOut) fuse.Status {
	if errno(err) == syscall.ENOENT && !p.dual {
		if left := time.Until(p.e.until); left > 0 {
			out.SetEntryTimeout(left) // with NodeId 0
			return fuse.OK
		}
	}
	return status(err)
}

func (s *server) fillEntry(out *fuse.EntryOut, n *node, e *entry) {
	out.NodeId, out.Generation = n.id, 1 // numbers are never used again
	left := time.Duration(0)
	if !n.dual {
		left = max(0, time.Until(e.until))
	}
	out.SetEntryTimeout(left)
	out.SetAttrTimeout(left)
	s.show(&out.Attr, n, e.attr)
	n.learn(e)
}

// learn notes the newest status of a regular file of the Source.
func (n *node) learn(e *entry) {
	if e.t != nil || n.host || e.typ() != unix.S_IFREG {
		return
	}
	n.cmu.Lock()
	n.attr, n.known = e.attr, true
	n.cmu.Unlock()
}

func (s *server) Forget(id, lookups uint64) { s.forget(id, lookups) }

func (s *server) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n := s.node(in.NodeId)
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	r := s.begin(cancel, &in.InHeader)
	defer r.end()
	if s.base.Err() != nil {
		return status(s.ended(r.ctx))
	}
	e, err := r.status(n)
	if err != nil {
		return status(err)
	}
	if !n.dual {
		out.SetTimeout(max(0, time.Until(e.until)))
	}
	s.show(&out.Attr, n, e.attr)
	n.learn(&e)
	return fuse.OK
}

// status returns what n is now. A file that has lost its path lives on in its descriptors.
func (r *request) status(n *node) (entry, error) {
	f := r.f
	if n.dual && (n.host || f.hostView(r.pid)) {
		return hostStatus(n)
	}
	until := time.Now().Add(f.ttl)
	t, gone := f.tree(n)
	if t != nil {
		return entry{attr: t.attr(), t: t, until: until}, nil
	}
	if n.ident.typ == unix.S_IFLNK {
		return entry{attr: n.link, until: until}, nil
	}
	var e entry
	err := error(syscall.ENOENT)
	if !gone {
		e, err = r.at(n.real)
	}
	if err == nil && identify(&e, n.fixed) == n.ident {
		return e, nil
	}
	if no := errno(err); err != nil && no != syscall.ENOENT && no != syscall.ENOTDIR {
		return e, err
	}
	f.detach(n)
	if a, ok := f.opened(n); ok {
		return entry{attr: a, until: until}, nil
	}
	return e, syscall.ESTALE // the kernel looks the path up again
}

// opened returns the status that some descriptor of n has kept. fstat(2) does not tell which one it asks for.
func (f *FS) opened(n *node) (wire.Attr, bool) {
	f.mu.RLock()
	var h *handle
	for _, o := range f.handles {
		if o.n == n && o.dir == nil {
			h = o
			break
		}
	}
	f.mu.RUnlock()
	if h == nil {
		return wire.Attr{}, false
	}
	return h.attr()
}

func hostStatus(n *node) (entry, error) {
	e, err := hostEntry(n.path)
	if err == nil && uint64(e.typ()) != n.ident.typ {
		err = syscall.ENOENT // the kernel cannot have a file and a directory in one
	}
	return e, err
}

// detach notes that n is not what lies at its path any more.
func (f *FS) detach(n *node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n.fixed || n.id == fuse.FUSE_ROOT_ID || n.ident.typ == unix.S_IFDIR {
		return
	}
	n.gone = true
	if key := (nodeKey{n.path, n.host}); f.byPath[key] == n {
		delete(f.byPath, key)
	}
}

func (s *server) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	n := s.node(h.NodeId)
	if n == nil {
		return nil, fuse.Status(syscall.ESTALE)
	}
	if n.ident.typ != unix.S_IFLNK {
		return nil, fuse.EINVAL
	}
	return []byte(n.target), fuse.OK
}

// Access answers access(2). Only the pod can say whether its process may read: so an open is tried there.
func (s *server) Access(cancel <-chan struct{}, in *fuse.AccessIn) fuse.Status {
	n := s.node(in.NodeId)
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	if in.Mask&unix.W_OK != 0 {
		return fuse.EROFS
	}
	r := s.begin(cancel, &in.InHeader)
	defer r.end()
	e, err := r.status(n)
	if err != nil {
		return status(err)
	}
	if e.typ() != unix.S_IFREG {
		return fuse.OK
	}
	if in.Mask&unix.X_OK != 0 && e.attr.Mode&0o111 == 0 {
		return fuse.EACCES
	}
	if in.Mask&unix.R_OK == 0 || e.t != nil || n.dual && (n.host || s.hostView(in.Pid)) {
		return fuse.OK
	}
	file, err := r.open(n.real)
	if err != nil {
		return status(err)
	}
	go file.Close() // may speak to the pod
	return fuse.OK
}

// StatFs tells of a full file system: nothing can be written.
func (s *server) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	const block = 4096
	*out = fuse.StatfsOut{Blocks: 1 << 18, Bsize: block, Frsize: block, NameLen: maxName}
	return fuse.OK
}
