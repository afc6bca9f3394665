package preload

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// pod is a session and a pod in one, for the library's tests: it answers the questions by rules that a test can read off
// an address. Ports of TCP: 80 accepts, 81 refuses, 82 is out of reach; 2080, 2081 and 2083 accept, refuse and stay
// silent 200 ms later. Datagrams come back with their destination in front. Goroutines: one per connection of the
// library, per flow and per relay; all end with the test.
type pod struct {
	t        *testing.T
	listener *net.UnixListener
	variable string

	mu      sync.Mutex
	who     map[netip.AddrPort]netip.AddrPort // the other end's address on loopback, and the one it stands for
	relays  map[netip.AddrPort]netip.AddrPort // a destination of datagrams and its relay
	asked   map[netip.AddrPort]netip.AddrPort // what the kernel gave for a bind, and what was asked for
	count   map[Kind]int
	listens chan netip.AddrPort
	notices []string
	hello   func() (HelloAnswer, int32) // nil: all is served
	deaf    bool                        // the connection closes after the greeting
	leaks   bool                        // the sanitized library reports them
	ttl     uint32
	closers []io.Closer
}

const (
	soon      = 200 * time.Millisecond
	podIP     = "10.1.2.3"
	podName   = "orders-7d9f"
	clientIP  = "192.0.2.7"
	lateBase  = 2000
	accepting = 80
	refusing  = 81
	faraway   = 82
	silent    = 83
)

func newPod(t *testing.T) *pod {
	t.Helper()
	// A socket's path has 107 bytes at most; t.TempDir is longer in long tests.
	dir, err := os.MkdirTemp("", "stepin")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	p := &pod{t: t, listener: l, variable: fmt.Sprintf("%s=%d:-:%s:%s", Variable, Version, hex.EncodeToString(make([]byte, TokenLen/2)), path),
		who: map[netip.AddrPort]netip.AddrPort{}, relays: map[netip.AddrPort]netip.AddrPort{}, asked: map[netip.AddrPort]netip.AddrPort{},
		count: map[Kind]int{}, listens: make(chan netip.AddrPort, 16), ttl: 1000}
	t.Cleanup(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		l.Close()
		for _, c := range p.closers {
			c.Close()
		}
	})
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			p.closeLater(c)
			go p.serve(c)
		}
	}()
	return p
}

func (p *pod) closeLater(c io.Closer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closers = append(p.closers, c)
}

// counted returns how many questions of a kind there were.
func (p *pod) counted(k Kind) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count[k]
}

func (p *pod) serve(c *net.UnixConn) {
	defer c.Close()
	buf, oob := make([]byte, MessageMax), make([]byte, 128)
	for {
		n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
		if err != nil || n == 0 {
			return
		}
		pair := -1
		if messages, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(messages) > 0 {
			if fds, err := unix.ParseUnixRights(&messages[0]); err == nil {
				pair = fds[0]
			}
		}
		head, rest, err := DecodeHead(append([]byte(nil), buf[:n]...))
		if err != nil {
			p.t.Error(err)
			return
		}
		p.mu.Lock()
		p.count[head.Kind]++
		p.mu.Unlock()
		answer := func(body any, tail []byte, errno int32, fds ...int) {
			p.answer(pair, head.Kind, body, tail, errno, fds...)
		}
		switch head.Kind {
		case KindConnect:
			go p.connect(pair, rest, answer)
		case KindLookup, KindResolve, KindReverse:
			go p.name(head.Kind, rest, answer)
		default:
			p.quick(head.Kind, rest, answer)
		}
		if p.deaf {
			return
		}
	}
}

