package podfs

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The tests use real mounts. A child in user and mount namespaces of its own opens /dev/fuse, mounts, hands the
// descriptor back and binds the covered paths; it then starts client processes, which stand for the debuggee.

const roleEnv = "PODFS_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "holder":
		holderMain()
	case "client":
		clientMain()
	}
	flag.Parse()
	if fuzzing := flag.Lookup("test.fuzz").Value.String() != ""; !fuzzing && !given("test.parallel") {
		must(flag.Set("test.parallel", strconv.Itoa(atOnce)), "setting the tests' number")
	}
	os.Exit(m.Run())
}

// atOnce is how many tests run at once of those that say they may: each has its own mount and mostly waits, for what is
// believed to be asked again. The number of processors, which is the default, means nothing for them.
const atOnce = 8

// given says whether the flag is on the command line.
func given(name string) (is bool) {
	flag.Visit(func(f *flag.Flag) { is = is || f.Name == name })
	return is
}

// mounted is a file system under test and its holder.
type mounted struct {
	t      *testing.T
	fs     *FS
	src    *dirSource
	dir    string // host directory in which the pod paths lie
	uid    int
	holder *exec.Cmd
	sock   *os.File
	said   struct {
		sync.Mutex
		lines []string
	}
}

// users are the uids to test as: root's own and an ordinary user's, or just the one who runs the test.
func users() []int {
	if os.Getuid() == 0 {
		return []int{0, 65534}
	}
	return []int{os.Getuid()}
}

// asUsers runs a test as each user.
func asUsers(t *testing.T, test func(t *testing.T, uid int)) {
	for _, uid := range users() {
		t.Run(fmt.Sprintf("uid%d", uid), func(t *testing.T) { test(t, uid) })
	}
}

// pod returns the host path at which the pod's file p (absolute as the debuggee sees it) is kept.
func (m *mounted) pod(p string) string { return m.src.root + p }

