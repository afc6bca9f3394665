package podfs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/wire"
)

func TestLazy(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		m := prepare(t, uid)
		data := m.dir + "/data"
		for i := range 100 {
			m.put(fmt.Sprintf("%s/many/f%d", data, i), fmt.Sprint("content ", i))
		}
		m.put(data+"/file", "first")
		m.put(data+"/empty", "")
		m.link(data+"/ln", "file")
		mode := os.FileMode(0o040) // the owner's bits are shown as the union of all classes
		if os.Getuid() != 0 {
			mode = 0o440 // nobody but root opens what is his group's only
		}
		if err := os.Chmod(m.pod(data+"/file"), mode); err != nil {
			t.Fatal(err)
		}
		m.start(Config{}, data)
		c := m.client()

		before := m.fs.Stats()
		if a := c.ok(order{Op: "walk", Path: data + "/many"}); a.N != 101 {
			t.Errorf("%d entries", a.N)
		}
		after := m.fs.Stats()
		if d := after.ReadDir - before.ReadDir; d != 1 {
			t.Errorf("%d round trips for one directory", d)
		}
		if d := after.Lstat - before.Lstat; d > 2 { // the directory itself, and once more where the walk was slow
			t.Errorf("%d round trips for the status of 100 listed files", d)
		}
		if a := c.ok(order{Op: "stat", Path: data + "/file"}); a.Size != 5 || a.Mode != unix.S_IFREG|0o440 || a.Uid != uint32(uid) {
			t.Errorf("file is %+v", a)
		}
		if got := c.read(data+"/file") + c.read(data+"/ln") + c.read(data+"/empty"); got != "firstfirst" {
			t.Errorf("read %q", got)
		}
		if got := fmt.Sprint(c.ok(order{Op: "readdir", Path: data}).Names); got != "[empty:f file:f ln:l many:d]" {
			t.Errorf("listed %s", got)
		}
		c.fails(syscall.ENOENT, order{Op: "stat", Path: data + "/none"})
		c.fails(syscall.ENOTDIR, order{Op: "stat", Path: data + "/file/none"})
	})
}

func TestChangeSeen(t *testing.T) {
	t.Parallel()
	m := prepare(t, users()[len(users())-1])
	data := m.dir + "/data"
	m.put(data+"/f", "first")
	m.put(data+"/g", "old file")
	m.start(Config{}, data)
	c := m.client()
	read := func(p string) string { return string(c.do(order{Op: "read", Path: p}).Data) }
	if got := read(data + "/f"); got != "first" {
		t.Fatalf("read %q", got)
	}
	fd := int(c.ok(order{Op: "open", Path: data + "/f"}).N)
	pread := func() string { return string(c.ok(order{Op: "pread", Fd: fd, N: 1000}).Data) }
	if got := pread(); got != "first" {
		t.Fatalf("pread %q", got)
	}

	m.put(data+"/f", "written in place, longer")
	eventually(t, "a new open sees it", func() bool { return read(data+"/f") == "written in place, longer" })
	eventually(t, "the open descriptor sees it", func() bool { return pread() == "written in place, longer" })
	m.put(data+"/f", "short")
	eventually(t, "the open descriptor sees a shorter one", func() bool { return pread() == "short" })
	if a := c.ok(order{Op: "fstat", Fd: fd}); a.Size != 5 {
		t.Errorf("its size is %d", a.Size)
	}

	// Renamed over: the new one under the name, the old one under the descriptor.
	g := int(c.ok(order{Op: "open", Path: data + "/g"}).N)
	inode := c.ok(order{Op: "fstat", Fd: g}).Ino
	m.put(data+"/g.new", "NEW FILE, and longer")
	if err := os.Rename(m.pod(data+"/g.new"), m.pod(data+"/g")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new file", func() bool { return read(data+"/g") == "NEW FILE, and longer" })
	if a := c.ok(order{Op: "stat", Path: data + "/g"}); a.Ino == inode {
		t.Error("the new file has the old one's inode number: a log reader would not notice the rotation")
	}
	for range 3 {
		if got := string(c.ok(order{Op: "pread", Fd: g, N: 100}).Data); got != "old file" {
			t.Errorf("the old descriptor reads %q", got)
		}
		time.Sleep(attrTTL / 2) // beyond what the kernel believes, so that it asks
		if a := c.ok(order{Op: "fstat", Fd: g}); a.Size != 8 || a.Ino != inode {
			t.Errorf("the old file's size is %d", a.Size)
		}
	}

	// Gone, and there again.
	if err := os.Remove(m.pod(data + "/g")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "gone", func() bool { return c.do(order{Op: "stat", Path: data + "/g"}).Errno == syscall.ENOENT })
	if got := string(c.ok(order{Op: "pread", Fd: g, N: 100}).Data); got != "old file" {
		t.Errorf("the old descriptor reads %q", got)
	}
	c.ok(order{Op: "fstat", Fd: g})
	m.put(data+"/g", "again")
	eventually(t, "there again", func() bool { return read(data+"/g") == "again" })
	if err := os.Remove(m.pod(data + "/g")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(m.pod(data+"/g"), 0o755); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a directory in its place", func() bool {
		return c.do(order{Op: "stat", Path: data + "/g"}).Mode&unix.S_IFMT == unix.S_IFDIR
	})
}

