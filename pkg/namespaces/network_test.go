package namespaces

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The pod's addresses in these tests, and a client's that nobody here has.
var (
	pod4    = netip.MustParseAddr("10.244.1.9")
	pod6    = netip.MustParseAddr("fd00:10:244::9")
	client4 = netip.MustParseAddr("192.0.2.7")
	client6 = netip.MustParseAddr("2001:db8::7")
)

func networkPlan(t testing.TB) Plan {
	p := plan(t)
	p.Addrs = []netip.Addr{pod4, pod6}
	return p
}

func ownTCP(t testing.TB, n *Namespaces, port uint16) {
	t.Helper()
	for range 2 { // twice is once
		if err := n.OwnPort("tcp", port); err != nil {
			t.Fatal(err)
		}
	}
}

// The debuggee may bind to the pod's addresses and to port 80, and a listener's own address is the pod's.
func TestAddress(t *testing.T) {
	n := start(t, networkPlan(t), pod(t, nil))
	spawn(t, n, "listen", "tcp", pod4.String()+":80", "["+pod6.String()+"]:80", "0.0.0.0:81")
	for _, port := range []uint16{80, 81, 82} { // else the session is asked
		ownTCP(t, n, port)
	}
	for _, c := range []struct{ addr, local, want string }{
		{pod4.String() + ":80", "", "me 10.244.1.9:80"},
		{pod4.String() + ":80", pod4.String() + ":7777", "peer 10.244.1.9:7777 me 10.244.1.9:80"},
		{pod4.String() + ":81", "", "me 10.244.1.9:81"},
		{"[" + pod6.String() + "]:80", "", "me [fd00:10:244::9]:80"},
		{pod4.String() + ":82", "", "connection refused"},
	} {
		args := []string{"tcp", c.addr}
		if c.local != "" {
			args = append(args, c.local)
		}
		if got := dial(t, n, args...); !strings.HasSuffix(got, c.want) {
			t.Errorf("%v: %q, want %q", args, got, c.want)
		}
	}
}

// transparent connects as a client whose address is not ours, and returns what the listener says.
func transparent(t testing.TB, n *Namespaces, from, to netip.AddrPort) (net.Conn, string, error) {
	t.Helper()
	family := unix.AF_INET
	if from.Addr().Is6() {
		family = unix.AF_INET6
	}
	f, err := n.TransparentSocket(family)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	if err := connect(f, from, to); err != nil {
		return nil, "", err
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, "", err
	}
	c.SetDeadline(time.Now().Add(3 * time.Second))
	b := make([]byte, 200)
	k, err := c.Read(b)
	return c, string(b[:k]), err
}

// connect binds and connects a socket that does not block.
func connect(f *os.File, from, to netip.AddrPort) (err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	raw.Control(func(fd uintptr) {
		if err = unix.Bind(int(fd), sockaddr(from)); err != nil {
			err = fmt.Errorf("bind: %w", err)
			return
		}
		err = unix.Connect(int(fd), sockaddr(to))
		if errors.Is(err, unix.EINPROGRESS) {
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
			unix.Poll(p, 3000)
			var e int
			e, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
			if err == nil && e != 0 {
				err = unix.Errno(e)
			}
		}
	})
	return err
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// accept tells the true peer, and a client's address and port may come again at once, whoever closed first.
func TestTransparent(t *testing.T) {
	n := start(t, networkPlan(t), pod(t, nil))
	spawn(t, n, "listen", "tcp", ":8080", "127.0.0.1:8081")
	ownTCP(t, n, 8080)
	ownTCP(t, n, 8081)
	for _, c := range []struct {
		name     string
		from, to netip.AddrPort
	}{
		{"IPv4", netip.AddrPortFrom(client4, 40000), netip.AddrPortFrom(pod4, 8080)},
		{"IPv6", netip.AddrPortFrom(client6, 40000), netip.AddrPortFrom(pod6, 8080)},
		{"listener on the loopback", netip.AddrPortFrom(client4, 40000), netip.MustParseAddrPort("127.0.0.1:8081")},
		{"the pod's own address", netip.AddrPortFrom(pod4, 40001), netip.AddrPortFrom(pod4, 8080)},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i := range 40 { // more than a batch
				conn, said, err := transparent(t, n, c.from, c.to)
				if want := fmt.Sprintf("peer %v me %v", c.from, c.to); err != nil || said != want {
					t.Fatalf("connection %d: %q %v, want %q", i, said, err, want)
				}
				conn.(*net.TCPConn).CloseWrite() // as a client that closes first: it may come again when both have closed
				if k, err := conn.Read(make([]byte, 1)); err != io.EOF {
					t.Fatalf("connection %d: %d %v", i, k, err)
				}
				conn.Close()
			}
		})
	}
	if err := n.DisownPort("tcp", 8080); err != nil {
		t.Error(err)
	}
	if err := n.DisownPort("tcp", 8080); err != nil {
		t.Error("again:", err)
	}
}

