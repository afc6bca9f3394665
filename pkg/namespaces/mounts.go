package namespaces

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// rootName and fuseName are names in the session's directory and in the new root while it is built.
const (
	rootName = "root"    // in Plan.Dir: where the new root is built
	fuseName = ".stepin" // in the new root: the pod's tree
	oldName  = ".old"    // in the new root: the former root, for a moment
)

// files makes the new root and goes into it: the pod's tree at the covered paths, the host's own everything else.
//
// It is a root of its own, a tmpfs with a bind mount for each entry, because a mount over a host file comes off when somebody
// renames another file over it, and one over a directory that the host lacks is impossible. Only directories on the way to
// a covered path are made anew; about 170 mounts, 20-35 ms.
func (h *holder) files() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return failedStep(stepSlave, err, "mount(/, MS_REC|MS_SLAVE)")
	}
	root := filepath.Join(h.plan.Dir, rootName)
	if err := unix.Mount("tmpfs", root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return failedStep(stepRoot, err, "mount(tmpfs, %s)", root)
	}
	h.mounts++
	// It is below a directory that is about to be bound, with all that is mounted in it.
	if err := unix.Mount("", root, "", unix.MS_UNBINDABLE, ""); err != nil {
		return failedStep(stepRoot, err, "mount(%s, MS_UNBINDABLE)", root)
	}
	if err := h.fuse(filepath.Join(root, fuseName)); err != nil {
		return err
	}
	b := newBuilder(h, root)
	if err := b.directory("/"); err != nil {
		return err
	}
	if err := b.fillHoles(); err != nil {
		return err
	}
	for _, p := range h.plan.Blank {
		if err := b.blank(p); err != nil {
			return err
		}
	}
	return pivot(root)
}

// fuse mounts the pod's tree and has the session serve it. The device must be opened here: the kernel refuses a descriptor of
// another user namespace (EINVAL).
func (h *holder) fuse(at string) error {
	fd, err := unix.Open(h.plan.FusePath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return failedStep(stepFuse, err, "open(%s)", h.plan.FusePath)
	}
	defer unix.Close(fd)
	if err := os.Mkdir(at, 0o755); err != nil {
		return failedStep(stepRoot, err, "mkdir(%s)", at)
	}
	// Without allow_other only processes with exactly these ids get in, which is what a pod's Secret is due.
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d", fd, os.Getuid(), os.Getgid())
	if err := unix.Mount("stepin", at, "fuse.stepin", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return failedStep(stepMount, err, "mount(fuse, %s)", at)
	}
	h.mounts++
	if err := h.control.send(message{Kind: kindFuse}, fd); err != nil {
		return err
	}
	m, fds, err := h.control.receive()
	closeAll(fds)
	if err == nil && m.Kind != kindServed {
		err = fmt.Errorf("namespaces: the session sent %q, not that the files are served", m.Kind)
	}
	return err
}

// builder fills the new root.
type builder struct {
	h    *holder
	root string // the new root's directory
	pod  string // the pod's tree
	want map[string]kind
	keys []string // of want, sorted

	holes map[string]kind // inside the paths of want
}

// kind says what is to be at a path.
type kind uint8

const (
	covered kind = iota // the pod's
	hidden              // nothing; an empty directory where there is one
	onHost              // the host's, inside what is covered or hidden
)

// newBuilder sorts out the plan: canonical paths; what lies inside another covered or hidden path is a hole in it.
func newBuilder(h *holder, root string) *builder {
	b := &builder{h: h, root: root, pod: filepath.Join(root, fuseName), want: map[string]kind{}, holes: map[string]kind{}}
	all := map[string]kind{}
	for _, p := range h.plan.Hide {
		all[Canonical(p)] = hidden
	}
	for _, p := range h.plan.Cover {
		all[Canonical(p)] = covered
	}
	for _, p := range h.plan.Host {
		all[Canonical(p)] = onHost
	}
	for p, k := range all {
		above := onHost
		for q := filepath.Dir(p); q != "/" && above == onHost; q = filepath.Dir(q) {
			if k, ok := all[q]; ok {
				above = k
			}
		}
		_, err := os.Lstat(p)
		switch {
		case above != onHost:
			if k != above {
				b.holes[p] = k
			}
		case k == covered, k == hidden && err == nil:
			b.want[p] = k
			b.keys = append(b.keys, p)
		}
	}
	sort.Strings(b.keys)
	return b
}

