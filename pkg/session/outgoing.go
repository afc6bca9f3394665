package session

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/policy"
	"github.com/stepin-dev/stepin/pkg/wire"
)

const dnsPort = 53

// errOwn says that the debuggee itself listens where a flow leads: its own kernel has the flow.
var errOwn = errors.New("session: the flow is the debuggee's own")

// packets is one UDP association as a front end hands it over. Refuse tells the debuggee an errno of the pod's.
type packets interface {
	io.ReadWriteCloser
	Refuse(errno syscall.Errno)
	LocalAddr() netip.AddrPort  // where the debuggee sends to
	RemoteAddr() netip.AddrPort // the debuggee's socket
}

// tcp decides on one connect of the debuggee's, and dials where the verdict says before that connect returns. host says
// that a program of the developer's machine asks.
func (s *Session) tcp(ctx context.Context, src, dst netip.AddrPort, host bool) (func(mux.End), error) {
	if !host && s.isResolver(dst) {
		return func(c mux.End) { _ = s.names.ServeTCP(s.ctx, c) }, nil
	}
	if s.itself(dst.Addr()) && s.ports.own(s.ctx, "tcp", dst.Port()) {
		return nil, errOwn
	}
	v := s.verdict("tcp", dst, host)
	s.log.Debug("outgoing tcp", "src", src, "dst", dst, "verdict", v.Where, "rule", v.Rule)
	switch v.Where {
	case policy.Deny:
		return nil, v.Errno
	case policy.Host:
		return s.hostTCP(ctx, dst)
	case policy.HostThenPod:
		serve, err := s.hostTCP(ctx, dst)
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return serve, err
		}
		if serve, err = s.podTCP(ctx, src, dst); err == nil {
			s.sayOnce(dst.Port(), "port %d of 127.0.0.1: nobody listens on this machine, so it leads to the pod's own", dst.Port())
		}
		return serve, err
	}
	return s.podTCP(ctx, src, dst)
}

func (s *Session) podTCP(ctx context.Context, src, dst netip.AddrPort) (func(mux.End), error) {
	s.ports.settled(ctx, "tcp", dst)
	stream, err := s.link.open(ctx, wire.KindDial, wire.Dial{Network: "tcp", Addr: dst, Source: src}, nil)
	if errors.Is(err, mux.ErrLost) {
		v := policy.Lost(s.config.OnLost)
		if v.Where == policy.Host {
			return s.hostTCP(ctx, dst)
		}
		return nil, v.Errno
	}
	if err != nil {
		return nil, errno(err, syscall.EHOSTUNREACH)
	}
	return func(c mux.End) { s.relays.Relay(stream, c) }, nil
}

