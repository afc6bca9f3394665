package namespaces

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/stepin-dev/stepin/pkg/fail"
	"golang.org/x/sys/unix"
)

// The test binary is the holder, the debuggee and, where a session is to be killed, the session as well. Run by root, every
// test is run once more by an ordinary user, for whom nodes of the two devices are made that he may open. An ordinary user who
// runs the tests himself on a machine whose devices are root's names such nodes as he does for stepin.
const (
	otherUser = 1000
	tunEnv    = "STEPIN_TUN"
	fuseEnv   = "STEPIN_FUSE"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "holder":
			if err := HolderMain(context.Background(), os.NewFile(3, "control")); err != nil {
				fmt.Fprintln(os.Stderr, err)
				end(1)
			}
			end(0)
		case "session":
			end(sessionMain(os.Args[2:]))
		case "limited":
			end(limitedMain(os.Args[2:]))
		case "inside":
			end(insideMain(os.Args[2:]))
		}
	}
	code := m.Run()
	if os.Geteuid() == 0 && code == 0 && !fuzzing() {
		code = runAsOther()
	}
	os.Exit(code)
}

// end leaves without the second that the race detector's exit waits for more reports (atexit_sleep_ms).
func end(code int) {
	unix.Exit(code)
}

func fuzzing() bool {
	for _, a := range os.Args {
		if strings.HasPrefix(a, "-test.fuzz") && !strings.HasSuffix(a, "=") || strings.HasPrefix(a, "-test.list") {
			return true
		}
	}
	return false
}

// runAsOther runs this binary's tests as an ordinary user.
func runAsOther() int {
	dir, err := os.MkdirTemp("", "stepin-namespaces-test-")
	if err != nil {
		fmt.Println("FAIL:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "namespaces.test")
	for _, err := range []error{
		os.Chmod(dir, 0o755),
		unix.Mknod(filepath.Join(dir, "tun"), unix.S_IFCHR, int(unix.Mkdev(10, 200))),
		unix.Mknod(filepath.Join(dir, "fuse"), unix.S_IFCHR, int(unix.Mkdev(10, 229))),
		os.Chmod(filepath.Join(dir, "tun"), 0o666),
		os.Chmod(filepath.Join(dir, "fuse"), 0o666),
		os.Mkdir(filepath.Join(dir, "tmp"), 0o777),
		os.Chmod(filepath.Join(dir, "tmp"), 0o777),
		exec.Command("cp", "/proc/"+fmt.Sprint(os.Getpid())+"/exe", bin).Run(),
		os.Chmod(bin, 0o755),
		os.CopyFS(filepath.Join(dir, "work"), os.DirFS(".")),
	} {
		if err != nil {
			fmt.Println("FAIL: preparing the ordinary user's run:", err)
			return 1
		}
	}
	args := []string{}
	for _, a := range os.Args[1:] {
		if !strings.HasPrefix(a, "-test.coverprofile") && !strings.HasPrefix(a, "-test.gocoverdir") && !strings.HasPrefix(a, "-test.testlogfile") {
			args = append(args, a)
		}
	}
	fmt.Printf("=== the same as uid %d\n", otherUser)
	cmd := exec.Command(bin, args...)
	cmd.Dir = filepath.Join(dir, "work")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), tunEnv+"="+filepath.Join(dir, "tun"), fuseEnv+"="+filepath.Join(dir, "fuse"),
		"TMPDIR="+filepath.Join(dir, "tmp"), "HOME="+filepath.Join(dir, "tmp"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: otherUser, Gid: otherUser}}
	if err := cmd.Run(); err != nil {
		fmt.Printf("FAIL: as uid %d: %v\n", otherUser, err)
		return 1
	}
	return 0
}

// images returns the stub and the keeper.
func images(t testing.TB) (stub, keeper []byte) {
	t.Helper()
	all := compiled(t)
	return all["stub"], all["keeper"]
}

