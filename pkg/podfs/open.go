package podfs

import (
	"hash/maphash"
	"os"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/wire"
)

const (
	// wholeLimit is the longest file that is fetched whole at its open because it may be mapped shared and this kernel
	// cannot map under direct I/O. Longer ones cannot be mapped so (ENODEV).
	wholeLimit = 64 << 20

	// wholeMemory bounds the memory of such files together; beyond it they are as longer ones.
	wholeMemory = 256 << 20
)

// handle is an open file or directory.
type handle struct {
	n      *node
	t      *treeNode // what a file of a small volume was when it was opened
	shared bool      // reads are answered from the node's content, through the kernel's page cache
	own    *snapshot // of a file under direct I/O
	host   *os.File
	dir    *listing
	whole  int64 // bytes taken from FS.wholeMem
}

func (f *FS) keep(h *handle) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	fh := f.nextFh
	f.nextFh++
	f.handles[fh] = h
	return fh
}

func (f *FS) handle(fh uint64) *handle {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.handles[fh]
}

func (f *FS) drop(fh uint64) {
	f.mu.Lock()
	h := f.handles[fh]
	delete(f.handles, fh)
	f.mu.Unlock()
	if h != nil {
		f.wholeMem.Add(-h.whole)
		h.close()
	}
}

func (h *handle) close() {
	switch {
	case h.host != nil:
		h.host.Close()
	case h.own != nil:
		h.own.close()
	case h.shared:
		h.n.letGo()
	}
}

func (sn *snapshot) close() {
	if sn.stream != nil {
		sn.stream.close()
	}
}

// letGo ends one descriptor's use of the content.
func (c *content) letGo() {
	c.cmu.Lock()
	defer c.cmu.Unlock()
	if c.opens--; c.opens == 0 && c.data != nil {
		c.data.close()
		c.data = nil
	}
}

// attr is the status that the descriptor's content came with.
func (h *handle) attr() (wire.Attr, bool) {
	switch {
	case h.t != nil:
		return h.t.attr(), true
	case h.own != nil:
		return h.own.attr, true
	case h.shared:
		h.n.cmu.Lock()
		defer h.n.cmu.Unlock()
		if h.n.data != nil {
			return h.n.data.attr, true
		}
	}
	return wire.Attr{}, false
}

func (s *server) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n := s.node(in.NodeId)
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	if in.Flags&unix.O_ACCMODE != unix.O_RDONLY || in.Flags&unix.O_TRUNC != 0 {
		return s.refuse(in.NodeId, "")
	}
	r := s.begin(cancel, &in.InHeader)
	defer r.end()
	if s.base.Err() != nil {
		return status(s.ended(r.ctx))
	}
	h, flags, err := r.openNode(n)
	if err != nil {
		return status(err)
	}
	out.Fh, out.OpenFlags = s.keep(h), flags|fuse.FOPEN_NOFLUSH
	return fuse.OK
}

func (r *request) openNode(n *node) (*handle, uint32, error) {
	if n.dual && (n.host || r.f.hostView(r.pid)) {
		file, err := hostFile(n.path)
		return &handle{n: n, host: file}, fuse.FOPEN_DIRECT_IO, err
	}
	if t, _ := r.f.tree(n); t != nil {
		if n.dual {
			return &handle{n: n, t: t}, fuse.FOPEN_DIRECT_IO, nil
		}
		return &handle{n: n, t: t}, fuse.FOPEN_KEEP_CACHE, nil // changes are announced
	}
	at := time.Now()
	file, err := r.open(n.real)
	if err != nil {
		return nil, 0, err
	}
	a := file.Attr()
	if err := r.confirm(n, a, at); err != nil {
		go file.Close()
		return nil, 0, err
	}
	h, flags, err := r.openFile(n, file, a)
	if err != nil {
		go file.Close()
	}
	return h, flags, err
}

// confirm compares an opened file's status with the node that was to be opened, and remembers it.
func (r *request) confirm(n *node, a wire.Attr, at time.Time) error {
	r.f.cache.put(n.real, cached{attr: a, at: at}, r.f.ttl)
	e := entry{attr: a}
	if e.typ() != unix.S_IFREG {
		return syscall.EIO // the Source opens no others
	}
	if identify(&e, n.fixed) != n.ident {
		r.f.detach(n)
		return syscall.ESTALE // another file by now: the kernel looks the path up again
	}
	return nil
}

// openFile chooses how an open file of the pod is served. It owns file unless it fails.
func (r *request) openFile(n *node, file File, a wire.Attr) (*handle, uint32, error) {
	f := r.f
	sn, whole, err := r.snapshot(n, file, a)
	if err != nil {
		return nil, 0, err
	}
	f.tell(n, a)
	// A file that is longer than it says (as in /proc) cannot go through the page cache, which believes the size; nor
	// one that others see otherwise.
	if sn.stream != nil || uint64(len(sn.data)) != a.Size || n.dual {
		f.wholeMem.Add(-whole)
		return &handle{n: n, own: sn}, fuse.FOPEN_DIRECT_IO, nil
	}
	flags := uint32(0)
	n.cmu.Lock()
	n.opens++
	if n.replace(sn, maphash.Bytes(f.seed, sn.data)|1) {
		flags = fuse.FOPEN_KEEP_CACHE
	}
	n.cmu.Unlock()
	return &handle{n: n, shared: true, whole: whole}, flags, nil
}

