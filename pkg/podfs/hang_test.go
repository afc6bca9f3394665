package podfs

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hangs starts an order that hangs in op on p and waits until it does.
func (m *mounted) hangs(c *client, op, p string, o order) {
	m.t.Helper()
	m.src.set(func() { m.src.hang[op+" "+p] = make(chan struct{}) })
	before := m.src.hangs()
	c.send(o)
	eventually(m.t, op+" hangs", func() bool { return m.src.hangs() > before })
}

func (m *mounted) release(op, p string) {
	m.src.set(func() {
		close(m.src.hang[op+" "+p])
		delete(m.src.hang, op+" "+p)
	})
}

// cases are the ways in which a program can hang for the pod.
func hangCases(m *mounted, data string) map[string]struct {
	op, path string
	order    order
} {
	return map[string]struct {
		op, path string
		order    order
	}{
		"open":    {"open", data + "/f", order{Op: "read", Path: data + "/f"}},
		"stat":    {"lstat", data + "/g", order{Op: "stat", Path: data + "/g"}},
		"readdir": {"readdir", data + "/d", order{Op: "readdir", Path: data + "/d"}},
		"read":    {"read", data + "/big", order{Op: "sum", Path: data + "/big", N: 128 << 10}},
	}
}

func prepareHang(t *testing.T, uid int) (*mounted, string) {
	m := prepare(t, uid)
	data := m.dir + "/data"
	m.put(data+"/f", "content")
	m.put(data+"/g", "content")
	m.put(data+"/d/x", "content")
	m.big(data+"/big", 3*mib)
	return m, data
}

func TestHangEndsByDeadline(t *testing.T) {
	t.Parallel()
	m, data := prepareHang(t, users()[0])
	m.start(Config{Deadline: 500 * time.Millisecond}, data)
	c := m.client()
	for name, h := range hangCases(m, data) {
		m.hangs(c, h.op, h.path, h.order)
		if a := c.receive(); a.Errno != syscall.EIO {
			t.Errorf("%s: %s", name, a.Err)
		}
		m.release(h.op, h.path)
		if name != "stat" { // what is cached of it is asked again by itself
			c.ok(h.order)
		}
	}
	if n := m.src.waiting(); n != 0 {
		eventually(t, "no call is left behind", func() bool { return m.src.waiting() == 0 })
	}
	// A Source that does not heed its context holds nobody either.
	m.src.set(func() { m.src.deaf = true })
	m.hangs(c, "open", data+"/f", order{Op: "read", Path: data + "/f"})
	if a := c.receive(); a.Errno != syscall.EIO {
		t.Errorf("deaf: %s", a.Err)
	}
	m.hangs(c, "read", data+"/big", order{Op: "sum", Path: data + "/big", N: 4096})
	if a := c.receive(); a.Errno != syscall.EIO {
		t.Errorf("deaf read: %s", a.Err)
	}
	m.release("open", data+"/f")
	m.release("read", data+"/big")
}

func TestHangCanBeStopped(t *testing.T) {
	t.Parallel()
	asUsers(t, func(t *testing.T, uid int) {
		m, data := prepareHang(t, uid)
		m.start(Config{Deadline: 10 * time.Minute}, data)
		for name, h := range hangCases(m, data) {
			c := m.client()
			m.hangs(c, h.op, h.path, h.order)
			if err := unix.Kill(c.pid, unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			eventually(t, name+": all threads stand still", func() bool {
				s := procState(c.pid)
				return s != "" && strings.Trim(s, "T") == ""
			})
			m.release(h.op, h.path)
			if err := unix.Kill(c.pid, unix.SIGCONT); err != nil {
				t.Fatal(err)
			}
			if a := c.receive(); a.Err != "" && a.Errno != syscall.EINTR {
				t.Errorf("%s: after the stop: %s", name, a.Err)
			}

			m.hangs(c, h.op, h.path, order{Op: h.order.Op, Path: h.order.Path, N: h.order.N})
			if err := unix.Kill(c.pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			eventually(t, name+": killed", func() bool { return procState(c.pid) == "" })
			m.release(h.op, h.path)
		}
		eventually(t, "no call is left behind", func() bool { return m.src.waiting() == 0 })
	})
}

// A signal ends a call with EINTR, but not one whose answer comes within the grace.
func TestSignal(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		grace time.Duration
		want  syscall.Errno
	}{"no answer": {interruptGrace, syscall.EINTR}, "answer within the grace": {time.Hour, 0}} {
		t.Run(name, func(t *testing.T) {
			m, data := prepareHang(t, users()[0])
			m.fs = New(Config{Source: m.src, Deadline: 2 * time.Hour, Covered: func(p string) bool { return under(p, data) }})
			m.fs.grace = tt.grace
			m.start(Config{}, data)
			c := m.client()
			m.hangs(c, "open", data+"/f", order{Op: "open", Path: data + "/f"})
			unix.Kill(c.pid, unix.SIGSTOP)
			if tt.want != 0 {
				eventually(t, "stopped", func() bool { return strings.Trim(procState(c.pid), "T") == "" })
			}
			m.release("open", data+"/f")
			unix.Kill(c.pid, unix.SIGCONT)
			if a := c.receive(); a.Errno != tt.want {
				t.Errorf("errno %d (%s)", a.Errno, a.Err)
			}
		})
	}
}

func TestCloseEndsCalls(t *testing.T) {
	m, data := prepareHang(t, users()[0])
	m.start(Config{Deadline: 10 * time.Minute}, data)
	clients := map[string]*client{}
	for name, h := range hangCases(m, data) {
		clients[name] = m.client()
		m.hangs(clients[name], h.op, h.path, h.order)
	}
	m.fs.Close()
	for name, c := range clients {
		if a := c.receive(); a.Errno != syscall.ENOTCONN {
			t.Errorf("%s: %s", name, a.Err)
		}
	}
	c := m.client()
	c.fails(syscall.ENOTCONN, order{Op: "read", Path: data + "/f"})
	eventually(t, "no call is left behind", func() bool { return m.src.waiting() == 0 })
}

// The mount goes while calls hang: end, called by the test's clean-up, checks that the file system notices.
func TestMountGoes(t *testing.T) {
	m, data := prepareHang(t, users()[0])
	m.start(Config{Deadline: 10 * time.Minute}, data)
	var pids []int
	for _, h := range hangCases(m, data) {
		c := m.client()
		m.hangs(c, h.op, h.path, h.order)
		pids = append(pids, c.pid)
	}
	m.client().ok(order{Op: "open", Path: data + "/big"})
	for _, pid := range pids {
		unix.Kill(pid, unix.SIGKILL)
	}
	eventually(t, "no call is left behind", func() bool { return m.src.waiting() == 0 })
}

func TestFilesAreClosed(t *testing.T) {
	t.Parallel()
	m, data := prepareHang(t, users()[0])
	m.start(Config{}, data)
	c := m.client()
	for range 20 {
		c.read(data + "/f")
		c.ok(order{Op: "sum", Path: data + "/big", N: mib})
	}
	eventually(t, "every file of the pod is closed", func() bool {
		m.src.mu.Lock()
		defer m.src.mu.Unlock()
		return m.src.opened > 0 && m.src.opened == m.src.closed
	})
}
