package mirror

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Real tests run in network namespaces of their own: the pod's, and one for its clients, joined by a veth pair. Neither
// needs a right of the machine's.
const (
	insideEnv = "STEPIN_TEST_MIRROR"
	pod4      = "10.78.0.2"
	pod6      = "fd78::2"
	outside4  = "10.78.0.3"
	outside6  = "fd78::3"
)

// inside runs the test again in such namespaces, and says whether this is that run.
func inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideEnv) != "" {
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) {
		t.Skipf("this machine forbids namespaces: %v", err)
	}
	if t.Logf("%s", out); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("in namespaces of its own: %v", err)
	}
	return false
}

// rig is the pod's network, where the test itself is, and its clients'.
type rig struct {
	t       *testing.T
	outside func(func() error) error
	capture *Capture
	mu      sync.Mutex
	copies  []*Copy
	said    []string
	taker   *Taker
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t}
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
		t.Fatal(err)
	}
	defer peer.Close()
	r.outside = func(f func() error) error {
		done := make(chan error)
		jobs <- func() { done <- f() }
		return <-done
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(peer.Fd())})
	if err = errors.Join(err, up(pod4, pod6), r.outside(func() error { return up(outside4, outside6) })); err != nil {
		t.Fatal(err)
	}
	return r
}

func up(addrs ...string) error {
	for name, list := range map[string][]string{"lo": nil, "eth0": addrs} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		for _, a := range list {
			bits := "/24"
			if strings.Contains(a, ":") {
				bits = "/64"
			}
			addr, err := netlink.ParseAddr(a + bits)
			if err != nil {
				return err
			}
			addr.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(link, addr); err != nil {
				return err
			}
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
	}
	return nil
}

// mirror begins to capture; a copy's bytes are read by whoever wants them.
func (r *rig) mirror(ports ...Port) {
	r.t.Helper()
	socket, err := Open()
	if err != nil {
		r.t.Fatal(err)
	}
	if r.capture, err = Start(socket, 0, slog.New(slog.DiscardHandler)); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(r.capture.Close)
	r.taker = &Taker{Ports: ports, Take: func(c *Copy) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.copies = append(r.copies, c)
	}, Notice: func(line string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.said = append(r.said, line)
	}}
	if err := r.capture.Add(r.taker); err != nil {
		r.t.Fatal(err)
	}
}

// copied waits for n copies and returns what each has from its beginning to its end.
func (r *rig) copied(n int) (all []string) {
	r.t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		r.mu.Lock()
		copies := slices.Clone(r.copies)
		r.mu.Unlock()
		if len(copies) < n && time.Now().Before(end) {
			continue
		}
		if len(copies) < n {
			r.t.Fatalf("%d copies of %d", len(copies), n)
		}
		for _, c := range copies {
			all = append(all, r.whole(c))
		}
		return all
	}
}

func (r *rig) whole(c *Copy) string {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	defer c.Leave(false)
	var b bytes.Buffer
	for {
		data, err := c.Next(ctx)
		if err == io.EOF {
			return b.String()
		}
		if err != nil {
			r.t.Errorf("%v behind %d bytes", err, b.Len())
			return b.String()
		}
		b.Write(data)
	}
}

// serve accepts at an address of the pod's and gives each connection to f.
func (r *rig) serve(addr string, f func(net.Conn)) {
	r.t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go f(c)
		}
	}()
}

// dial connects from the clients' network.
func (r *rig) dial(addr string) (c net.Conn) {
	r.t.Helper()
	if err := r.outside(func() (err error) {
		c, err = net.DialTimeout("tcp", addr, 10*time.Second)
		return err
	}); err != nil {
		r.t.Fatal(err)
	}
	return c
}

// drain reads all and says how much that was.
func drain(c net.Conn) {
	n, _ := io.Copy(io.Discard, c)
	fmt.Fprintln(c, n)
	c.Close()
}

