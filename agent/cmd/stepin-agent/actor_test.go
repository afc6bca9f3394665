package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// The actor is the pod of these tests: this test binary again, in namespaces of its own, which does what the test tells
// it by JSON lines. A second network namespace, joined by a veth pair, is where its clients are.
const (
	actorEnv  = "STEPIN_TEST_ACTOR"
	podIP     = "10.77.0.2"
	clientIP  = "10.77.0.3"
	podIP6    = "fd77::2"
	clientIP6 = "fd77::3"
	podName   = "orders-0"
	secretGID = 2000
	podUID    = 1000
	// Names that are not UTF-8.
	latin1, latin1Link = "caf\xe9", "\xfelink"
)

type command struct {
	Do                    string
	ID                    string
	Network, Addr, Text   string
	Client                bool // in the clients' network
	Milliseconds, N, Size int
}

type reply struct {
	Text, Err     string
	Local, Remote string
	N             int
}

type actor struct {
	client func(func() error) error
	mu     sync.Mutex
	conns  map[string]net.Conn
	stalls []net.Conn
	spare  int
}

// With spareEnv the pod has a second process of the same executable, which outlives the first.
const (
	spareEnv    = "STEPIN_TEST_SPARE"
	sparePrefix = "spare:"
)

func (a *actor) startSpare(root string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(exe)
	cmd.Env = []string{actorEnv + "=" + sparePrefix + root}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	a.spare = cmd.Process.Pid
	return nil
}

// actorMain is the whole life of the actor; root is an empty directory.
func actorMain(root string) error {
	a := &actor{conns: map[string]net.Conn{}}
	if spareRoot, ok := strings.CutPrefix(root, sparePrefix); ok {
		time.AfterFunc(time.Minute, func() { os.Exit(0) }) // nobody else ends it when the test was killed
		if err := unix.Chroot(spareRoot); err != nil {
			return err
		}
		if os.Getenv(spareEnv) == "pod's user" {
			if err := becomePodUser(); err != nil {
				return err
			}
		}
		select {}
	}
	if err := a.build(root); err != nil {
		return fmt.Errorf("building the pod: %w", err)
	}
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(reply{Text: "ready", N: os.Getpid()}); err != nil {
		return err
	}
	in := json.NewDecoder(os.Stdin)
	for {
		var c command
		if err := in.Decode(&c); err != nil {
			return nil
		}
		r, err := a.perform(c)
		if err != nil {
			r.Err = err.Error()
		}
		if err := out.Encode(r); err != nil {
			return err
		}
	}
}

// build makes the pod: networks, mounts, root, user.
func (a *actor) build(root string) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Sethostname([]byte(podName)); err != nil {
		return fmt.Errorf("sethostname: %w", err)
	}
	if err := a.network(); err != nil {
		return err
	}
	_ = os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0)
	if err := a.mounts(root); err != nil {
		return err
	}
	if os.Getenv(spareEnv) != "" {
		if err := a.startSpare(root); err != nil {
			return fmt.Errorf("the spare: %w", err)
		}
	}
	if err := unix.Chroot(root); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if os.Getenv("STEPIN_TEST_USER") != "" {
		return nil // root of its user namespace
	}
	return becomePodUser()
}

func becomePodUser() error {
	if err := syscall.Setgroups([]int{secretGID}); err != nil {
		return err
	}
	if err := syscall.Setgid(podUID); err != nil {
		return err
	}
	if err := syscall.Setuid(podUID); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) // as a program is that a runtime has executed as this user
}

func (a *actor) network() error {
	jobs, ready := make(chan func()), make(chan error)
	var peer *os.File
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			peer, err = os.Open("/proc/thread-self/ns/net")
		}
		ready <- err
		for f := range jobs {
			f()
		}
	}()
	if err := <-ready; err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	a.client = func(f func() error) error {
		done := make(chan error)
		jobs <- func() { done <- f() }
		return <-done
	}
	defer peer.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(peer.Fd())}); err != nil {
		return fmt.Errorf("veth: %w", err)
	}
	if err := addresses(podIP, podIP6); err != nil {
		return err
	}
	return a.client(func() error { return addresses(clientIP, clientIP6) })
}

