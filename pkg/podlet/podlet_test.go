package podlet

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/fail"
)

func TestZeroSpec(t *testing.T) {
	p := start(t, Spec{})
	for _, ns := range []string{"net", "mnt", "uts", "pid"} {
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", p.MainPID(), ns))
		if err != nil {
			t.Fatal(err)
		}
		if ours, _ := os.Readlink("/proc/self/ns/" + ns); ours == theirs {
			t.Errorf("the pod's %s namespace is ours", ns)
		}
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", p.MainPID()))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), " /usr ") || strings.Contains(string(mounts), store) {
		t.Errorf("the machine's mounts are in the pod:\n%s", mounts)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/root/etc/resolv.conf", p.MainPID())); err != nil {
		t.Error(err)
	}
}

func TestIdentity(t *testing.T) {
	main := Main{Argv: []string{"/app/probe", "serve"}, Env: []string{"CURRENCY=EUR"}}
	want := "orders-1 0 0 "
	if root() {
		main.UID, main.GID, main.Groups, main.Caps = 1000, 1001, []int{2000}, 1<<unix.CAP_NET_RAW
		want = "orders-1 1000 1001 [2000] "
	}
	p := start(t, Spec{Hostname: "orders-1", Files: []File{probe()}, Main: main})
	if got := in(t, p, "id"); !strings.HasPrefix(got, want) {
		t.Errorf("inside: %q, want %q", got, want)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.MainPID()))
	if err != nil {
		t.Fatal(err)
	}
	for _, set := range []string{"CapPrm", "CapEff", "CapBnd"} {
		if want := fmt.Sprintf("%s:\t%016x\n", set, main.Caps); !strings.Contains(string(status), want) {
			t.Errorf("no %q in\n%s", want, status)
		}
	}
	if !strings.Contains(string(status), "NSpid:") || !strings.HasSuffix(strings.Split(strings.SplitAfter(string(status), "NSpid:")[1], "\n")[0], "\t1") {
		t.Errorf("the program is not PID 1:\n%s", status)
	}
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.MainPID()))
	if err != nil || string(env) != "CURRENCY=EUR\x00" {
		t.Errorf("environment %q, %v", env, err)
	}
}

// Root of a container may make namespaces only with one of users; the pod's program is as outside of one.
func TestRootOfAContainer(t *testing.T) {
	if !root() {
		return // it is root's matter
	}
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var set [2]unix.CapUserData
	if err := unix.Capget(&head, &set[0]); err != nil {
		t.Fatal(err)
	}
	set[0].Effective &^= 1 << unix.CAP_SYS_ADMIN
	set[0].Permitted &^= 1 << unix.CAP_SYS_ADMIN
	if err := unix.Capset(&head, &set[0]); err != nil {
		t.Fatal(err)
	}
	TestIdentity(t)
	TestFiles(t)
}

var (
	client4  = netip.MustParseAddr("192.0.2.7")
	client6  = netip.MustParseAddr("2001:db8::7")
	silent   = netip.MustParseAddr("198.51.100.1")
	noWay    = netip.MustParseAddr("198.51.100.2")
	noLeave  = netip.MustParseAddr("198.51.100.3")
	ownNoWay = netip.MustParseAddr("198.51.100.4")
	noWay6   = netip.MustParseAddr("2001:db8:1::2")
)

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func TestAddresses(t *testing.T) {
	p := start(t, Spec{Outside: []netip.Addr{client4, client6}, Files: []File{probe()},
		Main: Main{Argv: []string{"/app/probe", "serve", ":8080", "127.0.0.1:80"}}})
	ctx := limit(t)
	for _, six := range []bool{false, true} {
		dst, src := netip.AddrPortFrom(p.Addr(six), 8080), netip.AddrPortFrom(client4, 41234)
		if six {
			src = netip.AddrPortFrom(client6, 41234)
		}
		if err := p.WaitListening(ctx, dst); err != nil {
			t.Fatal(err)
		}
		c, err := p.DialClient(ctx, "tcp", src, dst)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		got, err := bufio.NewReader(c).ReadString('\n')
		if want := fmt.Sprintf("peer %v me %v\n", src, dst); got != want || err != nil {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
		if c.RemoteAddr().String() != dst.String() || c.LocalAddr().String() != src.String() {
			t.Errorf("%v to %v", c.LocalAddr(), c.RemoteAddr())
		}
	}
	if _, err := p.Outside.Dial(ctx, "tcp", netip.AddrPort{}, netip.MustParseAddrPort("127.0.0.1:80")); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("the pod's loopback from outside: %v", err)
	}
	foreign := netip.MustParseAddrPort("203.0.113.1:0")
	if _, err := p.Outside.Dial(ctx, "tcp", foreign, netip.AddrPortFrom(p.Addr(false), 8080)); !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Errorf("an address that the outside has not: %v", err)
	}
}

