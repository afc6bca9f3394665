package netstack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// roles are what the debuggee can play.
var roles = map[string]func(*debuggee){
	"dial": roleDial, "dial udp": roleDialUDP, "address": roleAddress, "echo": roleEcho, "half close": roleHalfClose,
	"reset": roleReset, "give up": roleGiveUp, "reuse": roleReuse, "flows": roleFlows, "short": roleShort,
	"rate": roleRate, "udp": roleUDP, "hold": roleHold, "trickle": roleTrickle, "unplug": roleUnplug, "late reader": roleLateReader,
}

// A dial is one connect of the debuggee and what came of it.
type dial struct {
	Mode    string // blocking, epoll, go
	Dst     netip.AddrPort
	SynCnt  int           // TCP_SYNCNT, 0: the default
	Errno   syscall.Errno // out
	Events  string        // out, epoll: the events that ended it
	Took    time.Duration // out
	Peer    netip.AddrPort
	Own     netip.AddrPort
	Pending bool // out, epoll: EINPROGRESS and no event for 20 ms
}

func roleDial(d *debuggee) {
	var dials []*dial
	d.arg(&dials)
	var wg sync.WaitGroup
	for _, x := range dials {
		wg.Add(1)
		go func() {
			defer wg.Done()
			x.run()
		}()
	}
	wg.Wait()
	d.say(dials)
	d.wait()
}

func (x *dial) run() {
	began := time.Now()
	switch x.Mode {
	case "blocking":
		fd := socket(x.Dst, unix.SOCK_STREAM, 0)
		defer unix.Close(fd)
		x.count(fd)
		x.Errno = errnoIn(unix.Connect(fd, sockaddr(x.Dst)))
		x.names(fd)
	case "epoll":
		x.epoll()
	case "go":
		dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { x.count(int(fd)) })
		}}
		c, err := dialer.DialContext(context.Background(), "tcp", x.Dst.String())
		x.Errno = errnoIn(err)
		if err == nil {
			x.Peer, x.Own = c.RemoteAddr().(*net.TCPAddr).AddrPort(), c.LocalAddr().(*net.TCPAddr).AddrPort()
			c.Close()
		}
	}
	x.Took = time.Since(began)
}

func (x *dial) epoll() {
	fd := socket(x.Dst, unix.SOCK_STREAM, unix.SOCK_NONBLOCK)
	defer unix.Close(fd)
	x.count(fd)
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	check(err)
	defer unix.Close(ep)
	check(unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP, Fd: int32(fd)}))
	if err := unix.Connect(fd, sockaddr(x.Dst)); err != unix.EINPROGRESS {
		x.Errno = errnoIn(err)
		return
	}
	ev := make([]unix.EpollEvent, 1)
	n := epollWait(ep, ev, 20)
	if x.Pending = n == 0; x.Pending {
		n = epollWait(ep, ev, 30000)
	}
	// An event may be stale: a socket that is not connecting yet is "hung up".
	for n > 0 && ev[0].Events&unix.EPOLLERR == 0 && connecting(fd) {
		n = epollWait(ep, ev, 30000)
	}
	if n > 0 {
		x.Events = fmt.Sprintf("%#x", ev[0].Events)
	}
	e, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	check(err)
	x.Errno = syscall.Errno(e)
	x.names(fd)
}

func connecting(fd int) bool {
	_, err := unix.Getpeername(fd)
	return err == unix.ENOTCONN
}

func epollWait(ep int, ev []unix.EpollEvent, ms int) int {
	for {
		n, err := unix.EpollWait(ep, ev, ms)
		if err != unix.EINTR {
			check(err)
			return n
		}
	}
}

func (x *dial) count(fd int) {
	if x.SynCnt > 0 {
		check(unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_SYNCNT, x.SynCnt))
	}
}

func (x *dial) names(fd int) {
	if x.Errno == 0 {
		peer, err := unix.Getpeername(fd)
		check(err)
		own, err := unix.Getsockname(fd)
		check(err)
		x.Peer, x.Own = addrPort(peer), addrPort(own)
	}
}

