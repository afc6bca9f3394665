package netstack

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The tests' debuggee is this test binary, started again in user and network namespaces of its own: it makes a TUN
// device there, sends its descriptor out, and then plays the role that the environment names (roles_test.go).
const (
	envRole = "NETSTACK_ROLE"
	envTun  = "STEPIN_TUN" // the TUN device's node, as for stepin itself; "" = /dev/net/tun
)

var (
	podIP4 = netip.MustParseAddr("10.244.0.7")
	podIP6 = netip.MustParseAddr("fd00::7")
)

func TestMain(m *testing.M) {
	if role := os.Getenv(envRole); role != "" {
		beDebuggee(role)
		return
	}
	flag.Parse()
	if fuzzing := flag.Lookup("test.fuzz").Value.String() != ""; !fuzzing && !given("test.parallel") {
		check(flag.Set("test.parallel", strconv.Itoa(atOnce)))
	}
	os.Exit(m.Run())
}

// atOnce is how many tests run at once of those that say they may: they wait, for time-outs of the kernel's or because
// they must, and the number of processors, which is the default, means nothing for them.
const atOnce = 24

// given says whether the flag is on the command line.
func given(name string) (is bool) {
	flag.Visit(func(f *flag.Flag) { is = is || f.Name == name })
	return is
}

// A rig is a Stack with a debuggee in front of it.
type rig struct {
	*Stack
	t    testing.TB
	cmd  *exec.Cmd
	ctl  net.Conn
	in   *bufio.Reader
	tun  *os.File
	logs *strings.Builder
}

// start runs a debuggee in the given role before a Stack with the two handlers; nil refuses all.
func start(t testing.TB, role string, args any, cfg Config) *rig {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	theirs := os.NewFile(uintptr(pair[1]), "control")
	mine := os.NewFile(uintptr(pair[0]), "control")
	conn, err := net.FileConn(mine)
	must(t, err)
	mine.Close()
	arg, err := json.Marshal(args)
	must(t, err)

	r := &rig{t: t, ctl: conn, in: bufio.NewReader(conn), logs: &strings.Builder{}}
	r.cmd = exec.Command("/proc/self/exe")
	r.cmd.Env = append(os.Environ(), envRole+"="+role, "NETSTACK_ARGS="+string(arg))
	r.cmd.Stdout, r.cmd.Stderr = os.Stdout, os.Stderr
	r.cmd.ExtraFiles = []*os.File{theirs}
	uid, gid := os.Getuid(), os.Getgid()
	r.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW},
		Pdeathsig:   syscall.SIGKILL,
	}
	runtime.LockOSThread() // Pdeathsig is about the thread
	defer runtime.UnlockOSThread()
	must(t, r.cmd.Start())
	theirs.Close()
	t.Cleanup(func() {
		r.ctl.Close()
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
	})
	r.tun = receiveTun(t, conn)
	t.Cleanup(func() { r.tun.Close() })

	cfg.Tun = r.tun
	if cfg.TCP == nil {
		cfg.TCP = func(context.Context, netip.AddrPort, netip.AddrPort) (func(*Conn), error) {
			return nil, syscall.ECONNREFUSED
		}
	}
	if cfg.UDP == nil {
		cfg.UDP = func(context.Context, netip.AddrPort, netip.AddrPort) (func(*PacketConn), error) {
			return nil, syscall.ECONNREFUSED
		}
	}
	r.Stack, err = New(cfg)
	must(t, err)
	t.Cleanup(func() { r.Stack.Close() })
	r.proceed()
	return r
}

