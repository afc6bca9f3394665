package podfs

import (
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// SetVolume makes t the content of the volume at p, in place of the former and at once: whoever looks a name up from
// now on finds t. Descriptors that are open keep what they had, and who stands in a directory that t does not have can
// still read it. When SetVolume returns, the kernel remembers nothing else (where a look-up in the volume waits for the
// pod, because a symlink leads out of it, that waits for it). A nil t takes the volume away: the Source is asked then.
func (f *FS) SetVolume(p string, t *Tree) {
	p = path.Clean(p)
	f.volumes.Lock()
	defer f.volumes.Unlock()
	var todo notes
	f.mu.Lock()
	next := f.layout.Load().with(p, t, time.Now().Add(f.ttl))
	f.layout.Store(next)
	for _, n := range f.nodes {
		if n.host || n.gone || !under(n.real, p) {
			continue
		}
		vol, root, rel := next.volume(n.real)
		if under(root, p) && root != p {
			continue // in a volume of its own below this one
		}
		var now *treeNode
		if vol != nil {
			now = vol.root.find(rel)
		}
		todo.move(f, n, now, next)
	}
	f.mu.Unlock()
	todo.send(f)
}

// SetFile changes the content of one of Config.Files, or makes one.
func (f *FS) SetFile(p string, data []byte) {
	f.SetVolume(p, NewFile(data, 0o644, time.Now()))
}

// notes are what the kernel must be told. They are sent while nothing is locked: the kernel may first wait for
// look-ups that are under way in the directory.
type notes struct {
	names []nameNote
	attrs []uint64 // nodes whose attributes have changed
	data  []uint64 // and their content
}

type nameNote struct {
	dir  uint64
	name string
}

// move gives n its place in the new tree: now, or nil where that has nothing at n's path. The caller holds FS.mu.
func (t *notes) move(f *FS, n *node, now *treeNode, l *layout) {
	was := n.t
	dir := n.ident.typ == unix.S_IFDIR
	stays := false
	switch {
	case now == nil:
		_, root, _ := l.volume(n.real)
		stays = dir && (root == "" || l.below[n.real] != nil)
	case uint64(now.mode&unix.S_IFMT) == n.ident.typ:
		e := entry{attr: now.attr(), target: now.target, t: now}
		stays = dir || identify(&e, n.fixed) == n.ident
	}
	if !stays {
		n.gone = true
		if key := (nodeKey{n.path, n.host}); f.byPath[key] == n {
			delete(f.byPath, key)
		}
		t.names = append(t.names, nameNote{n.parent, path.Base(n.path)})
		return
	}
	n.t = now
	if dir {
		t.attrs = append(t.attrs, n.id)
		for _, name := range namesOf(now) { // the kernel may remember that they were missing
			if was == nil || was.children[name] == nil {
				t.names = append(t.names, nameNote{n.id, name})
			}
		}
	} else if was == nil || was.key != now.key {
		t.data = append(t.data, n.id)
	}
}

func namesOf(t *treeNode) []string {
	if t == nil {
		return nil
	}
	return t.names
}

// send tells the kernel. It answers ENOENT to what it does not know, which is as well.
func (t *notes) send(f *FS) {
	k := f.kernel.Load()
	if k == nil || f.base.Err() != nil {
		return
	}
	for _, id := range t.data {
		k.InodeNotify(id, 0, 0)
	}
	for _, id := range t.attrs {
		k.InodeNotify(id, -1, 0)
	}
	for _, e := range t.names {
		k.EntryNotify(e.dir, e.name)
	}
}

// under tells whether p is dir or lies below it.
func under(p, dir string) bool {
	return p == dir || dir == "/" || strings.HasPrefix(p, dir) && p[len(dir)] == '/'
}
