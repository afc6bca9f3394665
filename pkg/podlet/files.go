package podlet

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// store is where the warden keeps the pod's files: a tmpfs in its own mount namespace, over a directory that every machine
// has and in which nobody keeps a program. A directory made for it would be left behind by a SIGKILL.
const (
	store     = "/sys"
	imageDir  = store + "/image"
	volumeDir = store + "/volumes"
	etcDir    = store + "/etc"
)

// trustStore is copied into the image, so that its programs can speak TLS as usual.
const trustStore = "/etc/ssl/certs/ca-certificates.crt"

// bind is one mount of the pod.
type bind struct {
	From, To string // To from the pod's root
	ReadOnly bool
}

// files makes the image and the volumes. Each run of the program gets mounts of its own, made from binds.
func (w *warden) files() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return failed(err, "mount(/, MS_REC|MS_SLAVE)")
	}
	if err := unix.Mount("podlet", store, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return failed(err, "mount(tmpfs)")
	}
	unix.Umask(0) // modes are as they are written
	for _, dir := range []string{imageDir, volumeDir, etcDir} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return failed(err, "mkdir")
		}
	}
	if err := w.image(); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(w.plan.Etc)) {
		from := path.Join(etcDir, name)
		if err := os.WriteFile(from, []byte(w.plan.Etc[name]), 0o644); err != nil {
			return failed(err, "write %s", name)
		}
		if err := w.mountPoint(bind{From: from, To: "/etc/" + name}); err != nil {
			return err
		}
	}
	for i, v := range w.plan.Volumes {
		made, err := newVolume(fmt.Sprintf("%s/%d", volumeDir, i), v)
		if err != nil {
			return fmt.Errorf("volume %s: %w", v.Path, err)
		}
		w.volumes[v.Path] = made
		if err := w.mountPoint(bind{From: path.Join(made.dir, v.SubPath), To: v.Path, ReadOnly: !v.Writable}); err != nil {
			return err
		}
	}
	return nil
}

// image makes the pod's root directory.
func (w *warden) image() error {
	for dir, mode := range map[string]fs.FileMode{"dev": 0o755, "proc": 0o555, "etc": 0o755, "run": 0o755, "var": 0o755, "tmp": fs.ModeSticky | 0o777} {
		if err := os.Mkdir(path.Join(imageDir, dir), mode); err != nil {
			return failed(err, "mkdir(/%s)", dir)
		}
	}
	files := []File{
		{Path: "/var/run", Link: "../run"},
		{Path: "/etc/passwd", Data: "root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n"},
		{Path: "/etc/group", Data: "root:x:0:\nnobody:x:65534:\n"},
		{Path: "/etc/nsswitch.conf", Data: "hosts: files dns\n"},
	}
	if _, err := os.Stat(trustStore); err == nil {
		files = append(files, File{Path: trustStore, Host: trustStore})
	}
	for _, f := range append(files, w.plan.Files...) {
		if err := f.write(imageDir + inImage(f.Path)); err != nil {
			return fmt.Errorf("file %s: %w", f.Path, err)
		}
	}
	return nil
}

// inImage resolves the image's one link of a directory.
func inImage(p string) string {
	if rest, ok := strings.CutPrefix(p, "/var/run/"); ok {
		return "/run/" + rest
	}
	return p
}

// write makes the file, in place of one that is there.
func (f File) write(to string) error {
	if err := os.MkdirAll(path.Dir(to), 0o755); err != nil {
		return err
	}
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if f.Link != "" {
		return os.Symlink(f.Link, to)
	}
	from := io.Reader(strings.NewReader(f.Data))
	if f.Host != "" {
		host, err := os.Open(f.Host)
		if err != nil {
			return err
		}
		defer host.Close()
		from = host
	}
	return writeFile(to, from, f.Mode, f.UID, f.GID)
}

func writeFile(to string, from io.Reader, mode fs.FileMode, uid, gid int) error {
	if mode == 0 {
		mode = 0o644
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, from)
	if err == nil && (uid != 0 || gid != 0) {
		err = out.Chown(uid, gid)
	}
	if err == nil {
		err = out.Chmod(mode) // after chown, which takes setuid and setgid away
	}
	return errors.Join(err, out.Close())
}

