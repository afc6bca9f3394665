package podfs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// pathsTree makes a pod of all kinds of links but those that are shown as what they lead to (TestSymlinks), and an FS of it that nobody mounts.
func pathsTree(t testing.TB) (root string, f *FS) {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"data/sub/deep", "other"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"data/plain", "data/sub/deep/file", "other/file"} {
		if err := os.WriteFile(filepath.Join(root, file), []byte(file), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{
		"data/link": "plain", "data/dangling": "absent", "data/loop": "loop", "data/folder": "sub", "data/short": "sub/deep",
		"data/up": "..", "data/sub/back": "../link", "data/absolute": "/other/file",
		"data/slashed": "sub//", "data/afile": "plain/",
	} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	f = New(Config{Source: &dirSource{root: root}, Covered: func(string) bool { return true }, Uid: 7, Gid: 8})
	t.Cleanup(func() { f.Close() })
	return root, f
}

// byKernel is what the kernel makes of a path beneath a root: where it ends.
func byKernel(root, p string, follow bool) (string, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(dir)
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	if !follow {
		how.Flags |= unix.O_NOFOLLOW
	}
	fd, err := unix.Openat2(dir, p, &how)
	for err == unix.EAGAIN { // somebody has renamed something meanwhile, anywhere (openat2(2))
		fd, err = unix.Openat2(dir, p, &how)
	}
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	at, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if at = strings.TrimPrefix(at, root); at == "" {
		at = "/"
	}
	return at, err
}

// asKernel compares a path's end, and its errno, with the kernel's.
func asKernel(t *testing.T, root string, f *FS, p string) {
	t.Helper()
	ctx := context.Background()
	want, wantErr := byKernel(root, p, true)
	if got, err := f.RealPath(ctx, p); got != want || fmt.Sprint(err) != fmt.Sprint(wantErr) {
		t.Errorf("%q leads to %q, %v; by the kernel's word to %q, %v", p, got, err, want, wantErr)
	}
	for _, follow := range []bool{true, false} {
		at, wantErr := byKernel(root, p, follow)
		a, err := f.Stat(ctx, p, follow)
		if fmt.Sprint(err) != fmt.Sprint(wantErr) {
			t.Errorf("stat of %q (follow %v): %v; by the kernel's word %v", p, follow, err, wantErr)
		}
		var st unix.Stat_t
		if err != nil || unix.Lstat(root+at, &st) != nil {
			continue
		}
		if a.Mode&unix.S_IFMT != st.Mode&unix.S_IFMT || a.UID != 7 || a.GID != 8 || a.Mode&unix.S_IFMT == unix.S_IFREG && a.Size != uint64(st.Size) {
			t.Errorf("stat of %q (follow %v): %+v", p, follow, a)
		}
	}
}

// pieces are what paths are made of.
var pieces = []string{"data", "sub", "deep", "file", "plain", "link", "dangling", "loop", "folder", "short", "up", "back", "absolute",
	"slashed", "afile", "other", "absent", "..", ".", ""}

// TestPaths: without a mount, a path leads where the kernel has it lead.
func TestPaths(t *testing.T) {
	root, f := pathsTree(t)
	for _, a := range pieces {
		for _, b := range pieces {
			for _, c := range []string{"", "/", "/.", "/..", "/file", "/../plain", "/deep"} {
				asKernel(t, root, f, "/data/"+a+"/"+b+c)
			}
		}
	}
	ctx := context.Background()
	if got, err := f.ReadLink(ctx, "/data/folder/back"); got != "../link" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := f.ReadLink(ctx, "/data/plain"); err != syscall.EINVAL {
		t.Error(err)
	}
	content, a, err := f.ReadFile(ctx, "/data/up/data/short/../back/../sub/../absolute", 100)
	if err == nil {
		t.Errorf("beneath a file: %q", content)
	}
	if content, a, err = f.ReadFile(ctx, "/data/short/../../absolute", 100); string(content) != "other/file" || err != nil || a.Size != 10 {
		t.Errorf("%q %+v, %v", content, a, err)
	}
	if _, _, err = f.ReadFile(ctx, "/data/plain", 3); err != syscall.EFBIG {
		t.Error(err)
	}
	if _, _, err = f.ReadFile(ctx, "/data/short", 3); err != syscall.EISDIR {
		t.Error(err)
	}
	list, err := f.ReadDir(ctx, "/data/folder/")
	if err != nil || len(list) != 2 {
		t.Errorf("%+v, %v", list, err)
	}
	for _, e := range list {
		if a, err := f.Stat(ctx, "/data/sub/"+string(e.Name), false); err != nil || a.Ino != e.Attr.Ino || a.Mode&unix.S_IFMT != e.Attr.Mode {
			t.Errorf("%+v listed as %+v, %v", a, e, err)
		}
	}
	if _, err := f.ReadDir(ctx, "/data/plain"); err != syscall.ENOTDIR {
		t.Error(err)
	}
}

func FuzzPaths(f *testing.F) {
	for _, p := range []string{"data/short/../back", "//data/./up/data/slashed/../data/short/", "data/afile", "data/loop/.."} {
		f.Add(p)
	}
	root, fs := pathsTree(f)
	f.Fuzz(func(t *testing.T, p string) {
		if strings.IndexByte(p, 0) >= 0 || len(p) > 4000 {
			return // what no path can be
		}
		asKernel(t, root, fs, "/"+p)
	})
}