// TestFates compares what a program in the pod gets with what a socket made there gets, and both with the man page. Each
// case has a pod of its own, since routers answer less the more they are asked.
func TestFates(t *testing.T) {
	for _, c := range []struct {
		network string
		to      netip.Addr
		want    error
	}{
		{"tcp", client4, unix.ECONNREFUSED}, {"tcp", client6, unix.ECONNREFUSED}, {"udp", client4, unix.ECONNREFUSED},
		{"tcp", silent, context.DeadlineExceeded}, {"tcp", noWay, unix.EHOSTUNREACH}, {"tcp", noLeave, unix.EHOSTUNREACH},
		{"udp", noLeave, unix.EHOSTUNREACH}, {"tcp", ownNoWay, unix.EACCES}, {"tcp", noWay6, unix.ENETUNREACH},
		{"tcp", netip.MustParseAddr("203.0.113.9"), unix.ENETUNREACH},
	} {
		t.Run(fmt.Sprintf("%s %v", c.network, c.to), func(t *testing.T) {
			t.Parallel()
			fate(t, c.network, netip.AddrPortFrom(c.to, 9), c.want)
		})
	}
}

func fate(t *testing.T, network string, dst netip.AddrPort, want error) {
	p := start(t, Spec{Outside: []netip.Addr{client4, client6}, Files: []File{probe()}, Routes: []Route{
		{To: host(silent), Fate: Silent}, {To: host(noWay), Fate: Unreachable}, {To: host(noLeave), Fate: Prohibited},
		{To: host(ownNoWay), Fate: Prohibited, Own: true}, {To: host(noWay6), Fate: Unreachable}}})
	const patience = 3 * time.Second // what comes while connect holds the socket counts at the next SYN, 1 s later
	ctx, cancel := context.WithTimeout(limit(t), patience)
	defer cancel()
	conn, err := p.Inside.Dial(ctx, network, netip.AddrPort{}, dst)
	if err == nil { // UDP: the answer comes to what was sent
		conn.SetDeadline(time.Now().Add(patience))
		if _, err = conn.Write([]byte("x")); err == nil {
			_, err = conn.Read(make([]byte, 1))
		}
		conn.Close()
	}
	if !errors.Is(err, want) {
		t.Errorf("a socket: %v, want %v", err, want)
	}
	text := want.Error()
	if want == context.DeadlineExceeded {
		text = "i/o timeout"
	}
	if got := in(t, p, "dial", network, dst.String()); !strings.HasSuffix(got, text) {
		t.Errorf("a program: %s, want %s", got, text)
	}
}

