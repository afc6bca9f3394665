package child

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/agent/pair"
	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

const (
	// stealWait is how long a stolen connection waits for its steal to be entered: it may have come between the
	// parent's answer and that. What was accepted when a steal had just ended waits no longer than this, either.
	stealWait = 100 * time.Millisecond
	// returnWait is the same in a child that replaced another: the sessions come back in a fraction of it.
	returnWait = 5 * time.Second
	// answerWait bounds a session that lives and does not answer: its debuggee stands at a breakpoint and its queue
	// is full. As long as a kernel would try (tcp_syn_retries 6: 127 s).
	answerWait = 130 * time.Second
	// maxFlows bounds the stolen flows of one child; what comes beyond is reset.
	maxFlows = 16384
)

// acceptStolen takes connections from one steal listener.
//
// Goroutines: one a connection, at most maxFlows over the listener.
func (c *Child) acceptStolen(l *net.TCPListener) {
	own := addrOf(l.Addr()).Port()
	slots := make(chan struct{}, maxFlows)
	for {
		conn, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			c.log.Warn("accepting a stolen connection", "err", err)
			time.Sleep(acceptPause)
			continue
		}
		select {
		case slots <- struct{}{}:
			c.stolen.Add(1)
			go func() {
				c.incoming(conn, own)
				c.stolen.Add(-1)
				<-slots
			}()
		default:
			mux.TCP{TCPConn: conn}.Abort()
		}
	}
}

// incoming serves one stolen connection: its session gets it, else the pod's own process.
func (c *Child) incoming(conn *net.TCPConn, own uint16) {
	local, err := c.called(conn)
	if err != nil || local.Port() == own {
		// Nobody's connection is for this port: somebody in the pod dialled the listener itself.
		c.log.Info("closed a connection to the steal's own listener", "from", conn.RemoteAddr(), "err", err)
		conn.Close()
		return
	}
	_ = conn.SetNoDelay(true)
	client := addrOf(conn.RemoteAddr())
	st := c.thief(local.Port())
	probe, read, rest := false, []byte(nil), &greeted{TCP: mux.TCP{TCPConn: conn}}
	if st != nil {
		probe, read, rest = c.isProbe(st, conn, client, local)
	}
	if !probe {
		stream, err := c.offer(st, client, local)
		if err == nil {
			if len(read) > 0 {
				_, _ = stream.Write(read) // a stream that has ended tells the relay, too
			}
			c.relays.Relay(stream, rest)
			return
		}
		c.log.Debug("a stolen connection goes to the pod", "client", client, "local", local, "err", err)
		if errors.Is(err, syscall.ECONNRESET) {
			mux.TCP{TCPConn: conn}.Abort()
			return
		}
	}
	original, err := c.original("tcp", local)
	if err == nil && len(read) > 0 {
		if _, err = original.Write(read); err != nil {
			original.Close()
		}
	}
	if err != nil {
		c.log.Debug("the pod's own process", "local", local, "err", err)
		mux.TCP{TCPConn: conn}.Abort()
		return
	}
	splice(rest, original.(*net.TCPConn))
}