// A client's address and port come again while the connection before is still open here; it makes room when told to.
func TestTransparentAgainWhileOpen(t *testing.T) {
	n := start(t, networkPlan(t), pod(t, nil))
	spawn(t, n, "listen", "tcp", ":8080")
	ownTCP(t, n, 8080)
	for _, c := range [][2]netip.AddrPort{
		{netip.AddrPortFrom(client4, 40000), netip.AddrPortFrom(pod4, 8080)},
		{netip.AddrPortFrom(client6, 40000), netip.AddrPortFrom(pod6, 8080)},
	} {
		old, _, err := transparent(t, n, c[0], c[1])
		if err != nil {
			t.Fatal(err)
		}
		defer old.Close()
		if _, _, err := transparent(t, n, c[0], c[1]); !errors.Is(err, unix.EADDRNOTAVAIL) {
			t.Errorf("%v a second time: %v", c[0], err)
		}
		if err := n.Destroy(c[0], c[1]); err != nil {
			t.Fatal(err)
		}
		if _, err := old.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNABORTED) {
			t.Errorf("the first connection of %v: %v", c[0], err)
		}
		again, _, err := transparent(t, n, c[0], c[1])
		if err != nil {
			t.Fatal(err)
		}
		again.Close()
		if err := n.Destroy(netip.AddrPortFrom(c[0].Addr(), 40001), c[1]); !errors.Is(err, unix.ENOENT) {
			t.Errorf("ending what is not there: %v", err)
		}
	}
}

// The listener closes first: its end is in TIME_WAIT when the client comes again.
func TestTransparentListenerClosesFirst(t *testing.T) {
	n := start(t, networkPlan(t), pod(t, nil))
	spawn(t, n, "listen", "tcp-close", pod4.String()+":8080")
	ownTCP(t, n, 8080)
	from, to := netip.AddrPortFrom(client4, 40000), netip.AddrPortFrom(pod4, 8080)
	for i := range 20 {
		conn, said, err := transparent(t, n, from, to)
		if errors.Is(err, unix.EADDRNOTAVAIL) { // on a busy machine our own end waits for its last acknowledgement still
			if err := n.Destroy(from, to); err != nil && !errors.Is(err, unix.ENOENT) {
				t.Fatal(err)
			}
			conn, said, err = transparent(t, n, from, to)
		}
		if err != nil {
			t.Fatalf("connection %d: %q %v", i, said, err)
		}
		if k, err := conn.Read(make([]byte, 1)); err == nil {
			t.Fatalf("%d bytes more", k)
		}
		conn.Close()
	}
}

// A port of the debuggee's own is native from wherever; any other loopback port goes to the session.
func TestLoopback(t *testing.T) {
	n := start(t, networkPlan(t), pod(t, nil))
	spawn(t, n, "listen", "tcp", ":8080")
	ownTCP(t, n, 8080)
	for _, c := range []struct{ to, from, want string }{
		{"127.0.0.1:8080", "", "me 127.0.0.1:8080"},
		{"127.0.0.1:8080", "127.0.0.6:6000", "peer 127.0.0.6:6000 me 127.0.0.1:8080"},
		{"127.0.0.6:8080", "", "me 127.0.0.6:8080"},
		{"127.0.0.1:8080", pod4.String() + ":6001", "peer 10.244.1.9:6001 me 127.0.0.1:8080"},
		{pod4.String() + ":8080", "127.0.0.1:6002", "peer 127.0.0.1:6002 me 10.244.1.9:8080"},
		{pod4.String() + ":8080", "", "me 10.244.1.9:8080"},
		{"[::1]:8080", "", "me [::1]:8080"},
		{"[" + pod6.String() + "]:8080", "", "me [fd00:10:244::9]:8080"},
	} {
		args := []string{"tcp", c.to}
		if c.from != "" {
			args = append(args, c.from)
		}
		if got := dial(t, n, args...); !strings.HasSuffix(got, c.want) {
			t.Errorf("%v: %q, want %q", args, got, c.want)
		}
	}
	spawn(t, n, "listen", "udp", "127.0.0.1:5353")
	if err := n.OwnPort("udp", 5353); err != nil {
		t.Fatal(err)
	}
	if got := dial(t, n, "udp", "127.0.0.1:5353", "127.0.0.1:6003"); got != "peer 127.0.0.1:6003" {
		t.Errorf("udp: %q", got)
	}
}