// put makes a file of the pod, with its directories.
func (m *mounted) put(p, data string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(m.pod(p)), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(m.pod(p), []byte(data), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mounted) link(p, target string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(m.pod(p)), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Symlink(target, m.pod(p)); err != nil {
		m.t.Fatal(err)
	}
}

// prepare makes the directories of a mount; start mounts.
func prepare(t *testing.T, uid int) *mounted {
	t.Helper()
	dir, err := os.MkdirTemp("", "podfs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := &mounted{t: t, dir: dir, uid: uid, src: &dirSource{
		root: dir + "/pod", hang: map[string]chan struct{}{}, lie: map[string]bool{}, delay: map[string]time.Duration{}, errs: map[string]syscall.Errno{},
	}}
	for _, d := range []string{"", "/pod" + dir, "/fuse", "/run"} {
		if err := os.MkdirAll(dir+d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir+d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// start mounts with the pod paths cover, which it makes on the host: empty, of the kind that they have in the pod.
func (m *mounted) start(cfg Config, cover ...string) {
	m.t.Helper()
	cfg.Source = m.src
	if cfg.Covered == nil {
		cfg.Covered = func(p string) bool {
			for _, c := range cover {
				if under(p, c) {
					return true
				}
			}
			return false
		}
	}
	cfg.Uid, cfg.Gid = uint32(m.uid), uint32(m.uid)
	cfg.Notice = func(line string) {
		m.said.Lock()
		defer m.said.Unlock()
		m.said.lines = append(m.said.lines, line)
	}
	if m.fs == nil {
		m.fs = New(cfg)
	}
	m.spawn(cover)
}

func (m *mounted) spawn(cover []string) {
	t := m.t
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	mine, theirs := os.NewFile(uintptr(pair[0]), "mine"), os.NewFile(uintptr(pair[1]), "theirs")
	defer theirs.Close()
	m.sock = mine
	m.holder = exec.Command("/proc/self/exe")
	m.holder.Env = append(os.Environ(), roleEnv+"=holder", "PODFS_TEST_DIR="+m.dir, "PODFS_TEST_DEV="+fuseDev(t, m.dir),
		"PODFS_TEST_COVER="+strings.Join(cover, ":"))
	m.holder.Stderr = os.Stderr
	m.holder.ExtraFiles = []*os.File{theirs}
	m.holder.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: m.uid, HostID: m.uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: m.uid, HostID: m.uid, Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN},
	}
	if m.uid != os.Getuid() {
		m.holder.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(m.uid), Gid: uint32(m.uid), NoSetGroups: true}
	}
	if err := m.holder.Start(); err != nil {
		t.Skipf("this machine forbids user namespaces: %v", err)
	}
	t.Cleanup(m.end)
	buf, oob := make([]byte, 256), make([]byte, 64)
	n, oobn, _, _, err := unix.Recvmsg(int(mine.Fd()), buf, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil || oobn == 0 {
		t.Fatalf("no FUSE descriptor: %v %s", err, buf[:n])
	}
	cm, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		t.Fatal(err)
	}
	fds, err := unix.ParseUnixRights(&cm[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := m.fs.Serve(os.NewFile(uintptr(fds[0]), "fuse")); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(int(mine.Fd()), []byte("serving")); err != nil {
		t.Fatal(err)
	}
	if n, err = unix.Read(int(mine.Fd()), buf); err != nil || string(buf[:n]) != "ready" {
		t.Fatalf("the holder says %q, %v", buf[:max(0, n)], err)
	}
}

// end ends the holder, and with it the mount; the file system must notice.
func (m *mounted) end() {
	m.sock.Close()
	m.holder.Process.Kill()
	m.holder.Wait()
	select {
	case <-m.fs.Done():
	case <-time.After(20 * time.Second):
		m.t.Error("the file system still runs 20 s after its mount has gone")
	}
	m.fs.Close()
}

// fuseDev returns a FUSE device that an ordinary user may open.
func fuseDev(t *testing.T, dir string) string {
	if os.Getuid() != 0 {
		dev := "/dev/fuse"
		if own := os.Getenv("STEPIN_FUSE"); own != "" { // as for stepin itself
			dev = own
		}
		f, err := os.OpenFile(dev, os.O_RDWR, 0)
		if err != nil {
			t.Skipf("this machine forbids FUSE: %v", err)
		}
		f.Close()
		return dev
	}
	node := dir + "/run/fuse"
	if err := unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 229))); err != nil && err != unix.EEXIST {
		t.Skipf("this machine forbids to make a FUSE device: %v", err)
	}
	if err := os.Chmod(node, 0o666); err != nil {
		t.Fatal(err)
	}
	return node
}

func must(err error, what string) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "holder: %s: %v\n", what, err)
		os.Exit(1)
	}
}

// holderMain mounts, binds, and starts a client for each connection until the test ends.
func holderMain() {
	dir := os.Getenv("PODFS_TEST_DIR")
	must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), "private mounts")
	fd, err := unix.Open(os.Getenv("PODFS_TEST_DEV"), unix.O_RDWR|unix.O_CLOEXEC, 0)
	must(err, "opening the FUSE device")
	opts := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d", fd, os.Getuid(), os.Getgid())
	must(unix.Mount("stepin", dir+"/fuse", "fuse.stepin", unix.MS_NOSUID|unix.MS_NODEV, opts), "mounting FUSE")
	must(unix.Sendmsg(3, []byte("fd"), unix.UnixRights(fd), nil, 0), "sending the descriptor")
	unix.Close(fd)
	buf := make([]byte, 64)
	_, err = unix.Read(3, buf)
	must(err, "waiting for the server")
	must(unix.Mount("tmpfs", dir+"/run", "tmpfs", 0, "mode=0777"), "tmpfs")
	for _, p := range strings.Split(os.Getenv("PODFS_TEST_COVER"), ":") {
		st, err := os.Stat(dir + "/fuse" + p)
		must(err, "looking at "+p)
		if st.IsDir() {
			must(os.MkdirAll(p, 0o755), "making "+p)
		} else {
			f, err := os.OpenFile(p, os.O_CREATE, 0o644)
			must(err, "making "+p)
			f.Close()
		}
		must(unix.Mount(dir+"/fuse"+p, p, "", unix.MS_BIND, ""), "binding "+p)
	}
	l, err := net.Listen("unix", "@podfs-test-"+filepath.Base(dir))
	must(err, "listening")
	unix.CloseOnExec(3)
	_, err = unix.Write(3, []byte("ready"))
	must(err, "reporting")
	go func() {
		unix.Read(3, buf)
		os.Exit(0)
	}()
	for {
		c, err := l.Accept()
		must(err, "accepting")
		f, err := c.(*net.UnixConn).File()
		must(err, "accepting")
		c.Close()
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), roleEnv+"=client")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = f, f, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: 0}
		must(cmd.Start(), "starting a client")
		f.Close()
		go cmd.Wait()
	}
}