// compiled returns the C programs of these tests by their names.
func compiled(t testing.TB) map[string][]byte {
	t.Helper()
	all, err := compileOnce()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("no gcc on this machine, and without it no stub:", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// compileOnce runs gcc: once, since nearly every test needs what comes of it.
var compileOnce = sync.OnceValues(func() (map[string][]byte, error) {
	dir, err := os.MkdirTemp("", "stepin-compiled-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	all := map[string][]byte{}
	bare := strings.Fields("-std=c11 -Os -static -nostdlib -ffreestanding -fno-stack-protector -Wall -Wextra -Werror -s")
	for name, args := range map[string][]string{
		"stub":       append(bare[:len(bare):len(bare)], "stub/stub.c"),
		"keeper":     append(bare[:len(bare):len(bare)], "stub/keeper.c"),
		"leaderless": {"-pthread", "testdata/leaderless.c"},
	} {
		out := filepath.Join(dir, name)
		if b, err := exec.Command("gcc", append(args, "-o", out)...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("gcc %s: %w\n%s", name, err, b)
		}
		if all[name], err = os.ReadFile(out); err != nil {
			return nil, err
		}
	}
	return all, nil
})

// plan is a pod's, with devices that this user may open.
func plan(t testing.TB) Plan {
	return Plan{Hostname: "web-7d9f", Dir: t.TempDir(), TunPath: os.Getenv(tunEnv), FusePath: os.Getenv(fuseEnv)}
}

// serve answers a FUSE descriptor with the tree at dir.
func serve(dir string) func(*os.File) error {
	return func(f *os.File) error {
		defer f.Close()
		fd, err := unix.Dup(int(f.Fd()))
		if err != nil {
			return err
		}
		root, err := fs.NewLoopbackRoot(dir)
		if err != nil {
			return err
		}
		second := time.Second
		raw := fs.NewNodeFS(root, &fs.Options{EntryTimeout: &second, AttrTimeout: &second})
		srv, err := fuse.NewServer(raw, fmt.Sprintf("/dev/fd/%d", fd), &fuse.MountOptions{Name: "stepin"})
		if err != nil {
			return err
		}
		go srv.Serve()
		return nil
	}
}

// pod makes a directory with the given files, the pod's tree.
func pod(t testing.TB, files map[string]string) string {
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// start makes namespaces that end with the test, and checks then that nothing is left.
func start(t testing.TB, p Plan, tree string) *Namespaces {
	t.Helper()
	stub, keeper := images(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	n, err := Start(ctx, p, Options{ServeFUSE: serve(tree), Stub: stub, Keeper: keeper, Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	hold(t, n.HolderPid())
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error("close:", err)
		}
		nothingLeft(t, n.in, p.Dir)
	})
	return n
}

func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// hold keeps the holder's namespaces until the test's end. Their numbers, by which the test looks for who is in them, are the
// next ones' as soon as nobody does: any other test on this machine may get them before this one has looked.
func hold(t testing.TB, holder int) {
	t.Helper()
	pins, _, err := openPins(holder)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, f := range pins {
			f.Close()
		}
	})
}

// nothingLeft fails the test when a process is in the namespaces, which somebody must still hold, or the directory exists.
func nothingLeft(t testing.TB, in inodes, dir string) {
	t.Helper()
	if pids, err := in.processes(); err != nil || len(pids) > 0 {
		t.Errorf("processes left inside: %v %v", pids, err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", dir, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || bytes.Contains(mounts, []byte(dir)) {
		t.Errorf("a mount is left in %s: %v", dir, err)
	}
}

// in runs a command inside and returns what it printed, both ways.
func in(t testing.TB, n *Namespaces, argv ...string) (string, error) {
	t.Helper()
	argv = n.Wrap(argv)
	b, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	return strings.TrimSpace(string(b)), err
}

// must is in, and the command must succeed.
func must(t testing.TB, n *Namespaces, argv ...string) string {
	t.Helper()
	out, err := in(t, n, argv...)
	if err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return out
}

// spawn starts this binary as the debuggee and returns its first line.
func spawn(t testing.TB, n *Namespaces, args ...string) (*exec.Cmd, string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	argv := n.Wrap(append([]string{exe, "inside"}, args...))
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return cmd, strings.TrimSpace(line)
}

// dial runs this binary inside to connect and returns what the listener said, or the error.
func dial(t testing.TB, n *Namespaces, args ...string) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, _ := in(t, n, append([]string{exe, "inside", "dial"}, args...)...)
	return out
}

// insideMain is what the debuggee does.
//
//	listen NETWORK ADDR...          tells each peer its address and ours (tcp-close: and closes first); prints "ready" first
//	dial NETWORK ADDR [LOCAL]       prints what the listener says, or the error
//	mapped NETWORK ADDR             connects (UDP: sends without connecting) by an IPv6 socket to an IPv4 address, and stays
func insideMain(args []string) int {
	runtime.GOMAXPROCS(2)
	switch args[0] {
	case "listen":
		for _, a := range args[2:] {
			if err := answer(args[1], a); err != nil {
				fmt.Println(err)
				return 1
			}
		}
		fmt.Println("ready")
		select {}
	case "dial":
		d := net.Dialer{Timeout: 3 * time.Second}
		if len(args) > 3 {
			if strings.HasPrefix(args[1], "udp") {
				d.LocalAddr, _ = net.ResolveUDPAddr(args[1], args[3])
			} else {
				d.LocalAddr, _ = net.ResolveTCPAddr(args[1], args[3])
			}
		}
		c, err := d.Dial(args[1], args[2])
		if err != nil {
			fmt.Println(err)
			return 1
		}
		c.SetDeadline(time.Now().Add(3 * time.Second))
		if strings.HasPrefix(args[1], "udp") {
			c.Write([]byte("x"))
		}
		b := make([]byte, 200)
		k, err := c.Read(b)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println(string(b[:k]))
	case "mapped":
		kind := map[string]int{"tcp": unix.SOCK_STREAM, "udp": unix.SOCK_DGRAM}[args[1]]
		to := &unix.SockaddrInet6{Addr: netip.MustParseAddrPort(args[2]).Addr().As16(), Port: int(netip.MustParseAddrPort(args[2]).Port())}
		fd, err := unix.Socket(unix.AF_INET6, kind|unix.SOCK_NONBLOCK, 0)
		if err == nil && kind == unix.SOCK_STREAM {
			unix.Connect(fd, to)
		} else if err == nil {
			err = unix.Sendto(fd, []byte("x"), 0, to)
		}
		if err != nil {
			fmt.Println(err)
		}
		select {}
	}
	return 0
}

// answer listens and tells every peer its address and ours.
func answer(network, addr string) error {
	if strings.HasPrefix(network, "udp") {
		c, err := net.ListenPacket(network, addr)
		if err != nil {
			return err
		}
		go func() {
			b := make([]byte, 2000)
			for {
				_, from, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				c.WriteTo([]byte("peer "+from.String()), from)
			}
		}()
		return nil
	}
	network, closes := strings.CutSuffix(network, "-close")
	l, err := net.Listen(network, addr)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintf(c, "peer %v me %v", c.RemoteAddr(), c.LocalAddr())
				if !closes {
					io.Copy(io.Discard, c)
				}
			}()
		}
	}()
	return nil
}