func TestSidecar(t *testing.T) {
	p := start(t, Spec{Files: []File{probe()}, Sidecars: []Sidecar{
		{Network: "tcp", Addr: netip.MustParseAddrPort("127.0.0.1:9000")},
		{Network: "udp", Addr: netip.MustParseAddrPort("127.0.0.1:9000")},
		{Network: "tcp", Addr: netip.MustParseAddrPort("[::1]:9001"), Serve: func(c net.Conn) { fmt.Fprint(c, "hello") }}}})
	for _, args := range [][]string{{"tcp", "127.0.0.1:9000"}, {"udp", "127.0.0.1:9000"}, {"tcp", "[::1]:9001"}} {
		if got := in(t, p, append([]string{"dial"}, args...)...); got != "connected" {
			t.Errorf("%v: %s", args, got)
		}
	}
	c, err := p.Inside.Dial(limit(t), "tcp", netip.AddrPort{}, netip.MustParseAddrPort("[::1]:9001"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if b, err := io.ReadAll(c); string(b) != "hello" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

func TestFiles(t *testing.T) {
	spec := Spec{
		Files: []File{probe(), {Path: "/app/menu", Data: "soup\xff"}, {Path: "/var/run/x", Data: "run"}},
		Volumes: []Volume{
			{Path: "/etc/orders", Files: map[string]string{"greeting": "hello", "a/b": "deep"}},
			{Path: "/var/run/secrets/orders", Files: map[string]string{"password": "secret"}, Mode: 0o440},
			{Path: "/data", Plain: true, Writable: true, Files: map[string]string{"x": "plain"}, Links: map[string]string{"out": "/etc/passwd"},
				Patterns: map[string]int64{"big": 3 << 20}},
			{Path: "/etc/one", Files: map[string]string{"one": "single"}, SubPath: "one"},
		},
		Main: Main{Argv: []string{"/app/probe", "serve"}},
	}
	if root() {
		spec.Volumes[1].GID = 2000
		spec.Main.UID, spec.Main.Groups = 1000, []int{2000}
	}
	p := start(t, spec)
	for path, want := range map[string]string{
		"/app/menu": "soup\xff", "/run/x": "run", "/etc/orders/greeting": "hello", "/etc/orders/..data/a/b": "deep",
		"/run/secrets/orders/password": "secret", "/data/x": "plain", "/etc/one": "single", "/etc/hostname": "podlet",
	} {
		if got := in(t, p, "cat", path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	if got := in(t, p, "write", "/etc/orders/y"); !strings.HasSuffix(got, unix.EROFS.Error()) && !strings.HasSuffix(got, unix.EACCES.Error()) {
		t.Errorf("writing into a volume: %q", got)
	}
	big := in(t, p, "cat", "/data/big")
	want := make([]byte, 3<<20)
	Pattern(want, 0)
	if big != strings.TrimSuffix(string(want), "\n") {
		t.Error("the pattern is another one")
	}
	update(t, p)
}

// update checks the switch of a ConfigMap, and that readers hold one version or the other.
func update(t *testing.T, p *Pod) {
	before, err := os.Readlink(fmt.Sprintf("/proc/%d/root/etc/orders/..data", p.MainPID()))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Update(limit(t), "/etc/orders", map[string]string{"greeting": "good evening", "new": "n"}); err != nil {
		t.Fatal(err)
	}
	if got := in(t, p, "cat", "/etc/orders/greeting"); got != "good evening" {
		t.Errorf("after the update: %q", got)
	}
	if got := in(t, p, "cat", "/etc/orders/new"); got != "n" {
		t.Errorf("a new name: %q", got)
	}
	for _, name := range []string{"a", before} {
		if got := in(t, p, "cat", "/etc/orders/"+name); !strings.Contains(got, unix.ENOENT.Error()) {
			t.Errorf("%s is left: %q", name, got)
		}
	}
	if err := p.Update(limit(t), "/nowhere", nil); err == nil {
		t.Error("there is no such volume")
	}
}

func TestHostFiles(t *testing.T) {
	p := start(t, Spec{Hostname: "web", Resolver: &Resolver{Addr: netip.MustParseAddr("10.96.0.10"), Search: []string{"shop.svc"}}})
	cat := Command{Argv: []string{"/bin/cat", "/etc/resolv.conf", "/proc/sys/kernel/hostname"}, Host: true}
	out, err := p.Output(limit(t), cat)
	if err != nil || !strings.Contains(out, "nameserver 10.96.0.10\n") || !strings.HasSuffix(out, "\nweb") {
		t.Errorf("%q, %v", out, err)
	}
	cat.Host, cat.Outside = false, true
	if out, err := p.Output(limit(t), cat); err != nil || strings.Contains(out, "10.96.0.10") {
		t.Errorf("outside: %q, %v", out, err)
	}
}

func TestResolver(t *testing.T) {
	var many []netip.Addr
	for i := range 100 {
		many = append(many, netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}))
	}
	p := start(t, Spec{Files: []File{probe()}, Resolver: &Resolver{
		Addr: netip.MustParseAddr("10.96.0.10"), Origin: "cluster.local", Search: []string{"shop.svc.cluster.local", "svc.cluster.local"},
		Zone: map[string][]netip.Addr{
			"warehouse.shop.svc.cluster.local": {netip.MustParseAddr("10.96.0.20"), netip.MustParseAddr("fd00::20")},
			"Many.example":                     many,
		},
		Alias: map[string]string{"store.example": "warehouse.shop.svc.cluster.local"}}})
	for _, c := range [][2]string{{"warehouse", "10.96.0.20 fd00::20"}, {"store.example", "10.96.0.20 fd00::20"}, {"none.example", "no such host"}} {
		if got := in(t, p, "host", c[0]); !strings.HasSuffix(got, c[1]) {
			t.Errorf("%s: %q, want %q", c[0], got, c[1])
		}
	}
	if got := in(t, p, "host", "many.example"); len(strings.Fields(got)) != len(many) {
		t.Errorf("a long answer: %q", got)
	}
	all := p.Questions()
	if len(all) != p.QuestionCount() || len(all) < 8 || !strings.HasPrefix(all[0], "warehouse.shop.svc.cluster.local. ") {
		t.Errorf("%d questions: %q", p.QuestionCount(), all)
	}
}

// TestNegativeAnswer looks at the record that says how long a name does not exist.
func TestNegativeAnswer(t *testing.T) {
	p := start(t, Spec{Resolver: &Resolver{Addr: netip.MustParseAddr("127.0.0.53"), Origin: "cluster.local", TTL: 7 * time.Second}})
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return p.Inside.Dial(ctx, network, netip.AddrPort{}, netip.MustParseAddrPort("127.0.0.53:53"))
	}}
	_, err := r.LookupHost(limit(t), "x.cluster.local.")
	var no *net.DNSError
	if !errors.As(err, &no) || !no.IsNotFound {
		t.Errorf("%v", err)
	}
	if p.QuestionCount() != 2 {
		t.Errorf("questions %q", p.Questions())
	}
}

func TestRestart(t *testing.T) {
	var out lockedBuffer
	p := start(t, Spec{Files: []File{probe()}, Volumes: []Volume{{Path: "/etc/orders", Files: map[string]string{"k": "v"}}},
		Main: Main{Argv: []string{"/app/probe", "serve", ":8080"}, Stdout: &out}})
	ctx := limit(t)
	at := netip.AddrPortFrom(p.Addr(false), 8080)
	if err := p.WaitListening(ctx, at); err != nil {
		t.Fatal(err)
	}
	first := p.Main()
	exe := func() string {
		var st unix.Stat_t
		if err := unix.Stat(fmt.Sprintf("/proc/%d/exe", p.MainPID()), &st); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(st.Dev, st.Ino)
	}
	was := exe()
	if err := p.Kill(ctx, syscall.SIGTERM); err != nil || out.String() != "ending\n" {
		t.Fatalf("%v, %q", err, out.String())
	}
	if _, err := p.Exec(ctx, "/app/probe", "id"); err == nil {
		t.Error("a command ran in a pod whose program has ended")
	}
	if err := p.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	gone(t, first.PID)
	if first.PID == p.MainPID() || exe() != was {
		t.Errorf("process %d of %s, then %d of %s", first.PID, was, p.MainPID(), exe())
	}
	if err := p.WaitListening(ctx, at); err != nil {
		t.Fatal(err)
	}
	if got := in(t, p, "cat", "/etc/orders/k"); got != "v" {
		t.Errorf("the volume: %q", got)
	}
	if _, err := p.Exec(ctx, "/app/probe", "exit"); err == nil || !strings.HasSuffix(err.Error(), "status 7") {
		t.Errorf("status 7: %v", err)
	}
}

// TestOwnerKilled: a pod without its owner is not left.
func TestOwnerKilled(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "owner")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var main, warden int
	_, err = fmt.Fscan(out, &main, &warden)
	pidfd, err2 := unix.PidfdOpen(main, 0)
	cmd.Process.Kill()
	cmd.Wait()
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	const soon = 10_000 // ms; it is 10
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, soon); n != 1 {
		t.Errorf("the pod's program runs on: %d, %v", n, err)
	}
}

