package preload

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// datagramTTL is how long, in ms, a program may send to a relay without asking again. A relay lives longer.
	datagramTTL = 5000
	// strangerTTL is how long, in ms, what comes from an address that is no relay is not asked about again: a relay may
	// get that port later.
	strangerTTL = 1000
	// relayIdle is how long a relay lives without a datagram when its program's socket has gone, and how often that is looked at.
	relayIdle = time.Minute
	// maxRelays bounds the associations; one more gets ENOBUFS. Each is a descriptor and a goroutine or two.
	maxRelays = 2048
)

// relayKey is one association: a socket of the debuggee's, or for a client's datagrams its address, and the far end.
type relayKey struct {
	inode     uint64
	near, far netip.AddrPort // near: of stolen datagrams, the debuggee's listener as it asked for it
}

// relays are the sockets on this machine's loopback that stand for the far ends of the debuggee's datagrams.
//
// Goroutines: one a relay, which ends with it.
type relays struct {
	s     *Server
	probe [16]byte // what is sent to be refused; random, so that it is taken for nothing else

	mu    sync.Mutex
	open  map[relayKey]*relay
	at    map[netip.AddrPort]*relay // by the relay's own address
	ended bool
}

// relay is one of them. It lives as long as the debuggee's socket, which may be connected to it and would not ask for another;
// what the pod has for it comes and goes (Association).
type relay struct {
	s    *Server
	key  relayKey
	conn *net.UDPConn
	addr netip.AddrPort // its own
	own  netip.Addr     // the pod's address, of the same family

	telling sync.Mutex

	mu    sync.Mutex
	near  netip.AddrPort // the debuggee's socket on this machine, once known
	round *Association   // nil: nothing has come
	late  int            // probes that came too late in a row
}

// Association is the pod's end of a relay from the debuggee's first datagram until Close; another datagram begins another.
type Association struct {
	*relay
	over bool // by the relay's mu
	read bool // likewise: has passed a datagram on
}

// take returns the relay of the key, a new one with fresh: with the pod's own address, and where the debuggee's socket is, as
// far as that is known.
func (r *relays) take(key relayKey, at, own netip.Addr, near netip.AddrPort) (a *relay, fresh bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.open[key]; a != nil {
		return a, false, nil
	}
	if len(r.open) >= maxRelays {
		r.reap()
	}
	if r.ended || len(r.open) >= maxRelays {
		return nil, false, syscall.ENOBUFS
	}
	c, err := listenUDP(at)
	if err != nil {
		return nil, false, fmt.Errorf("preload: a relay for datagrams: %w", err)
	}
	a = &relay{s: r.s, key: key, conn: c, addr: unmap(c.LocalAddr().(*net.UDPAddr).AddrPort()), own: own, near: near}
	if r.open == nil {
		r.open, r.at = map[relayKey]*relay{}, map[netip.AddrPort]*relay{}
	}
	r.open[key], r.at[a.addr] = a, a
	return a, true, nil
}

// listenUDP makes a socket with a port that stays its own when its peer is taken away (deaf): one that was bound to by its
// number (inet_bind, SOCK_BINDPORT_LOCK). So it is bound to what another one has been given.
func listenUDP(at netip.Addr) (*net.UDPConn, error) {
	shared := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var operr error
		err := c.Control(func(fd uintptr) { operr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		return errors.Join(err, operr)
	}}
	first, err := shared.ListenPacket(context.Background(), "udp", netip.AddrPortFrom(at, 0).String())
	if err != nil {
		return nil, err
	}
	defer first.Close()
	second, err := shared.ListenPacket(context.Background(), "udp", first.LocalAddr().String())
	if err != nil {
		return nil, err
	}
	c := second.(*net.UDPConn)
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 0) }) // nobody else joins
	}
	return c, err
}

// reap ends those whose socket has gone, before they would notice.
func (r *relays) reap() {
	there, err := r.s.machine.UDP()
	if err != nil {
		return
	}
	for key, a := range r.open {
		if key.inode != 0 && !there[uint32(key.inode)] {
			delete(r.open, key)
			delete(r.at, a.addr)
			a.conn.Close()
		}
	}
}

func (r *relays) remove(a *relay) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open[a.key] == a {
		delete(r.open, a.key)
		delete(r.at, a.addr)
	}
}

func (r *relays) shut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	for _, a := range r.open {
		a.conn.Close()
	}
}

