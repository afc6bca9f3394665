package steal

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ownEnv says that this process is an ordinary user's, and root in namespaces of its own.
const ownEnv = "STEPIN_TEST_OWN_NAMESPACES"

// TestMain gives an ordinary user's tests the rights that they need, by namespaces of their own.
func TestMain(m *testing.M) {
	if os.Getuid() == 0 {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), ownEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}
	if err := cmd.Run(); err != nil {
		fmt.Println("FAIL: in a user namespace:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// modes are those that this user can have: BPF is real root's alone, and New finds that out by itself.
func modes() []string {
	if os.Getenv(ownEnv) != "" {
		return []string{Redirect}
	}
	return []string{Lookup, Redirect}
}

// inNetns makes a fresh network namespace and returns a function that runs in it.
func inNetns(t *testing.T) (do func(func() error) error, netns *os.File) {
	t.Helper()
	jobs := make(chan func())
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			netns, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		}
		if err == nil {
			err = loopbackUp()
		}
		ready <- err
		for f := range jobs {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatalf("a network namespace: %v", err)
	}
	t.Cleanup(func() { close(jobs); netns.Close() })
	return func(f func() error) error {
		done := make(chan error)
		jobs <- func() { done <- f() }
		return <-done
	}, netns
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
}

// serve answers every connection to addr with word and keeps it open.
func serve(t *testing.T, do func(func() error) error, network, addr, word string) {
	t.Helper()
	var ln net.Listener
	if err := do(func() (err error) { ln, err = net.Listen(network, addr); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go answer(ln, word)
}

func answer(ln net.Listener, word string) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		fmt.Fprint(c, word)
		go func() { io.Copy(io.Discard, c); c.Close() }()
	}
}

// ask connects and returns the word.
func ask(t *testing.T, do func(func() error) error, addr string) string {
	t.Helper()
	var c net.Conn
	if err := do(func() (err error) { c, err = net.DialTimeout("tcp", addr, 3*time.Second); return err }); err != nil {
		return err.Error()
	}
	defer c.Close()
	return word(c)
}

func word(c net.Conn) string {
	b := make([]byte, 100)
	c.SetDeadline(time.Now().Add(3 * time.Second))
	n, err := c.Read(b)
	if err != nil {
		return err.Error()
	}
	return string(b[:n])
}

func TestEngine(t *testing.T) {
	for _, mode := range modes() {
		t.Run(mode, func(t *testing.T) {
			do, netns := inNetns(t)
			e := engine(t, do, netns, mode)
			serve(t, do, "tcp4", "0.0.0.0:8080", "pod")
			serve(t, do, "tcp6", "[::]:8080", "pod")
			for _, l := range e.Listeners() {
				ln, err := net.FileListener(l)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { ln.Close() })
				go answer(ln, "stolen")
			}
			addrs := []string{"127.0.0.1:8080", "127.0.0.6:8080", "[::1]:8080"}
			check := func(want string) {
				t.Helper()
				for _, a := range addrs {
					if got := ask(t, do, a); got != want {
						t.Errorf("%s: %q, want %q", a, got, want)
					}
				}
			}
			check("pod")
			var old net.Conn
			if err := do(func() (err error) { old, err = net.Dial("tcp", "127.0.0.1:8080"); return err }); err != nil || word(old) != "pod" {
				t.Fatal(err)
			}
			port := Port{"tcp", 8080}
			for range 2 { // attaching is idempotent
				if _, err := e.Attach(port, true); err != nil {
					t.Fatal(err)
				}
			}
			check("stolen")
			if n, err := e.CloseExisting(port, false); err != nil || n == 0 {
				t.Errorf("ended %d connections, %v", n, err)
			}
			if got := word(old); got == "pod" || got == "" {
				t.Errorf("the old connection lives: %q", got)
			}
			for _, a := range addrs {
				f, id, err := e.Original("tcp", netip.MustParseAddrPort(a))
				if err != nil {
					t.Fatal(err)
				}
				unix.SetNonblock(int(f.Fd()), false)
				if err := unix.Connect(int(f.Fd()), sockaddr(netip.MustParseAddrPort(a))); err != nil {
					t.Fatal(err)
				}
				c, err := net.FileConn(f)
				f.Close()
				if err != nil {
					t.Fatal(err)
				}
				e.Release(id)
				if got := word(c); got != "pod" {
					t.Errorf("past the steal: %q", got)
				}
				if n, err := e.CloseExisting(port, false); err != nil {
					t.Errorf("ended %d, %v", n, err)
				}
				c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
				if _, err := c.Read(make([]byte, 1)); !os.IsTimeout(err) {
					t.Errorf("our own connection was ended: %v", err)
				}
				c.Close()
			}
			e.Detach(port)
			check("pod")
		})
	}
}

