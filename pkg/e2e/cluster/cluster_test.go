package cluster

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestCgroupMounts(t *testing.T) {
	for name, test := range map[string]struct {
		mountinfo string
		want      []string
	}{
		"v2": {"30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n", []string{"/sys/fs/cgroup"}},
		"v1": {"31 30 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n" +
			"32 31 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n" +
			"33 31 0:29 / /sys/fs/cgroup/pids rw shared:3 master:1 - cgroup cgroup rw,pids\n",
			[]string{"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/pids"}},
		"none":    {"24 1 254:0 / / rw - ext4 /dev/vda rw\n", nil},
		"foreign": {"no mountinfo at all\n - cgroup\n", nil},
	} {
		if got := cgroupMounts(test.mountinfo); !slices.Equal(got, test.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestKeys: all or nothing, once, and only for the user's eyes.
func TestKeys(t *testing.T) {
	c := &Cluster{State: t.TempDir()}
	if err := os.MkdirAll(filepath.Join(c.State, "pki.new", "half"), 0o700); err != nil { // of one that was killed
		t.Fatal(err)
	}
	if err := c.ensureKeys(); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(c.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.ensureKeys(); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(c.Kubeconfig()); err != nil || string(again) != string(first) {
		t.Errorf("the second time made other keys (%v)", err)
	}
	files, err := filepath.Glob(filepath.Join(c.State, "pki", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, c.Kubeconfig()) {
		if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", file, st.Mode(), err)
		}
	}
	if _, err := c.Authority(); err != nil {
		t.Error(err)
	}
	if pid, err := c.Pid(); pid != 0 || err != nil {
		t.Errorf("a node %d, %v, where there is none", pid, err)
	}
}

func TestPack(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(path("a"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := pack(path("a"), path("b")); err != nil {
		t.Fatal(err)
	}
	if err := unpack(path("b"), path("c")); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path("c")); err != nil || len(got) != 1<<20 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := os.Truncate(path("b"), 100); err != nil {
		t.Fatal(err)
	}
	if err := unpack(path("b"), path("d")); err == nil {
		t.Error("half an archive was taken")
	}
	if left, err := filepath.Glob(path("d*")); err != nil || len(left) > 0 {
		t.Errorf("left %q, %v", left, err)
	}
}

// TestBuildKey: another source is another binary.
func TestBuildKey(t *testing.T) {
	dir := t.TempDir()
	keys := map[string]bool{}
	for _, text := range []string{"module a\n", "module b\n"} {
		if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			key, err := buildKey(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			keys[key] = true
		}
	}
	if len(keys) != 2 {
		t.Errorf("%v", keys)
	}
}