// limitedMain is a session on a machine that has no further user namespaces: `limited DIR TREE STUB KEEPER`, run in a user
// namespace of its own.
func limitedMain(args []string) int {
	stub, err1 := os.ReadFile(args[2])
	keeper, err2 := os.ReadFile(args[3])
	err3 := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0)
	if err := errors.Join(err1, err2, err3); err != nil {
		fmt.Println(err)
		return 1
	}
	p := Plan{Dir: args[0], Hostname: "web", Cover: []string{"/data"}, TunPath: os.Getenv("TUN"), FusePath: os.Getenv("FUSE")}
	n, err := Start(context.Background(), p, Options{ServeFUSE: serve(args[1]), Stub: stub, Keeper: keeper})
	if err != nil {
		fmt.Println(err)
		fmt.Println("hint:", fail.Hint(err))
		return 0
	}
	argv := n.Wrap([]string{"/bin/sh", "-c", "cat /data/x; hostname"})
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	fmt.Printf("%s%v %v\n", out, err, n.Close())
	return 0
}

// sessionMain is a session that only waits: `session DIR TREE STUB KEEPER`. It prints the holder's process id, the inode
// numbers and, run inside by it, a debuggee's process id.
func sessionMain(args []string) int {
	stub, err1 := os.ReadFile(args[2])
	keeper, err2 := os.ReadFile(args[3])
	p := Plan{Dir: args[0], Hostname: "web", Cover: []string{"/data"}, TunPath: os.Getenv("TUN"), FusePath: os.Getenv("FUSE")}
	n, err := Start(context.Background(), p, Options{ServeFUSE: serve(args[1]), Stub: stub, Keeper: keeper})
	if err := errors.Join(err1, err2, err); err != nil {
		fmt.Println(err)
		return 1
	}
	exe, _ := os.Executable()
	argv := n.Wrap([]string{"/bin/sh", "-c", "$LEADERLESS & " + exe + " inside listen tcp :8080 & exec " + exe + " inside listen tcp :8081"})
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // nothing that is sent to the session's group reaches it
	if err := cmd.Start(); err != nil {
		fmt.Println(err)
		return 1
	}
	for { // both listen
		if l, err := n.Listeners(); err != nil || len(l) == 2 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	fmt.Println(n.HolderPid(), cmd.Process.Pid, n.in.mnt, n.in.net)
	select {}
}
