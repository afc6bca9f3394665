package podfs

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// treeOf builds a Tree: names ending in / are directories, values starting with "->" links.
func treeOf(t testing.TB, entries map[string]string) *Tree {
	t.Helper()
	tree := newTree()
	for name, v := range entries {
		n := &treeNode{mode: syscall.S_IFREG | 0o644, data: []byte(v), mtime: 1e18}
		if target, ok := strings.CutPrefix(v, "->"); ok {
			n = &treeNode{mode: syscall.S_IFLNK | 0o777, target: target, mtime: 1e18}
		} else if strings.HasSuffix(name, "/") {
			n = newTreeDir(0o755, 1e18)
			name = strings.TrimSuffix(name, "/")
		}
		if err := tree.add(name, n); err != nil {
			t.Fatal(err)
		}
	}
	tree.root.seal()
	return tree
}

// configMap is a volume as kubelet writes it.
func configMap(t testing.TB, version int, data string) *Tree {
	dir := fmt.Sprintf("..2026_%d", version)
	return treeOf(t, map[string]string{
		dir + "/a": data, dir + "/b": data, "..data": "->" + dir, "a": "->..data/a", "b": "->..data/b",
	})
}

func TestSmallVolumeCostsNothing(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		m := prepare(t, uid)
		vol := m.dir + "/config"
		const files = 1000
		entries := map[string]string{"..data": "->..2026"}
		for i := range files {
			entries[fmt.Sprintf("..2026/key%d", i)] = strings.Repeat("v", i)
			entries[fmt.Sprintf("key%d", i)] = fmt.Sprintf("->..data/key%d", i)
		}
		m.fs = New(Config{Source: m.src, Uid: uint32(uid), Gid: uint32(uid), Covered: func(p string) bool { return under(p, vol) }})
		m.fs.SetVolume(vol, treeOf(t, entries))
		m.start(Config{}, vol)
		c := m.client()
		if a := c.ok(order{Op: "readall", Path: vol + "/key%d", N: files}); a.N != files*(files-1)/2 {
			t.Errorf("%d bytes", a.N)
		}
		if a := c.ok(order{Op: "walk", Path: vol}); a.N != 2*files+3 {
			t.Errorf("%d entries", a.N)
		}
		c.fails(syscall.ENOENT, order{Op: "stat", Path: vol + "/none"})
		if st := m.fs.Stats(); st.Total() != 0 {
			t.Errorf("round trips: %+v", st)
		}
		if a := c.ok(order{Op: "stat", Path: vol + "/key7"}); a.Size != 7 || a.Uid != uint32(uid) {
			t.Errorf("key7 is %+v", a)
		}
	})
}

func TestSwitch(t *testing.T) {
	t.Parallel()
	asUsers(t, func(t *testing.T, uid int) {
		m := prepare(t, uid)
		vol := m.dir + "/config"
		m.fs = New(Config{Source: m.src, Uid: uint32(uid), Gid: uint32(uid), Covered: func(p string) bool { return under(p, vol) }})
		m.fs.SetVolume(vol, configMap(t, 0, "zero"))
		m.start(Config{}, vol)
		c := m.client()
		if got := c.read(vol + "/a"); got != "zero" {
			t.Fatalf("a is %q", got)
		}
		c.fails(syscall.ENOENT, order{Op: "stat", Path: vol + "/new"})
		old := c.ok(order{Op: "open", Path: vol + "/a"})
		oldDir := c.ok(order{Op: "open", Path: vol + "/..data"})

		for i := 1; i <= 50; i++ { // each seen by the very next open
			want := strings.Repeat("x", i)
			m.fs.SetVolume(vol, configMap(t, i, want))
			if got := c.read(vol + "/a"); got != want {
				t.Fatalf("after change %d: a is %q, want %q", i, got, want)
			}
			if got := string(c.ok(order{Op: "readlink", Path: vol + "/..data"}).Data); got != fmt.Sprintf("..2026_%d", i) {
				t.Fatalf("after change %d: ..data is %q", i, got)
			}
		}
		if got := string(c.ok(order{Op: "pread", Fd: int(old.N), N: 100}).Data); got != "zero" {
			t.Errorf("a descriptor of the first content reads %q", got)
		}
		if got := c.read(fmt.Sprintf("/proc/self/fd/%d/b", oldDir.N)); got != "zero" {
			t.Errorf("the first directory's b is %q", got)
		}

		// One who had read the link just before the last change still gets there, for a moment.
		m.fs.SetVolume(vol, configMap(t, 51, "last"))
		if got := c.read(vol + "/..2026_50/a"); got != strings.Repeat("x", 50) {
			t.Errorf("the version before reads %q", got)
		}
		eventually(t, "the version before has gone", func() bool {
			return c.do(order{Op: "stat", Path: vol + "/..2026_50"}).Errno == syscall.ENOENT
		})

		// The same names, other content, without ..data; and a name that was missing.
		m.fs.SetVolume(vol, treeOf(t, map[string]string{"a": "plain", "new": "1"}))
		if got := c.read(vol+"/a") + c.read(vol+"/new"); got != "plain1" {
			t.Errorf("read %q", got)
		}
		c.fails(syscall.ENOENT, order{Op: "stat", Path: vol + "/b"})
		m.fs.SetVolume(vol, treeOf(t, map[string]string{"a": "PLAIN", "new": "1"}))
		if got := c.read(vol+"/a") + c.read(vol+"/new"); got != "PLAIN1" {
			t.Errorf("read %q", got)
		}
		if got := c.ok(order{Op: "readdir", Path: vol}).Names; fmt.Sprint(got) != "[a:f new:f]" {
			t.Errorf("listed %v", got)
		}
	})
}