// snapshot takes file's content: whole if it came with the open, else as a stream, which then owns file.
func (r *request) snapshot(n *node, file File, a wire.Attr) (sn *snapshot, whole int64, err error) {
	f := r.f
	head := file.Head()
	if uint64(len(head)) >= a.Size && len(head) < wire.HeadLen || uint64(len(head)) == a.Size {
		go file.Close() // may speak to the pod
		return &snapshot{attr: a, data: head}, 0, nil
	}
	st := newStream(f, n.real, file, a)
	if f.sharedMmap || a.Size > wholeLimit || n.dual || uint64(len(head)) > a.Size {
		return &snapshot{attr: a, stream: st}, 0, nil
	}
	whole = int64(a.Size)
	if f.wholeMem.Add(whole) > wholeMemory {
		f.wholeMem.Add(-whole)
		return &snapshot{attr: a, stream: st}, 0, nil
	}
	data := make([]byte, whole)
	got, err := st.read(r, data, 0)
	st.close()
	if err != nil {
		f.wholeMem.Add(-whole)
		return nil, 0, err
	}
	return &snapshot{attr: a, data: data[:got]}, whole, nil
}

// replace makes sn the content, and tells whether it is what it was before. The caller holds cmu.
func (c *content) replace(sn *snapshot, hash uint64) (same bool) {
	if c.data != nil {
		c.data.close()
	}
	same = hash != 0 && hash == c.hash
	c.data, c.hash = sn, hash
	return same
}

// tell makes the kernel ask for n's attributes again if they are not what it was told last: it would cut a file that
// has grown at the size it knows.
func (f *FS) tell(n *node, a wire.Attr) {
	n.cmu.Lock()
	changed := n.known && differs(n.attr, a)
	n.attr, n.known = a, true
	n.cmu.Unlock()
	if k := f.kernel.Load(); changed && k != nil {
		k.InodeNotify(n.id, -1, 0) // attributes alone; waits for nothing
	}
}

// differs tells whether a file has changed between two statuses.
func differs(a, b wire.Attr) bool {
	return a.Ino != b.Ino || a.Size != b.Size || a.Mtime != b.Mtime || a.Ctime != b.Ctime
}

func (s *server) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	h := s.handle(in.Fh)
	if h == nil {
		return nil, fuse.EBADF
	}
	r := s.begin(cancel, &in.InHeader)
	defer r.end()
	if s.base.Err() != nil {
		return nil, status(s.ended(r.ctx))
	}
	b, err := r.read(h, buf, int64(in.Offset))
	if err != nil {
		return nil, status(err)
	}
	return fuse.ReadResultData(b), fuse.OK
}

// read returns the bytes at off: less than asked for only at the end of the file, in buf or in memory that never
// changes.
func (r *request) read(h *handle, buf []byte, off int64) ([]byte, error) {
	if off < 0 {
		return nil, syscall.EINVAL
	}
	switch {
	case h.host != nil:
		n, err := hostRead(h.host, buf, off)
		return buf[:n], err
	case h.t != nil:
		t := h.t
		if h.n.fixed { // one node for every content: all descriptors see the newest, as of a file written in place
			if now, _ := r.f.tree(h.n); now != nil {
				t = now
			}
		}
		return window(t.data, off, len(buf)), nil
	case h.own != nil:
		return r.readSnapshot(h.own, buf, off)
	case h.shared:
		return r.readShared(h.n, buf, off)
	}
	return nil, syscall.EISDIR
}

func window(data []byte, off int64, n int) []byte {
	if off >= int64(len(data)) {
		return nil
	}
	return data[off:min(off+int64(n), int64(len(data)))]
}

func (r *request) readSnapshot(sn *snapshot, buf []byte, off int64) ([]byte, error) {
	if sn.stream == nil {
		return window(sn.data, off, len(buf)), nil
	}
	n, err := sn.stream.read(r, buf, off)
	return buf[:n], err
}

// readShared fills the page cache. Where the file has changed in place since its content was fetched, it is fetched
// again: the kernel asks for attributes each attrTTL while it is read.
func (r *request) readShared(n *node, buf []byte, off int64) ([]byte, error) {
	for range maxRetries {
		n.cmu.Lock()
		sn := n.data
		stale := sn != nil && n.known && differs(n.attr, sn.attr)
		n.cmu.Unlock()
		if sn == nil {
			return nil, syscall.EBADF
		}
		if _, gone := r.f.tree(n); stale && !gone {
			if err := r.refresh(n, sn); err != nil {
				return nil, err
			}
			continue
		}
		b, err := r.readSnapshot(sn, buf, off)
		if err == errClosed { // replaced meanwhile
			continue
		}
		return b, err
	}
	return nil, syscall.EIO
}

// refresh fetches n's content again; old is what it had. A file that has lost its path keeps it.
func (r *request) refresh(n *node, old *snapshot) error {
	at := time.Now()
	file, err := r.open(n.real)
	if no := errno(err); no == syscall.ENOENT || no == syscall.ENOTDIR {
		r.f.detach(n)
		n.settle(old)
		return nil
	}
	if err != nil {
		return err
	}
	a := file.Attr()
	if err := r.confirm(n, a, at); err != nil {
		go file.Close()
		n.settle(old)
		return nil
	}
	var sn *snapshot
	if head := file.Head(); uint64(len(head)) == a.Size {
		go file.Close()
		sn = &snapshot{attr: a, data: head}
	} else {
		sn = &snapshot{attr: a, stream: newStream(r.f, n.real, file, a)}
	}
	n.cmu.Lock()
	defer n.cmu.Unlock()
	if n.opens == 0 { // released meanwhile
		sn.close()
		return syscall.EBADF
	}
	n.attr, n.known = a, true
	n.replace(sn, maphash.Bytes(r.f.seed, sn.data)|1)
	return nil
}

// settle takes old for the newest content.
func (c *content) settle(old *snapshot) {
	c.cmu.Lock()
	c.attr = old.attr
	c.cmu.Unlock()
}

func (s *server) Release(_ <-chan struct{}, in *fuse.ReleaseIn) { s.drop(in.Fh) }