// upload sends data and waits until the server has it.
func upload(t *testing.T, c net.Conn, data []byte) {
	t.Helper()
	defer c.Close()
	if _, err := c.Write(data); err != nil {
		t.Error(err)
	}
	_ = c.(*net.TCPConn).CloseWrite()
	if answer, err := io.ReadAll(c); err != nil || strings.TrimSpace(string(answer)) != fmt.Sprint(len(data)) {
		t.Errorf("the server got %s bytes, %v", answer, err)
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// nft runs a rule in a network; false says that this machine has no nft.
func nft(t *testing.T, in func(func() error) error, rules string) bool {
	t.Helper()
	path, err := exec.LookPath("nft")
	if err != nil {
		t.Log("left out: there is no nft")
		return false
	}
	if err := in(func() error {
		out, err := exec.Command(path, rules).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%v: %s", err, out)
		}
		return nil
	}); err != nil {
		t.Log("left out: ", err)
		return false
	}
	return true
}

// TestUploads: what clients send is copied byte by byte, however the network has it: in frames far larger than the MTU, on
// lo, over IPv6, by a network that loses frames.
func TestUploads(t *testing.T) {
	if !inside(t) {
		return
	}
	r := newRig(t)
	r.serve(":8080", drain)
	r.mirror(Port{Number: 8080})
	largest := 0
	r.capture.mu.Lock()
	r.capture.sawForTest = func(f frame) { largest = max(largest, len(f.data)) }
	r.capture.mu.Unlock()
	const size = 4 << 20
	check := func(what, addr string, within bool) {
		t.Helper()
		data := randomBytes(size)
		r.mu.Lock()
		before := len(r.copies)
		r.mu.Unlock()
		got := make(chan string, 1)
		go func() {
			for {
				r.mu.Lock()
				if len(r.copies) > before {
					c := r.copies[before]
					r.mu.Unlock()
					got <- r.whole(c)
					return
				}
				r.mu.Unlock()
				time.Sleep(time.Millisecond)
			}
		}()
		var c net.Conn
		if within {
			var err error
			if c, err = net.Dial("tcp", addr); err != nil {
				t.Fatal(err)
			}
		} else {
			c = r.dial(addr)
		}
		upload(t, c, data)
		select {
		case copied := <-got:
			if sha256.Sum256([]byte(copied)) != sha256.Sum256(data) {
				t.Errorf("%s: %d bytes copied, of %d, or others", what, len(copied), len(data))
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: no copy", what)
		}
	}
	check("IPv4", pod4+":8080", false)
	check("IPv6", "["+pod6+"]:8080", false)
	check("lo", "127.0.0.1:8080", true)
	check("lo, IPv6", "[::1]:8080", true)
	check("its own address", pod4+":8080", true)
	r.capture.mu.Lock()
	if largest < 16<<10 {
		t.Errorf("the largest frame had %d bytes: receive offload was not tried", largest)
	}
	r.capture.mu.Unlock()
	if nft(t, r.outside, "table inet t { chain o { type filter hook output priority 0; numgen random mod 100 < 5 drop; }; }") {
		check("a network that loses frames", pod4+":8080", false)
		check("a network that loses frames, IPv6", "["+pod6+"]:8080", false)
	}
	in := func(f func() error) error { return f() }
	if nft(t, in, "table inet u { chain i { type filter hook input priority 0; tcp dport 8080 numgen random mod 100 < 5 drop; }; }") {
		check("a pod that has what was seen sent again", pod4+":8080", false)
	}
	if n := r.taker.Counts.Lost.Load(); n != 0 || r.capture.Dropped() != 0 {
		t.Errorf("%d bytes lost, %d frames dropped", n, r.capture.Dropped())
	}
}

// TestMeshes: connections to a service that a sidecar ends are copied once, in plain text: by redirect, as Istio and Linkerd
// do, and by TLS that is ended on the service's own port.
func TestMeshes(t *testing.T) {
	if !inside(t) {
		return
	}
	certificate := selfSigned(t)
	proxy := func(c net.Conn) {
		defer c.Close()
		secure := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{certificate}})
		if secure.Handshake() != nil {
			return
		}
		up, err := net.Dial("tcp", "127.0.0.1:8080")
		if err != nil {
			return
		}
		defer up.Close()
		go func() { _, _ = io.Copy(up, secure); _ = up.(*net.TCPConn).CloseWrite() }()
		_, _ = io.Copy(secure, up)
	}
	t.Run("redirected", func(t *testing.T) { mesh(t, true, proxy) })
	t.Run("on the same port", func(t *testing.T) { mesh(t, false, proxy) })
}

func mesh(t *testing.T, redirected bool, proxy func(net.Conn)) {
	r := newRig(t)
	t.Cleanup(func() {
		if err := netlink.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}}); err != nil {
			t.Error(err)
		}
		_ = exec.Command("nft", "flush ruleset").Run()
	})
	if redirected {
		in := func(f func() error) error { return f() }
		if !nft(t, in, "table ip m { chain p { type nat hook prerouting priority -100; iifname eth0 tcp dport 8080 redirect to :15006; }; }") {
			return
		}
		r.serve(":15006", proxy)
	} else {
		r.serve(pod4+":8080", proxy)
	}
	r.serve("127.0.0.1:8080", drain)
	r.mirror(Port{Number: 8080})
	var want []string
	for i := range 3 {
		secure := tls.Client(r.dial(pod4+":8080"), &tls.Config{InsecureSkipVerify: true})
		text := fmt.Sprintf("request %d in plain text", i)
		if _, err := io.WriteString(secure, text); err != nil {
			t.Fatal(err)
		}
		_ = secure.CloseWrite()
		if answer, err := io.ReadAll(secure); err != nil || strings.TrimSpace(string(answer)) != fmt.Sprint(len(text)) {
			t.Fatalf("%q, %v", answer, err)
		}
		secure.Close()
		want = append(want, text)
	}
	time.Sleep(holdFor + 4*tick) // what is held is decided by then
	r.mu.Lock()
	n := len(r.copies)
	r.mu.Unlock()
	if got := r.copied(n); !slices.Equal(got, want) {
		t.Errorf("copied %q, want %q", got, want)
	}
	if len(r.said) != 1 || !strings.Contains(r.said[0], "end in a sidecar") {
		t.Errorf("said %q", r.said)
	}
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestService: an ordinary service's connections from elsewhere are not held back, many at a time are all there, and a port
// that nobody asked for is nobody's business.
func TestService(t *testing.T) {
	if !inside(t) {
		return
	}
	r := newRig(t)
	r.serve(":8080", drain)
	r.serve(":9090", drain)
	r.mirror(Port{Number: 8080})
	const conns = 200
	var want []string
	var wait sync.WaitGroup
	for i := range conns {
		text := fmt.Sprintf("request %03d", i)
		want = append(want, text)
		c, other := r.dial(pod4+":8080"), r.dial(pod4+":9090")
		wait.Go(func() { upload(t, c, []byte(text)) })
		wait.Go(func() { upload(t, other, []byte("not to be copied")) })
	}
	wait.Wait()
	got := r.copied(conns)
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("%d copies: %q", len(got), got)
	}
	// Frames of a taker that is gone are not looked at any more.
	r.capture.Remove(r.taker)
	c := r.dial(pod4 + ":8080")
	upload(t, c, []byte("unseen"))
	time.Sleep(4 * retireWait)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.copies) != conns {
		t.Errorf("%d copies after the end", len(r.copies)-conns)
	}
}
