package podlet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// End is one side of the wire: the pod's network, or the outside that its clients call from. The sockets are made there
// and used here, so what they see is what a program there sees.
type End struct {
	pod    *Pod
	inside bool
}

// Dial connects from src (invalid: any; port 0: any) to dst. Network is tcp or udp. The error is a *net.OpError with the
// kernel's errno, as of net.Dial.
func (e End) Dial(ctx context.Context, network string, src, dst netip.AddrPort) (net.Conn, error) {
	f, err := e.socket(ctx, socket{Network: network, Six: dst.Addr().Is6(), Bind: src})
	if err == nil {
		defer f.Close() // FileConn duplicates it
		err = connect(ctx, f, dst)
	}
	var c net.Conn
	if err == nil {
		c, err = net.FileConn(f)
	}
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: address(network, dst), Err: err}
	}
	return c, nil
}

func address(network string, a netip.AddrPort) net.Addr {
	if strings.HasPrefix(network, "udp") {
		return net.UDPAddrFromAddrPort(a)
	}
	return net.TCPAddrFromAddrPort(a)
}

func (e End) socket(ctx context.Context, s socket) (*os.File, error) {
	s.Inside = e.inside
	if n := strings.TrimRight(s.Network, "46"); n != "tcp" && n != "udp" {
		return nil, net.UnknownNetworkError(s.Network)
	}
	_, made, err := e.pod.ask(ctx, message{Op: opSocket, Socket: s}, 1)
	if err != nil {
		return nil, err
	}
	return made[0], nil
}

// connect waits until the non-blocking f is connected, as net does: a wake-up before the end is no end.
func connect(ctx context.Context, f *os.File, dst netip.AddrPort) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { f.SetDeadline(time.Unix(1, 0)) })()
	var result error
	first := true
	err = conn.Write(func(fd uintptr) bool {
		if first {
			first = false
			result = unix.Connect(int(fd), sockaddr(dst))
			return result != unix.EINPROGRESS
		}
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			result = err
			return true
		case code != 0:
			result = unix.Errno(code)
			return true
		}
		_, err = unix.Getpeername(int(fd))
		result = err
		return err == nil
	})
	if ctx.Err() != nil && (err != nil || result != nil) {
		return ctx.Err()
	}
	if err == nil && result != nil {
		err = os.NewSyscallError("connect", result)
	}
	return err
}

// Listen listens on an address of this end. Port 0 takes a free one. It ends with the pod at the latest.
func (e End) Listen(ctx context.Context, network string, addr netip.AddrPort) (net.Listener, error) {
	f, err := e.socket(ctx, socket{Network: network, Six: addr.Addr().Is6(), Bind: addr, Listen: true})
	if err != nil {
		return nil, fmt.Errorf("podlet: listening: %w", err)
	}
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("podlet: listening: %w", err)
	}
	e.pod.endWith(l)
	return l, nil
}

// ListenPacket is Listen for UDP.
func (e End) ListenPacket(ctx context.Context, network string, addr netip.AddrPort) (net.PacketConn, error) {
	f, err := e.socket(ctx, socket{Network: network, Six: addr.Addr().Is6(), Bind: addr, Listen: true})
	if err != nil {
		return nil, fmt.Errorf("podlet: listening: %w", err)
	}
	defer f.Close()
	c, err := net.FilePacketConn(f)
	if err != nil {
		return nil, fmt.Errorf("podlet: listening: %w", err)
	}
	e.pod.endWith(c)
	return c, nil
}

// HTTP is a client at this end that calls from src (the zero Addr: from any address). It keeps connections alive; one
// that must not has DisableKeepAlives of its Transport set.
func (e End) HTTP(src netip.Addr) *http.Client {
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		dst, err := netip.ParseAddrPort(addr)
		if err != nil {
			return nil, fmt.Errorf("podlet: dialing: this client knows no names: %w", err)
		}
		from := netip.AddrPort{}
		if src.IsValid() {
			from = netip.AddrPortFrom(src, 0)
		}
		return e.Dial(ctx, "tcp", from, dst)
	}
	return &http.Client{Transport: &http.Transport{DialContext: dial}}
}

// DialClient dials from the outside, as a client of the pod does.
func (p *Pod) DialClient(ctx context.Context, network string, src, dst netip.AddrPort) (net.Conn, error) {
	return p.Outside.Dial(ctx, network, src, dst)
}

// listenPoll is the wait between two tries of WaitListening.
const listenPoll = 10 * time.Millisecond

// WaitListening waits until somebody in the pod accepts a TCP connection to the address.
func (p *Pod) WaitListening(ctx context.Context, dst netip.AddrPort) error {
	for {
		c, err := p.Inside.Dial(ctx, "tcp", netip.AddrPort{}, dst)
		if err == nil {
			return c.Close()
		}
		if !errors.Is(err, unix.ECONNREFUSED) {
			return err
		}
		select {
		case <-p.Main().Done():
			return fmt.Errorf("podlet: waiting for %v: the pod's program: %w", dst, errors.Join(errors.New("it has ended"), p.Main().Err()))
		case <-time.After(listenPoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// serveSidecar starts one.
func (p *Pod) serveSidecar(ctx context.Context, s Sidecar) error {
	if s.Serve == nil {
		s.Serve = func(c net.Conn) { _, _ = io.Copy(c, c) }
	}
	if s.Network == "udp" {
		c, err := p.Inside.ListenPacket(ctx, s.Network, s.Addr)
		if err != nil {
			return err
		}
		p.wg.Go(func() { echoPackets(c) })
		return nil
	}
	l, err := p.Inside.Listen(ctx, s.Network, s.Addr)
	if err != nil {
		return err
	}
	p.wg.Go(func() { p.serve(l, s.Serve) })
	return nil
}

// serve accepts until l is closed. Each connection has a goroutine, which ends with the pod.
func (p *Pod) serve(l net.Listener, each func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() {
			defer c.Close()
			p.endWith(c)
			defer p.forget(c)
			each(c)
		})
	}
}

func echoPackets(c net.PacketConn) {
	b := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = c.WriteTo(b[:n], from)
		}
	}
}
