package preload

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
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

// relays are the UDP associations.
//
// Goroutines: one an association, which ends with it.
type relays struct {
	s *Server

	mu    sync.Mutex
	open  map[relayKey]*Association
	at    map[netip.AddrPort]*Association // by the relay's own address
	ended bool
}

// Association is one UDP association of the debuggee's: a socket on this machine's loopback that stands for the far end.
type Association struct {
	s    *Server
	key  relayKey
	conn *net.UDPConn
	addr netip.AddrPort // the relay's
	far  netip.AddrPort // where the debuggee believes to send to
	own  netip.Addr     // the pod's address, of the same family

	mu   sync.Mutex
	near netip.AddrPort // the debuggee's socket on this machine, once known
}

// take returns the association of the key, a new one with fresh: with the pod's own address, and where the debuggee's socket
// is, as far as that is known.
func (r *relays) take(key relayKey, at, own netip.Addr, near netip.AddrPort) (a *Association, fresh bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.open[key]; a != nil {
		return a, false, nil
	}
	if r.ended || len(r.open) >= maxRelays {
		return nil, false, syscall.ENOBUFS
	}
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 0)))
	if err != nil {
		return nil, false, fmt.Errorf("preload: a relay for datagrams: %w", err)
	}
	a = &Association{s: r.s, key: key, conn: c, addr: unmap(c.LocalAddr().(*net.UDPAddr).AddrPort()), far: key.far, own: own, near: near}
	if r.open == nil {
		r.open, r.at = map[relayKey]*Association{}, map[netip.AddrPort]*Association{}
	}
	r.open[key], r.at[a.addr] = a, a
	return a, true, nil
}

func (r *relays) remove(a *Association) {
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
	return WhoAnswer{TTL: datagramTTL, Local: mapped(own, body.Local), Peer: mapped(a.far, body.Peer)}
}

// association answers where a socket's datagrams go. The relay is there at once, so that it holds up no other question; the
// pod is asked when the first datagram comes.
func (s *Server) association(q *question, inode uint64, to, local netip.AddrPort, ttl uint32) {
	like := AddressOf(to)
	dst := unmap(to)
	if !dst.IsValid() {
		q.fail(syscall.EAFNOSUPPORT)
		return
	}
	host, here, err := s.cfg.Handler.Route("udp", dst)
	switch {
	case err != nil:
		q.fail(errno(err))
		return
	case host:
		q.answer(ConnectAnswer{Verdict: VerdictHost, TTL: ttl, To: mapped(here, like)}, nil)
		return
	}
	at := loopback4
	if bound6(AddressOf(local)) {
		at = loopback6
	}
	a, fresh, err := s.relays.take(relayKey{inode: inode, far: dst}, at, s.cfg.Handler.Own(dst.Addr()), netip.AddrPort{})
	if err != nil {
		q.fail(errno(err))
		return
	}
	if fresh {
		s.serve(a)
	}
	q.answer(ConnectAnswer{Verdict: VerdictPod, TTL: ttl, To: mapped(a.addr, like)}, nil)
}

func (s *Server) serve(a *Association) {
	s.wg.Go(func() {
		defer a.Close()
		s.cfg.Handler.ServeUDP(s.ctx, a)
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
	_, err = a.Write(data)
	return err
}

// LocalAddr is where the debuggee believes to send to.
func (a *Association) LocalAddr() netip.AddrPort { return a.far }

// RemoteAddr is the debuggee's own address, as the pod would have it.
func (a *Association) RemoteAddr() netip.AddrPort {
	if a.key.near.IsValid() {
		return a.key.near
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return netip.AddrPortFrom(a.own, a.near.Port())
}

// Read returns the debuggee's next datagram. It ends some time after the debuggee's socket has.
func (a *Association) Read(p []byte) (int, error) {
	for {
		if err := a.conn.SetReadDeadline(time.Now().Add(relayIdle)); err != nil {
			return 0, err
		}
		n, from, err := a.conn.ReadFromUDPAddrPort(p)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if !a.wanted() {
				return 0, err
			}
			continue
		case errors.Is(err, syscall.ECONNREFUSED):
			continue // of a datagram to a program that has closed its socket
		case err != nil:
			return 0, err
		case a.ours(unmap(from)):
			return n, nil
		}
	}
}

// wanted says whether the debuggee still has the socket.
func (a *Association) wanted() bool {
	if a.key.inode == 0 {
		return false // a client that sends again gets another relay
	}
	has, err := a.s.machine.HasUDP(uint32(a.key.inode))
	return err == nil && has
}

// ours says whether a datagram is from the debuggee's socket; the first of each address is looked at. Others on this machine
// may find the relay.
func (a *Association) ours(from netip.AddrPort) bool {
	a.mu.Lock()
	known := a.near == from
	a.mu.Unlock()
	if known {
		return true
	}
	if a.key.inode == 0 {
		return false
	}
	inode, err := a.s.machine.Inode("udp", from, a.addr)
	if err != nil || uint64(inode) != a.key.inode {
		a.s.log.Warn("preload: a stranger at a relay", "from", from, "inode", inode, "err", err)
		return false
	}
	a.mu.Lock()
	a.near = from
	a.mu.Unlock()
	return true
}

// Write sends the debuggee a datagram.
func (a *Association) Write(p []byte) (int, error) {
	a.mu.Lock()
	near := a.near
	a.mu.Unlock()
	if !near.IsValid() {
		return len(p), nil // nobody has asked for it
	}
	return a.conn.WriteToUDPAddrPort(p, near)
}

// Refuse tells the debuggee an errno: it can only be told ECONNREFUSED, at its next datagram, since then nobody is here.
func (a *Association) Refuse(no syscall.Errno) {
	if no == syscall.ECONNREFUSED {
		a.Close()
	}
}

// Close ends the association.
func (a *Association) Close() error {
	a.s.relays.remove(a)
	return a.conn.Close()
}
