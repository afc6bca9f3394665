// Package steal takes incoming flows of the pod away from its own process and gives the agent the means to reach that
// process all the same. It is the privileged half: it opens sockets, BPF maps and netlink sockets in the pod's network
// namespace and hands descriptors out. Nothing it does outlives this process: the kernel undoes the steal when its
// descriptors are closed, by a SIGKILL, too. It must never read a byte that came from outside.
package steal

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Port is one port of the pod. Network is "tcp" or "udp".
type Port struct {
	Network string
	Number  uint16
}

func (p Port) protocol() uint8 {
	if p.Network == "udp" {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

// Modes of an Engine.
const (
	Lookup   = "steal"    // BPF sk_lookup: true addresses, no NAT
	Redirect = "redirect" // nftables: NAT within the pod
	None     = ""
)

// families are the order of everything that comes in pairs.
var families = [2]int{unix.AF_INET, unix.AF_INET6}

// Engine steals in one network namespace. It is not safe for concurrent use. It owns all its descriptors.
//
// Goroutines: none.
type Engine struct {
	do  func(func() error) error // runs a function in the pod's network namespace
	log *slog.Logger

	Mode  string
	Limit string // why Mode is not Lookup, or None; one sentence

	lookup    *lookup
	redirect  *redirect
	mark      uint32
	listeners [2]*os.File // TCP; nil where the pod lacks the family
	taken     map[Port]*taken
	free      []uint32 // pairs of indexes in the sockets map
	bypassed  map[uint64]bypassKey
	last      uint64
}

type taken struct {
	loopback bool
	index    uint32
	udp      [2]*os.File
}

// New probes what can be done here, by doing it. do runs a function on a thread in the pod's network namespace, netns is
// that namespace. Where nothing can be done Mode is None and Limit says why; an error is a failure of something that
// should work.
func New(do func(func() error) error, netns *os.File, log *slog.Logger) (*Engine, error) {
	e := &Engine{do: do, log: log, taken: map[Port]*taken{}, bypassed: map[uint64]bypassKey{}}
	for i := uint32(2); i+1 < maxSockets; i += 2 {
		e.free = append(e.free, i)
	}
	e.mark = rand.Uint32() | 1<<31 | 1 // never 0, and unlike the small numbers that other programs choose
	if err := e.do(func() error { return tryMark(e.mark) }); err != nil {
		e.Limit = fmt.Sprintf("incoming traffic cannot be stolen: %v", err)
		return e, nil
	}
	var err error
	if e.lookup, err = newLookup(netns); err == nil {
		e.Mode = Lookup
	} else {
		e.lookup = nil
		log.Debug("no sk_lookup", "err", err)
		why := err
		if err = e.do(func() (err error) { e.redirect, err = newRedirect(e.mark); return err }); err != nil {
			e.Limit = fmt.Sprintf("incoming traffic cannot be stolen: %v; %v", why, err)
			return e, nil
		}
		e.Mode = Redirect
		e.Limit = fmt.Sprintf("incoming traffic is stolen by nftables redirect, not by BPF (%v)", why)
	}
	if err := e.do(e.listen); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

// Mark is what the agent's own sockets bear (SO_MARK, socket(7)), and their packets; 0 where nothing can be stolen.
func (e *Engine) Mark() uint32 {
	if e.Mode == None {
		return 0
	}
	return e.mark
}

// tryMark probes SO_MARK, by which the agent's own sockets are told from the pod's.
func tryMark(mark uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	return os.NewSyscallError("setsockopt SO_MARK", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)))
}

// listen opens one TCP listener a family.
func (e *Engine) listen() error {
	const backlog = 4096 // the kernel lowers it to net.core.somaxconn
	for i, family := range families {
		f, err := e.socket(family, unix.SOCK_STREAM, netip.AddrPortFrom(e.home(i), 0))
		if unavailable(err) && i == 1 {
			continue
		}
		if err == nil {
			if err = reusable(f); err == nil {
				err = os.NewSyscallError("listen", unix.Listen(int(f.Fd()), backlog))
			}
			if err != nil {
				f.Close()
			}
		}
		if err != nil {
			return fmt.Errorf("steal: listening in the pod: %w", err)
		}
		e.listeners[i] = f
		if e.lookup == nil {
			continue
		}
		if err := e.lookup.sockets.Put(uint32(i), uint64(f.Fd())); err != nil {
			return fmt.Errorf("steal: entering the listener: %w", err)
		}
	}
	return nil
}

// reusable sets SO_REUSEADDR, which accepted sockets inherit. Those have the stolen port as their own: without it a program
// of the pod's that is started again could not listen there (EADDRINUSE) for as long as one of them lives.
func reusable(f *os.File) error {
	return os.NewSyscallError("setsockopt SO_REUSEADDR", unix.SetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
}

// home is where own sockets listen. Under sk_lookup that is loopback, where fewest can dial them; a redirect lands on
// the address of the interface a packet came by, so there it is every address.
func (e *Engine) home(family int) netip.Addr {
	switch {
	case family == 0 && e.lookup != nil:
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case family == 0:
		return netip.IPv4Unspecified()
	case e.lookup != nil:
		return netip.IPv6Loopback()
	}
	return netip.IPv6Unspecified()
}

// unavailable says that the pod has no such family.
func unavailable(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)
}

// socket makes a bound socket that bears the mark. It is plain TCP: sockmap refuses Multipath TCP, which Go's own
// listeners use.
func (e *Engine) socket(family, kind int, bind netip.AddrPort) (*os.File, error) {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(e.mark))
	if err == nil && family == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if err == nil {
		err = unix.Bind(fd, sockaddr(bind))
	}
	if err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return os.NewFile(uintptr(fd), "socket"), nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func localAddr(f *os.File) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(int(f.Fd()))
	if err != nil {
		return netip.AddrPort{}, os.NewSyscallError("getsockname", err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)), nil
	}
	return netip.AddrPort{}, unix.EAFNOSUPPORT
}

// Listeners returns the TCP listeners, which stay the engine's.
func (e *Engine) Listeners() (all []*os.File) {
	for _, l := range e.listeners {
		if l != nil {
			all = append(all, l)
		}
	}
	return all
}

// Close ends every steal.
func (e *Engine) Close() {
	if e.lookup != nil {
		e.lookup.close()
	}
	if e.redirect != nil {
		_ = e.redirect.set(nil) // nothing new comes; what waits in the listeners is still translated, and so is its reset
	}
	for _, l := range e.Listeners() {
		l.Close()
	}
	if e.redirect != nil {
		e.redirect.close()
	}
	for _, t := range e.taken {
		t.close()
	}
}
