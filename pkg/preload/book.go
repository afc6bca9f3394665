package preload

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/namespaces"
)

// Bounds of the tables. A program that has more loses what it has said first, and then sees the kernel's own addresses.
const (
	maxBook  = 16384
	maxFlows = 65536
)

// bound is a socket of the debuggee's as it asked for it and as it is.
type bound struct {
	network    string
	inode      uint64
	asked, got netip.AddrPort // asked has a port always
	listening  bool           // a TCP socket that listens, or a UDP one
	since      time.Time
}

// book holds the debuggee's bound sockets by inode.
type book struct {
	mu   sync.Mutex
	open map[uint64]*bound
}

// note remembers a socket, over what was known of its inode: the kernel gives those again.
func (b *book) note(e *bound) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open == nil {
		b.open = map[uint64]*bound{}
	}
	if len(b.open) >= maxBook && b.open[e.inode] == nil {
		var oldest *bound
		for _, o := range b.open {
			if oldest == nil || o.since.Before(oldest.since) {
				oldest = o
			}
		}
		delete(b.open, oldest.inode)
	}
	e.since = time.Now()
	b.open[e.inode] = e
}

func (b *book) listen(network string, inode uint64, at netip.AddrPort) {
	b.mu.Lock()
	e := b.open[inode]
	if e != nil && e.network == network && e.got.Port() == at.Port() {
		e.listening, e.since = true, time.Now()
		b.mu.Unlock()
		return
	}
	b.mu.Unlock()
	b.note(&bound{network: network, inode: inode, asked: at, got: at, listening: true})
}

// listeners are those of all that the debuggee has, and forgets those that have ended.
func (b *book) listeners(all []namespaces.Listener) []namespaces.Listener {
	there := map[uint64]bool{}
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []namespaces.Listener
	for _, l := range all {
		e := b.open[uint64(l.Inode)]
		if e == nil || !e.listening || e.network != l.Network || e.got.Port() != l.Addr.Port() {
			continue
		}
		there[e.inode] = true
		out = append(out, namespaces.Listener{Network: e.network, Addr: e.asked, Inode: l.Inode, V6Only: l.V6Only})
	}
	for inode, e := range b.open {
		// A connected UDP socket is not listed, and comes back when it is not connected any more.
		if e.listening && e.network == "tcp" && !there[inode] && time.Since(e.since) > time.Second {
			delete(b.open, inode)
		}
	}
	return out
}

// real is where the debuggee's listener is that it has at a port.
func (b *book) real(network string, port uint16) (netip.AddrPort, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.open {
		if e.listening && e.network == network && e.asked.Port() == port {
			return e.got, true
		}
	}
	return netip.AddrPort{}, false
}

// asked is the debuggee's own word for a socket's address.
func (b *book) asked(network string, got netip.AddrPort) (netip.AddrPort, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.open {
		if e.network == network && e.got == got {
			return e.asked, e.asked != e.got
		}
	}
	return netip.AddrPort{}, false
}

// has says whether the debuggee itself has the port.
func (b *book) has(network string, port uint16) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.open {
		if e.network == network && e.asked.Port() == port {
			return true
		}
	}
	return false
}

// ends are the two ends of a TCP connection from the debuggee's side.
type ends struct{ local, peer netip.AddrPort }

// flows says what the pod would call the ends of a connection that the kernel knows by others.
type flows struct {
	mu       sync.Mutex
	open     map[ends]flow
	expected map[netip.AddrPort]netip.AddrPort // by a listener's address: where who connects there believes to
}

type flow struct {
	ends
	since time.Time
}

func (f *flows) expect(listener, dst netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.expected == nil {
		f.expected = map[netip.AddrPort]netip.AddrPort{}
	}
	f.expected[listener] = dst
}

func (f *flows) forget(listener netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.expected, listener)
}