// who says what the pod would call the ends of an association.
func (r *relays) who(local, peer netip.AddrPort, body WhoQuestion) WhoAnswer {
	r.mu.Lock()
	a := r.at[peer]
	r.mu.Unlock()
	if a == nil {
		return WhoAnswer{TTL: strangerTTL}
	}
	own := netip.AddrPortFrom(a.own, local.Port())
	if asked, ok := r.s.book.asked("udp", local); ok && !asked.Addr().IsUnspecified() {
		own = asked
	}
	return WhoAnswer{TTL: datagramTTL, Local: mapped(own, body.Local), Peer: mapped(a.key.far, body.Peer)}
}

// association says where a socket's datagrams go. The relay is there at once, so that this holds up no other question; the
// pod is asked when the first datagram comes.
func (s *Server) association(inode uint64, to, local netip.AddrPort, ttl uint32) (ConnectAnswer, error) {
	like := AddressOf(to)
	dst := unmap(to)
	if !dst.IsValid() {
		return ConnectAnswer{}, syscall.EAFNOSUPPORT
	}
	host, here, err := s.cfg.Handler.Route("udp", dst)
	switch {
	case err != nil:
		return ConnectAnswer{}, err
	case host:
		return ConnectAnswer{Verdict: VerdictHost, TTL: ttl, To: mapped(here, like)}, nil
	}
	at := loopback4
	if bound6(AddressOf(local)) {
		at = loopback6
	}
	r, fresh, err := s.relays.take(relayKey{inode: inode, far: dst}, at, s.cfg.Handler.Own(dst.Addr()), netip.AddrPort{})
	if err != nil {
		return ConnectAnswer{}, err
	}
	if fresh {
		s.serve(r)
	}
	return ConnectAnswer{Verdict: VerdictPod, TTL: ttl, To: mapped(r.addr, like)}, nil
}

// serve has one association after the other served.
func (s *Server) serve(r *relay) {
	s.wg.Go(func() {
		defer r.end()
		for r.key.inode == 0 || r.awaited() {
			a := r.begin()
			s.cfg.Handler.ServeUDP(s.ctx, a)
			a.Close()
			if r.key.inode == 0 {
				return // a client's flow has ended; its next datagram gets another relay
			}
			if !a.took() {
				r.discard()
			}
		}
	})
}

// SendUDP has the debuggee's socket that it has at dst receive a datagram from the client's address.
func (s *Server) SendUDP(client, dst netip.AddrPort, data []byte) error {
	real, ok := s.Real("udp", dst.Port())
	if !ok {
		return syscall.ECONNREFUSED
	}
	at := loopback4
	if real.Addr().Is6() {
		at = loopback6
	}
	a, fresh, err := s.relays.take(relayKey{near: dst, far: unmap(client)}, at, dst.Addr(), real)
	if err != nil {
		return err
	}
	if fresh {
		s.serve(a)
	}
	_, err = a.write(data)
	return err
}

// awaited waits for the debuggee's next datagram, which it leaves there. False: nobody will send one.
func (r *relay) awaited() bool {
	raw, err := r.conn.SyscallConn()
	if err != nil {
		return false
	}
	for {
		if err := r.conn.SetReadDeadline(time.Now().Add(relayIdle)); err != nil {
			return false
		}
		var perr error
		err := raw.Read(func(fd uintptr) bool {
			_, _, perr = unix.Recvfrom(int(fd), nil, unix.MSG_PEEK|unix.MSG_DONTWAIT)
			return perr != unix.EAGAIN && perr != unix.EINTR
		})
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if !r.wanted() {
				return false
			}
		case err != nil:
			return false
		case perr == nil:
			return true
		}
	}
}

// discard loses a datagram that nobody wanted, or it would begin one association after the other.
func (r *relay) discard() {
	if raw, err := r.conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _, _, _ = unix.Recvfrom(int(fd), nil, unix.MSG_DONTWAIT) })
	}
}

func (r *relay) begin() *Association {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.round = &Association{relay: r}
	return r.round
}

func (r *relay) end() {
	r.s.relays.remove(r)
	r.conn.Close()
}

// LocalAddr is where the debuggee believes to send to.
func (r *relay) LocalAddr() netip.AddrPort { return r.key.far }