func socket(dst netip.AddrPort, kind, flags int) int {
	family := unix.AF_INET
	if dst.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, kind|flags|unix.SOCK_CLOEXEC, 0)
	check(err)
	return fd
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is6() {
		return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

func errnoIn(err error) syscall.Errno {
	var errno syscall.Errno
	if err == nil || errors.As(err, &errno) {
		return errno
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return syscall.ETIME // our own mark: nothing came
	}
	panic(err)
}

// roleDialUDP connects, sends one datagram, and says what the next read gives; ETIME is our mark for nothing in 1.5 s.
func roleDialUDP(d *debuggee) {
	var dials []*dial
	d.arg(&dials)
	var wg sync.WaitGroup
	for _, x := range dials {
		c, err := net.Dial("udp", x.Dst.String())
		check(err)
		_, err = c.Write([]byte("x"))
		check(err)
		check(c.SetReadDeadline(time.Now().Add(1500 * time.Millisecond)))
		wg.Go(func() {
			_, err := c.Read(make([]byte, 10))
			x.Errno = errnoIn(err)
			c.Close()
		})
	}
	wg.Wait()
	d.say(dials)
	d.wait()
}

// roleAddress connects from the pod's IP and a chosen port.
func roleAddress(d *debuggee) {
	var x struct{ From, To netip.AddrPort }
	d.arg(&x)
	fd := socket(x.To, unix.SOCK_STREAM, 0)
	check(unix.Bind(fd, sockaddr(x.From)))
	check(unix.Connect(fd, sockaddr(x.To)))
	y := dial{}
	y.names(fd)
	d.say(y)
	d.wait()
}

func dialTCP(dst netip.AddrPort) *net.TCPConn {
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(dst))
	check(err)
	return c
}

// roleEcho sends bytes, closes its writing side, and says the digest of what comes back.
func roleEcho(d *debuggee) {
	var x struct {
		To   netip.AddrPort
		Size int
	}
	d.arg(&x)
	c := dialTCP(x.To)
	go func() {
		_, err := io.CopyN(c, pattern(), int64(x.Size))
		check(err)
		check(c.CloseWrite())
	}()
	h := sha256.New()
	n, err := io.Copy(h, c)
	check(err)
	d.say(fmt.Sprint(n, " ", hex.EncodeToString(h.Sum(nil))))
	d.wait()
}

// pattern is an endless reader of bytes that never repeat, the same each time.
func pattern() io.Reader { return rand.NewChaCha8([32]byte{}) }

// roleHalfClose reads to the end first, then writes; or the other way round.
func roleHalfClose(d *debuggee) {
	var x struct {
		To    netip.AddrPort
		First string
	}
	d.arg(&x)
	c := dialTCP(x.To)
	if x.First == "debuggee" {
		_, err := c.Write([]byte("question"))
		check(err)
		check(c.CloseWrite())
	}
	b, err := io.ReadAll(c)
	check(err)
	if x.First == "pod" {
		_, err := c.Write([]byte("afterthought"))
		check(err)
	}
	check(c.Close())
	d.say(string(b))
	d.wait()
}

// roleReset reads until it is reset, or resets itself when told, in the way of SO_LINGER 0.
func roleReset(d *debuggee) {
	var x struct {
		To     netip.AddrPort
		Myself bool
	}
	d.arg(&x)
	c := dialTCP(x.To)
	if x.Myself {
		d.wait()
		check(c.SetLinger(0))
		check(c.Close())
		d.say("")
	} else {
		_, err := c.Write([]byte("x"))
		check(err)
		_, err = io.ReadAll(c)
		d.say(errnoIn(err))
	}
	d.wait()
}

// roleGiveUp closes a socket that is still connecting, each time it is told.
func roleGiveUp(d *debuggee) {
	var to netip.AddrPort
	d.arg(&to)
	fd := socket(to, unix.SOCK_STREAM, unix.SOCK_NONBLOCK)
	if err := unix.Connect(fd, sockaddr(to)); err != unix.EINPROGRESS {
		panic(err)
	}
	d.wait()
	check(unix.Close(fd))
	d.say("")
	d.wait()
}