func (f *flows) add(kernel, pod ends) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open == nil {
		f.open = map[ends]flow{}
	}
	if len(f.open) < maxFlows {
		f.open[kernel] = flow{pod, time.Now()}
	}
}

func (f *flows) remove(kernel ends) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, kernel)
}

func (f *flows) find(kernel ends) (pod ends, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e, ok := f.open[kernel]; ok {
		return e.ends, true
	}
	dst, ok := f.expected[kernel.peer]
	return ends{peer: dst}, ok
}

// sweep forgets the flows that are none of the machine's any more.
func (f *flows) sweep(pairs map[namespaces.Pair]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for kernel, e := range f.open {
		if time.Since(e.since) > sweepEvery && !pairs[namespaces.Pair{Local: kernel.local, Remote: kernel.peer}] {
			delete(f.open, kernel)
		}
	}
}

// socket answers what a socket of the debuggee's is about: bind, listen, accept and its names.
func (s *Server) socket(q *question) {
	var err error
	switch q.head.Kind {
	case KindBind:
		var body BindQuestion
		if _, err = DecodeBody(q.body, &body); err == nil {
			s.bind(q, body)
		}
	case KindBound:
		var body BoundQuestion
		if _, err = DecodeBody(q.body, &body); err == nil {
			s.bound(body)
			q.answer(nil, nil)
		}
	case KindListen:
		var body ListenQuestion
		if _, err = DecodeBody(q.body, &body); err == nil {
			s.book.listen(networkOf(body.Network), body.Inode, unmap(body.At.AddrPort()))
			q.answer(nil, nil)
		}
	case KindWho:
		var body WhoQuestion
		if _, err = DecodeBody(q.body, &body); err == nil {
			q.answer(s.who(body), nil)
		}
	}
	if err != nil {
		q.fail(syscall.EPROTO)
	}
}

func networkOf(n uint32) string {
	if n == UDP {
		return "udp"
	}
	return "tcp"
}

// bind says where the debuggee's socket goes: the port it asks for, on this machine; its pod's addresses are the
// loopback here, where the session delivers. A port that is taken, or not for this user, is another one; but not one
// that the debuggee has taken itself.
func (s *Server) bind(q *question, body BindQuestion) {
	asked := unmap(body.Asked.AddrPort())
	network := networkOf(body.Network)
	at := asked
	if network == "udp" && asked.Port() != 0 {
		s.copies.drop(func(_ uint64, c copied) bool { return c.port() == asked.Port() }) // of a program that has just ended
	}
	if a := asked.Addr(); a == s.cfg.Handler.Own(a) && !a.IsUnspecified() && !a.IsLoopback() {
		at = netip.AddrPortFrom(loopback4, asked.Port())
		if a.Is6() {
			at = netip.AddrPortFrom(loopback6, asked.Port())
		}
		if asked.Port() == 0 {
			at = netip.AddrPortFrom(anyAddr(a), 0) // a client's: it may call anybody
		}
	}
	if body.Flags&BindTaken != 0 {
		if syscall.Errno(body.Reason) == syscall.EADDRINUSE && s.book.has(network, asked.Port()) || asked.Port() == 0 {
			q.fail(syscall.Errno(body.Reason))
			return
		}
		at = netip.AddrPortFrom(at.Addr(), 0)
	}
	if at == asked {
		q.answer(BindAnswer{Verdict: VerdictHost}, nil)
		return
	}
	q.answer(BindAnswer{Verdict: VerdictPod, At: mapped(at, body.Asked)}, nil)
}