func (p *pod) answer(pair int, kind Kind, body any, tail []byte, errno int32, fds ...int) {
	if pair < 0 {
		return
	}
	defer unix.Close(pair)
	if errno != 0 {
		body, tail = nil, nil
	}
	message, err := Encode(Head{Kind: kind | KindAnswer, Error: errno}, body, tail)
	if err != nil {
		p.t.Error(err)
		return
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(pair, message, rights, nil, unix.MSG_NOSIGNAL); err != nil && !errors.Is(err, unix.EPIPE) {
		p.t.Errorf("answering kind %d: %v", kind, err)
	}
}

func (p *pod) quick(kind Kind, rest []byte, answer func(any, []byte, int32, ...int)) {
	switch kind {
	case KindHello:
		h := HelloAnswer{Serve: ServeTCP | ServeUDP | ServeNames | ServeHostname}
		copy(h.Hostname[:], podName)
		var errno int32
		if p.hello != nil {
			h, errno = p.hello()
		}
		answer(h, nil, errno)
	case KindBind:
		q := decode[BindQuestion](p, rest)
		at := q.Asked.AddrPort()
		switch {
		case q.Flags&BindTaken != 0:
			answer(BindAnswer{Verdict: VerdictPod, At: AddressOf(netip.AddrPortFrom(loopback(at.Addr()), 0))}, nil, 0)
		case at.Addr().String() == podIP:
			answer(BindAnswer{Verdict: VerdictPod, At: AddressOf(netip.AddrPortFrom(loopback(at.Addr()), at.Port()))}, nil, 0)
		default:
			answer(BindAnswer{}, nil, 0)
		}
	case KindBound:
		q := decode[BoundQuestion](p, rest)
		p.mu.Lock()
		p.asked[q.Got.AddrPort()] = q.Asked.AddrPort()
		p.mu.Unlock()
		answer(nil, nil, 0)
	case KindListen:
		q := decode[ListenQuestion](p, rest)
		answer(nil, nil, 0)
		p.listens <- q.At.AddrPort()
	case KindWho:
		q := decode[WhoQuestion](p, rest)
		p.mu.Lock()
		defer p.mu.Unlock()
		answer(WhoAnswer{TTL: p.ttl, Local: AddressOf(p.asked[q.Local.AddrPort()]), Peer: AddressOf(p.who[unmapped(q.Peer)])}, nil, 0)
	case KindDatagram:
		q := decode[DatagramQuestion](p, rest)
		answer(ConnectAnswer{Verdict: VerdictPod, TTL: p.ttl, To: AddressOf(p.relay(q.To.AddrPort()))}, nil, 0)
	case KindNotice:
		p.mu.Lock()
		p.notices = append(p.notices, string(rest[8:]))
		p.mu.Unlock()
	default:
		answer(nil, nil, int32(unix.ENOSYS))
	}
}

func decode[T any](p *pod, rest []byte) (body T) {
	if _, err := DecodeBody(rest, &body); err != nil {
		p.t.Error(err)
	}
	return body
}

func unmapped(a Address) netip.AddrPort {
	at := a.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// loopback is the address of loopback in the family of another.
func loopback(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

// greet writes where a flow was going, and echoes.
func greet(c net.Conn, to netip.AddrPort) {
	defer c.Close()
	fmt.Fprintf(c, "pod %s\n", to)
	io.Copy(c, c)
}

func (p *pod) connect(pair int, rest []byte, answer func(any, []byte, int32, ...int)) {
	q := decode[ConnectQuestion](p, rest)
	to := q.To.AddrPort()
	if q.Network == UDP {
		answer(ConnectAnswer{Verdict: VerdictPod, TTL: p.ttl, To: AddressOf(p.relay(to))}, nil, 0)
		return
	}
	how, wait := to.Port(), time.Duration(0)
	if how >= lateBase {
		how, wait = how-lateBase, soon
	}
	ended := time.After(wait)
	if how == silent {
		ended = nil
	}
	var late *late
	if wait > 0 {
		if p.impatient(pair, q.Wait, ended) {
			late = p.full(to)
			answer(ConnectAnswer{Verdict: VerdictLater, To: AddressOf(late.at)}, nil, 0)
			if ended == nil {
				return
			}
			<-ended
		}
	}
	switch {
	case how == refusing && late != nil:
		late.refuse()
	case how == refusing:
		answer(nil, nil, int32(unix.ECONNREFUSED))
	case how == faraway:
		answer(nil, nil, int32(unix.EHOSTUNREACH))
	case late != nil:
		late.complete()
	case how != accepting:
		answer(ConnectAnswer{}, nil, 0)
	default:
		l, err := net.Listen("tcp", net.JoinHostPort(loopback(to.Addr()).String(), "0"))
		if err != nil {
			p.t.Error(err)
			return
		}
		defer l.Close()
		at := netip.MustParseAddrPort(l.Addr().String())
		p.stand(at, to)
		answer(ConnectAnswer{Verdict: VerdictPod, To: AddressOf(at)}, nil, 0)
		if c, err := l.Accept(); err == nil {
			p.closeLater(c)
			go greet(c, to)
		}
	}
}

func (p *pod) stand(at, forWhom netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.who[at] = forWhom
}

// impatient waits for the dial's end (false), or until the asker no longer waits (true): after wait ms, or at SP_LATER.
func (p *pod) impatient(pair int, wait uint32, ended <-chan time.Time) bool {
	later := make(chan struct{})
	stop, stopped, err := os.Pipe()
	if err != nil {
		p.t.Error(err)
		return false
	}
	go func() {
		defer close(later)
		fds := []unix.PollFd{{Fd: int32(pair), Events: unix.POLLIN}, {Fd: int32(stop.Fd()), Events: unix.POLLIN}}
		for {
			if _, err := unix.Poll(fds, -1); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}()
	defer func() { stopped.Close(); <-later; stop.Close() }()
	var limit <-chan time.Time
	if wait > 0 {
		limit = time.After(time.Duration(wait) * time.Millisecond)
	}
	select {
	case <-ended:
		return false
	case <-limit:
	case <-later:
	}
	return true
}

// late is a listener whose queue is full: who connects to it waits.
type late struct {
	p      *pod
	fd     int
	filler net.Conn
	at, to netip.AddrPort
}

func (p *pod) full(to netip.AddrPort) *late {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
			unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0))
	}
	if err != nil {
		p.t.Error(err)
		return nil
	}
	name, _ := unix.Getsockname(fd)
	l := &late{p: p, fd: fd, to: to, at: netip.AddrPortFrom(loopback(netip.IPv4Unspecified()), uint16(name.(*unix.SockaddrInet4).Port))}
	if l.filler, err = net.Dial("tcp", l.at.String()); err != nil {
		p.t.Error(err)
	}
	p.closeLater(l.filler)
	p.stand(l.at, to)
	return l
}

func (l *late) refuse() {
	unix.Close(l.fd)
	l.filler.Close()
}

// complete opens from the listener's port towards the socket that is connecting to it.
func (l *late) complete() {
	from, err := l.connecting()
	if err != nil {
		l.p.t.Error(err)
		return
	}
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(l.at), Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		})
	}}
	d.SetMultipathTCP(false)
	c, err := d.Dial("tcp", from.String())
	if err != nil {
		l.p.t.Errorf("simultaneous open from %s to %s: %v", l.at, from, err)
		return
	}
	l.p.closeLater(c)
	l.refuse()
	greet(c, l.to)
}

