package podfs

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// big makes a file of the pod with content that never repeats, and returns its sum.
func (m *mounted) big(p string, size int64) []byte {
	m.t.Helper()
	m.put(p, "")
	f, err := os.OpenFile(m.pod(p), os.O_WRONLY, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	src := io.LimitReader(rand.NewChaCha8([32]byte{1}), size)
	if _, err := io.Copy(io.MultiWriter(f, h), src); err != nil {
		m.t.Fatal(err)
	}
	return h.Sum(nil)
}

const (
	mib = 1 << 20

	// size is a large file's: more than may ever be read ahead, and more than is ever fetched whole.
	size = max(aheadMemory, wholeLimit) + 16*mib + 12345
)

func TestLargeInOrder(t *testing.T) {
	m := prepare(t, users()[len(users())-1])
	data := m.dir + "/data"
	want := m.big(data+"/big", size)
	m.start(Config{}, data)
	c := m.client()
	for _, buf := range []int{4096, 128 << 10, mib} {
		before := m.fs.Stats()
		a := c.ok(order{Op: "sum", Path: data + "/big", N: buf})
		if a.N != size || !bytes.Equal(a.Data, want) {
			t.Errorf("read by %d: %d bytes, sum equal: %v", buf, a.N, bytes.Equal(a.Data, want))
		}
		n := m.fs.Stats().ReadAt - before.ReadAt
		if n > size/mib+20 {
			t.Errorf("read by %d: %d round trips for %d MiB", buf, n, size/mib)
		}
		t.Logf("%d MiB read by %d bytes: %.2f s, %d round trips", size/mib, buf, a.Seconds, n)
	}
	if mem := m.fs.aheadMem.Load(); mem != 0 {
		eventually(t, "the read-ahead is given back", func() bool { return m.fs.aheadMem.Load() == 0 })
	}
}

// With a round trip of 20 ms, 64 MiB by single parts of 128 KiB would take 10 s, by single MiB 1.3 s.
func TestLargePipelined(t *testing.T) {
	const size = 64 * mib
	m := prepare(t, users()[0])
	data := m.dir + "/data"
	want := m.big(data+"/big", size)
	m.src.delay["read"] = 20 * time.Millisecond
	m.start(Config{}, data)
	a := m.client().ok(order{Op: "sum", Path: data + "/big", N: 32 << 10})
	if !bytes.Equal(a.Data, want) {
		t.Error("the content differs")
	}
	t.Logf("64 MiB at 20 ms: %.2f s", a.Seconds)
}

func TestLargeMapped(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		m := prepare(t, uid)
		data := m.dir + "/data"
		want := m.big(data+"/big", size)
		m.start(Config{}, data)
		c := m.client()
		for name, flags := range map[string]int{"shared": unix.MAP_SHARED, "private": unix.MAP_PRIVATE} {
			a := c.do(order{Op: "mapsum", Path: data + "/big", Flags: flags})
			if !m.fs.sharedMmap && flags == unix.MAP_SHARED {
				if a.Errno != syscall.ENODEV {
					t.Errorf("shared, without direct I/O mapping: %s", a.Err)
				}
				continue
			}
			if a.Err != "" || a.N != size || !bytes.Equal(a.Data, want) {
				t.Errorf("%s: %s, %d bytes, sum equal: %v", name, a.Err, a.N, bytes.Equal(a.Data, want))
			}
			t.Logf("%d MiB mapped %s: %.2f s", size/mib, name, a.Seconds)
		}
	})
}

// Kernels before 6.6 cannot map under direct I/O: files up to a limit are fetched whole.
func TestMappedWithoutDirect(t *testing.T) {
	m := prepare(t, users()[0])
	data := m.dir + "/data"
	want := m.big(data+"/mid", 5*mib+1)
	m.big(data+"/big", wholeLimit+1)
	m.fs = New(Config{Source: m.src, Covered: func(p string) bool { return under(p, data) }})
	m.fs.noMmap = true
	m.start(Config{}, data)
	c := m.client()
	for _, flags := range []int{unix.MAP_SHARED, unix.MAP_PRIVATE} {
		if a := c.ok(order{Op: "mapsum", Path: data + "/mid", Flags: flags}); !bytes.Equal(a.Data, want) {
			t.Error("the content differs")
		}
	}
	c.fails(syscall.ENODEV, order{Op: "mapsum", Path: data + "/big", Flags: unix.MAP_SHARED})
	c.ok(order{Op: "mapsum", Path: data + "/big", Flags: unix.MAP_PRIVATE})
	eventually(t, "the memory is given back", func() bool { return m.fs.wholeMem.Load() == 0 && m.fs.aheadMem.Load() == 0 })
}

func TestLargeHereAndThere(t *testing.T) {
	m := prepare(t, users()[0])
	data := m.dir + "/data"
	m.big(data+"/big", 40*mib+777)
	content, err := os.ReadFile(m.pod(data + "/big"))
	if err != nil {
		t.Fatal(err)
	}
	m.start(Config{}, data)
	c := m.client()
	fd := int(c.ok(order{Op: "open", Path: data + "/big"}).N)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 200 {
		off, n := rng.Int64N(int64(len(content))+1000), 1+rng.IntN(20000)
		if i%20 == 0 {
			n *= 100 // over more than one part
		}
		a := c.ok(order{Op: "pread", Fd: fd, Off: off, N: n})
		want := window(content, off, n)
		if !bytes.Equal(a.Data, want) {
			t.Fatalf("%d bytes at %d: got %d, want %d", n, off, len(a.Data), len(want))
		}
	}
	// What changes is seen, by the open descriptor too.
	copy(content[30*mib:], "CHANGED")
	if err := os.WriteFile(m.pod(data+"/big"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the change", func() bool {
		return string(c.ok(order{Op: "pread", Fd: fd, Off: 30 * mib, N: 7}).Data) == "CHANGED"
	})
}

func TestExec(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		m := prepare(t, uid)
		data := m.dir + "/data"
		src := m.dir + "/hello.go"
		if err := os.WriteFile(src, []byte("package main\n\nfunc main() { print(\"hello from the pod\") }\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		m.put(data+"/x", "")
		build := exec.Command("go", "build", "-o", m.pod(data+"/hello"), src)
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		m.put(data+"/script", "#!/bin/sh\necho from a script\n")
		for _, p := range []string{"/hello", "/script"} {
			if err := os.Chmod(m.pod(data+p), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		m.start(Config{}, data)
		c := m.client()
		for p, want := range map[string]string{"/hello": "hello from the pod", "/script": "from a script\n"} {
			if got := string(c.ok(order{Op: "exec", Path: data + p}).Data); got != want {
				t.Errorf("%s says %q", p, got)
			}
		}
		c.fails(syscall.EACCES, order{Op: "exec", Path: data + "/x"})
	})
}

// A file that says it is empty and is not, as those in /proc.
func TestSizeUnknown(t *testing.T) {
	m := prepare(t, users()[0])
	data := m.dir + "/data"
	m.put(data+"/short", "the content")
	want := m.big(data+"/long", 3*mib+5)
	m.src.lie[data+"/short"], m.src.lie[data+"/long"] = true, true
	m.start(Config{}, data)
	c := m.client()
	if got := c.read(data + "/short"); got != "the content" {
		t.Errorf("read %q", got)
	}
	if a := c.ok(order{Op: "sum", Path: data + "/long", N: 64 << 10}); !bytes.Equal(a.Data, want) {
		t.Errorf("read %d bytes", a.N)
	}
}