// roleReuse connects many times from one and the same port, either side closing first.
func roleReuse(d *debuggee) {
	var x struct {
		From, To netip.AddrPort
		Times    int
	}
	d.arg(&x)
	var errs []string
	for i := range x.Times {
		fd := socket(x.To, unix.SOCK_STREAM, 0)
		check(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
		check(unix.Bind(fd, sockaddr(x.From)))
		// The pod side of an even port closes first: TIME_WAIT is theirs.
		to := netip.AddrPortFrom(x.To.Addr(), x.To.Port()+uint16(i%2))
		if err := unix.Connect(fd, sockaddr(to)); err != nil {
			errs = append(errs, fmt.Sprintf("%d connect: %v", i, err))
		} else if i%2 == 0 {
			if n, err := unix.Read(fd, make([]byte, 1)); err != nil || n != 0 {
				errs = append(errs, fmt.Sprintf("%d read: %d %v", i, n, err))
			}
		} else { // the debuggee resets, so that its kernel keeps no TIME_WAIT either
			check(unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
		}
		check(unix.Close(fd))
		for began := time.Now(); i%2 == 0 && inUse(x.From) && time.Since(began) < time.Second; { // until our FIN is acknowledged
			time.Sleep(100 * time.Microsecond)
		}
	}
	d.say(errs)
	d.wait()
}

// inUse says whether the kernel still has a socket on the address.
func inUse(a netip.AddrPort) bool {
	b, err := os.ReadFile("/proc/net/tcp")
	check(err)
	return strings.Contains(string(b), fmt.Sprintf(":%04X ", a.Port()))
}

// roleFlows opens flows that stand still; with Write it fills each first, without reading.
func roleFlows(d *debuggee) {
	var x struct {
		To     netip.AddrPort
		N      int
		Write  bool
		Pieces int // bytes per write
	}
	d.arg(&x)
	check(unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 4096, Max: 4096}))
	fds := make([]int, x.N)
	for i := range fds {
		fds[i] = socket(x.To, unix.SOCK_STREAM, 0)
		check(unix.SetsockoptInt(fds[i], unix.SOL_TCP, unix.TCP_NODELAY, 1))
		// What the kernel keeps itself is not of interest, and a gigabyte of it makes TCP slow on the whole machine.
		check(unix.SetsockoptInt(fds[i], unix.SOL_SOCKET, unix.SO_SNDBUF, 32<<10))
		check(unix.Connect(fds[i], sockaddr(x.To)))
		check(unix.SetNonblock(fds[i], true))
	}
	d.say(len(fds))
	d.wait()
	total := 0
	if x.Write {
		b := make([]byte, x.Pieces)
		for still := 0; still < 20; {
			before := total
			for _, fd := range fds {
				for {
					n, err := unix.Write(fd, b)
					if err != nil {
						break
					}
					total += n
				}
			}
			if still++; total != before {
				still = 0
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	d.say(total)
	d.wait()
	// Another flow meanwhile.
	c := dialTCP(netip.AddrPortFrom(x.To.Addr(), 7))
	_, err := c.Write([]byte("unharmed"))
	check(err)
	check(c.CloseWrite())
	b, err := io.ReadAll(c)
	check(err)
	d.say(string(b))
	d.wait()
}

// roleShort makes many short connections, a few at a time, and says how many went wrong and how.
func roleShort(d *debuggee) {
	var x struct {
		To   netip.AddrPort
		N, C int
	}
	d.arg(&x)
	var wg sync.WaitGroup
	var mu sync.Mutex
	wrong := map[string]int{}
	work := make(chan struct{})
	for range x.C {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range work {
				if err := exchange(x.To); err != nil {
					mu.Lock()
					wrong[errors.Unwrap(err).Error()]++
					mu.Unlock()
				}
			}
		}()
	}
	for range x.N {
		work <- struct{}{}
	}
	close(work)
	wg.Wait()
	d.say(wrong)
	d.wait()
}

func exchange(to netip.AddrPort) error {
	c, err := net.DialTimeout("tcp", to.String(), 10*time.Second)
	if err != nil {
		return fmt.Errorf("%w", err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("ping")); err != nil {
		return fmt.Errorf("%w", err)
	}
	b := make([]byte, 4)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "ping" {
		return fmt.Errorf("%w", fmt.Errorf("read %q: %v", b, err))
	}
	return nil
}

// roleRate sends or receives a number of bytes and says how long that took.
func roleRate(d *debuggee) {
	var x struct {
		To   netip.AddrPort
		Size int64
		Up   bool
	}
	d.arg(&x)
	c := dialTCP(x.To)
	began := time.Now()
	buf := make([]byte, 256<<10)
	if x.Up {
		for sent := int64(0); sent < x.Size; sent += int64(len(buf)) {
			_, err := c.Write(buf)
			check(err)
		}
		check(c.CloseWrite())
		_, err := c.Read(buf)
		if err != io.EOF {
			check(err)
		}
	} else {
		_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, buf)
		check(err)
	}
	d.say(time.Since(began))
	d.wait()
}

// roleUDP sends datagrams of each size to an echo from one socket, connected or not, and says what came back wrong.
func roleUDP(d *debuggee) {
	var x struct {
		To        netip.AddrPort
		Sizes     []int
		Connected bool
	}
	d.arg(&x)
	var c *net.UDPConn
	var err error
	if x.Connected {
		c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(x.To))
	} else {
		c, err = net.ListenUDP("udp", &net.UDPAddr{})
	}
	check(err)
	check(c.SetReadBuffer(4 << 20))
	var wrong []string
	for _, size := range x.Sizes {
		out := make([]byte, size)
		_, _ = pattern().Read(out)
		if x.Connected {
			_, err = c.Write(out)
		} else {
			_, err = c.WriteToUDPAddrPort(out, x.To)
		}
		check(err)
		check(c.SetReadDeadline(time.Now().Add(5 * time.Second)))
		in := make([]byte, 1<<16)
		n, from, err := c.ReadFromUDPAddrPort(in)
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		if err != nil || string(in[:n]) != string(out) || from != x.To {
			wrong = append(wrong, fmt.Sprintf("%d bytes: got %d from %v: %v", size, n, from, err))
		}
	}
	d.say(wrong)
	d.wait()
}

// roleHold keeps one connection until the end.
func roleHold(d *debuggee) {
	var to netip.AddrPort
	d.arg(&to)
	c := dialTCP(to)
	d.say("")
	d.wait()
	b, err := io.ReadAll(c)
	_ = b
	d.say(errnoIn(err))
	d.wait()
}

// roleTrickle writes single bytes without Nagle, as fast as it can, then closes its writing side.
func roleTrickle(d *debuggee) {
	var x struct {
		To netip.AddrPort
		N  int
	}
	d.arg(&x)
	c := dialTCP(x.To)
	for i := range x.N {
		_, err := c.Write([]byte{byte(i)})
		check(err)
	}
	check(c.CloseWrite())
	d.say("")
	_, err := io.Copy(io.Discard, c)
	check(err)
	d.say("")
	d.wait()
}

// roleUnplug deletes the TUN device under a connection.
func roleUnplug(d *debuggee) {
	var to netip.AddrPort
	d.arg(&to)
	dialTCP(to)
	tun, err := netlink.LinkByName("tun0")
	check(err)
	check(netlink.LinkDel(tun))
	d.wait()
}

// roleLateReader connects, reads nothing until it is told, and then everything; it says how much and its digest.
func roleLateReader(d *debuggee) {
	var to netip.AddrPort
	d.arg(&to)
	c := dialTCP(to)
	d.wait()
	h := sha256.New()
	n, err := io.Copy(h, c)
	check(err)
	d.say(fmt.Sprint(n, " ", hex.EncodeToString(h.Sum(nil))))
	d.wait()
}
