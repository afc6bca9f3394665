package preload

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/mux"
)

// patience bounds every wait on a busy machine.
const patience = 30 * time.Second

var (
	podAddr = netip.MustParseAddr("10.244.1.9")
	pod6    = netip.MustParseAddr("fd00:10:244::9")
	client  = netip.MustParseAddrPort("192.0.2.7:4711")
)

// decider is a Handler for tests. Destinations: port 1 refuses, 2 answers when told to, 3 never, 4 is this machine's, 5 is
// denied; all others greet and echo.
type decider struct {
	files   Files
	mu      sync.Mutex
	said    []string
	moved   []string
	answer  chan error // for port 2
	host    bool       // everybody is a host program
	dropped chan struct{}
}

func (d *decider) Greet(int, string) bool { return !d.host }

func (d *decider) Route(_ string, dst netip.AddrPort) (bool, netip.AddrPort, error) {
	switch dst.Port() {
	case 4:
		return true, netip.MustParseAddrPort("127.0.0.1:4444"), nil
	case 5:
		return false, netip.AddrPort{}, syscall.EACCES
	}
	return false, netip.AddrPort{}, nil
}

func (d *decider) DialTCP(ctx context.Context, src, dst netip.AddrPort) (func(mux.End), error) {
	switch dst.Port() {
	case 1:
		return nil, fmt.Errorf("test: %w", syscall.ECONNREFUSED)
	case 2:
		select {
		case err := <-d.answer:
			if err != nil {
				return nil, err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	case 3:
		<-ctx.Done()
		close(d.dropped)
		return nil, ctx.Err()
	}
	return func(c mux.End) {
		_, _ = fmt.Fprintf(c, "hello %v", src.Addr())
		buf := make([]byte, 100)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			_, _ = c.Write(buf[:n])
		}
	}, nil
}

func (d *decider) ServeUDP(_ context.Context, a *Association) {
	buf := make([]byte, 2048)
	for {
		n, err := a.Read(buf)
		if err != nil {
			return
		}
		_, _ = fmt.Fprintf(a, "%s from %v to %v", buf[:n], a.RemoteAddr().Addr(), a.LocalAddr())
	}
}

func (d *decider) Own(a netip.Addr) netip.Addr {
	switch {
	case a.IsLoopback():
		return a
	case a.Is6():
		return pod6
	}
	return podAddr
}

func (d *decider) Lookup(_ context.Context, name string, family uint32) Found {
	if name != "orders" {
		return Found{Result: LookupNoName}
	}
	return Found{Addrs: []netip.Addr{podAddr, pod6}, Canonical: "orders.shop"}
}
func (d *decider) Reverse(_ context.Context, a netip.Addr) Found { return Found{Canonical: a.String()} }
func (d *decider) Resolve(_ context.Context, q []byte, _ bool) ([]byte, uint32) {
	return q, LookupFound
}
func (d *decider) Exec(_ int, program string) (uint32, []string, error) {
	if program == "/static" {
		return ExecWrap, []string{"/enter", "17"}, nil
	}
	return 0, nil, syscall.EPERM
}
func (d *decider) Notice(line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.said = append(d.said, line)
}
func (d *decider) Moved(_ string, asked, got netip.AddrPort) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.moved = append(d.moved, fmt.Sprintf("%v %v", asked, got.Port() != asked.Port()))
}