// connecting finds who has sent a SYN to the listener (proc_net_tcp: state 02).
func (l *late) connecting() (netip.AddrPort, error) {
	data, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return netip.AddrPort{}, err
	}
	remote := fmt.Sprintf("0100007F:%04X", l.at.Port())
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) > 3 && f[2] == remote && f[3] == "02" {
			_, digits, _ := strings.Cut(f[1], ":")
			port, err := strconv.ParseUint(digits, 16, 16)
			return netip.AddrPortFrom(l.at.Addr(), uint16(port)), err
		}
	}
	return netip.AddrPort{}, fmt.Errorf("nobody connects to %s", l.at)
}

// relay returns the relay of a destination, which sends each datagram back with the destination in front.
func (p *pod) relay(to netip.AddrPort) netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	if at, ok := p.relays[to]; ok {
		return at
	}
	c, err := net.ListenPacket("udp", net.JoinHostPort(loopback(to.Addr()).String(), "0"))
	if err != nil {
		p.t.Error(err)
		return netip.AddrPort{}
	}
	p.closers = append(p.closers, c)
	at := netip.MustParseAddrPort(c.LocalAddr().String())
	p.relays[to], p.who[at] = at, to
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			out := append([]byte(to.String()+" "), buf[:n]...)
			if to.Port() == 53 {
				out = dns(p.t, buf[:n], false)
			}
			c.WriteTo(out, from)
		}
	}()
	return at
}