// mountPoint makes what b goes on, and remembers b.
func (w *warden) mountPoint(b bind) error {
	b.To = inImage(b.To)
	at := imageDir + b.To
	info, err := os.Stat(b.From)
	if err != nil {
		return failed(err, "stat(%s)", b.To)
	}
	if info.IsDir() {
		err = os.MkdirAll(at, 0o755)
	} else if err = os.MkdirAll(path.Dir(at), 0o755); err == nil {
		var f *os.File
		if f, err = os.OpenFile(at, os.O_CREATE|os.O_WRONLY, 0o644); err == nil {
			f.Close()
		}
	}
	w.binds = append(w.binds, b)
	return failed(err, "making the mount point %s", b.To)
}

// hostEtc is what a program with this machine's files has to see instead of them: the pod's names.
func hostEtc() map[string]string {
	etc := map[string]string{}
	for name, from := range map[string]string{"resolv.conf": etcDir + "/resolv.conf", "hosts": etcDir + "/hosts", "nsswitch.conf": imageDir + "/etc/nsswitch.conf"} {
		if at, err := filepath.EvalSymlinks("/etc/" + name); err == nil {
			etc[at] = from
		}
	}
	return etc
}

// volume is one volume's directory in the store.
type volume struct {
	dir      string
	spec     Volume
	versions int
}

// newVolume makes the volume's directory.
func newVolume(dir string, v Volume) (*volume, error) {
	n := &volume{dir: dir, spec: v}
	if err := n.mkdir(dir); err != nil {
		return nil, err
	}
	if err := n.update(v.Files); err != nil {
		return nil, err
	}
	for name, to := range v.Links {
		if err := os.Symlink(to, path.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	for name, size := range v.Patterns {
		if err := n.file(path.Join(dir, name), &patterned{left: size}); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func (n *volume) mkdir(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if n.spec.UID == 0 && n.spec.GID == 0 {
		return nil
	}
	return os.Chown(dir, n.spec.UID, n.spec.GID)
}

func (n *volume) file(to string, from io.Reader) error {
	return writeFile(to, from, n.spec.Mode, n.spec.UID, n.spec.GID)
}

// files writes all of them into dir, with the directories on their way.
func (n *volume) files(dir string, files map[string]string) error {
	for name, data := range files {
		parent := dir
		for _, part := range strings.Split(path.Dir(name), "/") {
			if parent = path.Join(parent, part); part == "." {
				continue
			}
			if err := n.mkdir(parent); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
		to := path.Join(dir, name)
		if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := n.file(to, strings.NewReader(data)); err != nil {
			return err
		}
	}
	return nil
}

// update gives the volume new content: a plain one file by file, another one as kubelet's atomic writer does
// (pkg/volume/util/atomic_writer.go): a directory of the new version, the link ..data switched to it by rename, a link for each
// name at the top, the former version removed. A name that is gone keeps no link.
func (n *volume) update(files map[string]string) error {
	if n.spec.Plain {
		return n.files(n.dir, files)
	}
	n.versions++
	version := fmt.Sprintf("..2026_01_01_00_00_%02d.%d", n.versions%60, n.versions)
	if err := n.mkdir(path.Join(n.dir, version)); err != nil {
		return err
	}
	if err := n.files(path.Join(n.dir, version), files); err != nil {
		return err
	}
	data, next := path.Join(n.dir, "..data"), path.Join(n.dir, "..data_tmp")
	former, _ := os.Readlink(data)
	if err := os.Symlink(version, next); err != nil {
		return err
	}
	if err := os.Rename(next, data); err != nil {
		return err
	}
	if err := n.links(files); err != nil || former == "" {
		return err
	}
	return os.RemoveAll(path.Join(n.dir, former))
}

// links makes the names at the top those of files.
func (n *volume) links(files map[string]string) error {
	want := map[string]bool{}
	for name := range files {
		top, _, _ := strings.Cut(name, "/")
		want[top] = true
		if err := os.Symlink("..data/"+top, path.Join(n.dir, top)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	have, err := os.ReadDir(n.dir)
	for _, e := range have {
		if !want[e.Name()] && !strings.HasPrefix(e.Name(), "..") {
			err = errors.Join(err, os.Remove(path.Join(n.dir, e.Name())))
		}
	}
	return err
}

// update gives one of the pod's volumes the files of v.
func (w *warden) update(v Volume) error {
	n := w.volumes[v.Path]
	if n == nil {
		return fmt.Errorf("podlet: there is no volume %s", v.Path)
	}
	return n.update(v.Files)
}

// patterned reads as the content that Pattern makes.
type patterned struct{ off, left int64 }

func (p *patterned) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), p.left)]
	Pattern(b, p.off)
	p.off += int64(len(b))
	p.left -= int64(len(b))
	return len(b), nil
}
