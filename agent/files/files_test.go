package files

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// hostRoot is this machine's root.
func hostRoot(t *testing.T) *Root {
	t.Helper()
	dir, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestCheck(t *testing.T) {
	for name, want := range map[string]error{"/": nil, "/a/b": nil, "": syscall.EINVAL, "a": syscall.EINVAL, "/a/": syscall.EINVAL, "/a/../b": syscall.EINVAL,
		"//a": syscall.EINVAL, "/a\x00b": syscall.EINVAL, "/" + string(bytes.Repeat([]byte("a"), maxPath)): syscall.ENAMETOOLONG} {
		if err := check(name); err != want {
			t.Errorf("%.20q: %v, want %v", name, err, want)
		}
	}
}

func TestOpenRegularOnly(t *testing.T) {
	dir := t.TempDir()
	at := func(n string) string { return filepath.Join(dir, n) }
	if err := os.WriteFile(at("file"), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", at("link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(at("fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{at("file"): nil, at("link"): syscall.ELOOP, at("fifo"): syscall.ENXIO, dir: syscall.EISDIR, "/dev/null": syscall.EACCES,
		at("none"): syscall.ENOENT} {
		f, a, err := hostRoot(t).Open(name)
		if !errors.Is(err, want) || want == nil && (err != nil || a.Size != 4) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		if f != nil {
			f.Close()
		}
	}
	// Files of the kernel say size 0.
	f, a, err := hostRoot(t).Open("/proc/version")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if head, err := Head(f, a); err != nil || len(head) == 0 {
		t.Errorf("%q, %v", head, err)
	}
}

func TestReaddirMany(t *testing.T) {
	dir := t.TempDir()
	for i := range 1000 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	if err := hostRoot(t).Readdir(dir, func(e wire.DirEntry) error { seen[string(e.Name)] = e.Attr.Mode == unix.S_IFREG|0o640; return nil }); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 1000 || !seen["999"] {
		t.Errorf("%d names", len(seen))
	}
	stop := errors.New("enough")
	if err := hostRoot(t).Readdir(dir, func(wire.DirEntry) error { return stop }); err != stop {
		t.Error(err)
	}
}

func TestSnapshot(t *testing.T) {
	dir := t.TempDir()
	inner := filepath.Join(dir, "..v1")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(inner, "key"), []byte("value"), 0o440); err != nil {
		t.Fatal(err)
	}
	for _, l := range [][2]string{{"..v1", "..data"}, {"..data/key", "key"}} {
		if err := os.Symlink(l[0], filepath.Join(dir, l[1])); err != nil {
			t.Fatal(err)
		}
	}
	if v := hostRoot(t).Volume(dir); !v.Small || v.File {
		t.Errorf("%+v", v)
	}
	raw, err := hostRoot(t).Snapshot(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]*tar.Header{}
	for r := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got[h.Name] = h
	}
	if len(got) != 5 || got["./"] == nil || got["..v1/"] == nil || got["..data"].Linkname != "..v1" || got["..v1/key"].Mode != 0o440 || got["..v1/key"].Size != 5 {
		t.Errorf("%v", got)
	}
	single, err := hostRoot(t).Snapshot(filepath.Join(inner, "key"))
	if err != nil {
		t.Fatal(err)
	}
	if h, err := tar.NewReader(bytes.NewReader(single)).Next(); err != nil || h.Name != "." || h.Typeflag != tar.TypeReg {
		t.Errorf("%+v, %v", h, err)
	}
	if err := os.WriteFile(filepath.Join(inner, "large"), make([]byte, MaxVolume), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := hostRoot(t).Snapshot(dir); !errors.Is(err, syscall.EFBIG) {
		t.Errorf("too large: %v", err)
	}
	if _, err := hostRoot(t).Snapshot(filepath.Join(dir, "none")); !errors.Is(err, syscall.ENOENT) {
		t.Error(err)
	}
}

// TestSnapshotWhileSwitched: whatever is sent is one version, however fast the volume is switched.
func TestSnapshotWhileSwitched(t *testing.T) {
	dir := t.TempDir()
	version := func(n int) {
		inner := fmt.Sprintf("..v%d", n)
		if err := os.Mkdir(filepath.Join(dir, inner), 0o755); err != nil {
			t.Error(err)
		}
		for _, key := range []string{"a", "b", "c"} {
			if err := os.WriteFile(filepath.Join(dir, inner, key), []byte(inner), 0o644); err != nil {
				t.Error(err)
			}
		}
		tmp := filepath.Join(dir, "..tmp")
		if err := os.Symlink(inner, tmp); err != nil {
			t.Error(err)
		}
		if err := os.Rename(tmp, filepath.Join(dir, "..data")); err != nil {
			t.Error(err)
		}
		if n > 0 {
			if err := os.RemoveAll(filepath.Join(dir, fmt.Sprintf("..v%d", n-1))); err != nil {
				t.Error(err)
			}
		}
	}
	version(0)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for n := 1; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
				version(n)
			}
		}
	}()
	good := 0
	for range 100 {
		raw, err := hostRoot(t).Snapshot(dir)
		if err != nil {
			continue // it gave up: the next change brings the next try
		}
		good++
		data, content := "", map[string]string{}
		for r := tar.NewReader(bytes.NewReader(raw)); ; {
			h, err := r.Next()
			if err != nil {
				break
			}
			if h.Name == "..data" {
				data = h.Linkname
			}
			if h.Typeflag == tar.TypeReg {
				b, _ := io.ReadAll(r)
				content[h.Name] = string(b)
			}
		}
		for _, key := range []string{"a", "b", "c"} {
			if content[data+"/"+key] != data {
				t.Fatalf("..data is %q and has %q", data, content)
			}
		}
	}
	close(stop)
	<-done
	if good == 0 {
		t.Error("never read whole")
	}
}

func FuzzEvents(f *testing.F) {
	f.Add(make([]byte, unix.SizeofInotifyEvent+16))
	f.Fuzz(func(t *testing.T, b []byte) {
		dirty, _ := parseEvents(b)
		if len(dirty) > len(b)/unix.SizeofInotifyEvent {
			t.Errorf("%d watches in %d bytes", len(dirty), len(b))
		}
	})
}