// wanted returns the names in dir that are wanted, or on the way to what is.
func (b *builder) wanted(dir string) map[string]bool {
	names := map[string]bool{}
	for _, p := range b.keys {
		if below(p, dir) {
			name, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(p, dir), "/"), "/")
			names[name] = true
		}
	}
	return names
}

// directory fills the new root's copy of dir, which exists.
func (b *builder) directory(dir string) error {
	names := b.wanted(dir)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
		b.h.note("%s shows only the pod's part of it: %v", dir, err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if names[e.Name()] {
			err = b.special(path, e.IsDir())
		} else {
			err = b.host(path, e.Type())
		}
		if err != nil {
			return err
		}
		delete(names, e.Name())
	}
	for name := range names {
		if err := b.special(filepath.Join(dir, name), false); err != nil {
			return err
		}
	}
	return nil
}

// special makes an entry that is wanted or on the way; isDir says whether the host has a directory there.
func (b *builder) special(path string, isDir bool) error {
	to := b.root + path
	k, wanted := b.want[path]
	switch {
	case wanted && k == covered:
		return b.cover(path)
	case wanted && !isDir:
		return nil // hidden: nobody finds it
	case wanted:
		return failedStep(stepRoot, os.Mkdir(to, 0o755), "mkdir(%s)", path)
	}
	mode := fs.FileMode(0o755)
	if isDir {
		st, err := os.Lstat(path)
		if err != nil {
			return failedStep(stepRoot, err, "lstat(%s)", path)
		}
		if shared(path, st) || b.crowded(path) {
			return b.over(path)
		}
		mode = st.Mode() & (fs.ModePerm | fs.ModeSticky | fs.ModeSetgid)
	}
	if err := os.Mkdir(to, 0o755); err != nil {
		return failedStep(stepRoot, err, "mkdir(%s)", path)
	}
	if err := b.directory(path); err != nil {
		return err
	}
	return failedStep(stepRoot, os.Chmod(to, mode), "chmod(%s)", path)
}

// maxEntries is how many of a directory's entries are bound one by one: a mount costs some 50 µs, and the machine has a limit
// (fs.mount-max, 100,000).
const maxEntries = 1000

// crowded says whether dir has more entries than that and all that is wanted in it exists, so that it can be mounted over. Such a
// mount comes off when somebody replaces the host's file; that is the lesser evil.
func (b *builder) crowded(dir string) bool {
	f, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer f.Close()
	names, err := f.Readdirnames(maxEntries + 1)
	if err != nil || len(names) <= maxEntries {
		return false
	}
	for _, p := range b.keys {
		if below(p, dir) {
			if _, err := os.Lstat(p); err != nil {
				return false
			}
		}
	}
	return true
}

// cover puts the pod's entry there. A pod that has none has none here either.
func (b *builder) cover(path string) error {
	from, to := b.pod+path, b.root+path
	st, err := os.Lstat(from)
	if errors.Is(err, fs.ErrNotExist) {
		b.h.note("the pod has no %s", path)
		return nil
	}
	if err != nil {
		return failedStep(stepRoot, err, "lstat(%s in the pod)", path)
	}
	if st.Mode()&fs.ModeSymlink != 0 {
		return b.link(from, to)
	}
	if err := b.place(to, st.IsDir()); err != nil {
		return err
	}
	b.h.mounts++
	return failedStep(stepRoot, unix.Mount(from, to, "", unix.MS_BIND, ""), "mount(%s from the pod, MS_BIND)", path)
}

// host puts the host's entry there. One that cannot be bound (somebody else's FUSE mount) is an empty one here.
func (b *builder) host(path string, mode fs.FileMode) error {
	to := b.root + path
	if mode&fs.ModeSymlink != 0 {
		return b.link(path, to)
	}
	if err := b.place(to, mode.IsDir()); err != nil {
		return err
	}
	flags := uintptr(unix.MS_BIND)
	if mode.IsDir() {
		flags |= unix.MS_REC
	}
	if err := unix.Mount(path, to, "", flags, ""); err != nil {
		b.h.note("%s is empty inside: mount(MS_BIND): %v", path, err)
		return nil
	}
	b.h.mounts++
	return nil
}