// thief waits for the steal of a port; nil if it is nobody's any more.
func (c *Child) thief(port uint16) *steal {
	wait := stealWait
	if c.start.Resuming && time.Since(c.began) < returnWait {
		wait = returnWait
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	return c.steals.find(ctx, port)
}

// offer asks the session that stole the port.
func (c *Child) offer(st *steal, client, local netip.AddrPort) (*mux.Stream, error) {
	if st == nil {
		return nil, errNobody
	}
	ctx, cancel := context.WithTimeout(st.ctx, answerWait)
	defer cancel()
	select {
	case <-st.ready:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return st.session.conn.Open(ctx, wire.KindIncoming, wire.Incoming{Network: "tcp", Client: client, Local: local, Steal: st.stream}, nil)
}

var errNobody = errors.New("child: the port is nobody's any more")

// called returns the address that the client called.
func (c *Child) called(conn *net.TCPConn) (netip.AddrPort, error) {
	local := addrOf(conn.LocalAddr())
	if !c.start.Redirect {
		return local, nil
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return local, err
	}
	var got netip.AddrPort
	var gerr error
	if err := raw.Control(func(fd uintptr) { got, gerr = originalDst(int(fd), local.Addr().Is4()) }); err != nil {
		return local, err
	}
	return got, gerr
}

// originalDst reads SO_ORIGINAL_DST (linux/netfilter_ipv4.h; the same number for IPv6): a sockaddr of the address
// before the redirect.
func originalDst(fd int, ip4 bool) (netip.AddrPort, error) {
	const soOriginalDst = 80
	var sa [unix.SizeofSockaddrInet6]byte
	size, level := uint32(len(sa)), unix.SOL_IPV6
	if ip4 {
		size, level = unix.SizeofSockaddrInet4, unix.SOL_IP
	}
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), soOriginalDst,
		uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return netip.AddrPort{}, os.NewSyscallError("getsockopt SO_ORIGINAL_DST", errno)
	}
	port := uint16(sa[2])<<8 | uint16(sa[3])
	if ip4 {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(sa[4:8])), port), nil
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(sa[8:24])), port), nil
}

// original dials the pod's own process past the steal.
func (c *Child) original(network string, local netip.AddrPort) (net.Conn, error) {
	conn, release, err := c.originalSocket(network, local)
	if err == nil {
		release() // a connected TCP socket needs no bypass
	}
	return conn, err
}

// originalSocket is original for a flow that needs its bypass for longer; release ends it.
func (c *Child) originalSocket(network string, local netip.AddrPort) (conn net.Conn, release func(), err error) {
	c.trace.note("original", network+" "+local.String(), true)
	var d pair.Dialable
	files, err := c.caller.Call(pair.OpOriginal, pair.Original{Network: network, Local: local}, &d)
	if err != nil {
		return nil, nil, err
	}
	defer pair.CloseAll(files)
	release = func() { _, _ = c.caller.Call(pair.OpRelease, d, nil) }
	if len(files) != 1 {
		release()
		return nil, nil, syscall.EBADMSG
	}
	if conn, err = connect(files[0], local); err != nil {
		release()
		return nil, nil, err
	}
	return conn, release, nil
}

// connect connects a socket that the parent made. A listener that does not take connections must not hold a thread, so
// it is waited for by the poller.
func connect(f *os.File, to netip.AddrPort) (net.Conn, error) {
	fd := int(f.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	var sa unix.Sockaddr = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	if to.Addr().Is4() {
		sa = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	if err := unix.Connect(fd, sa); err != nil && err != unix.EINPROGRESS {
		return nil, os.NewSyscallError("connect", err)
	}
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		conn.Close()
		return nil, err
	}
	var soerr int
	var gerr error
	err = raw.Write(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if n, _ := unix.Poll(p, 0); n == 0 {
			return false
		}
		soerr, gerr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		return true
	})
	if err == nil {
		err = gerr
	}
	if err == nil && soerr != 0 {
		err = syscall.Errno(soerr)
	}
	if err != nil {
		conn.Close()
		return nil, os.NewSyscallError("connect", err)
	}
	return conn, nil
}

// splice joins a client and a kernel's socket until both directions have ended. io.Copy between sockets is splice(2): no
// bytes come through this process.
//
// Goroutines: the caller's and one more, which has ended on return.
func splice(client *greeted, b *net.TCPConn) {
	a := client.TCPConn
	var wg sync.WaitGroup
	one := func(to *net.TCPConn, from io.Reader) {
		if _, err := io.Copy(to, from); err != nil {
			mux.TCP{TCPConn: a}.Abort()
			mux.TCP{TCPConn: b}.Abort()
			return
		}
		_ = to.CloseWrite()
	}
	var from io.Reader = a
	if !client.plain() {
		from = struct{ io.Reader }{client} // and none of the socket's other ways to be read
	}
	wg.Go(func() { one(a, b) })
	one(b, from)
	wg.Wait()
	a.Close()
	b.Close()
}