// hostTCP dials from the developer's machine.
func (s *Session) hostTCP(ctx context.Context, dst netip.AddrPort) (func(mux.End), error) {
	if dst.Addr().IsLoopback() && s.ports.listensOnHost(dst.Port()) {
		return nil, syscall.ECONNREFUSED // our own listener for the debuggee: it would run in circles
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", dst.String())
	if err != nil {
		return nil, errno(err, syscall.EHOSTUNREACH)
	}
	return func(c mux.End) { join(c, mux.TCP{TCPConn: conn.(*net.TCPConn)}) }, nil
}

// join copies between two ends until both directions have ended, carrying half-closes and resets.
func join(a, b mux.End) {
	var wg sync.WaitGroup
	half := func(to, from mux.End) {
		if _, err := io.Copy(struct{ io.Writer }{to}, struct{ io.Reader }{from}); err != nil {
			a.Abort()
			b.Abort()
			return
		}
		_ = to.CloseWrite()
	}
	wg.Go(func() { half(a, b) })
	half(b, a)
	wg.Wait()
	a.Close()
	b.Close()
}

// udp answers the first datagram of an association.
func (s *Session) udp(ctx context.Context, src, dst netip.AddrPort, host bool) (func(packets), error) {
	if flow := s.datagrams.of(src, dst); flow != nil {
		return flow.serve, nil // an answer to a stolen datagram
	}
	if !host && s.isResolver(dst) {
		return s.serveNames, nil
	}
	if s.itself(dst.Addr()) && s.ports.own(s.ctx, "udp", dst.Port()) {
		return s.returnDatagrams, nil
	}
	v := s.verdict("udp", dst, host)
	s.log.Debug("outgoing udp", "src", src, "dst", dst, "verdict", v.Where, "rule", v.Rule)
	switch v.Where {
	case policy.Deny:
		return nil, v.Errno
	case policy.Host:
		return s.hostUDP(ctx, dst)
	case policy.HostThenPod:
		return s.hostThenPodUDP(ctx, src, dst)
	}
	return s.podUDP(ctx, src, dst)
}

// returnDatagrams writes what the debuggee has sent to itself back to its kernel: it left before the port was native.
func (s *Session) returnDatagrams(c packets) {
	buf := make([]byte, wire.MaxChunk)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if err := s.front.SendUDP(c.RemoteAddr(), c.LocalAddr(), buf[:n]); err != nil {
			s.log.Debug("a datagram of the debuggee's to itself", "to", c.LocalAddr(), "err", err)
		}
	}
}

func (s *Session) podUDP(ctx context.Context, src, dst netip.AddrPort) (func(packets), error) {
	stream, err := s.link.open(ctx, wire.KindAssociate, wire.Dial{Network: "udp", Addr: dst, Source: src}, nil)
	if errors.Is(err, mux.ErrLost) {
		if v := policy.Lost(s.config.OnLost); v.Where == policy.Deny {
			return nil, v.Errno
		}
		return s.hostUDP(ctx, dst)
	}
	if err != nil {
		return nil, errno(err, syscall.EHOSTUNREACH)
	}
	return func(c packets) { relayDatagrams(stream, c) }, nil
}

// serveNames answers the questions of one UDP socket, several at a time.
func (s *Session) serveNames(c packets) {
	const together = 16 // a resolver asks two at once; beyond this the association waits
	slots := make(chan struct{}, together)
	buf := make([]byte, wire.MaxChunk)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		msg := slices.Clone(buf[:n])
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			if answer := s.names.Resolve(context.Background(), msg, true); answer != nil {
				_, _ = c.Write(answer)
			}
		}()
	}
}

func (s *Session) hostUDP(ctx context.Context, dst netip.AddrPort) (func(packets), error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", dst.String())
	if err != nil {
		return nil, errno(err, syscall.EHOSTUNREACH)
	}
	return func(c packets) { relayHostDatagrams(conn.(*net.UDPConn), c) }, nil
}

// hostThenPodUDP decides by the first datagram to a loopback address: whether anybody listens on this machine is known
// as soon as it has been sent there.
func (s *Session) hostThenPodUDP(ctx context.Context, src, dst netip.AddrPort) (func(packets), error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", dst.String())
	if err != nil {
		return s.podUDP(ctx, src, dst)
	}
	return func(c packets) {
		host := conn.(*net.UDPConn)
		buf := make([]byte, wire.MaxChunk)
		n, err := c.Read(buf)
		if err != nil {
			host.Close()
			return
		}
		if _, err := host.Write(buf[:n]); err == nil && !refused(host) {
			relayHostDatagrams(host, c)
			return
		}
		host.Close()
		ctx, cancel := context.WithTimeout(s.ctx, associateTimeout)
		stream, err := s.link.open(ctx, wire.KindAssociate, wire.Dial{Network: "udp", Addr: dst, Source: src}, nil)
		cancel()
		if err == nil {
			_, err = stream.Write(wire.AppendData(nil, buf[:n]))
		}
		if err != nil {
			c.Refuse(errno(err, syscall.ECONNREFUSED))
			return
		}
		relayDatagrams(stream, c)
	}, nil
}

