package podfs

import (
	"encoding/binary"
	"errors"
	"hash/fnv"
	"path"
	"sort"
	"strings"
	"syscall"
	"time"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// Limits of one Tree. The API server keeps a ConfigMap or Secret below 1 MiB; a projected volume joins a few of them.
const (
	maxTreeBytes   = 8 << 20 // content, names and link targets together
	maxTreeEntries = 20000
	maxName        = 255  // NAME_MAX
	maxPath        = 4096 // PATH_MAX
)

// Errors of building a Tree.
var (
	errTreeBytes   = errors.New("more than 8 MiB")
	errTreeEntries = errors.New("more than 20,000 entries")
)

// A Tree is one small volume, whole and in memory. It never changes once it has been given to an FS.
type Tree struct {
	root    *treeNode
	bytes   int64
	entries int
}

// treeNode is a file, directory or symlink of a Tree.
type treeNode struct {
	mode     uint32 // type and permission bits as Linux has them
	mtime    int64  // nanoseconds since 1970
	data     []byte
	target   string
	children map[string]*treeNode
	names    []string // of children, sorted; made by seal
	key      uint64   // equal in two Trees where the entry is the same; of a directory 0
}

// newTree returns an empty directory. Whoever fills it seals its root at the end.
func newTree() *Tree {
	return &Tree{root: newTreeDir(0o755, 0), entries: 1}
}

// NewFile returns a volume that is a single file.
func NewFile(data []byte, perm uint32, mtime time.Time) *Tree {
	t := &Tree{root: &treeNode{mode: syscall.S_IFREG | perm&0o777, mtime: mtime.UnixNano(), data: data}, entries: 1, bytes: int64(len(data))}
	t.root.seal()
	return t
}

// Bytes returns the size of all content, names and link targets.
func (t *Tree) Bytes() int64 { return t.bytes }

// Entries returns the number of files, directories and symlinks, the root included.
func (t *Tree) Entries() int { return t.entries }

func newTreeDir(perm uint32, mtime int64) *treeNode {
	return &treeNode{mode: syscall.S_IFDIR | perm&0o777, mtime: mtime, children: map[string]*treeNode{}}
}

// add puts n at name, a clean relative path or "." for the root, and makes the directories on the way. A later entry
// of the same name takes the place of an earlier one, but never of a directory that has entries.
func (t *Tree) add(name string, n *treeNode) error {
	t.bytes += int64(len(name) + len(n.data) + len(n.target))
	t.entries++
	if t.bytes > maxTreeBytes {
		return errTreeBytes
	}
	if name == "." {
		return t.setRoot(n)
	}
	dir, base := path.Split(name)
	d, err := t.mkdirs(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return err
	}
	if old := d.children[base]; old != nil && old.children != nil {
		if n.children == nil {
			return errors.New("a file in place of a directory")
		}
		old.mode, old.mtime = n.mode, n.mtime
		return nil
	}
	d.children[base] = n
	return t.count()
}

// setRoot makes n the volume itself.
func (t *Tree) setRoot(n *treeNode) error {
	switch {
	case n.mode&syscall.S_IFMT == syscall.S_IFLNK:
		return errors.New("the volume itself is a symlink")
	case n.children != nil && t.root.children != nil:
		t.root.mode, t.root.mtime = n.mode, n.mtime
	case len(t.root.children) > 0:
		return errors.New("a file in place of a directory")
	default:
		t.root = n
	}
	return t.count()
}

// mkdirs returns the directory dir ("" is the root), made where it is missing.
func (t *Tree) mkdirs(dir string) (*treeNode, error) {
	d := t.root
	if d.children == nil {
		return nil, errors.New("entries below a file")
	}
	if dir == "" {
		return d, nil
	}
	for _, name := range strings.Split(dir, "/") {
		next := d.children[name]
		if next == nil {
			next = newTreeDir(0o755, 0)
			d.children[name] = next
			t.entries++
		}
		if next.children == nil {
			return nil, errors.New("entries below a file")
		}
		d = next
	}
	return d, t.count()
}

func (t *Tree) count() error {
	if t.entries > maxTreeEntries {
		return errTreeEntries
	}
	return nil
}

// seal sorts the names and computes the keys of n and all below. Its depth is at most maxPath/2.
func (n *treeNode) seal() {
	if n.children == nil {
		h := fnv.New64a()
		var b [12]byte
		binary.LittleEndian.PutUint32(b[:], n.mode)
		binary.LittleEndian.PutUint64(b[4:], uint64(n.mtime))
		h.Write(b[:])
		h.Write([]byte(n.target))
		h.Write(n.data)
		n.key = h.Sum64() | 1
		return
	}
	n.names = n.names[:0]
	for name, c := range n.children {
		n.names = append(n.names, name)
		c.seal()
	}
	sort.Strings(n.names)
}

// find returns the entry at rel, a clean relative path or "" for n itself; nil where there is none.
func (n *treeNode) find(rel string) *treeNode {
	if rel == "" {
		return n
	}
	for _, name := range strings.Split(rel, "/") {
		if n = n.children[name]; n == nil {
			return nil
		}
	}
	return n
}

// attr is the entry's status. Its inode number is the FS's business.
func (n *treeNode) attr() wire.Attr {
	return wire.Attr{
		Ino: n.key, Mode: n.mode, Nlink: 1, Size: uint64(len(n.data) + len(n.target)),
		Mtime: n.mtime, Ctime: n.mtime, Atime: n.mtime,
	}
}