// RemoteAddr is the debuggee's own address, as the pod would have it.
func (r *relay) RemoteAddr() netip.AddrPort {
	if r.key.near.IsValid() {
		return r.key.near
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return netip.AddrPortFrom(r.own, r.near.Port())
}

// Read returns the debuggee's next datagram. It ends with Close, and some time after the debuggee's socket has.
func (a *Association) Read(p []byte) (int, error) {
	for {
		if err := a.patient(); err != nil {
			return 0, err
		}
		n, from, err := a.conn.ReadFromUDPAddrPort(p)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if a.patient() == nil && !a.wanted() {
				return 0, err
			}
		case errors.Is(err, syscall.ECONNREFUSED): // of a datagram to a program that has closed its socket
		case err != nil:
			return 0, err
		case !a.ours(unmap(from)):
		case bytes.Equal(p[:n], a.s.relays.probe[:]):
			a.tellAgain()
		default:
			a.mu.Lock()
			a.read = true
			a.mu.Unlock()
			return n, nil
		}
	}
}

func (a *Association) took() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.read
}

// patient sets the wait for the next datagram; net.ErrClosed: the association is over.
func (a *Association) patient() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over {
		return net.ErrClosed
	}
	return a.conn.SetReadDeadline(time.Now().Add(relayIdle))
}

// wanted says whether the debuggee still has the socket.
func (r *relay) wanted() bool {
	if r.key.inode == 0 {
		return false // a client that sends again gets another relay
	}
	there, err := r.s.machine.UDP()
	return err == nil && there[uint32(r.key.inode)]
}

// ours says whether a datagram is from the debuggee's socket; the first of each address is looked at. Others on this machine
// may find the relay.
func (r *relay) ours(from netip.AddrPort) bool {
	r.mu.Lock()
	known := r.near == from
	r.mu.Unlock()
	if known {
		return true
	}
	if r.key.inode == 0 {
		return false
	}
	inode, err := r.s.machine.Inode("udp", from, r.addr)
	if err != nil || uint64(inode) != r.key.inode {
		r.s.log.Warn("preload: a stranger at a relay", "from", from, "inode", inode, "err", err)
		return false
	}
	r.mu.Lock()
	r.near = from
	r.mu.Unlock()
	return true
}

// Write sends the debuggee a datagram.
func (a *Association) Write(p []byte) (int, error) { return a.write(p) }

func (r *relay) write(p []byte) (int, error) {
	r.mu.Lock()
	near := r.near
	r.mu.Unlock()
	if !near.IsValid() {
		return len(p), nil // nobody has asked for it
	}
	return r.conn.WriteToUDPAddrPort(p, near)
}

// Refuse tells the debuggee that its datagram met an errno. A connected socket reads ECONNREFUSED, whatever the errno, since no
// other can be had of a loopback; of ETIMEDOUT nothing, as of any datagram that is lost. One that is not connected is told
// nothing, as by any network.
func (a *Association) Refuse(no syscall.Errno) {
	if no == syscall.ETIMEDOUT {
		return
	}
	a.mu.Lock()
	a.late = 0
	a.mu.Unlock()
	a.tell(0)
}

// Close ends the association.
func (a *Association) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over {
		return nil
	}
	a.over = true
	if a.round == a {
		return a.conn.SetReadDeadline(longAgo)
	}
	return nil
}

const (
	lateProbes = 8                // in a row, before the telling is given up
	firstPause = time.Millisecond // doubles with each: a quarter of a second for the last
)

// tell has the debuggee's kernel socket refused. While the relay is connected to itself, nobody is at its port for the datagram
// that is sent there through the socket's copy, and the kernel says so by ICMP: on loopback before send returns, unless
// the machine is so busy that it puts that off. Such a probe is found by Read, and is sent again with a pause. What the
// program sends within these microseconds is refused as well, as it might be in the pod.
func (r *relay) tell(pause time.Duration) {
	if !r.s.copies.has(r.key.inode) {
		return
	}
	raw, err := r.conn.SyscallConn()
	if err != nil {
		return
	}
	r.telling.Lock()
	defer r.telling.Unlock()
	_ = raw.Control(func(fd uintptr) {
		if err := unix.Connect(int(fd), sockaddr(r.addr)); err != nil {
			return
		}
		r.s.copies.send(r.key.inode, r.s.relays.probe[:], r.addr)
		if pause > 0 {
			time.Sleep(pause)
		}
		disconnect(int(fd))
	})
}

func (r *relay) tellAgain() {
	r.mu.Lock()
	r.late++
	n := r.late
	r.mu.Unlock()
	if n <= lateProbes {
		r.tell(firstPause << (n - 1))
	}
}

// disconnect takes a UDP socket's peer away (connect(2), AF_UNSPEC), for which x/sys has no address.
func disconnect(fd int) {
	var none unix.RawSockaddr
	_, _, _ = unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&none)), unsafe.Sizeof(none))
}
