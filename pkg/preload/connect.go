package preload

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/stepin-dev/stepin/pkg/mux"
)

// Waits.
const (
	// dialLimit bounds a dial by the pod: a kernel gives up a connect after some 130 s (tcp(7), tcp_syn_retries).
	dialLimit = 130 * time.Second
	// joinLimit bounds the wait for a program that was told where to connect: it does so at once, unless it is stopped
	// at a breakpoint in between.
	joinLimit = 30 * time.Second
)

// Deadlines for files in the runtime's poller.
var (
	noDeadline = time.Time{}
	longAgo    = time.Unix(1, 0)
)

// dialed is what came of a dial by the pod.
type dialed struct {
	serve func(mux.End)
	err   error
}

// connect answers one connect of a TCP socket: success comes after the pod's.
func (s *Server) connect(q *question, body ConnectQuestion) {
	dst := unmap(body.To.AddrPort())
	if !dst.IsValid() {
		q.fail(syscall.EAFNOSUPPORT)
		return
	}
	host, to, err := s.cfg.Handler.Route("tcp", dst)
	switch {
	case err != nil:
		q.fail(errno(err))
		return
	case host:
		q.answer(ConnectAnswer{Verdict: VerdictHost, To: mapped(to, body.To)}, nil)
		return
	}
	later, gone, stop := q.watch()
	defer stop()
	src := netip.AddrPortFrom(s.cfg.Handler.Own(dst.Addr()), body.Local.Port)
	ctx, cancel := context.WithTimeout(s.ctx, dialLimit)
	defer cancel()
	result := make(chan dialed, 1)
	go func() {
		serve, err := s.cfg.Handler.DialTCP(ctx, src, dst)
		result <- dialed{serve, err}
	}()
	var patience <-chan time.Time
	if body.Wait > 0 {
		timer := time.NewTimer(time.Duration(body.Wait) * time.Millisecond)
		defer timer.Stop()
		patience = timer.C
	}
	select {
	case d := <-result:
		s.settle(q, body, dst, d)
	case <-patience:
		s.later(ctx, q, body, dst, result)
	case <-later:
		s.later(ctx, q, body, dst, result)
	case <-gone:
		cancel()
		abandon(<-result)
	}
}

// settle answers a connect whose dial has ended in time: the program joins a listener that waits for it alone.
func (s *Server) settle(q *question, body ConnectQuestion, dst netip.AddrPort, d dialed) {
	if d.err != nil {
		q.fail(errno(d.err))
		return
	}
	l, err := s.listeners.take(loopbackFor(body))
	if err != nil {
		s.log.Warn("preload: a listener for a flow", "err", err)
		abandon(d)
		q.fail(syscall.EADDRNOTAVAIL)
		return
	}
	s.flows.expect(l.addr, dst)
	if !q.answer(ConnectAnswer{Verdict: VerdictPod, To: mapped(l.addr, body.To)}, nil) {
		s.flows.forget(l.addr)
		s.listeners.give(l)
		abandon(d)
		return
	}
	conn, err := s.await(l, body.Inode)
	if err != nil {
		s.log.Debug("preload: a program that was told where to connect", "dst", dst, "err", err)
		s.flows.forget(l.addr)
		l.Close()
		abandon(d)
		return
	}
	s.carry(conn, l.addr, dst, d)
	s.flows.forget(l.addr)
	s.listeners.give(l)
}

// carry serves a flow whose near end the program has. listener is the address that it has connected to.
func (s *Server) carry(conn *net.TCPConn, listener, dst netip.AddrPort, d dialed) {
	near := unmap(conn.RemoteAddr().(*net.TCPAddr).AddrPort())
	own := netip.AddrPortFrom(s.cfg.Handler.Own(dst.Addr()), near.Port())
	s.flows.add(ends{local: near, peer: listener}, ends{local: own, peer: dst})
	s.wg.Go(func() {
		defer s.flows.remove(ends{local: near, peer: listener})
		end := mux.TCP{TCPConn: conn}
		stop := context.AfterFunc(s.ctx, end.Abort)
		defer stop()
		d.serve(end)
		end.Close()
	})
}

// await accepts the one connection of the socket inode. Others on this machine may find the listener: they are reset.
func (s *Server) await(l *listener, inode uint64) (*net.TCPConn, error) {
	if err := l.SetDeadline(time.Now().Add(joinLimit)); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(s.ctx, func() { _ = l.SetDeadline(longAgo) })
	defer stop()
	for {
		conn, err := l.AcceptTCP()
		if err != nil {
			return nil, err
		}
		near := unmap(conn.RemoteAddr().(*net.TCPAddr).AddrPort())
		got, err := s.machine.Inode("tcp", near, l.addr)
		if err == nil && uint64(got) == inode {
			return conn, nil
		}
		s.log.Warn("preload: a stranger at a flow's listener", "from", near, "inode", got, "err", err)
		mux.TCP{TCPConn: conn}.Abort()
	}
}

// abandon ends a flow that nobody took: its program has gone.
func abandon(d dialed) {
	if d.serve != nil {
		go d.serve(deadEnd{})
	}
}

// errGone is what a flow's far end reads where the program has gone.
var errGone = errors.New("preload: the program has gone")

// deadEnd is the near end of a flow that nobody took.
type deadEnd struct{}

func (deadEnd) Read([]byte) (int, error)  { return 0, errGone }
func (deadEnd) Write([]byte) (int, error) { return 0, errGone }
func (deadEnd) Close() error              { return nil }
func (deadEnd) CloseWrite() error         { return nil }
func (deadEnd) Readable() error           { return nil }
func (deadEnd) Abort()                    {}

// unmap makes an IPv4-mapped address an IPv4 one.
func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// mapped is a, as the socket that asked for like takes it: an IPv6 one reaches IPv4 by mapped addresses.
func mapped(a netip.AddrPort, like Address) Address {
	if !a.IsValid() {
		return Address{}
	}
	if like.Family == familyV6 && a.Addr().Is4() {
		a = netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port())
	}
	return AddressOf(a)
}

var (
	loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	loopback6 = netip.IPv6Loopback()
)

// loopbackFor is where the asking socket can be joined: 127.0.0.1, unless it may not reach IPv4.
func loopbackFor(body ConnectQuestion) netip.Addr {
	if body.To.Family == familyV6 && (body.Flags&ConnectV6Only != 0 || bound6(body.Local)) {
		return loopback6
	}
	return loopback4
}

// bound6 says whether a socket has an IPv6 address that is not mapped: such a one cannot reach 127.0.0.1.
func bound6(local Address) bool {
	a := local.AddrPort().Addr()
	return a.Is6() && !a.Is4In6() && !a.IsUnspecified()
}