// associateTimeout bounds the wait for the agent while a datagram is held; a debuggee has sent it again by then.
const associateTimeout = 5 * time.Second

// refused says whether nobody listens where a datagram was just sent on this machine's loopback: the kernel knows before
// send returns (ICMP there is a function call).
func refused(c *net.UDPConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	var no int
	err = raw.Control(func(fd uintptr) { no, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR) })
	return err == nil && syscall.Errno(no) == syscall.ECONNREFUSED
}

// relayHostDatagrams moves datagrams between a socket of this machine and c until either ends, then closes both.
func relayHostDatagrams(conn *net.UDPConn, c packets) {
	go func() {
		defer c.Close()
		buf := make([]byte, wire.MaxChunk)
		for {
			n, err := conn.Read(buf)
			if errors.Is(err, syscall.ECONNREFUSED) {
				c.Refuse(syscall.ECONNREFUSED)
				continue
			}
			if err != nil {
				return
			}
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	defer conn.Close()
	buf := make([]byte, wire.MaxChunk)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		_, _ = conn.Write(buf[:n]) // an errno of the past datagram: the reader tells it
	}
}

// relayDatagrams moves datagrams between a stream's chunks and c until either ends, then closes both. The errnos that
// the pod's kernel reported become the debuggee's.
func relayDatagrams(stream *mux.Stream, c packets) {
	go func() {
		defer c.Close()
		chunks := wire.NewChunkReader(stream)
		for {
			ch, err := chunks.Read()
			switch {
			case err != nil:
				return
			case ch.Type == wire.ChunkErrno:
				c.Refuse(ch.Errno)
			case ch.Type == wire.ChunkData:
				if _, err := c.Write(ch.Data); err != nil {
					return
				}
			}
		}
	}()
	defer stream.Close()
	defer c.Close()
	buf, frame := make([]byte, wire.MaxChunk), []byte(nil)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		frame = wire.AppendData(frame[:0], buf[:n])
		if _, err := stream.Write(frame); err != nil {
			return
		}
	}
}

// verdict says where a flow leaves from. Rules by name go by the names that led the debuggee to the address.
func (s *Session) verdict(network string, dst netip.AddrPort, host bool) policy.Verdict {
	if host {
		return policy.Verdict{Where: policy.Host, Rule: "host program"}
	}
	if s.isHostResolver(dst) {
		return policy.Verdict{Where: policy.Host, Rule: "dns"}
	}
	var names []string
	if s.outgoing.NeedNames() {
		names = s.names.NamesOf(dst.Addr())
	}
	return s.outgoing.Verdict(network, dst, names...)
}

// itself says whether an address is one that the debuggee may have for itself, too: a loopback one, or the pod's.
func (s *Session) itself(a netip.Addr) bool { return a.IsLoopback() || slices.Contains(s.pod.Addrs, a) }

// here is where the debuggee has what was sent to a pod's address: it has only the addresses of the pod that was home at
// the start. What another pod's clients called leads to the first of those, of the same family.
func (s *Session) here(called netip.Addr) netip.Addr {
	if s.itself(called) {
		return called
	}
	for _, a := range s.pod.Addrs {
		if a.Is4() == called.Is4() {
			return a
		}
	}
	return called
}

// isResolver says whether dst is a name server of the pod's resolv.conf, in whose place the session answers.
func (s *Session) isResolver(dst netip.AddrPort) bool {
	return s.config.DNS && dst.Port() == dnsPort && slices.Contains(s.conf.Servers, dst.Addr())
}

// isHostResolver says whether dst is one of the developer's own name servers, and names are theirs to resolve.
func (s *Session) isHostResolver(dst netip.AddrPort) bool {
	return !s.config.DNS && dst.Port() == dnsPort && slices.Contains(hostConf().Servers, dst.Addr())
}