// The pod's names.
func lookup(name string) (out []netip.Addr, result uint32) {
	switch strings.TrimSuffix(name, ".") {
	case "payments", "payments.shop.svc.cluster.local":
		return []netip.Addr{netip.MustParseAddr("10.96.7.8"), netip.MustParseAddr("fd00::7:8")}, LookupFound
	case "slow":
		return nil, LookupTryAgain
	case "localhost":
		return nil, LookupAskHost
	}
	return nil, LookupNoName
}

func (p *pod) name(kind Kind, rest []byte, answer func(any, []byte, int32, ...int)) {
	switch kind {
	case KindLookup:
		var q LookupQuestion
		tail, _ := DecodeBody(rest, &q)
		all, result := lookup(string(tail))
		var out []byte
		count := uint32(0)
		for _, a := range all {
			if q.Family == 0 || (q.Family == familyV4) == a.Is4() {
				raw, _ := Encode(Head{}, AddressOf(netip.AddrPortFrom(a, 0)), nil)
				out = append(out, raw[HeadLen:]...)
				count++
			}
		}
		if result == LookupFound && count == 0 {
			result = LookupNoData
		}
		canonical := ""
		if result == LookupFound && q.Flags&LookupCanonical != 0 {
			canonical = "payments.shop.svc.cluster.local"
		}
		answer(LookupAnswer{Result: result, Count: count, Canonical: uint32(len(canonical))}, append(out, canonical...), 0)
	case KindReverse:
		q := decode[ReverseQuestion](p, rest)
		if q.Address.AddrPort().Addr().String() != "10.96.7.8" {
			answer(LookupAnswer{Result: LookupNoName}, nil, 0)
			return
		}
		name := "payments.shop.svc.cluster.local"
		answer(LookupAnswer{Canonical: uint32(len(name))}, []byte(name), 0)
	case KindResolve:
		var q ResolveQuestion
		tail, _ := DecodeBody(rest, &q)
		answer(ResolveAnswer{}, dns(p.t, tail, q.Flags&ResolveSearch != 0), 0)
	}
}

// dns answers a query for addresses or texts; search stands for the pod's search list.
func dns(t *testing.T, query []byte, search bool) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) != 1 {
		t.Errorf("a query that is none (%v): %x", err, query)
		return nil
	}
	q := m.Questions[0]
	name := q.Name.String()
	all, result := lookup(name)
	if !search && !strings.Contains(name, "svc") {
		all, result = nil, LookupNoName
	}
	out := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions}
	if result == LookupNoName {
		out.RCode = dnsmessage.RCodeNameError
	}
	head := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, Type: q.Type, TTL: 5}
	for _, a := range all {
		switch {
		case q.Type == dnsmessage.TypeA && a.Is4():
			out.Answers = append(out.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: a.As4()}})
		case q.Type == dnsmessage.TypeAAAA && a.Is6():
			out.Answers = append(out.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	packed, err := out.Pack()
	if err != nil {
		t.Error(err)
	}
	return packed
}