func anyAddr(like netip.Addr) netip.Addr {
	if like.Is6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// bound notes what came of it.
func (s *Server) bound(body BoundQuestion) {
	asked, got := unmap(body.Asked.AddrPort()), unmap(body.Got.AddrPort())
	network := networkOf(body.Network)
	if !asked.IsValid() {
		asked = got
	}
	if asked.Port() == 0 {
		asked = netip.AddrPortFrom(asked.Addr(), got.Port())
	} else if asked.Port() != got.Port() {
		s.cfg.Handler.Moved(network, asked, got)
	}
	s.book.note(&bound{network: network, inode: body.Inode, asked: asked, got: got, listening: network == "udp"})
}

// who says what the pod would call a socket's ends.
func (s *Server) who(body WhoQuestion) WhoAnswer {
	local, peer := unmap(body.Local.AddrPort()), unmap(body.Peer.AddrPort())
	network := networkOf(body.Network)
	like := body.Local
	if !peer.IsValid() {
		if asked, ok := s.book.asked(network, local); ok {
			return WhoAnswer{Local: mapped(asked, like)}
		}
		return WhoAnswer{}
	}
	if network == "udp" {
		return s.relays.who(local, peer, body)
	}
	pod, ok := s.flows.find(ends{local, peer})
	if !ok {
		return WhoAnswer{}
	}
	if !pod.local.IsValid() { // joined so lately that it has not been accepted yet
		pod.local = netip.AddrPortFrom(s.cfg.Handler.Own(pod.peer.Addr()), local.Port())
	}
	return WhoAnswer{Local: mapped(pod.local, like), Peer: mapped(pod.peer, like)}
}

// Listeners are the debuggee's sockets that listen now, with the addresses that it asked for.
func (s *Server) Listeners() ([]namespaces.Listener, error) {
	all, err := s.machine.Listeners()
	if err != nil {
		return nil, err
	}
	return s.book.listeners(all), nil
}

// Real is where the debuggee's listener is that it has at a port.
func (s *Server) Real(network string, port uint16) (netip.AddrPort, bool) {
	at, ok := s.book.real(network, port)
	return reachable(at), ok
}

// reachable is where a listener can be reached from this machine.
func reachable(at netip.AddrPort) netip.AddrPort {
	if at.Addr() == netip.IPv4Unspecified() || at.Addr() == netip.IPv6Unspecified() {
		return netip.AddrPortFrom(loopback4, at.Port()) // [::] takes IPv4, too, unless it is told not to
	}
	return at
}

// Deliver connects to the debuggee's listener that it has at dst, and has accept tell it the client's address.
func (s *Server) Deliver(ctx context.Context, client, dst netip.AddrPort) (*net.TCPConn, error) {
	real, ok := s.Real("tcp", dst.Port())
	if !ok {
		return nil, syscall.ECONNREFUSED
	}
	conn, err := s.deliver(ctx, client, dst, real)
	if err != nil && real.Addr() == loopback4 { // one that takes IPv6 only
		if again, aerr := s.deliver(ctx, client, dst, netip.AddrPortFrom(loopback6, real.Port())); aerr == nil {
			return again, nil
		}
	}
	return conn, err
}

func (s *Server) deliver(ctx context.Context, client, dst, real netip.AddrPort) (*net.TCPConn, error) {
	var kernel ends
	d := net.Dialer{ControlContext: func(_ context.Context, _, _ string, c syscall.RawConn) error {
		var operr error
		err := c.Control(func(fd uintptr) {
			from := netip.AddrPortFrom(loopback4, 0)
			if real.Addr().Is6() {
				from = netip.AddrPortFrom(loopback6, 0)
			}
			if !real.Addr().IsLoopback() {
				from = netip.AddrPortFrom(real.Addr(), 0)
			}
			if operr = unix.Bind(int(fd), sockaddr(from)); operr != nil {
				return
			}
			if from, operr = nameOf(int(fd)); operr == nil { // known before accept can ask
				kernel = ends{local: real, peer: from}
				s.flows.add(kernel, ends{local: dst, peer: unmap(client)})
			}
		})
		if err != nil {
			return err
		}
		return operr
	}}
	c, err := d.DialContext(ctx, "tcp", real.String())
	if err != nil {
		s.flows.remove(kernel)
		return nil, fmt.Errorf("preload: delivering to %v: %w", real, err)
	}
	return c.(*net.TCPConn), nil
}