func receiveTun(t testing.TB, conn net.Conn) *os.File {
	t.Helper()
	oob, b := make([]byte, unix.CmsgSpace(4)), make([]byte, 256)
	must(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	n, on, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(b, oob)
	must(t, err)
	must(t, conn.SetReadDeadline(time.Time{}))
	msgs, err := unix.ParseSocketControlMessage(oob[:on])
	must(t, err)
	if len(msgs) == 0 {
		if strings.Contains(string(b[:n]), "operation not permitted") || strings.Contains(string(b[:n]), "permission denied") {
			t.Skipf("this machine forbids a TUN device in a user namespace: %s", b[:n])
		}
		t.Fatalf("the debuggee has no TUN device: %s", b[:n])
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	must(t, err)
	must(t, unix.SetNonblock(fds[0], true))
	return os.NewFile(uintptr(fds[0]), "tun")
}

// proceed lets the debuggee go on where it waits.
func (r *rig) proceed() {
	r.t.Helper()
	_, err := r.ctl.Write([]byte("\n"))
	must(r.t, err)
}

// hear decodes the next thing that the debuggee says.
func (r *rig) hear(v any) {
	r.t.Helper()
	must(r.t, r.ctl.SetReadDeadline(time.Now().Add(60*time.Second)))
	line, err := r.in.ReadBytes('\n')
	if err != nil {
		r.t.Fatalf("the debuggee said nothing: %v", err)
	}
	var e failure
	if json.Unmarshal(line, &e) == nil && e.Failure != "" {
		r.t.Fatalf("the debuggee failed: %s", e.Failure)
	}
	must(r.t, json.Unmarshal(line, v))
}

type failure struct{ Failure string }

// A debuggee is the other side of a rig.
type debuggee struct {
	ctl  net.Conn
	in   *bufio.Reader
	args []byte
}

func beDebuggee(role string) {
	f := os.NewFile(3, "control")
	conn, err := net.FileConn(f)
	if err != nil {
		panic(err)
	}
	f.Close()
	d := &debuggee{ctl: conn, in: bufio.NewReader(conn), args: []byte(os.Getenv("NETSTACK_ARGS"))}
	fd, err := makeTun()
	if err != nil {
		fmt.Fprint(conn, err)
		os.Exit(1)
	}
	if _, _, err := conn.(*net.UnixConn).WriteMsgUnix([]byte{1}, unix.UnixRights(fd), nil); err != nil {
		panic(err)
	}
	unix.Close(fd)
	d.wait()
	defer func() {
		if e := recover(); e != nil {
			buf := make([]byte, 4096)
			d.say(failure{fmt.Sprint(e, "\n", string(buf[:runtime.Stack(buf, false)]))})
		}
	}()
	roles[role](d)
}

func (d *debuggee) wait() {
	if _, err := d.in.ReadByte(); err != nil {
		os.Exit(0) // the test is over
	}
}

func (d *debuggee) say(v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	_, _ = d.ctl.Write(append(b, '\n'))
}

func (d *debuggee) arg(v any) { check(json.Unmarshal(d.args, v)) }

// makeTun makes tun0 with the pod's addresses, routes everything to it, 127/8 too, and returns its descriptor.
func makeTun() (fd int, err error) {
	node := os.Getenv(envTun)
	if node == "" {
		node = "/dev/net/tun"
	}
	defer func() {
		if e := recover(); e != nil {
			err = fmt.Errorf("making a TUN device of %s: %v", node, e)
		}
	}()
	fd, err = unix.Open(node, unix.O_RDWR|unix.O_CLOEXEC, 0)
	check(err)
	ifr, _ := unix.NewIfreq("tun0")
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	check(unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr))
	lo, err := netlink.LinkByName("lo")
	check(err)
	check(netlink.LinkSetUp(lo))
	tun, err := netlink.LinkByName("tun0")
	check(err)
	check(netlink.LinkSetMTU(tun, DeviceMTU))
	check(netlink.LinkSetUp(tun))
	index := tun.Attrs().Index
	net4 := func(s string) *net.IPNet { _, n, _ := net.ParseCIDR(s); return n }
	check(netlink.AddrAdd(tun, &netlink.Addr{IPNet: net4(podIP4.String() + "/32")}))
	check(netlink.RouteAdd(&netlink.Route{LinkIndex: index, Dst: net4("0.0.0.0/0"), Src: podIP4.AsSlice(), Scope: netlink.SCOPE_LINK}))
	check(netlink.AddrAdd(tun, &netlink.Addr{IPNet: net4(podIP6.String() + "/128"), Flags: unix.IFA_F_NODAD}))
	check(netlink.RouteAdd(&netlink.Route{LinkIndex: index, Dst: net4("::/0"), Src: podIP6.AsSlice()}))
	for { // the kernel takes a new IPv6 address into use in a work queue; until then what is sent to it is lost
		routes, err := netlink.RouteGet(podIP6.AsSlice())
		if err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL {
			break
		}
		time.Sleep(100 * time.Microsecond)
	}
	for k, v := range map[string]string{
		"conf/tun0/route_localnet": "1", "conf/tun0/accept_local": "1", "conf/tun0/rp_filter": "0", "conf/all/rp_filter": "0",
		"ip_local_port_range": "10000 65000",
	} {
		check(os.WriteFile("/proc/sys/net/ipv4/"+k, []byte(v), 0))
	}
	// See spill.go; the first is of Linux 6.15.
	_ = os.WriteFile("/proc/sys/net/ipv4/tcp_rto_max_ms", []byte("1000"), 0)
	check(os.WriteFile("/proc/sys/net/ipv4/tcp_retries2", []byte("255"), 0))
	// 127/8 by way of the TUN device, but what comes from there is local.
	local := netlink.NewRule()
	local.Priority, local.Table = 10, unix.RT_TABLE_LOCAL
	check(netlink.RuleAdd(local))
	out := netlink.NewRule()
	out.Priority, out.Table, out.Dst, out.IifName = 5, 100, net4("127.0.0.0/8"), "lo"
	check(netlink.RuleAdd(out))
	check(netlink.RouteAdd(&netlink.Route{LinkIndex: index, Dst: net4("127.0.0.0/8"), Src: net.IPv4(127, 0, 0, 1), Table: 100, Scope: netlink.SCOPE_LINK}))
	local.Priority = 0
	check(netlink.RuleDel(local))
	return fd, nil
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// What makes the two ends meet, for whoever runs the tests and, where that is root, for an ordinary user as well: he can
// only make his own device and namespaces. Who is an ordinary user already has run it by himself.
func TestBasics(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"errno": testErrno, "errno UDP": testErrnoUDP, "address": testAddress, "half close": testHalfClose, "UDP": testUDP,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
	if os.Getuid() == 0 {
		t.Run(fmt.Sprint("uid ", ordinaryUser), func(t *testing.T) {
			t.Parallel()
			basicsAsOrdinaryUser(t)
		})
	}
}

const ordinaryUser = 65534

// basicsAsOrdinaryUser runs TestBasics in a process of that user, with a TUN node that he may open: /dev/net/tun is root's
// on some machines.
func basicsAsOrdinaryUser(t *testing.T) {
	dir, err := os.MkdirTemp("", "netstack")
	must(t, err)
	defer os.RemoveAll(dir)
	must(t, os.Chmod(dir, 0o755))
	node := filepath.Join(dir, "tun")
	must(t, unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))))
	must(t, os.Chmod(node, 0o666))
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestBasics$", "-test.v")
	cmd.Env = append(os.Environ(), envTun+"="+node)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinaryUser, Gid: ordinaryUser}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if strings.Contains(string(out), "--- SKIP") || !strings.Contains(string(out), "--- PASS: TestBasics/errno ") {
		t.Fatalf("not run:\n%s", out)
	}
}