// engine makes one that uses mode.
// TestRestart: the pod's program can listen again while connections that were stolen from it are open.
func TestRestart(t *testing.T) {
	for _, mode := range modes() {
		t.Run(mode, func(t *testing.T) {
			do, netns := inNetns(t)
			e := engine(t, do, netns, mode)
			for _, l := range e.Listeners() {
				ln, err := net.FileListener(l)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { ln.Close() })
				go answer(ln, "stolen")
			}
			if _, err := e.Attach(Port{"tcp", 8080}, true); err != nil {
				t.Fatal(err)
			}
			for _, network := range []string{"tcp4", "tcp6"} {
				addr := map[string]string{"tcp4": "127.0.0.1:8080", "tcp6": "[::1]:8080"}[network]
				var c net.Conn
				if err := do(func() (err error) { c, err = net.Dial("tcp", addr); return err }); err != nil || word(c) != "stolen" {
					t.Fatal(err)
				}
				defer c.Close()
				serve(t, do, network, ":8080", "pod")
			}
		})
	}
}

func engine(t *testing.T, do func(func() error) error, netns *os.File, mode string) *Engine {
	t.Helper()
	e, err := New(do, netns, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	if e.Mode == None {
		t.Fatal(e.Limit)
	}
	if e.Mode != mode && mode == Redirect {
		e.Close()
		e = &Engine{do: do, log: e.log, taken: map[Port]*taken{}, bypassed: map[uint64]bypassKey{}, mark: e.mark, Mode: Redirect}
		if err := do(func() (err error) { e.redirect, err = newRedirect(e.mark); return err }); err != nil {
			t.Fatal(err)
		}
		if err := do(e.listen); err != nil {
			t.Fatal(err)
		}
	}
	if e.Mode != mode {
		t.Skip("no sk_lookup in this kernel:", e.Limit)
	}
	t.Cleanup(e.Close)
	return e
}

// TestRefusedBatch: of a batch that the kernel refuses no answer is left for the next one.
func TestRefusedBatch(t *testing.T) {
	do, _ := inNetns(t)
	if err := do(func() error {
		nl, err := openNetlink(unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer nl.close()
		batch := func(names ...string) error {
			b, _ := nl.message(nil, unix.NFNL_MSG_BATCH_BEGIN, 0, generic(unix.NFNL_SUBSYS_NFTABLES))
			var last uint32
			for _, name := range names {
				body := append(generic(0), text(unix.NFTA_TABLE_NAME, name)...)
				b, last = nl.message(b, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELTABLE, unix.NLM_F_ACK, body)
			}
			b, _ = nl.message(b, unix.NFNL_MSG_BATCH_END, 0, generic(unix.NFNL_SUBSYS_NFTABLES))
			if err := nl.send(b); err != nil {
				return err
			}
			return nl.acked(last)
		}
		if err := batch("nowhere", "neither", "nor", "here"); err != unix.ENOENT {
			t.Errorf("deleting tables that are not there: %v", err)
		}
		if n, _, err := unix.Recvfrom(nl.fd, nl.buf, unix.MSG_DONTWAIT); err != unix.EAGAIN {
			t.Errorf("%d bytes are left, %v", n, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