func TestGrowing(t *testing.T) {
	t.Parallel()
	m := prepare(t, users()[0])
	data := m.dir + "/data"
	m.put(data+"/log", "line\n")
	m.start(Config{}, data)
	c := m.client()
	fd := int(c.ok(order{Op: "open", Path: data + "/log"}).N)
	want := "line\n"
	if got := string(c.ok(order{Op: "pread", Fd: fd, N: 100}).Data); got != want {
		t.Fatalf("read %q", got)
	}
	for len(want) < 3*wire.HeadLen { // from what is cached into what is too large for that
		want += strings.Repeat("another line\n", 10000)
		m.put(data+"/log", want)
		eventually(t, "the descriptor sees the end", func() bool {
			return string(c.ok(order{Op: "pread", Fd: fd, Off: int64(len(want)) - 13, N: 100}).Data) == "another line\n"
		})
		if got := c.read(data + "/log"); got != want {
			t.Fatalf("read %d bytes, want %d", len(got), len(want))
		}
	}
}

func TestDenied(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		m := prepare(t, uid)
		data := m.dir + "/data"
		m.put(data+"/secret", "x")
		m.put(data+"/dir/x", "x")
		m.put(data+"/broken", "x")
		m.put(data+"/odd", "x")
		m.src.errs["open "+data+"/secret"] = syscall.EACCES
		m.src.errs["readdir "+data+"/dir"] = syscall.EACCES
		m.src.errs["open "+data+"/broken"] = syscall.EIO
		m.src.errs["open "+data+"/odd"] = syscall.ENOSYS // must not make the kernel stop asking
		m.start(Config{}, data)
		c := m.client()
		c.fails(syscall.EACCES, order{Op: "read", Path: data + "/secret"})
		c.fails(syscall.EACCES, order{Op: "access", Path: data + "/secret", Flags: unix.R_OK})
		c.fails(syscall.EACCES, order{Op: "open", Path: data + "/dir", Flags: unix.O_DIRECTORY})
		c.fails(syscall.EIO, order{Op: "read", Path: data + "/broken"})
		c.fails(syscall.EIO, order{Op: "read", Path: data + "/odd"})
		c.ok(order{Op: "access", Path: data + "/dir/x", Flags: unix.R_OK})
		if got := c.read(data + "/dir/x"); got != "x" {
			t.Errorf("read %q", got)
		}
		m.src.set(func() { m.src.gone = syscall.ENOTCONN })
		c.fails(syscall.ENOTCONN, order{Op: "read", Path: data + "/dir/x"})
	})
}

func TestReadOnly(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		m := prepare(t, uid)
		data := m.dir + "/data"
		m.put(data+"/f", "x")
		m.put(data+"/dir/x", "x")
		m.start(Config{}, data)
		c := m.client()
		for range 2 {
			for _, o := range []order{
				{Op: "open", Path: data + "/f", Flags: unix.O_WRONLY},
				{Op: "open", Path: data + "/f", Flags: unix.O_RDWR},
				{Op: "open", Path: data + "/f", Flags: unix.O_RDWR | unix.O_CREAT},
				{Op: "open", Path: data + "/f", Flags: unix.O_WRONLY | unix.O_TRUNC},
				{Op: "open", Path: data + "/new", Flags: unix.O_WRONLY | unix.O_CREAT},
				{Op: "open", Path: data, Flags: unix.O_RDWR | unix.O_TMPFILE},
				{Op: "mkdir", Path: data + "/newdir"},
				{Op: "rmdir", Path: data + "/dir"},
				{Op: "unlink", Path: data + "/f"},
				{Op: "rename", Path: data + "/f", To: data + "/g"},
				{Op: "link", Path: data + "/f", To: data + "/hard"},
				{Op: "symlink", Path: data + "/soft"},
				{Op: "mknod", Path: data + "/fifo"},
				{Op: "chmod", Path: data + "/f"},
				{Op: "truncate", Path: data + "/f"},
				{Op: "utimes", Path: data + "/f"},
				{Op: "setxattr", Path: data + "/f"},
				{Op: "access", Path: data + "/f", Flags: unix.W_OK},
			} {
				c.fails(syscall.EROFS, o)
			}
		}
		if got := c.read(data + "/f"); got != "x" {
			t.Errorf("read %q", got)
		}
		m.said.Lock()
		defer m.said.Unlock()
		slices.Sort(m.said.lines)
		if len(m.said.lines) != 8 { // f, new, the directory itself, newdir, dir, hard, soft, fifo
			t.Errorf("%d lines:\n%s", len(m.said.lines), strings.Join(m.said.lines, "\n"))
		}
		if u := slices.Compact(slices.Clone(m.said.lines)); len(u) != len(m.said.lines) {
			t.Errorf("said twice:\n%s", strings.Join(m.said.lines, "\n"))
		}
	})
}

