package podfs

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
)

// ReadTar reads one small volume. Names are relative to the volume ("..data", "./a/b"); "." or "./" is the volume
// itself, and a regular file of that name makes the volume a single file. Regular files, directories, symlinks and
// hard links to earlier files are known; everything else, and more than the limits of a Tree, is an error, as are
// absolute names and names that leave the volume. Directories that are missing are made with mode 0755.
func ReadTar(r io.Reader) (*Tree, error) {
	t := newTree()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			t.root.seal()
			return t, nil
		}
		if err != nil {
			return nil, fmt.Errorf("podfs: reading a volume: %w", err)
		}
		if err := t.addHeader(tr, h); err != nil {
			return nil, fmt.Errorf("podfs: reading a volume: entry %.100q: %w", h.Name, err)
		}
	}
}

func (t *Tree) addHeader(r io.Reader, h *tar.Header) error {
	name, err := tarName(h.Name)
	if err != nil {
		return err
	}
	n := &treeNode{mtime: h.ModTime.UnixNano()}
	if h.ModTime.Unix() < 0 || h.ModTime.Unix() > 1<<33 { // beyond what nanoseconds in 64 bits can hold
		n.mtime = 0
	}
	perm := uint32(h.Mode) & 0o777
	switch h.Typeflag {
	case tar.TypeDir:
		n = newTreeDir(perm, n.mtime)
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) >= maxPath || strings.ContainsRune(h.Linkname, 0) {
			return errors.New("not a link's target")
		}
		n.mode, n.target = syscall.S_IFLNK|0o777, h.Linkname
	case tar.TypeLink:
		to, err := tarName(h.Linkname)
		if err != nil {
			return err
		}
		old := t.root.find(to)
		if old == nil || old.mode&syscall.S_IFMT != syscall.S_IFREG {
			return errors.New("a hard link to no earlier file")
		}
		n.mode, n.mtime, n.data = old.mode, old.mtime, old.data
	case tar.TypeReg:
		if h.Size < 0 || h.Size > maxTreeBytes-t.bytes {
			return errTreeBytes
		}
		n.mode, n.data = syscall.S_IFREG|perm, make([]byte, h.Size)
		if _, err := io.ReadFull(r, n.data); err != nil {
			return err
		}
	default:
		return fmt.Errorf("type %q is none that a small volume has", h.Typeflag)
	}
	return t.add(name, n)
}

// tarName returns an entry's clean relative name, "." for the volume itself.
func tarName(s string) (string, error) {
	if len(s) >= maxPath || strings.ContainsRune(s, 0) || strings.HasPrefix(s, "/") {
		return "", errors.New("not a relative name")
	}
	var parts []string
	for _, p := range strings.Split(s, "/") {
		switch {
		case p == "" || p == ".":
		case p == ".." || len(p) > maxName:
			return "", errors.New("not a relative name")
		default:
			parts = append(parts, p)
		}
	}
	if len(parts) == 0 {
		if s == "" {
			return "", errors.New("not a relative name")
		}
		return ".", nil
	}
	return strings.Join(parts, "/"), nil
}
