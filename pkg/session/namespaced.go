package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/namespaces"
	"github.com/stepin-dev/stepin/pkg/netstack"
)

// namespaced is the front end that gives the debuggee namespaces of its own: netstack is their network, podfs their
// files. What it embeds are the methods of frontEnd that namespaces have by themselves.
type namespaced struct {
	*namespaces.Namespaces
	s     *Session
	stack *netstack.Stack
	// elsewhere finds a listener of the debuggee's that is not inside; nil: all are.
	elsewhere func(network string, port uint16) (netip.AddrPort, bool)
}

var _ frontEnd = (*namespaced)(nil)

// newNamespaced makes the namespaces and becomes their network and files. dir is removed with them.
func newNamespaced(ctx context.Context, s *Session, dir string) (*namespaced, error) {
	stub, err := s.options.Parts.Stub()
	if err != nil {
		return nil, err
	}
	keeper, err := s.options.Parts.Keeper()
	if err != nil {
		return nil, err
	}
	plan := namespaces.Plan{Addrs: s.pod.Addrs, Cover: s.plan.Cover, Hide: s.plan.Hide, Host: s.plan.Host,
		Blank: s.blank(), Dir: dir,
		TunPath: s.options.TunPath, FusePath: s.options.FusePath}
	if s.config.Hostname {
		plan.Hostname = s.pod.Hostname
	}
	ns, err := namespaces.Start(ctx, plan, namespaces.Options{ServeFUSE: s.trees.add(s.newFiles(false)).Serve, Log: s.log, Stub: stub, Keeper: keeper})
	if err != nil {
		return nil, err
	}
	f := &namespaced{Namespaces: ns, s: s}
	f.stack, err = netstack.New(netstack.Config{Tun: ns.Tun(), Loopback6: ns.Loopback6(), Log: s.log, TCP: f.tcp, UDP: f.udp})
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return f, nil
}

// Close ends every process inside, and then their network.
func (f *namespaced) Close() error {
	err := f.Namespaces.Close()
	f.stack.Close()
	return err
}

// Begin starts a command inside; what cannot be run there is said in words.
func (f *namespaced) Begin(cmd *exec.Cmd) error {
	program := cmd.Path
	err := f.Namespaces.Begin(cmd)
	var refused *namespaces.ExecError
	if !errors.As(err, &refused) {
		return err
	}
	return notRun(program, refused.Status == exitMissing, refused.Errno, refused.Text)
}

// Arrived is no question: what the stub has executed is inside.
func (f *namespaced) Arrived(context.Context) error { return nil }

// exitMissing is the stub's status where there is no such program.
const exitMissing = 127

// Err says why they are gone.
func (f *namespaced) Err() error {
	err := f.Namespaces.Err()
	if err == nil {
		err = errors.New("they were ended from outside")
	}
	return fail.Wrap(fail.NamespacesForbidden, err, "start again", "the debuggee's namespaces are gone")
}

// OnHost says no: what listens inside listens nowhere else.
func (f *namespaced) OnHost(string, uint16) (uint16, bool) { return 0, false }

// Environ adds nothing: the namespaces need no word in the debuggee's variables.
func (f *namespaced) Environ(env []string) []string { return env }

// SendUDP writes a datagram to the TUN device.
func (f *namespaced) SendUDP(client, dst netip.AddrPort, data []byte) error {
	return f.stack.SendUDP(client, dst, data)
}

// flowEnd makes a netstack flow an End for a relay.
type flowEnd struct{ *netstack.Conn }

func (e flowEnd) Readable() error {
	e.WaitReadable()
	return nil
}

// tcp answers one SYN of the debuggee's.
func (f *namespaced) tcp(ctx context.Context, src, dst netip.AddrPort) (func(*netstack.Conn), error) {
	serve, err := f.s.tcp(ctx, src, dst, f.askedByHostProgram("tcp", src, dst))
	if errors.Is(err, errOwn) {
		if f.elsewhere == nil {
			return nil, netstack.ErrReturn
		}
		at, ok := f.elsewhere("tcp", dst.Port())
		if !ok {
			return nil, netstack.ErrReturn
		}
		serve, err = f.s.hostTCP(ctx, at)
	}
	if err != nil {
		return nil, err
	}
	return func(c *netstack.Conn) { serve(flowEnd{c}) }, nil
}

// udp answers the first datagram of an association.
func (f *namespaced) udp(ctx context.Context, src, dst netip.AddrPort) (func(*netstack.PacketConn), error) {
	serve, err := f.s.udp(ctx, src, dst, f.askedByHostProgram("udp", src, dst))
	if err != nil {
		return nil, err
	}
	return func(c *netstack.PacketConn) { serve(c) }, nil
}

// askedByHostProgram says whether the process behind a flow belongs to the developer's machine: a debugger, compiler
// or package manager that the debuggee started. Who cannot be found is the debuggee.
func (f *namespaced) askedByHostProgram(network string, src, dst netip.AddrPort) bool {
	pid, err := f.Owner(network, src, dst)
	return err == nil && f.s.isHostProgram(pid)
}

// Deliver connects to the debuggee's listener from the client's address, by a socket made inside the namespaces. The
// client may have used its port for a connection that has not ended here yet: that one is dead, or its kernel would not
// have used the port again; but not where it is a copy, of which the debuggee has yet to see what the pod has answered. Where
// the port stays taken, another one of the client's address is better than no answer.
func (f *namespaced) Deliver(ctx context.Context, client, dst netip.AddrPort) (*net.TCPConn, error) {
	client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
	conn, err := f.connectFrom(ctx, client, dst)
	taken := func() bool { return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EADDRINUSE) }
	// The pod's own addresses are the debuggee's, too: there the port may be that of one of its own connections.
	if taken() && !f.s.itself(client.Addr()) && !f.s.copying.twice(client, dst) {
		if err := f.Destroy(client, dst); err != nil {
			f.s.log.Debug("a client's port again", "client", client, "err", err)
		}
		conn, err = f.connectFrom(ctx, client, dst)
	}
	if taken() {
		conn, err = f.connectFrom(ctx, netip.AddrPortFrom(client.Addr(), 0), dst)
	}
	return conn, err
}

func (f *namespaced) connectFrom(ctx context.Context, client, dst netip.AddrPort) (*net.TCPConn, error) {
	family := unix.AF_INET
	if dst.Addr().Is6() {
		family = unix.AF_INET6
	}
	file, err := f.TransparentSocket(family)
	if err != nil {
		return nil, fmt.Errorf("session: a socket for the client's address: %w", err)
	}
	defer file.Close()
	raw, err := file.SyscallConn()
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
	if err := waitConnected(ctx, file, raw); err != nil {
		return nil, err
	}
	c, err := net.FileConn(file)
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