func addresses(ip4, ip6 string) error {
	for _, l := range []struct {
		name  string
		addrs []string
	}{{"lo", nil}, {"eth0", []string{ip4 + "/24", ip6 + "/64"}}} {
		link, err := netlink.LinkByName(l.name)
		if err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
		for _, s := range l.addrs {
			addr, err := netlink.ParseAddr(s)
			if err != nil {
				return err
			}
			addr.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(link, addr); err != nil {
				return fmt.Errorf("%s: %w", s, err)
			}
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
	}
	return nil
}

// mounts makes the pod's root: a ConfigMap-like volume, a Secret of a supplementary group, a plain volume, links that
// try to leave.
func (a *actor) mounts(root string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	if err := unix.Mount("pod", root, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	at := func(p string) string { return filepath.Join(root, p) }
	for _, d := range []string{"etc/ssl/certs", "config", "secret", "data", "app", "tmp"} {
		if err := os.MkdirAll(at(d), 0o755); err != nil {
			return err
		}
	}
	for _, v := range []string{"config", "secret", "data"} {
		if err := unix.Mount(v, at(v), "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("%s: %w", v, err)
		}
	}
	for p, text := range map[string]string{"etc/resolv.conf": "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
		"app/file": "hello", "data/large": strings.Repeat("0123456789abcdef", 20000)} {
		if err := os.WriteFile(at(p), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := switchVolume(at("config"), "1", 1000); err != nil {
		return err
	}
	if err := os.WriteFile(at("secret/key"), []byte("canary"), 0o440); err != nil {
		return err
	}
	if os.Getenv("STEPIN_TEST_USER") == "" {
		if err := os.Chown(at("secret/key"), 0, secretGID); err != nil {
			return err
		}
		if err := os.WriteFile(at("secret/root"), []byte("canary"), 0o400); err != nil {
			return err
		}
		if err := os.Chmod(at("config"), 0o777); err != nil {
			return err
		}
	}
	for _, l := range [][2]string{{"/etc/shadow", "app/absolute"}, {"../../../../../../etc/passwd", "app/relative"}, {"/app", "data/dir"}} {
		if err := os.Symlink(l[0], at(l[1])); err != nil {
			return err
		}
	}
	if err := unix.Mkfifo(at("data/fifo"), 0o666); err != nil {
		return err
	}
	if err := os.WriteFile(at("data/"+latin1), []byte("latin-1"), 0o644); err != nil {
		return err
	}
	if err := os.Symlink(latin1, at("data/"+latin1Link)); err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.WriteFile(at("app/server"), nil, 0o755); err != nil {
		return err
	}
	return unix.Mount(exe, at("app/server"), "", unix.MS_BIND, "")
}

// switchVolume does what kubelet's atomic writer does: a new directory, and ..data renamed to it.
func switchVolume(dir, version string, files int) error {
	fresh := "..v" + version
	if err := os.Mkdir(filepath.Join(dir, fresh), 0o755); err != nil {
		return err
	}
	for i := range files {
		name := fmt.Sprintf("key%d", i)
		if err := os.WriteFile(filepath.Join(dir, fresh, name), []byte("value "+version), 0o644); err != nil {
			return err
		}
		if err := os.Symlink("..data/"+name, filepath.Join(dir, name)); err != nil && !os.IsExist(err) {
			return err
		}
	}
	if err := os.Symlink(fresh, filepath.Join(dir, "..tmp")); err != nil {
		return err
	}
	return os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data"))
}

func (a *actor) perform(c command) (r reply, err error) {
	inside := func(f func() error) error {
		if c.Client {
			return a.client(f)
		}
		return f()
	}
	switch c.Do {
	case "serve":
		return r, a.serve(c)
	case "dns":
		return r, serveDNS(c.Addr)
	case "connect":
		var conn net.Conn
		d := net.Dialer{Timeout: 5 * time.Second}
		if c.Network == "udp" {
			d.Timeout = 0
		}
		if err := inside(func() (err error) { conn, err = d.Dial(c.Network, c.Addr); return err }); err != nil {
			return r, err
		}
		a.conns[c.ID] = conn
		return reply{Local: conn.LocalAddr().String(), Remote: conn.RemoteAddr().String()}, nil
	case "ask":
		return a.ask(c)
	case "close":
		return r, a.conns[c.ID].Close()
	case "stall": // N connections whose this end neither reads nor closes
		return r, inside(func() error { return a.stall(c) })
	case "unstall":
		for _, s := range a.stalls {
			s.Close()
		}
		a.stalls = nil
	case "switch":
		return r, switchVolume("/config", c.Text, c.N)
	case "successor":
		return reply{N: a.spare}, nil
	case "exit":
		os.Exit(0)
	default:
		err = fmt.Errorf("what is %q?", c.Do)
	}
	return r, err
}

// serve answers each line, or datagram, with Text and what came.
func (a *actor) serve(c command) error {
	if strings.HasPrefix(c.Network, "udp") {
		p, err := net.ListenPacket(c.Network, c.Addr)
		if err != nil {
			return err
		}
		go func() {
			b := make([]byte, 65536)
			for {
				n, from, err := p.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = p.WriteTo([]byte(c.Text+" "+string(b[:n])), from)
			}
		}()
		return nil
	}
	l, err := net.Listen(c.Network, c.Addr)
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if c.Text == "" { // a listener that never reads
				a.mu.Lock()
				a.stalls = append(a.stalls, conn)
				a.mu.Unlock()
				continue
			}
			if c.Size > 0 { // and one that writes without end
				go func() {
					b := make([]byte, 64<<10)
					for {
						if _, err := conn.Write(b); err != nil {
							return
						}
					}
				}()
				continue
			}
			go echo(conn, c.Text)
		}
	}()
	return nil
}

func echo(conn io.ReadWriteCloser, word string) {
	defer conn.Close()
	lines := bufio.NewReader(conn)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		if _, err := io.WriteString(conn, word+" "+line); err != nil {
			return
		}
	}
}

func (a *actor) ask(c command) (r reply, err error) {
	conn := a.conns[c.ID]
	if conn == nil {
		return r, fmt.Errorf("no connection %q", c.ID)
	}
	wait := 5 * time.Second
	if c.Milliseconds > 0 {
		wait = time.Duration(c.Milliseconds) * time.Millisecond
	}
	if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
		return r, err
	}
	text := c.Text
	if conn.LocalAddr().Network() == "tcp" {
		text += "\n"
	}
	if _, err := io.WriteString(conn, text); err != nil {
		return r, err
	}
	b := make([]byte, 65536)
	n, err := conn.Read(b)
	return reply{Text: strings.TrimSpace(string(b[:n]))}, err
}