func TestRefusals(t *testing.T) {
	for name, s := range map[string]Spec{
		"gateway":  {Addrs: []netip.Prefix{netip.MustParsePrefix("10.244.1.1/24")}},
		"relative": {Volumes: []Volume{{Path: "etc"}}},
		"outside":  {Volumes: []Volume{{Path: "/v", Files: map[string]string{"../x": ""}}}},
		"links":    {Volumes: []Volume{{Path: "/v", Links: map[string]string{"x": "y"}}}},
		"subPath":  {Volumes: []Volume{{Path: "/v", SubPath: "x"}}},
		"program":  {Main: Main{Argv: []string{"/none"}}},
		"file":     {Files: []File{{Path: "/x", Host: "/none"}}},
	} {
		p, err := Start(limit(t), s)
		if err == nil {
			p.Close()
			t.Errorf("%s: accepted", name)
		} else if fail.CodeOf(err) != fail.Internal {
			t.Errorf("%s: blames the machine: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(limit(t))
	cancel()
	if p, err := Start(ctx, Spec{}); !errors.Is(err, context.Canceled) {
		if p != nil {
			p.Close()
		}
		t.Errorf("cancelled: %v", err)
	}
}

// TestExplain: what the machine forbids is said with call, errno and a way out.
func TestExplain(t *testing.T) {
	for _, c := range []struct {
		call, hint string
	}{{"clone(CLONE_NEWNS)", "doctor"}, {"RTM_NEWLINK veth", "modprobe veth"}} {
		err := explain(failed(unix.EPERM, "%s", c.call))
		if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), c.call+": operation not permitted") || !strings.Contains(fail.Hint(err), c.hint) {
			t.Errorf("%v; hint %s", err, fail.Hint(err))
		}
	}
}
