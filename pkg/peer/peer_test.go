package peer

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const dialEnv = "STEPIN_PEER_TEST_DIAL"

// TestMain lets the test binary be the caller, also as another user.
func TestMain(m *testing.M) {
	if to := os.Getenv(dialEnv); to != "" {
		network, addr, _ := strings.Cut(to, " ")
		c, err := net.Dial(network, addr)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		_, _ = c.Read(make([]byte, 1)) // until the test has looked
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// call has a process of the given user connect to l and returns what SameUser says of it.
func call(t *testing.T, l net.Listener, uid int) error {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Another user cannot execute from a directory of ours.
	open := filepath.Join("/tmp", fmt.Sprintf("peer-test-%d", os.Getpid()))
	data, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(open, data, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(open)
	cmd := exec.Command(open)
	cmd.Dir = "/"
	cmd.Env = []string{dialEnv + "=" + l.Addr().Network() + " " + l.Addr().String()}
	cmd.Stderr = os.Stderr
	if uid != os.Getuid() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if u, ok := c.(*net.UnixConn); ok {
		if pid, err := SameUserPID(u); pid != cmd.Process.Pid || (err == nil) != (uid == os.Getuid()) {
			t.Errorf("the caller is %d, not %d: %v", pid, cmd.Process.Pid, err)
		}
	}
	return SameUser(c)
}

func TestSameUser(t *testing.T) {
	for _, at := range []string{"tcp 127.0.0.1:0", "tcp [::1]:0", "tcp :0"} {
		network, addr, _ := strings.Cut(at, " ")
		l, err := net.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := call(t, l, os.Getuid()); err != nil {
			t.Errorf("%s: our own caller: %v", at, err)
		}
		if os.Getuid() != 0 {
			continue // only root can call as somebody else
		}
		if err := call(t, l, 65534); err == nil || errors.Is(err, ErrUnknown) {
			t.Errorf("%s: another user: %v", at, err)
		}
	}
}

func TestUnix(t *testing.T) {
	dir, err := os.MkdirTemp("", "peer-test-") // one that lets other users in, unlike t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(l.Addr().String(), 0o777)); err != nil {
		t.Fatal(err)
	}
	if err := call(t, l, os.Getuid()); err != nil {
		t.Error(err)
	}
	if os.Getuid() != 0 {
		return // only root can call as somebody else
	}
	if err := call(t, l, 65534); err == nil {
		t.Error("another user is welcome")
	}
}

func TestGoneCallerIsUnknown(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	d.Close()
	if err := SameUser(c); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
}

func FuzzFind(f *testing.F) {
	f.Add("   0: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 12345 1\n")
	f.Fuzz(func(_ *testing.T, table string) {
		find(strings.NewReader(table), netip.MustParseAddrPort("127.0.0.1:8080"), netip.MustParseAddrPort("127.0.0.1:50000"))
	})
}
