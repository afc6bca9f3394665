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

// served is what an answer to initialize has.
const served = "supportsRestartRequest"

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
		var all []byte
		for b := make([]byte, 4096); err == nil && !strings.Contains(string(all), served); {
			var n int
			n, err = conn.Read(b)
			all = append(all, b[:n]...)
		}
		fmt.Printf("read %q %v\n", all, err)
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

// TestStrangers are refused: a browser's POST, and another user, whom only root can become. One's own user is served.
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

	users := []uint32{uint32(os.Getuid())}
	if os.Getuid() == 0 {
		users = append(users, 65534)
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
	for _, uid := range users {
		cmd := exec.Command(self)
		cmd.Dir, cmd.Env = "/", []string{strangerEnv + "=tcp " + l.Addr().String()}
		own := uid == users[0]
		if !own {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if strings.Contains(string(out), served) != own {
			t.Errorf("uid %d: %s", uid, out)
		}
	}
}