func (a *actor) stall(c command) error {
	for range c.N {
		conn, err := net.Dial(c.Network, c.Addr)
		if err != nil {
			return err
		}
		a.stalls = append(a.stalls, conn)
		if c.Size > 0 {
			go func() { _, _ = conn.Write(make([]byte, c.Size)) }()
		}
	}
	return nil
}

// serveDNS is a small name server: one name has an address, one has too many for UDP, one never gets an answer.
func serveDNS(addr string) error {
	p, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	go func() {
		b := make([]byte, 4096)
		for {
			n, from, err := p.ReadFrom(b)
			if err != nil {
				return
			}
			if a := dnsAnswer(b[:n], false); a != nil {
				_, _ = p.WriteTo(a, from)
			}
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 4096)
			if n, err := c.Read(b); err == nil && n > 2 {
				a := dnsAnswer(b[2:n], true)
				_, _ = c.Write(append([]byte{byte(len(a) >> 8), byte(len(a))}, a...))
			}
			c.Close()
		}
	}()
	return nil
}

func dnsAnswer(query []byte, tcp bool) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	m.Response = true
	a := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 5},
		Body: &dnsmessage.AResource{A: netip.MustParseAddr("10.77.0.9").As4()}}
	switch q.Name.String() {
	case "known.pod.":
		m.Answers = []dnsmessage.Resource{a}
	case "large.pod.":
		if m.Truncated = !tcp; tcp {
			for range 100 {
				m.Answers = append(m.Answers, a)
			}
		}
	case "broken.pod.":
		m.RCode = dnsmessage.RCodeServerFailure
	case "silent.pod.":
		return nil
	default:
		m.RCode = dnsmessage.RCodeNameError
	}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}
