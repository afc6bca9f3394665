package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// deliverTimeout bounds the connect to the debuggee's listener. Its queue may be full because it stands at a
// breakpoint; then the client waits as it would before the pod, but not longer than a kernel lets it.
const deliverTimeout = 2 * time.Minute

// serve answers a stream that the agent opens.
func (s *Session) serve(r *mux.Request) {
	switch r.Kind {
	case wire.KindIncoming:
		s.serveIncoming(r)
	case wire.KindIncomingDG:
		s.serveDatagrams(r)
	default:
		r.Refuse(&wire.Refusal{Errno: syscall.EOPNOTSUPP, Message: fmt.Sprintf("session: streams of kind %d are not known here", r.Kind)})
	}
}

// serveIncoming hands a stolen connection to the debuggee: a socket bound to the true client's address, connected to
// the debuggee's listener. ECONNREFUSED gives it back to the pod.
func (s *Session) serveIncoming(r *mux.Request) {
	var in wire.Incoming
	if err := wire.Decode(r.Body, &in); err != nil {
		r.Refuse(err)
		return
	}
	dst, ok := s.ports.destination("tcp", in.Local)
	if !ok {
		r.Refuse(syscall.ECONNREFUSED)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), deliverTimeout)
	conn, err := s.deliver(ctx, in.Client, dst)
	cancel()
	s.log.Debug("incoming tcp", "client", in.Client, "local", in.Local, "to", dst, "err", err)
	if err != nil {
		r.Refuse(err)
		return
	}
	stream, err := r.Accept(nil)
	if err != nil {
		conn.Close()
		return
	}
	s.relays.Relay(stream, mux.TCP{TCPConn: conn})
}

// deliver connects to the debuggee's listener from the client's address, by a socket made inside the namespaces. The
// client may have used its port for a connection that has not ended here yet: that one is dead, or its kernel would not
// have used the port again. Where the port stays taken, another one of the client's address is better than no answer.
func (s *Session) deliver(ctx context.Context, client, dst netip.AddrPort) (*net.TCPConn, error) {
	client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
	conn, err := s.connectFrom(ctx, client, dst)
	taken := func() bool { return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EADDRINUSE) }
	// The pod's own addresses are the debuggee's, too: there the port may be that of one of its own connections.
	if taken() && !s.itself(client.Addr()) {
		if err := s.ns.Destroy(client, dst); err != nil {
			s.log.Debug("a client's port again", "client", client, "err", err)
		}
		conn, err = s.connectFrom(ctx, client, dst)
	}
	if taken() {
		conn, err = s.connectFrom(ctx, netip.AddrPortFrom(client.Addr(), 0), dst)
	}
	return conn, err
}

func (s *Session) connectFrom(ctx context.Context, client, dst netip.AddrPort) (*net.TCPConn, error) {
	family := unix.AF_INET
	if dst.Addr().Is6() {
		family = unix.AF_INET6
	}
	f, err := s.ns.TransparentSocket(family)
	if err != nil {
		return nil, fmt.Errorf("session: a socket for the client's address: %w", err)
	}
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		if cerr = os.NewSyscallError("bind", unix.Bind(int(fd), sockaddr(client))); cerr == nil {
			cerr = unix.Connect(int(fd), sockaddr(dst))
		}
	}); err != nil {
		return nil, err
	}
	if cerr != nil && cerr != unix.EINPROGRESS {
		return nil, cerr
	}
	if err := waitConnected(ctx, f, raw); err != nil {
		return nil, err
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("session: adopting the socket: %w", err)
	}
	tcp := c.(*net.TCPConn)
	_ = tcp.SetNoDelay(true)
	return tcp, nil
}

// waitConnected waits until a connect in progress has ended, with its errno.
func waitConnected(ctx context.Context, f *os.File, raw syscall.RawConn) error {
	stop := context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	var soerr int
	var operr error
	err := raw.Write(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if n, _ := unix.Poll(p, 0); n == 0 {
			return false
		}
		soerr, operr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		return true
	})
	switch {
	case err != nil:
		return syscall.ETIMEDOUT
	case operr != nil:
		return operr
	case soerr != 0:
		return syscall.Errno(soerr)
	}
	return nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}
