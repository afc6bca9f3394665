package dap_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/adapter/dap"
	"github.com/stepin-dev/stepin/adapter/dap/client"
)

// strangerEnv makes the test's binary a stranger: it connects to the address in it and does what TestMain says.
const strangerEnv = "STEPIN_TEST_STRANGER"

func TestMain(m *testing.M) {
	if address := os.Getenv(strangerEnv); address != "" {
		network, address, _ := strings.Cut(address, " ")
		conn, err := net.Dial(network, address)
		if err != nil {
			fmt.Println("dial:", err)
			os.Exit(0)
		}
		io.WriteString(conn, "Content-Length: 50\r\n\r\n"+`{"seq":1,"type":"request","command":"initialize"}  `)
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		b, err := io.ReadAll(conn)
		fmt.Printf("read %q %v\n", b, err)
		os.Exit(0)
	}
	if socket := os.Getenv(scriptEnv); socket != "" {
		script(socket)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func listen(t *testing.T, address string) *dap.Listener {
	t.Helper()
	l, err := dap.Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- l.ServeAll(ctx, dap.Options{Parse: parse, Log: slog.New(slog.DiscardHandler)})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l
}

// TestListen holds many conversations side by side over every kind of address.
func TestListen(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", "localhost:0", "unix:" + filepath.Join(t.TempDir(), "d", "s")} {
		l := listen(t, address)
		for range 3 {
			conn, err := net.Dial(l.Addr().Network(), l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			c := client.New(conn)
			defer c.Close()
			must(t, c, "initialize", initialize)
		}
	}
}

// TestListenMapped connects by IPv4 with a socket of family IPv6, as Java and Node do.
func TestListenMapped(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	fd, err := syscall.Socket(syscall.AF_INET6, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	to := &syscall.SockaddrInet6{Port: l.Addr().(*net.TCPAddr).Port}
	copy(to.Addr[:], net.ParseIP("127.0.0.1").To16())
	if err := syscall.Connect(fd, to); err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "mapped")
	c := client.New(f)
	defer c.Close()
	must(t, c, "initialize", initialize)
}

// TestListenRefused are addresses that would let others in.
func TestListenRefused(t *testing.T) {
	open := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0", "example.com:0", "4711", "unix:" + open + "/s",
		"unix:" + open + "/" + strings.Repeat("x", 120) + "/s"} {
		if l, err := dap.Listen(address); err == nil {
			l.Close()
			t.Errorf("%s: listens", address)
		}
	}
	// A socket that nobody serves any more is replaced, one that somebody does is not.
	path := filepath.Join(t.TempDir(), "d", "s")
	l := listen(t, "unix:"+path)
	if _, err := dap.Listen("unix:" + path); err == nil {
		t.Error("two adapters on one socket")
	}
	l.Listener.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	again, err := dap.Listen("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

// TestStrangers are refused: a browser's POST, and another user.
func TestStrangers(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	launch := `{"seq":1,"type":"request","command":"initialize"}`
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", len(launch), launch)
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := bufio.NewReader(conn).ReadByte(); err == nil {
		t.Errorf("a POST is answered with %q", n)
	} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
		t.Error("a POST is left open")
	}

	if os.Getuid() != 0 {
		t.Skip("becoming another user needs root: sudo -E go test ./adapter/dap -run TestStrangers")
	}
	self := filepath.Join(t.TempDir(), "stranger")
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for dir := filepath.Dir(self); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(self, exe, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, uid := range []uint32{0, 65534} {
		cmd := exec.Command(self)
		cmd.Dir, cmd.Env = "/", []string{strangerEnv + "=tcp " + l.Addr().String()}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		if uid == 0 { // our own user is served: the connection only ends when the stranger's patience does
			cmd.SysProcAttr = nil
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if served := strings.Contains(string(out), "supportsRestartRequest"); served != (uid == 0) {
			t.Errorf("uid %d: %s", uid, out)
		}
	}
}
