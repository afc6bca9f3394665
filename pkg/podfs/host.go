package podfs

import (
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// The host's view of a few files: read here, in the host's mount namespace, symlinks followed, and never cached.

// hostView tells whether the calling thread sees the host's files at Config.PerProcess.
func (f *FS) hostView(pid uint32) bool {
	return f.cfg.HostView != nil && pid != 0 && f.cfg.HostView(pid)
}

func hostEntry(p string) (entry, error) {
	var st unix.Stat_t
	if err := unix.Stat(p, &st); err != nil {
		return entry{}, err
	}
	return entry{attr: hostAttr(&st)}, nil
}

func hostAttr(st *unix.Stat_t) wire.Attr {
	return wire.Attr{
		Ino: st.Ino, Mode: st.Mode, Nlink: uint32(st.Nlink), UID: st.Uid, GID: st.Gid, Size: uint64(st.Size),
		Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano(), Atime: st.Atim.Nano(),
	}
}

// hostList lists a directory of the host.
func hostList(p string) ([]dirItem, error) {
	list, err := os.ReadDir(p)
	if err != nil {
		return nil, err
	}
	items := make([]dirItem, 0, len(list))
	for _, e := range list {
		items = append(items, dirItem{name: e.Name()})
	}
	return items, nil
}

// hostFile opens a regular file of the host; it cannot hang on a FIFO.
func hostFile(p string) (*os.File, error) {
	fd, err := unix.Open(p, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), p)
	st, err := file.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = syscall.EACCES
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("podfs: opening the host's %s: %w", p, err)
	}
	return file, nil
}

// hostRead reads what a FUSE read asks for: less than that only at the end.
func hostRead(file *os.File, buf []byte, off int64) (int, error) {
	n, err := file.ReadAt(buf, off)
	if err == io.EOF {
		err = nil
	}
	return n, err
}