// serving starts a server.
func serving(t *testing.T, d *decider) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "stepin-p-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d.answer, d.dropped = make(chan error, 1), make(chan struct{})
	s, err := New(Config{Dir: dir, Serve: ServeTCP | ServeUDP, Hostname: "orders-1", Handler: d, Files: d.files, Stand: filepath.Join(dir, MountName),
		Table: []Rule{{Prefix: "/etc/config", Action: PathTranslate, To: dir + "/pod/etc/config", WriteError: syscall.EROFS}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// guest is what the library in a program does, in Go.
type guest struct {
	t *testing.T
	*net.UnixConn
}

func load(t *testing.T, s *Server) *guest {
	t.Helper()
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: s.path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &guest{t, c}
}

// asked is a question under way.
type asked struct {
	t    *testing.T
	pair *os.File
}

func (l *guest) ask(kind Kind, body any, tail []byte, along ...int) *asked {
	l.t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	message, err := Encode(Head{Kind: kind, PID: uint32(os.Getpid())}, body, tail)
	if err != nil {
		l.t.Fatal(err)
	}
	if _, _, err := l.WriteMsgUnix(message, unix.UnixRights(append([]int{fds[1]}, along...)...), nil); err != nil {
		l.t.Fatal(err)
	}
	unix.Close(fds[1])
	return &asked{l.t, os.NewFile(uintptr(fds[0]), "pair")}
}

// read reads the answer into body and returns its errno and tail, and how many descriptors came.
func (a *asked) read(body any) (errno syscall.Errno, tail []byte, files int) {
	a.t.Helper()
	defer a.pair.Close()
	c, err := net.FileConn(a.pair)
	if err != nil {
		a.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	buf, oob := make([]byte, MessageMax), make([]byte, unix.CmsgSpace(4*maxRights))
	n, oobn, _, _, err := c.(*net.UnixConn).ReadMsgUnix(buf, oob)
	if err != nil {
		a.t.Fatal("no answer: ", err)
	}
	h, rest, err := DecodeHead(buf[:n])
	if err != nil {
		a.t.Fatal(err)
	}
	if h.Error != 0 {
		return syscall.Errno(h.Error), nil, 0
	}
	if body != nil {
		if rest, err = DecodeBody(rest, body); err != nil {
			a.t.Fatal(err)
		}
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		a.t.Fatal(err)
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			a.t.Fatal(err)
		}
		for _, fd := range fds {
			files++
			unix.Close(fd)
		}
	}
	return 0, append([]byte(nil), rest...), files
}

// must is read for an answer without an errno.
func (a *asked) must(body any) []byte {
	a.t.Helper()
	no, tail, _ := a.read(body)
	if no != 0 {
		a.t.Fatal(no)
	}
	return tail
}

func (l *guest) greet(s *Server) HelloAnswer {
	l.t.Helper()
	q := HelloQuestion{}
	copy(q.Token[:], s.token)
	var answer HelloAnswer
	no, _, files := l.ask(KindHello, q, []byte("/bin/true")).read(&answer)
	if no != 0 || files != 1 {
		l.t.Fatalf("greeting: %v, %d descriptors", no, files)
	}
	return answer
}

func greeted(t *testing.T, d *decider) (*Server, *guest) {
	t.Helper()
	s := serving(t, d)
	l := load(t, s)
	l.greet(s)
	return s, l
}

func TestServerGreets(t *testing.T) {
	s := serving(t, &decider{})
	if want := fmt.Sprintf("1:-:%s:%s", s.token, filepath.Join(s.cfg.Dir, "preload")); s.Value() != want {
		t.Errorf("%s, not %s", s.Value(), want)
	}
	l := load(t, s)
	if no, _, _ := l.ask(KindListen, ListenQuestion{}, nil).read(nil); no != syscall.EACCES {
		t.Error("before the greeting:", no)
	}
	bad := HelloQuestion{}
	copy(bad.Token[:], "0123456789abcdef0123456789abcdef")
	if no, _, _ := load(t, s).ask(KindHello, bad, nil).read(nil); no != syscall.EACCES {
		t.Error("another's token:", no)
	}
	select {
	case <-s.First():
		t.Error("nobody has greeted")
	default:
	}
	a := load(t, s).greet(s)
	if a.Serve != ServeTCP|ServeUDP || string(a.Hostname[:8]) != "orders-1" || a.Table == 0 || a.Lost != LostFail {
		t.Errorf("%+v", a)
	}
	<-s.First()
	if a := load(t, serving(t, &decider{host: true})); a != nil {
		h := &decider{host: true}
		s := serving(t, h)
		if got := load(t, s).greet(s); got.Serve != 0 {
			t.Errorf("a host program: %+v", got)
		}
	}
}

func TestServerRefuses(t *testing.T) {
	_, l := greeted(t, &decider{})
	if no, _, _ := l.ask(Kind(999), nil, nil).read(nil); no != syscall.ENOSYS {
		t.Error("an unknown kind:", no)
	}
	for _, kind := range []Kind{KindConnect, KindBind, KindBound, KindListen, KindWho, KindDatagram, KindLookup, KindReverse, KindResolve, KindExec} {
		if no, _, _ := l.ask(kind, nil, []byte("x")).read(nil); no != syscall.EPROTO {
			t.Errorf("kind %d, malformed: %v", kind, no)
		}
	}
	if no, _, _ := l.ask(KindStat, PathQuestion{}, []byte("/x")).read(nil); no != syscall.ENOSYS {
		t.Error("files where there are none:", no)
	}
}

// socket is a program's socket.
type socket struct {
	t  *testing.T
	fd int
}

func tcp(t *testing.T, family int) socket {
	t.Helper()
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return socket{t, fd}
}

func (s socket) inode() uint64 {
	s.t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(s.fd, &st); err != nil {
		s.t.Fatal(err)
	}
	return st.Ino
}

func (s socket) read() string {
	s.t.Helper()
	buf := make([]byte, 100)
	tv := unix.NsecToTimeval(int64(patience))
	_ = unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	n, err := unix.Read(s.fd, buf)
	if err != nil {
		return err.Error()
	}
	return string(buf[:n])
}

// poll waits for the end of a connect under way, and returns its errno and events.
func (s socket) poll(wait time.Duration) (syscall.Errno, int16) {
	s.t.Helper()
	p := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}
	if n, err := unix.Poll(p, int(wait.Milliseconds())); err != nil || n == 0 {
		return 0, 0
	}
	no, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		s.t.Fatal(err)
	}
	return syscall.Errno(no), p[0].Revents
}

func ask(s socket, dst string, wait uint32) ConnectQuestion {
	return ConnectQuestion{Network: TCP, Wait: wait, Inode: s.inode(), To: AddressOf(netip.MustParseAddrPort(dst))}
}

func TestServerConnects(t *testing.T) {
	_, l := greeted(t, &decider{})
	for _, row := range []struct {
		dst  string
		want syscall.Errno
	}{{"203.0.113.7:1", syscall.ECONNREFUSED}, {"203.0.113.7:5", syscall.EACCES}} {
		if no, _, _ := l.ask(KindConnect, ask(tcp(t, unix.AF_INET), row.dst, 0), nil).read(nil); no != row.want {
			t.Errorf("%s: %v", row.dst, no)
		}
	}
	var a ConnectAnswer
	l.ask(KindConnect, ask(tcp(t, unix.AF_INET), "203.0.113.7:4", 0), nil).must(&a)
	if a.Verdict != VerdictHost || a.To.AddrPort() != netip.MustParseAddrPort("127.0.0.1:4444") {
		t.Errorf("this machine's: %+v", a)
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		c := tcp(t, family)
		dst := map[int]string{unix.AF_INET: "203.0.113.7:80", unix.AF_INET6: "[2001:db8::7]:80"}[family]
		l.ask(KindConnect, ask(c, dst, 0), nil).must(&a)
		if a.Verdict != VerdictPod {
			t.Fatalf("%+v", a)
		}
		if err := unix.Connect(c.fd, sockaddr(a.To.AddrPort())); err != nil {
			t.Fatal(err)
		}
		own := map[int]netip.Addr{unix.AF_INET: podAddr, unix.AF_INET6: pod6}[family]
		if got := c.read(); got != "hello "+own.String() {
			t.Error(got)
		}
		local, err := nameOf(c.fd)
		if err != nil {
			t.Fatal(err)
		}
		var who WhoAnswer
		l.ask(KindWho, WhoQuestion{Network: TCP, Local: mapped(local, a.To), Peer: a.To}, nil).must(&who)
		if who.Peer.AddrPort().String() != dst || who.Local.AddrPort() != netip.AddrPortFrom(own, local.Port()) {
			t.Errorf("%v and %v", who.Local.AddrPort(), who.Peer.AddrPort())
		}
	}
}

// TestStranger: whoever finds a flow's listener before the program does gets nothing, and takes nothing away.
func TestServerKnowsStrangers(t *testing.T) {
	_, l := greeted(t, &decider{})
	c := tcp(t, unix.AF_INET)
	var a ConnectAnswer
	l.ask(KindConnect, ask(c, "203.0.113.7:80", 0), nil).must(&a)
	stranger := tcp(t, unix.AF_INET)
	if err := unix.Connect(stranger.fd, sockaddr(a.To.AddrPort())); err != nil {
		t.Fatal(err)
	}
	if got := stranger.read(); got != syscall.ECONNRESET.Error() {
		t.Error("the stranger reads", got)
	}
	if err := unix.Connect(c.fd, sockaddr(a.To.AddrPort())); err != nil {
		t.Fatal(err)
	}
	if got := c.read(); got != "hello "+podAddr.String() {
		t.Error(got)
	}
}

// lately begins a connect that the pod does not answer in time.
func lately(t *testing.T, l *guest, dst string) socket {
	t.Helper()
	c := tcp(t, unix.AF_INET)
	if err := unix.SetNonblock(c.fd, true); err != nil {
		t.Fatal(err)
	}
	var a ConnectAnswer
	l.ask(KindConnect, ask(c, dst, LateMS), nil).must(&a)
	if a.Verdict != VerdictLater {
		t.Fatalf("%+v", a)
	}
	if err := unix.Connect(c.fd, sockaddr(a.To.AddrPort())); err != unix.EINPROGRESS {
		t.Fatal(err)
	}
	if no, events := c.poll(50 * time.Millisecond); events != 0 {
		t.Fatalf("an event before the pod's answer: %v %x", no, events)
	}
	return c
}

func TestServerConnectsLate(t *testing.T) {
	t.Run("accepted", func(t *testing.T) {
		d := &decider{}
		_, l := greeted(t, d)
		c := lately(t, l, "203.0.113.7:2")
		d.answer <- nil
		if no, events := c.poll(patience); no != 0 || events != unix.POLLOUT {
			t.Fatalf("%v %x", no, events)
		}
		if err := unix.SetNonblock(c.fd, false); err != nil {
			t.Fatal(err)
		}
		if got := c.read(); got != "hello "+podAddr.String() {
			t.Error(got)
		}
	})
	t.Run("refused", func(t *testing.T) {
		d := &decider{}
		_, l := greeted(t, d)
		c := lately(t, l, "203.0.113.7:2")
		d.answer <- syscall.ECONNREFUSED
		if no, _ := c.poll(patience); no != syscall.ECONNREFUSED {
			t.Error(no)
		}
	})
	t.Run("never", func(t *testing.T) {
		d := &decider{}
		s, l := greeted(t, d)
		lately(t, l, "203.0.113.7:3")
		s.Close()
		<-d.dropped
	})
	t.Run("by a signal", func(t *testing.T) {
		d := &decider{}
		_, l := greeted(t, d)
		c := tcp(t, unix.AF_INET)
		q := l.ask(KindConnect, ask(c, "203.0.113.7:2", 0), nil)
		message, err := Encode(Head{Kind: KindLater}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := q.pair.Write(message); err != nil {
			t.Fatal(err)
		}
		var a ConnectAnswer
		if q.must(&a); a.Verdict != VerdictLater {
			t.Errorf("%+v", a)
		}
	})
	t.Run("nobody waits", func(t *testing.T) {
		d := &decider{}
		_, l := greeted(t, d)
		l.ask(KindConnect, ask(tcp(t, unix.AF_INET), "203.0.113.7:3", 0), nil).pair.Close()
		<-d.dropped
	})
}

// listening binds and listens as the library does.
func listening(t *testing.T, l *guest, asked netip.AddrPort) (socket, netip.AddrPort) {
	t.Helper()
	c := tcp(t, unix.AF_INET)
	var b BindAnswer
	l.ask(KindBind, BindQuestion{Network: TCP, Inode: c.inode(), Asked: AddressOf(asked)}, nil).must(&b)
	at := asked
	if b.Verdict == VerdictPod {
		at = b.At.AddrPort()
	}
	if err := unix.Bind(c.fd, sockaddr(at)); err != nil {
		l.ask(KindBind, BindQuestion{Network: TCP, Inode: c.inode(), Asked: AddressOf(asked), Flags: BindTaken, Reason: int32(err.(syscall.Errno))}, nil).must(&b)
		if err := unix.Bind(c.fd, sockaddr(b.At.AddrPort())); err != nil {
			t.Fatal(err)
		}
	}
	got, err := nameOf(c.fd)
	if err != nil {
		t.Fatal(err)
	}
	l.ask(KindBound, BoundQuestion{Network: TCP, Inode: c.inode(), Asked: AddressOf(asked), Got: AddressOf(got)}, nil).must(nil)
	if err := unix.Listen(c.fd, 5); err != nil {
		t.Fatal(err)
	}
	l.ask(KindListen, ListenQuestion{Network: TCP, Inode: c.inode(), At: AddressOf(got)}, nil).must(nil)
	return c, got
}

func TestServerDelivers(t *testing.T) {
	d := &decider{}
	s, l := greeted(t, d)
	taken, err := net.Listen("tcp", "127.0.0.1:0") // by another program of this machine's
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	asked := netip.AddrPortFrom(podAddr, taken.Addr().(*net.TCPAddr).AddrPort().Port())
	c, got := listening(t, l, asked)
	d.mu.Lock()
	if len(d.moved) != 1 || d.moved[0] != asked.String()+" true" {
		t.Errorf("moved: %v", d.moved)
	}
	d.mu.Unlock()
	all, err := s.Listeners()
	if err != nil || len(all) != 1 || all[0].Addr != asked {
		t.Fatalf("%v, %v", all, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	near, err := s.Deliver(ctx, client, asked)
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	fd, peer, err := unix.Accept4(c.fd, unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	p := peer.(*unix.SockaddrInet4)
	var who WhoAnswer
	l.ask(KindWho, WhoQuestion{Network: TCP, Local: AddressOf(got), Peer: AddressOf(netip.AddrPortFrom(netip.AddrFrom4(p.Addr), uint16(p.Port)))}, nil).must(&who)
	if who.Peer.AddrPort() != client || who.Local.AddrPort() != asked {
		t.Errorf("%v at %v", who.Peer.AddrPort(), who.Local.AddrPort())
	}
	l.ask(KindWho, WhoQuestion{Network: TCP, Local: AddressOf(got)}, nil).must(&who)
	if who.Local.AddrPort() != asked {
		t.Errorf("its own address: %v", who.Local.AddrPort())
	}
	var b BindAnswer
	if no, _, _ := l.ask(KindBind, BindQuestion{Network: TCP, Asked: AddressOf(asked), Flags: BindTaken, Reason: int32(syscall.EADDRINUSE)}, nil).read(&b); no != syscall.EADDRINUSE {
		t.Error("the debuggee's own port again:", no)
	}
	unix.Close(c.fd)
	if all, err := s.Listeners(); err != nil || len(all) != 0 {
		t.Errorf("closed: %v, %v", all, err)
	}
	if _, err := s.Deliver(ctx, client, netip.AddrPortFrom(podAddr, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Error("nobody listens:", err)
	}
}

func TestServerDatagrams(t *testing.T) {
	s, l := greeted(t, &decider{})
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := socket{t, fd}
	defer unix.Close(fd)
	var a ConnectAnswer
	q := DatagramQuestion{Inode: c.inode(), To: AddressOf(netip.MustParseAddrPort("203.0.113.7:53"))}
	l.ask(KindDatagram, q, nil).must(&a)
	if a.Verdict != VerdictPod || a.TTL != datagramTTL {
		t.Fatalf("%+v", a)
	}
	other, err := net.Dial("udp", a.To.AddrPort().String()) // a stranger's is dropped
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.Write([]byte("stranger")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Sendto(fd, []byte("hi"), 0, sockaddr(a.To.AddrPort())); err != nil {
		t.Fatal(err)
	}
	if got := c.read(); got != "hi from 10.244.1.9 to 203.0.113.7:53" {
		t.Error(got)
	}
	local, err := nameOf(fd)
	if err != nil {
		t.Fatal(err)
	}
	var who WhoAnswer
	l.ask(KindWho, WhoQuestion{Network: UDP, Local: AddressOf(local), Peer: a.To}, nil).must(&who)
	if who.Peer.AddrPort().String() != "203.0.113.7:53" || who.Local.AddrPort().Addr() != podAddr {
		t.Errorf("%+v", who)
	}
	again := a
	l.ask(KindDatagram, q, nil).must(&again)
	if again.To != a.To {
		t.Error("another relay for the same")
	}
	// A datagram of a client's, to a port that the program has.
	l.ask(KindBound, BoundQuestion{Network: UDP, Inode: c.inode(), Asked: AddressOf(netip.AddrPortFrom(podAddr, 5353)), Got: AddressOf(netip.AddrPortFrom(loopback4, local.Port()))}, nil).must(nil)
	if err := s.SendUDP(client, netip.AddrPortFrom(podAddr, 5353), []byte("stolen")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, from, err := unix.Recvfrom(fd, buf, 0)
	if err != nil || string(buf[:n]) != "stolen" {
		t.Fatal(string(buf[:n]), err)
	}
	at := from.(*unix.SockaddrInet4)
	l.ask(KindWho, WhoQuestion{Network: UDP, Local: AddressOf(netip.AddrPortFrom(loopback4, local.Port())), Peer: AddressOf(netip.AddrPortFrom(netip.AddrFrom4(at.Addr), uint16(at.Port)))}, nil).must(&who)
	if who.Peer.AddrPort() != client {
		t.Errorf("%+v", who)
	}
	if err := unix.Sendto(fd, []byte("answer"), 0, from); err != nil {
		t.Fatal(err)
	}
	if got := c.read(); got != "answer from 10.244.1.9 to 192.0.2.7:4711" {
		t.Error(got)
	}
}

func TestServerNames(t *testing.T) {
	d := &decider{}
	s, l := greeted(t, d)
	var f LookupAnswer
	tail := l.ask(KindLookup, LookupQuestion{}, []byte("orders")).must(&f)
	if f.Result != LookupFound || f.Count != 2 || string(tail[2*24:]) != "orders.shop" {
		t.Errorf("%+v %q", f, tail)
	}
	if l.ask(KindLookup, LookupQuestion{}, []byte("nobody")).must(&f); f.Result != LookupNoName {
		t.Errorf("%+v", f)
	}
	var e ExecAnswer
	if words := l.ask(KindExec, ExecQuestion{}, []byte("/static")).must(&e); e.Verdict != ExecWrap || e.Count != 2 || string(words) != "/enter\x0017\x00" {
		t.Errorf("%+v %q", e, words)
	}
	if no, _, _ := l.ask(KindExec, ExecQuestion{}, []byte("/other")).read(nil); no != syscall.EPERM {
		t.Error(no)
	}
	l.ask(KindNotice, Notice{}, []byte("a line")).pair.Close()
	l.ask(KindListen, ListenQuestion{Network: TCP}, nil).must(nil) // it comes after
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.said) != 1 || d.said[0] != "a line" {
		t.Errorf("%q", d.said)
	}
	s.Close()
	if _, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: s.path, Net: "unixpacket"}); err == nil {
		t.Error("it serves on after its end")
	}
}