func (b *builder) link(from, to string) error {
	target, err := os.Readlink(from)
	if err != nil {
		return failedStep(stepRoot, err, "readlink(%s)", from)
	}
	return failedStep(stepRoot, os.Symlink(target, to), "symlink(%s)", to)
}

// place makes what a mount goes on.
func (b *builder) place(to string, isDir bool) error {
	if isDir {
		return failedStep(stepRoot, os.Mkdir(to, 0o755), "mkdir(%s)", to)
	}
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o444)
	if err != nil {
		return failedStep(stepRoot, err, "open(%s, O_CREAT)", to)
	}
	return f.Close()
}

// over binds a shared directory whole and mounts what is wanted in it over what is there; Start has made the directories
// that were missing (makeMountPoints), though it could not know where the pod has a file.
func (b *builder) over(dir string) error {
	if err := b.host(dir, fs.ModeDir); err != nil {
		return err
	}
	for _, p := range b.keys {
		if !below(p, dir) {
			continue
		}
		dst, err := os.Lstat(b.root + p)
		if err != nil {
			b.h.note("%s stays the host's: %v", p, err)
			continue
		}
		from := b.pod + p
		if b.want[p] == hidden {
			from = b.empty(dst.IsDir())
		}
		src, err := os.Lstat(from)
		if err != nil {
			b.h.note("%s stays the host's: %v", p, err)
			continue
		}
		if dst.IsDir() != src.IsDir() || (dst.Mode()|src.Mode())&fs.ModeSymlink != 0 {
			b.h.note("%s stays the host's: there is no such thing to mount it on", p)
			continue
		}
		if err := unix.Mount(from, b.root+p, "", unix.MS_BIND, ""); err != nil {
			return failedStep(stepRoot, err, "mount(%s, MS_BIND)", p)
		}
		b.h.mounts++
	}
	return nil
}

// blank mounts an empty file over a host's, which costs no new directories as hiding does. It comes off when somebody replaces the
// file, which must not matter. What is covered or hidden is not the host's.
func (b *builder) blank(path string) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil
	}
	for p := range b.want {
		if p == path || below(path, p) {
			return nil
		}
	}
	if st, err := os.Lstat(b.root + path); err != nil || !st.Mode().IsRegular() {
		return nil
	}
	if err := unix.Mount(b.empty(false), b.root+path, "", unix.MS_BIND, ""); err != nil {
		return failedStep(stepRoot, err, "mount(%s, MS_BIND)", path)
	}
	b.h.mounts++
	return nil
}

// empty returns an empty file or directory for hiding one, in the session's directory: what is in the new root cannot be
// bound.
func (b *builder) empty(isDir bool) string {
	name := filepath.Join(b.h.plan.Dir, "empty-file")
	if isDir {
		name = filepath.Join(b.h.plan.Dir, "empty-directory")
	}
	_ = b.place(name, isDir) // it may be there from before
	return name
}

// pivot makes root the root of everything inside, read-only, and lets go of the former.
func pivot(root string) error {
	old := filepath.Join(root, oldName)
	if err := os.Mkdir(old, 0o700); err != nil {
		return failedStep(stepRoot, err, "mkdir(%s)", old)
	}
	if err := unix.PivotRoot(root, old); err != nil {
		return failedStep(stepRoot, err, "pivot_root(%s)", root)
	}
	if err := unix.Chdir("/"); err != nil {
		return failedStep(stepRoot, err, "chdir(/)")
	}
	for _, name := range []string{oldName, fuseName} {
		if err := unix.Unmount("/"+name, unix.MNT_DETACH); err != nil {
			return failedStep(stepRoot, err, "umount2(/%s, MNT_DETACH)", name)
		}
		os.Remove("/" + name)
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE, ""); err != nil { // no longer unbindable: a sandbox inside may want to bind it
		return failedStep(stepRoot, err, "mount(/, MS_SLAVE)")
	}
	err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, "")
	return failedStep(stepRoot, err, "mount(/, MS_REMOUNT|MS_RDONLY)")
}
