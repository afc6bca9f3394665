package podfs

import (
	"fmt"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// maxRefused bounds the paths about which the developer is told; a program that tries more writes everywhere.
const maxRefused = 200

// refusals tells the developer of attempts to write, once for each path.
type refusals struct {
	notice func(string)
	mu     sync.Mutex
	said   map[string]bool
}

func (r *refusals) say(p string) {
	if r.notice == nil {
		return
	}
	r.mu.Lock()
	if r.said == nil {
		r.said = map[string]bool{}
	}
	known, n := r.said[p], len(r.said)
	if !known && n <= maxRefused {
		r.said[p] = true
	}
	r.mu.Unlock()
	switch {
	case known || n > maxRefused:
	case n == maxRefused:
		r.notice("more writes to the pod's files were refused; no more paths are listed")
	default:
		r.notice(fmt.Sprintf("a write to %q was refused: the pod's files are read-only here", p))
	}
}

// refuse answers a request that would change name in the directory id, or, with name "", id itself.
func (s *server) refuse(id uint64, name string) fuse.Status {
	if n := s.node(id); n != nil {
		p := n.path
		if name != "" {
			p = join(p, name)
		}
		s.refused.say(p)
	}
	return fuse.EROFS
}

func (s *server) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, _ *fuse.AttrOut) fuse.Status {
	return s.refuse(in.NodeId, "")
}

func (s *server) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, _ *fuse.EntryOut) fuse.Status {
	return s.refuse(in.NodeId, name)
}

func (s *server) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, _ *fuse.EntryOut) fuse.Status {
	return s.refuse(in.NodeId, name)
}

func (s *server) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return s.refuse(h.NodeId, name)
}

func (s *server) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return s.refuse(h.NodeId, name)
}

func (s *server) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, _ string) fuse.Status {
	return s.refuse(in.NodeId, oldName)
}

func (s *server) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, _ *fuse.EntryOut) fuse.Status {
	return s.refuse(in.NodeId, name)
}

func (s *server) Symlink(_ <-chan struct{}, h *fuse.InHeader, _, name string, _ *fuse.EntryOut) fuse.Status {
	return s.refuse(h.NodeId, name)
}

func (s *server) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, _ *fuse.CreateOut) fuse.Status {
	return s.refuse(in.NodeId, name)
}

func (s *server) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, _ *fuse.CreateOut) fuse.Status {
	return s.refuse(in.NodeId, "")
}

func (s *server) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, _ string, _ []byte) fuse.Status {
	return s.refuse(in.NodeId, "")
}

func (s *server) RemoveXAttr(_ <-chan struct{}, h *fuse.InHeader, _ string) fuse.Status {
	return s.refuse(h.NodeId, "")
}

func (s *server) Write(_ <-chan struct{}, in *fuse.WriteIn, _ []byte) (uint32, fuse.Status) {
	return 0, s.refuse(in.NodeId, "")
}

func (s *server) Writev(_ <-chan struct{}, in *fuse.WriteIn, _ [][]byte) (uint32, fuse.Status) {
	return 0, s.refuse(in.NodeId, "")
}

func (s *server) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	return s.refuse(in.NodeId, "")
}

// The rest is answered ENOSYS: the kernel does it by itself, or never asks again.

func (s *server) GetXAttr(<-chan struct{}, *fuse.InHeader, string, []byte) (uint32, fuse.Status) {
	return 0, fuse.ENOSYS
}

func (s *server) ListXAttr(<-chan struct{}, *fuse.InHeader, []byte) (uint32, fuse.Status) {
	return 0, fuse.ENOSYS
}

func (s *server) Lseek(<-chan struct{}, *fuse.LseekIn, *fuse.LseekOut) fuse.Status {
	return fuse.ENOSYS
}
func (s *server) GetLk(<-chan struct{}, *fuse.LkIn, *fuse.LkOut) fuse.Status { return fuse.ENOSYS }
func (s *server) SetLk(<-chan struct{}, *fuse.LkIn) fuse.Status              { return fuse.ENOSYS }
func (s *server) SetLkw(<-chan struct{}, *fuse.LkIn) fuse.Status             { return fuse.ENOSYS }
func (s *server) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status           { return fuse.ENOSYS }
func (s *server) Fsync(<-chan struct{}, *fuse.FsyncIn) fuse.Status           { return fuse.ENOSYS }
func (s *server) FsyncDir(<-chan struct{}, *fuse.FsyncIn) fuse.Status        { return fuse.ENOSYS }

func (s *server) CopyFileRange(<-chan struct{}, *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	return 0, fuse.ENOSYS
}

func (s *server) Ioctl(<-chan struct{}, *fuse.IoctlIn, []byte, *fuse.IoctlOut, []byte) fuse.Status {
	return fuse.ENOSYS
}

func (s *server) Statx(<-chan struct{}, *fuse.StatxIn, *fuse.StatxOut) fuse.Status {
	return fuse.ENOSYS
}
