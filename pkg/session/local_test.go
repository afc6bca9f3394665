package session

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// TestDeepTemp: sockets work wherever TMPDIR and XDG_RUNTIME_DIR are.
func TestDeepTemp(t *testing.T) {
	deep := filepath.Join(t.TempDir(), strings.Repeat("deep/", 20))
	if err := os.MkdirAll(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", deep)
	t.Setenv("XDG_RUNTIME_DIR", deep)
	dir, err := runtimeDir()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "4294967295."+strings.Repeat("t", 32)))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

// TestRuntimeDirGoes: whoever leaves removes the runtime directory if it is empty and not locked, and whoever comes
// meanwhile makes it again.
func TestRuntimeDirGoes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "runtime")
	exists := func() bool {
		_, err := os.Lstat(dir)
		return err == nil
	}
	lock, err := lockDir(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if sweepDir(dir); !exists() {
		t.Error("it was removed while it was locked")
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := lockDir(ended, dir); !errors.Is(err, context.Canceled) {
		t.Error("it does not give up with its caller:", err)
	}
	came := make(chan error, 1)
	go func() { // waits for the lock, unless it comes when all is over
		again, err := lockDir(t.Context(), dir)
		if err == nil && !exists() {
			err = errors.New("locked, and not there")
		}
		if err == nil {
			err = again.Close()
		}
		came <- err
	}()
	if err := errors.Join(unix.Rmdir(dir), lock.Close(), <-came); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "socket"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if sweepDir(dir); !exists() {
		t.Error("it was removed with a socket in it")
	}
	if err := os.Remove(filepath.Join(dir, "socket")); err != nil {
		t.Fatal(err)
	}
	if sweepDir(dir); exists() {
		t.Error("it stays")
	}
}

// TestConnectLeaving: an agent that ends with the session before this one is waited for, not an error.
func TestConnectLeaving(t *testing.T) {
	l := &local{dir: t.TempDir(), sandbox: "4026531992", hello: wire.Hello{Session: "s"}}
	if err := os.Chmod(l.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	socket, err := net.Listen("unix", filepath.Join(l.dir, l.sandbox+".token"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	go func() {
		for n := 0; ; n++ {
			c, err := socket.Accept()
			switch {
			case err != nil:
				return
			case n == 0: // gone before the hello
				c.Close()
				continue
			}
			go func() {
				_, _ = mux.Serve(context.Background(), c, func(wire.Hello) (wire.Welcome, error) {
					if n == 1 {
						return wire.Welcome{}, &wire.Refusal{Errno: syscall.ESHUTDOWN, Message: "about to end"}
					}
					return wire.Welcome{Resume: "r"}, nil
				}, mux.Config{Log: slog.New(slog.DiscardHandler)})
			}()
		}
	}()
	conn, welcome, path, err := l.connect(context.Background())
	if err != nil || welcome.Resume != "r" || path != socket.Addr().String() {
		t.Fatalf("%+v, %q, %v", welcome, path, err)
	}
	_ = conn.Close("")
}

// TestStartingAgentKeepsItsSocket: a socket that is bound and not yet listening belongs to an agent that starts; one
// that an agent left is removed by whoever comes back to it.
func TestStartingAgentKeepsItsSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	l := &local{}
	if _, _, err := l.join(t.Context(), path, ""); !errors.Is(err, errGone) {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Fatal("a starting agent's socket was removed:", err)
	}
	if _, _, err := l.rejoin(t.Context(), path, ""); !errors.Is(err, errGone) {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Fatal("what an agent left was kept")
	}
}

// TestOwnNetwork: a process in this machine's own network is a target only where that is meant, and then its agent's socket
// is not another one's of that network.
func TestOwnNetwork(t *testing.T) {
	_, _, err := checkLocal(os.Getpid(), false)
	if fail.CodeOf(err) != fail.TargetForeign || !strings.Contains(fail.Hint(err), `"hostNetwork": true`) {
		t.Errorf("%v; hint: %s", err, fail.Hint(err))
	}
	sandbox, beside, err := checkLocal(os.Getpid(), true)
	if _, pid, _ := strings.Cut(sandbox, "."); err != nil || !beside || pid != strconv.Itoa(os.Getpid()) {
		t.Errorf("%q, %v, %v", sandbox, beside, err)
	}
}