func TestSymlinks(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		m := prepare(t, uid)
		data, other, out := m.dir+"/data", m.dir+"/other", m.dir+"/outside"
		// The host has things at the places to which the pod's links lead.
		for p, v := range map[string]string{"/outside/f": "HOST", "/outside/d/f": "HOST", "/hostonly": "HOST"} {
			if err := os.MkdirAll(filepath.Dir(m.dir+p), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(m.dir+p, []byte(v), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		m.put(out+"/f", "pod")
		m.put(out+"/d/f", "pod, deeper")
		m.put(data+"/in/f", "inside")
		m.put(other+"/f", "other volume")
		m.link(out+"/d/up", "../f")
		m.link(out+"/d/here", "f")
		m.link(out+"/back", data+"/in")
		m.link(out+"/loop", "loop2")
		m.link(out+"/loop2", "loop")
		for name, target := range map[string]string{
			"plain": "in/f", "dir": "in", "dots": "./in/./f", "up": "in/../in/f", "toOther": other + "/f",
			"abs": out + "/f", "rel": "../outside/f", "far": strings.Repeat("../", 40) + out[1:] + "/f", "absdir": out + "/d",
			"hostonly": m.dir + "/hostonly", "dangling": "nothing", "danglingOut": out + "/nothing", "self": "self",
			"loop": out + "/loop", "root": "/", "viaBack": out + "/back/f", "chain": "rel", "trick": "dir/../../outside/f",
			"dot": ".", "parent": "..", "shadow": "/etc/shadow", "proc": "/proc/self/root" + m.dir + "/hostonly",
		} {
			m.link(data+"/"+name, target)
		}
		m.start(Config{}, data, other)
		c := m.client()
		for name, want := range map[string]string{
			"plain": "inside", "dir/f": "inside", "dots": "inside", "up": "inside", "toOther": "other volume",
			"abs": "pod", "rel": "pod", "far": "pod", "absdir/f": "pod, deeper", "absdir/up": "pod", "absdir/here": "pod, deeper",
			"viaBack": "inside", "chain": "pod", "dot/dot/in/f": "inside", "trick": "pod", "parent/outside/f": "pod",
			"root" + out + "/f": "pod",
		} {
			if got := c.read(data + "/" + name); got != want {
				t.Errorf("%s reads %q, want %q", name, got, want)
			}
		}
		for name, no := range map[string]syscall.Errno{
			"hostonly": syscall.ENOENT, "dangling": syscall.ENOENT, "danglingOut": syscall.ENOENT, "self": syscall.ELOOP,
			"loop": syscall.ELOOP, "shadow": syscall.ENOENT, "proc": syscall.ENOENT,
			"root" + data + "/root": syscall.ELOOP, // a tree without end
		} {
			c.fails(no, order{Op: "read", Path: data + "/" + name})
		}
		kind := func(name string) uint32 {
			return c.ok(order{Op: "lstat", Path: data + "/" + name}).Mode & unix.S_IFMT
		}
		for name, want := range map[string]uint32{
			"plain": unix.S_IFLNK, "dangling": unix.S_IFLNK, "toOther": unix.S_IFLNK, "chain": unix.S_IFLNK,
			"abs": unix.S_IFREG, "absdir": unix.S_IFDIR, "rel": unix.S_IFREG, "root": unix.S_IFDIR, "absdir/here": unix.S_IFLNK,
			"absdir/up": unix.S_IFREG,
		} {
			if got := kind(name); got != want {
				t.Errorf("%s is of type %o, want %o", name, got, want)
			}
		}
		list := strings.Join(c.ok(order{Op: "readdir", Path: data}).Names, " ")
		for _, want := range []string{"plain:l", "abs:l", "absdir:l", "root:l", "dangling:l", "in:d"} {
			if !strings.Contains(" "+list+" ", " "+want+" ") {
				t.Errorf("%s is not in the listing %s", want, list)
			}
		}
		c.ok(order{Op: "walk", Path: data + "/absdir/"})
		c.ok(order{Op: "lstat", Path: data + "/loop"})
	})
}

func TestStaysCovered(t *testing.T) {
	covered := func(p string) bool { return under(p, "/data") && !under(p, "/data/hole") || under(p, "/etc/config") }
	for _, tt := range []struct {
		dir, limit, target string
		want               bool
	}{
		{"/data", "/", "a", true}, {"/data", "/", "a/b/c", true}, {"/data/x", "/", "../a", true}, {"/data/x", "/", "../../data/a", false},
		{"/data", "/", "../etc/passwd", false}, {"/data", "/", "/etc/passwd", false}, {"/data", "/", "/etc/config/a", true},
		{"/data", "/", "/etc/config", true}, {"/data", "/", "/etc", false}, {"/data", "/", "/", false}, {"/data", "/", "a/..", false},
		{"/data", "/", "/data/../etc/passwd", false}, {"/data", "/", "hole/x", false}, {"/data", "/", "/data/hole/x", false},
		{"/data", "/", "./././a//b/", true}, {"/data/l/sub", "/data/l", "../x", true}, {"/data/l", "/data/l", "../x", false},
		{"/data/l/sub", "/data/l", "../../x", false}, {"/data", "/", "", true}, {"/data", "/", "/..", false},
	} {
		if got := staysCovered(covered, tt.dir, tt.limit, tt.target); got != tt.want {
			t.Errorf("%q in %s (limit %s): %v", tt.target, tt.dir, tt.limit, got)
		}
	}
}

// FuzzStaysCovered walks targets that were let through as the kernel would, among directories without symlinks: every
// step after the first in the covered region must stay there.
func FuzzStaysCovered(f *testing.F) {
	f.Add("/data/a", "../b/../c")
	f.Add("/data", "/etc/config/../../x")
	f.Fuzz(func(t *testing.T, dir, target string) {
		dir = filepath.Clean("/data/" + dir)
		covered := func(p string) bool { return under(p, "/data") || under(p, "/etc/config") }
		if !covered(dir) || !staysCovered(covered, dir, "/", target) {
			return
		}
		end := filepath.Clean(target)
		if !strings.HasPrefix(target, "/") {
			end = filepath.Clean(dir + "/" + target)
		}
		if !covered(end) {
			t.Fatalf("%q in %s leads to %s", target, dir, end)
		}
	})
}

func TestHostView(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		m := prepare(t, uid)
		hosts, certs := m.dir+"/hosts", m.dir+"/certs"
		m.put(hosts, "the pod's, which is longer")
		m.put(certs+"/ca.pem", "pod ca")
		m.put(certs+"/pod-only.pem", "x")
		for p, v := range map[string]string{hosts: "the host's", certs + "/ca.pem": "host ca", certs + "/host-only.pem": "y"} {
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(p, []byte(v), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		var hostPid int
		tgid := func(tid uint32) int {
			link, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/%d", hostPid, tid))
			return len(link)
		}
		m.start(Config{PerProcess: []string{hosts, certs}, HostView: func(tid uint32) bool { return hostPid != 0 && tgid(tid) > 0 }}, hosts, certs)
		pod, host := m.client(), m.client()
		hostPid = host.pid
		for range 20 { // in turn: nothing of one may be cached for the other
			if got := pod.read(hosts); got != "the pod's, which is longer" {
				t.Fatalf("the debuggee reads %q", got)
			}
			if got := host.read(hosts); got != "the host's" {
				t.Fatalf("a host program reads %q", got)
			}
			if p, h := pod.ok(order{Op: "stat", Path: hosts}).Size, host.ok(order{Op: "stat", Path: hosts}).Size; p != 26 || h != 10 {
				t.Fatalf("sizes %d and %d", p, h)
			}
			if p, h := pod.read(certs+"/ca.pem"), host.read(certs+"/ca.pem"); p != "pod ca" || h != "host ca" {
				t.Fatalf("read %q and %q", p, h)
			}
		}
		if p, h := pod.ok(order{Op: "readdir", Path: certs}).Names, host.ok(order{Op: "readdir", Path: certs}).Names; fmt.Sprint(p, h) !=
			"[ca.pem:f pod-only.pem:f] [ca.pem:f host-only.pem:f]" {
			t.Errorf("listed %v and %v", p, h)
		}
		host.fails(syscall.ENOENT, order{Op: "read", Path: certs + "/pod-only.pem"})
		pod.fails(syscall.ENOENT, order{Op: "read", Path: certs + "/host-only.pem"})
		m.fs.SetFile(hosts, []byte("made by the session"))
		if p, h := pod.read(hosts), host.read(hosts); p != "made by the session" || h != "the host's" {
			t.Errorf("read %q and %q", p, h)
		}
	})
}
