package podfs

import (
	"path"
	"slices"
	"sort"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// layout says which volumes lie where. It never changes; a change makes a new one.
type layout struct {
	volumes map[string]*Tree
	below   map[string][]string // names that a directory has because a volume lies at or below them, sorted
	left    map[string][]left   // by volume: what its last changes took away, newest last
}

// left are directories that a change of a volume has taken away. kubelet writes each version of a volume into a
// directory whose name begins with "..", and has the link ..data lead to it; a program that has read the link just
// before a change still finds the directory for attrTTL, so that no reader falls between two versions.
type left struct {
	dirs  map[string]*treeNode
	until time.Time
}

// maxLeft bounds the versions that are kept so, each at most a Tree.
const maxLeft = 8

func newLayout(volumes map[string]*Tree) *layout {
	l := &layout{volumes: volumes, below: map[string][]string{}, left: map[string][]left{}}
	for p := range volumes {
		for p != "/" {
			dir, name := path.Dir(p), path.Base(p)
			if !slices.Contains(l.below[dir], name) {
				l.below[dir] = append(l.below[dir], name)
			}
			p = dir
		}
	}
	for _, names := range l.below {
		sort.Strings(names)
	}
	return l
}

// with returns a layout with t at p; t nil takes it away. What t lacks is left until then.
func (l *layout) with(p string, t *Tree, until time.Time) *layout {
	volumes := make(map[string]*Tree, len(l.volumes)+1)
	for k, v := range l.volumes {
		volumes[k] = v
	}
	if volumes[p] = t; t == nil {
		delete(volumes, p)
	}
	next := newLayout(volumes)
	for root, versions := range l.left {
		if volumes[root] != nil {
			next.left[root] = versions
		}
	}
	old := l.volumes[p]
	if old == nil || t == nil {
		return next
	}
	gone := left{map[string]*treeNode{}, until}
	for name, n := range old.root.children {
		if strings.HasPrefix(name, "..") && n.children != nil && t.root.children[name] == nil {
			gone.dirs[name] = n
		}
	}
	versions := slices.DeleteFunc(slices.Clone(l.left[p]), func(v left) bool { return time.Now().After(v.until) })
	if len(gone.dirs) > 0 {
		versions = append(versions[max(0, len(versions)-maxLeft+1):], gone)
	}
	next.left[p] = versions
	return next
}

// leftover returns the directory name that the volume at root had a moment ago.
func (l *layout) leftover(root, name string) *treeNode {
	for _, v := range slices.Backward(l.left[root]) {
		if n := v.dirs[name]; n != nil && time.Now().Before(v.until) {
			return n
		}
	}
	return nil
}

// volume returns the innermost volume that holds p, and p's place in it.
func (l *layout) volume(p string) (t *Tree, root, rel string) {
	for q := p; ; q = path.Dir(q) {
		if t := l.volumes[q]; t != nil {
			return t, q, strings.TrimPrefix(p[len(q):], "/")
		}
		if q == "/" {
			return nil, "", ""
		}
	}
}

// entry is what lies at a pod path.
type entry struct {
	attr   wire.Attr
	target string    // of a symlink
	t      *treeNode // where it lies in a small volume
	made   bool      // a directory that is there because a volume lies below it
	fixed  bool      // a volume itself, or a directory on the way to one
	left   bool      // a directory that its volume has no more
	until  time.Time // how long that may be believed
}

func (e *entry) typ() uint32 { return e.attr.Mode & unix.S_IFMT }

// madeDir is the status of a directory on the way to a volume. Such directories cost no round trip, so that the holder
// can bind volumes before the Source has answered anything.
func madeDir() wire.Attr { return wire.Attr{Mode: unix.S_IFDIR | 0o755, Nlink: 1} }

// inMemory returns what lies at p if that is known without the Source. An entry that does not exist is ENOENT.
func (f *FS) inMemory(l *layout, p string) (e entry, known bool, err error) {
	e.until = time.Now().Add(f.ttl)
	t, root, rel := l.volume(p)
	if t != nil {
		if e.t = t.root.find(rel); e.t != nil {
			e.attr, e.target = e.t.attr(), e.t.target
			e.fixed = p == root || l.below[p] != nil
			return e, true, nil
		}
	}
	if l.below[p] != nil || p == "/" && len(l.volumes) > 0 {
		e.attr, e.made, e.fixed = madeDir(), true, true
		return e, true, nil
	}
	if t != nil {
		if e.t = l.leftover(root, rel); e.t != nil {
			return entry{attr: e.t.attr(), t: e.t, left: true}, true, nil
		}
	}
	return e, t != nil, syscall.ENOENT
}

// at returns what lies at the pod path p, whose directories are no symlinks.
func (r *request) at(p string) (entry, error) {
	if e, known, err := r.f.inMemory(r.f.layout.Load(), p); known {
		return e, err
	}
	c, ok := r.f.cache.get(p, r.f.ttl)
	if !ok {
		var err error
		if c, err = r.fetch(p); err != nil {
			return entry{}, err
		}
	}
	if c.missing != 0 {
		return entry{until: c.at.Add(r.f.ttl)}, c.missing
	}
	if c.attr.Mode&unix.S_IFMT == unix.S_IFLNK && !c.hasTarget {
		to, err := r.readLink(p)
		if err != nil {
			return entry{}, err
		}
		c.target, c.hasTarget = to, true
		r.f.cache.put(p, c, r.f.ttl)
	}
	return entry{attr: c.attr, target: c.target, until: c.at.Add(r.f.ttl)}, nil
}

// fetch asks the Source for p's status and remembers the answer, also that there is nothing.
func (r *request) fetch(p string) (cached, error) {
	c := cached{at: time.Now()}
	attr, err := r.lstat(p)
	switch no := errno(err); {
	case err == nil:
		c.attr = attr
	case no == syscall.ENOENT || no == syscall.ENOTDIR:
		c.missing = no
	default:
		return c, err
	}
	r.f.cache.put(p, c, r.f.ttl)
	return c, nil
}