func TestConcurrentSwitch(t *testing.T) {
	t.Parallel()
	m := prepare(t, users()[0])
	vol := m.dir + "/config"
	m.fs = New(Config{Source: m.src, Covered: func(p string) bool { return under(p, vol) }})
	m.fs.SetVolume(vol, configMap(t, 0, "0"))
	m.start(Config{}, vol)
	var clients []*client
	for range 4 {
		c := m.client()
		c.send(order{Op: "consistent", Path: vol + "/..data", N: 1000})
		clients = append(clients, c)
	}
	stop, stopped := make(chan struct{}), make(chan int)
	go func() {
		i := 1
		for {
			select {
			case <-stop:
				stopped <- i
				return
			case <-time.After(10 * time.Millisecond):
				m.fs.SetVolume(vol, configMap(t, i, strings.Repeat(fmt.Sprint(i), 1+i%5000)))
				i++
			}
		}
	}()
	for _, c := range clients {
		if a := c.receive(); a.Err != "" {
			t.Error(a.Err)
		}
	}
	close(stop)
	t.Logf("%d changes under 4,000 reads", <-stopped)
}

func TestSetFile(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		m := prepare(t, uid)
		p := m.dir + "/resolv.conf"
		m.put(p, "the pod's own")
		m.start(Config{Files: map[string][]byte{p: []byte("one")}}, p)
		c := m.client()
		if got := c.read(p); got != "one" {
			t.Errorf("read %q", got)
		}
		fd := c.ok(order{Op: "open", Path: p}).N
		for i := range 20 {
			want := strings.Repeat("line\n", i)
			m.fs.SetFile(p, []byte(want))
			if got := c.read(p); got != want {
				t.Fatalf("read %q, want %q", got, want)
			}
			if got := string(c.ok(order{Op: "pread", Fd: int(fd), N: 1000}).Data); got != want {
				t.Fatalf("the open descriptor reads %q, want %q", got, want)
			}
		}
		if n := m.fs.Stats().Total(); n != 0 {
			t.Errorf("%d round trips", n)
		}
	})
}

// A volume that is a single file, as a subPath is.
func TestFileVolume(t *testing.T) {
	m := prepare(t, users()[0])
	p := m.dir + "/app.conf"
	m.fs = New(Config{Source: m.src, Covered: func(q string) bool { return q == p }})
	m.fs.SetVolume(p, NewFile([]byte("first"), 0o600, time.Unix(1, 0)))
	m.start(Config{}, p)
	c := m.client()
	if got := c.read(p); got != "first" {
		t.Errorf("read %q", got)
	}
	m.fs.SetVolume(p, NewFile([]byte("second and longer"), 0o600, time.Unix(2, 0)))
	if got := c.read(p); got != "second and longer" {
		t.Errorf("read %q", got)
	}
}
