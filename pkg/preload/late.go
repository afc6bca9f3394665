package preload

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/mux"
)

// A late connect. The program's socket connects to a listener whose queue is full, so that its SYN stays unanswered: it is
// connecting, as it would be to a pod that has not answered yet, and epoll has no event. When the pod has answered, a socket
// with the listener's address connects to the program's: a simultaneous open (RFC 9293, 3.5). If the pod has refused, the
// listener closes, and the program's next SYN, within a second, is refused; the library then asks for the pod's own errno.
// Proved, unprivileged.
const (
	findLimit = 3 * time.Second      // for the program's SYN; it sends the first right after the answer, the next a second later
	findPause = 2 * time.Millisecond // between two looks; grows
	openLimit = 5 * time.Second      // for the simultaneous open itself, some 50 µs
)

// place is a listener with a full queue. It owns both descriptors.
type place struct {
	fd     int
	filler net.Conn
	addr   netip.AddrPort
}

func newPlace(at netip.Addr) (*place, error) {
	p := &place{}
	var err error
	if p.fd, err = sharedSocket(netip.AddrPortFrom(at, 0)); err != nil {
		return nil, err
	}
	if err := unix.Listen(p.fd, 0); err != nil { // one connection fills it (tcp_conn_request, sk_acceptq_is_full)
		p.Close()
		return nil, fmt.Errorf("preload: listening for a late connect: %w", err)
	}
	if p.addr, err = nameOf(p.fd); err != nil {
		p.Close()
		return nil, err
	}
	if p.filler, err = net.DialTimeout("tcp", p.addr.String(), openLimit); err != nil {
		p.Close()
		return nil, fmt.Errorf("preload: filling a listener's queue: %w", err)
	}
	return p, nil
}

// Close has whoever is still connecting refused.
func (p *place) Close() {
	unix.Close(p.fd)
	if p.filler != nil {
		p.filler.Close()
	}
}

// sharedSocket is a TCP socket that shares its address with others of this user's.
func sharedSocket(at netip.AddrPort) (int, error) {
	family := unix.AF_INET
	if at.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("preload: a socket for a late connect: %w", err)
	}
	for _, option := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, 1)
		}
	}
	if err == nil {
		err = unix.Bind(fd, sockaddr(at))
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("preload: a socket for a late connect: %w", err)
	}
	return fd, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func nameOf(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("preload: reading a socket's address: %w", err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		return unmap(netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))), nil
	}
	return netip.AddrPort{}, fmt.Errorf("preload: reading a socket's address: it is none of IP's")
}

// later leaves the program's socket connecting until the dial has ended.
func (s *Server) later(ctx context.Context, q *question, body ConnectQuestion, dst netip.AddrPort, result <-chan dialed) {
	p, err := newPlace(loopbackFor(body))
	if err != nil {
		s.log.Warn("preload: a late connect", "err", err)
		s.settle(q, body, dst, <-result) // then it waits, which is better than an error of ours
		return
	}
	s.flows.expect(p.addr, dst)
	defer s.flows.forget(p.addr)
	defer p.Close()
	if !q.answer(ConnectAnswer{Verdict: VerdictLater, To: mapped(p.addr, body.To)}, nil) {
		go func() { abandon(<-result) }()
		return
	}
	var d dialed
	select {
	case d = <-result:
	case <-ctx.Done():
		d = <-result // a dial ends with its context
	}
	if d.err != nil {
		s.log.Debug("preload: a late connect", "dst", dst, "err", d.err)
		s.refusals.add(body.Inode, errno(d.err))
		return // closes the listener
	}
	conn, err := s.open2(p, body.Inode)
	if err != nil {
		s.log.Debug("preload: completing a late connect", "dst", dst, "err", err)
		abandon(d)
		return
	}
	s.carry(conn, p.addr, dst, d)
}

// Bounds of refusals. A program reads the error when its socket becomes ready; one that never does, or is at a breakpoint for
// longer, is told what the kernel knows.
const (
	refusalKept = time.Minute
	maxRefusals = 512
)

// refusals are the errnos of late connects that the kernel knows as refused, by the socket.
type refusals struct {
	mu sync.Mutex
	by map[uint64]refusal
}

type refusal struct {
	errno syscall.Errno
	since time.Time
}

func (r *refusals) add(inode uint64, no syscall.Errno) {
	if no == syscall.ECONNREFUSED {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.by == nil {
		r.by = map[uint64]refusal{}
	}
	if len(r.by) >= maxRefusals {
		maps.DeleteFunc(r.by, func(_ uint64, old refusal) bool { return time.Since(old.since) > refusalKept })
	}
	if len(r.by) < maxRefusals {
		r.by[inode] = refusal{no, time.Now()}
	}
}

// take returns it once; 0: none is known.
func (r *refusals) take(inode uint64) syscall.Errno {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, ok := r.by[inode]
	delete(r.by, inode)
	if !ok || time.Since(known.since) > refusalKept {
		return 0
	}
	return known.errno
}

// open2 finds the program's socket and connects to it from the listener's address.
func (s *Server) open2(p *place, inode uint64) (*net.TCPConn, error) {
	near, err := s.find(p, inode)
	if err != nil {
		return nil, err
	}
	fd, err := sharedSocket(p.addr)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "late")
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cerr error
	if err := raw.Control(func(fd uintptr) { cerr = unix.Connect(int(fd), sockaddr(near)) }); err != nil {
		return nil, err
	}
	if cerr != nil && cerr != unix.EINPROGRESS {
		return nil, fmt.Errorf("preload: connecting to a program: %w", cerr)
	}
	if err := connected(f, raw); err != nil {
		return nil, fmt.Errorf("preload: connecting to a program: %w", err)
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	tcp := c.(*net.TCPConn)
	_ = tcp.SetNoDelay(true)
	return tcp, nil
}

// find looks for the program's connect under way. It has begun, or will at once; or the program has gone.
func (s *Server) find(p *place, inode uint64) (netip.AddrPort, error) {
	pause := findPause
	for end := time.Now().Add(findLimit); ; {
		near, to, ok, err := s.machine.Connecting(uint32(inode))
		if err != nil {
			return near, err
		}
		if ok && to == p.addr {
			return near, nil
		}
		if time.Now().After(end) {
			return near, fmt.Errorf("preload: no socket %d connects to %v", inode, p.addr)
		}
		select {
		case <-time.After(pause):
			pause *= 2
		case <-s.ctx.Done():
			return near, s.ctx.Err()
		}
	}
}

// connected waits until a connect in progress has ended.
func connected(f *os.File, raw syscall.RawConn) error {
	if err := f.SetWriteDeadline(time.Now().Add(openLimit)); err != nil {
		return err
	}
	var no int
	var operr error
	err := raw.Write(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if n, _ := unix.Poll(p, 0); n == 0 {
			return false
		}
		no, operr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		return true
	})
	switch {
	case err != nil:
		return err
	case operr != nil:
		return operr
	case no != 0:
		return syscall.Errno(no)
	}
	return nil
}

var _ mux.End = deadEnd{}