// syn is the first packet of a flow as the session reads it from the TUN device.
type syn struct {
	protocol uint8
	src, dst netip.AddrPort
	raw      []byte
}

// nextSyn reads the next TCP SYN or UDP datagram.
func nextSyn(t testing.TB, n *Namespaces) syn {
	t.Helper()
	n.Tun().SetReadDeadline(time.Now().Add(3 * time.Second))
	b := make([]byte, MTU)
	for {
		k, err := n.Tun().Read(b)
		if err != nil {
			t.Fatal("reading the TUN device:", err)
		}
		p := b[:k]
		var s syn
		var src, dst []byte
		if p[0]>>4 == 4 {
			s.protocol, src, dst, s.raw = p[9], p[12:16], p[16:20], p[20:]
		} else {
			s.protocol, src, dst, s.raw = p[6], p[8:24], p[24:40], p[40:]
		}
		if s.protocol != unix.IPPROTO_UDP && s.protocol != unix.IPPROTO_TCP {
			continue
		}
		a, _ := netip.AddrFromSlice(src)
		d, _ := netip.AddrFromSlice(dst)
		s.src = netip.AddrPortFrom(a, binary.BigEndian.Uint16(s.raw))
		s.dst = netip.AddrPortFrom(d, binary.BigEndian.Uint16(s.raw[2:]))
		return s
	}
}