// client is a process that sees the mount.
type client struct {
	t    *testing.T
	conn net.Conn
	dec  *json.Decoder
	pid  int
}

// client starts one.
func (m *mounted) client() *client {
	m.t.Helper()
	conn, err := net.Dial("unix", "@podfs-test-"+filepath.Base(m.dir))
	if err != nil {
		m.t.Fatal(err)
	}
	c := &client{t: m.t, conn: conn, dec: json.NewDecoder(bufio.NewReader(conn))}
	c.pid = int(c.do(order{Op: "pid"}).N)
	m.t.Cleanup(func() {
		unix.Kill(c.pid, unix.SIGKILL)
		conn.Close()
	})
	return c
}

// order is what a client is to do, answer what came of it.
type order struct {
	Op, Path, To string
	Fd, N, Flags int
	Off          int64
}

type answer struct {
	Errno   syscall.Errno
	Err     string
	Data    []byte
	Names   []string
	N       int64
	Mode    uint32
	Size    int64
	Ino     uint64
	Uid     uint32
	Mtime   int64
	Seconds float64
}

// send starts an order; receive waits for its answer.
func (c *client) send(o order) {
	if err := json.NewEncoder(c.conn).Encode(o); err != nil {
		c.t.Error(err)
	}
}

// maxWait is what a test waits for something that must happen; generous, for busy machines.
const maxWait = 60 * time.Second

func (c *client) receive() answer {
	var a answer
	c.conn.SetReadDeadline(time.Now().Add(maxWait))
	if err := c.dec.Decode(&a); err != nil {
		c.t.Helper()
		c.t.Errorf("no answer: %v", err)
		a.Errno, a.Err = syscall.ETIME, err.Error()
	}
	return a
}

func (c *client) do(o order) answer {
	c.t.Helper()
	c.send(o)
	return c.receive()
}

// ok does what must not fail.
func (c *client) ok(o order) answer {
	c.t.Helper()
	a := c.do(o)
	if a.Err != "" {
		c.t.Errorf("%s %s: %s", o.Op, o.Path, a.Err)
	}
	return a
}

func (c *client) read(p string) string {
	c.t.Helper()
	return string(c.ok(order{Op: "read", Path: p}).Data)
}

// fails does what must fail with no.
func (c *client) fails(no syscall.Errno, o order) {
	c.t.Helper()
	if a := c.do(o); a.Errno != no {
		c.t.Errorf("%s %s: errno %d (%s), want %d (%v)", o.Op, o.Path, a.Errno, a.Err, no, no)
	}
}

// eventually waits until cond holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(maxWait); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", maxWait, what)
		}
	}
}

// procState returns the state letters of all threads of a process, or "" where it has gone.
func procState(pid int) string {
	tasks, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/stat")
	var b strings.Builder
	for _, p := range tasks {
		f, err := os.Open(p)
		if err != nil {
			continue
		}
		data, _ := io.ReadAll(f)
		f.Close()
		if i := strings.LastIndexByte(string(data), ')'); i > 0 && i+2 < len(data) && data[i+2] != 'Z' {
			b.WriteByte(data[i+2])
		}
	}
	return b.String()
}