// reset makes the packet that refuses s, for IPv4 and IPv6.
func (s syn) reset() []byte {
	tcp := make([]byte, 20)
	binary.BigEndian.PutUint16(tcp, s.dst.Port())
	binary.BigEndian.PutUint16(tcp[2:], s.src.Port())
	binary.BigEndian.PutUint32(tcp[8:], binary.BigEndian.Uint32(s.raw[4:])+1)
	tcp[12], tcp[13] = 5<<4, 0x14 // RST, ACK
	from, to := s.dst.Addr().AsSlice(), s.src.Addr().AsSlice()
	pseudo := append(append(append([]byte{}, from...), to...), 0, 0, 0, 20, 0, 0, 0, unix.IPPROTO_TCP)
	binary.BigEndian.PutUint16(tcp[16:], checksum(append(pseudo, tcp...)))
	if s.src.Addr().Is6() {
		head := []byte{6 << 4, 0, 0, 0, 0, 20, unix.IPPROTO_TCP, 64}
		return append(append(append(head, from...), to...), tcp...)
	}
	head := []byte{0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, unix.IPPROTO_TCP, 0, 0}
	head = append(append(head, from...), to...)
	binary.BigEndian.PutUint16(head[10:], checksum(head))
	return append(head, tcp...)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// What is not the debuggee's own comes out of the TUN device with true addresses, the loopback included, and the answer gets
// back: by the device, or for ::1 by Loopback6. Meanwhile Owner finds who asks.
func TestOutgoing(t *testing.T) {
	n := start(t, networkPlan(t), pod(t, nil))
	spawn(t, n, "listen", "tcp", ":8080")
	ownTCP(t, n, 8080)
	exe, _ := os.Executable()
	for _, c := range []struct {
		network, dst string
		src          netip.Addr
	}{
		{"tcp", "10.96.0.10:5432", pod4},
		{"tcp", "[2001:db8::1]:443", pod6},
		{"tcp", "127.0.0.1:9999", netip.MustParseAddr("127.0.0.1")},
		{"tcp", "127.0.0.53:53", netip.MustParseAddr("127.0.0.1")},
		{"tcp", "[::1]:9999", pod6},
		{"udp", "10.96.0.10:53", pod4},
		{"udp", "127.0.0.53:53", netip.MustParseAddr("127.0.0.1")},
		{"udp", "[2001:db8::1]:53", pod6},
	} {
		t.Run(c.network+" "+c.dst, func(t *testing.T) {
			argv := n.Wrap([]string{exe, "inside", "dial", c.network, c.dst})
			cmd := exec.Command(argv[0], argv[1:]...)
			var out strings.Builder
			cmd.Stdout = &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			s := nextSyn(t, n)
			if s.dst.String() != c.dst || s.src.Addr() != c.src {
				t.Errorf("from %v to %v, want from %v to %v", s.src, s.dst, c.src, c.dst)
			}
			if pid, err := n.Owner(c.network, s.src, s.dst); err != nil || pid != cmd.Process.Pid {
				t.Errorf("owner %d %v, want %d", pid, err, cmd.Process.Pid)
			}
			if c.network == "udp" {
				cmd.Process.Kill()
				cmd.Wait()
				if pid, err := n.Owner(c.network, s.src, s.dst); !errors.Is(err, ErrNoOwner) {
					t.Errorf("owner of a dead one: %d %v", pid, err)
				}
				return
			}
			way := n.Tun()
			if s.dst.Addr().IsLoopback() && s.dst.Addr().Is6() {
				if way = n.Loopback6(); way == nil {
					t.Fatal("no way into ::1")
				}
			}
			if _, err := way.Write(s.reset()); err != nil {
				t.Fatal(err)
			}
			cmd.Wait()
			if !strings.Contains(out.String(), "connection refused") {
				t.Errorf("the answer did not arrive: %q", out.String())
			}
		})
	}
}

// An IPv6 socket that speaks IPv4, as Java's are, and a UDP socket that is not connected have an owner as well; of two processes
// that send from such sockets each is found.
func TestOwner(t *testing.T) {
	n := start(t, networkPlan(t), pod(t, nil))
	exe, _ := os.Executable()
	for _, network := range []string{"tcp", "udp", "tcp", "udp"} {
		argv := n.Wrap([]string{exe, "inside", "mapped", network, "10.96.0.10:53"})
		cmd := exec.Command(argv[0], argv[1:]...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		var s syn
		for known := true; known; { // a SYN comes again each second
			s = nextSyn(t, n)
			pid, err := n.Owner(network, s.src, s.dst)
			known = err == nil && pid != cmd.Process.Pid
		}
		if pid, err := n.Owner(network, s.src, s.dst); err != nil || pid != cmd.Process.Pid {
			t.Errorf("%s from %v: owner %d %v, want %d", network, s.src, pid, err, cmd.Process.Pid)
		}
	}
	if _, err := n.Owner("tcp", netip.MustParseAddrPort("10.244.1.9:1"), netip.MustParseAddrPort("10.96.0.10:53")); !errors.Is(err, ErrNoOwner) {
		t.Error("owner of nothing:", err)
	}
}

func TestNoIPv6Pod(t *testing.T) {
	p := plan(t)
	p.Addrs = []netip.Addr{pod4}
	n := start(t, p, pod(t, nil))
	for dst, want := range map[string]string{"[2001:db8::1]:1": "network is unreachable", "[::1]:1": "connection refused"} {
		if got := dial(t, n, "tcp", dst); !strings.HasSuffix(got, want) {
			t.Errorf("%s: %q, want %q", dst, got, want)
		}
	}
}

func TestListeners(t *testing.T) {
	n := start(t, networkPlan(t), pod(t, nil))
	cmd, _ := spawn(t, n, "listen", "tcp", "127.0.0.1:8081", "[::1]:8082", ":8083", "10.244.1.9:8084")
	spawn(t, n, "listen", "udp", "127.0.0.1:5353", ":5354")
	spawn(t, n, "listen", "tcp6", ":8085")
	got, err := n.Listeners()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{"tcp 127.0.0.1:8081 false": true, "tcp [::1]:8082 true": true, "tcp [::]:8083 false": true, "tcp 10.244.1.9:8084 false": true,
		"udp 127.0.0.1:5353 false": true, "udp [::]:5354 false": true, "tcp [::]:8085 true": true}
	for _, l := range got {
		key := fmt.Sprintf("%s %v %v", l.Network, l.Addr, l.V6Only)
		if !want[key] {
			t.Errorf("%s was not asked for", key)
		}
		delete(want, key)
		if l.Addr.Port() == 8081 && !holdsSocket(cmd.Process.Pid, l.Inode) {
			t.Errorf("inode %d is not the listener's", l.Inode)
		}
	}
	for k := range want {
		t.Errorf("%s is missing", k)
	}
}

func FuzzMessages(f *testing.F) {
	f.Add([]byte{})
	f.Add((&kernelSocket{}).encode(request{kind: 3, body: []byte{1, 2, 3, 4}}))
	f.Add((&kernelSocket{}).encode(request{kind: unix.NLMSG_ERROR, body: []byte{255, 255, 255, 255}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		msgs, err := parseMessages(b)
		if err != nil {
			return
		}
		total := 0
		for _, m := range msgs {
			total += unix.SizeofNlMsghdr + len(m.body)
			m.errno()
			parseSocket(m.body)
			attribute(m.body, inetDiagSKV6Only)
		}
		if total > len(b) {
			t.Errorf("%d bytes out of %d", total, len(b))
		}
	})
}

func FuzzSocket(f *testing.F) {
	good := make([]byte, inetDiagMsgSize)
	good[0] = unix.AF_INET6
	f.Add(appendAttribute(good, inetDiagSKV6Only, 1))
	f.Add([]byte{unix.AF_INET})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSocket(b)
		if err == nil && (!s.local.IsValid() || len(b) < inetDiagMsgSize) {
			t.Errorf("%v from %d bytes", s, len(b))
		}
	})
}
