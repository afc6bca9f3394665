package steal

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/wire"
)

func (t *taken) close() {
	for _, f := range t.udp {
		if f != nil {
			f.Close()
		}
	}
}

// Attach steals p from now on; it is idempotent. For UDP it returns the sockets that receive, IPv4 and IPv6, nil where
// the pod lacks the family; they stay the engine's.
func (e *Engine) Attach(p Port, loopback bool) (udp [2]*os.File, err error) {
	if e.Mode == None {
		return udp, &wire.Refusal{Errno: syscall.EPERM, Message: e.Limit}
	}
	t := e.taken[p]
	if t == nil {
		if t, err = e.take(p); err != nil {
			return udp, err
		}
	}
	t.loopback = loopback
	e.taken[p] = t
	if e.lookup != nil {
		if err = e.lookup.put(p, t.index, loopback); err == nil {
			err = e.lookup.attach()
		}
	} else {
		err = e.apply()
	}
	if err != nil {
		e.Detach(p)
		return udp, err
	}
	return t.udp, nil
}

// take opens what a port needs.
func (e *Engine) take(p Port) (t *taken, err error) {
	t = &taken{}
	if p.Network == "tcp" {
		return t, nil // index 0: the listeners
	}
	if len(e.free) == 0 {
		return nil, &wire.Refusal{Errno: syscall.ENOSPC, Message: "this agent steals too many UDP ports already"}
	}
	err = e.do(func() error {
		for i, family := range families {
			f, err := e.socket(family, unix.SOCK_DGRAM, netip.AddrPortFrom(e.home(i), 0))
			if unavailable(err) && i == 1 {
				continue
			}
			if err != nil {
				return err
			}
			t.udp[i] = f
			if err := wantAddress(f, family); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && e.lookup != nil {
		t.index = e.free[0]
		for i, f := range t.udp {
			if f != nil && err == nil {
				err = e.lookup.sockets.Put(t.index+uint32(i), uint64(f.Fd()))
			}
		}
	}
	if err != nil {
		t.close()
		return nil, fmt.Errorf("steal: sockets for UDP port %d: %w", p.Number, err)
	}
	if e.lookup != nil {
		e.free = e.free[1:]
	}
	return t, nil
}

// wantAddress makes f tell for each datagram which address it was sent to (ip(7), ipv6(7)).
func wantAddress(f *os.File, family int) error {
	if family == unix.AF_INET {
		return os.NewSyscallError("setsockopt IP_PKTINFO", unix.SetsockoptInt(int(f.Fd()), unix.SOL_IP, unix.IP_PKTINFO, 1))
	}
	return os.NewSyscallError("setsockopt IPV6_RECVPKTINFO", unix.SetsockoptInt(int(f.Fd()), unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1))
}

// Detach gives p back to the pod's process. New flows reach it from now on.
func (e *Engine) Detach(p Port) {
	t := e.taken[p]
	if t == nil {
		return
	}
	delete(e.taken, p)
	var err error
	if e.lookup != nil {
		err = e.lookup.remove(p)
		if t.index != 0 {
			e.free = append(e.free, t.index)
		}
		if len(e.taken) == 0 {
			err = errors.Join(err, e.lookup.detach())
		}
	} else {
		err = e.apply()
	}
	if err != nil {
		e.log.Error("giving a port back", "port", p.Number, "err", err)
	}
	t.close() // and the kernel takes a UDP socket out of the map
}

// apply writes the whole redirect table anew.
func (e *Engine) apply() error {
	var listening [2]uint16
	for i, l := range e.listeners {
		listening[i] = portOf(l)
	}
	var targets []target
	for p, t := range e.taken {
		to := listening
		if p.Network == "udp" {
			to = [2]uint16{portOf(t.udp[0]), portOf(t.udp[1])}
		}
		targets = append(targets, target{p, t.loopback, to})
	}
	if err := e.redirect.set(targets); err != nil {
		return fmt.Errorf("steal: nftables: %w", err)
	}
	return nil
}

func portOf(f *os.File) uint16 {
	if f == nil {
		return 0
	}
	a, err := localAddr(f)
	if err != nil {
		return 0
	}
	return a.Port()
}

// CloseExisting ends the TCP connections to p that were open before the steal and returns how many.
func (e *Engine) CloseExisting(p Port, loopback bool) (n int, err error) {
	err = e.do(func() (err error) {
		n, err = closeExisting(p.Number, loopback, e.mark)
		return err
	})
	return n, err
}

// Original makes a socket with which the pod's own process can be reached at local past the steal: bound to the same
// address, because the bypass needs a source that is known before connect. The id is for Release. The caller owns the
// file.
func (e *Engine) Original(network string, local netip.AddrPort) (f *os.File, id uint64, err error) {
	kind, family := unix.SOCK_STREAM, unix.AF_INET
	if network == "udp" {
		kind = unix.SOCK_DGRAM
	}
	if !local.Addr().Is4() {
		family = unix.AF_INET6
	}
	if len(e.bypassed) >= maxBypass {
		return nil, 0, &wire.Refusal{Errno: syscall.EMFILE, Message: "too many connections to the pod's own process"}
	}
	err = e.do(func() (err error) {
		f, err = e.socket(family, kind, netip.AddrPortFrom(local.Addr(), 0))
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("steal: reaching the pod's own process: %w", err)
	}
	e.last++
	id = e.last
	if e.lookup == nil {
		e.bypassed[id] = bypassKey{}
		return f, id, nil // the mark is the bypass
	}
	source, err := localAddr(f)
	if err == nil {
		key := keyOf(network, source, local)
		if err = e.lookup.bypass.Put(key, uint8(1)); err == nil {
			e.bypassed[id] = key
			return f, id, nil
		}
	}
	f.Close()
	return nil, 0, fmt.Errorf("steal: entering the bypass: %w", err)
}

// Release ends a bypass. Connected TCP does not need it any more.
func (e *Engine) Release(id uint64) {
	key, ok := e.bypassed[id]
	if !ok {
		return
	}
	delete(e.bypassed, id)
	if e.lookup != nil {
		_ = e.lookup.bypass.Delete(key)
	}
}

// ReleaseAll ends every bypass: their user has gone.
func (e *Engine) ReleaseAll() {
	for id := range e.bypassed {
		e.Release(id)
	}
}

// Raw opens a socket a family to answer stolen datagrams with: the port they were sent to is the pod process's own and
// cannot be bound a second time, so the answer's UDP header is made by hand. They can send UDP and receive nothing
// (a filter that drops everything, locked). The caller owns them. Under Redirect there are none: NAT translates back.
func (e *Engine) Raw() (raw []*os.File, err error) {
	if e.Mode != Lookup {
		return nil, nil
	}
	err = e.do(func() error {
		for i, family := range families {
			if e.listeners[i] == nil {
				continue
			}
			f, err := e.rawSocket(family)
			if err != nil {
				return err
			}
			raw = append(raw, f)
		}
		return nil
	})
	if err != nil {
		for _, f := range raw {
			f.Close()
		}
		return nil, fmt.Errorf("steal: raw socket: %w", err)
	}
	return raw, nil
}

func (e *Engine) rawSocket(family int) (*os.File, error) {
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_UDP)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	drop := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	program := unix.SockFprog{Len: 1, Filter: &drop[0]}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_LOCK_FILTER, 1)
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(e.mark))
	}
	if err == nil && family == unix.AF_INET6 {
		const udpChecksum = 6 // offset in the UDP header
		err = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_CHECKSUM, udpChecksum)
	}
	if err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("setsockopt", err)
	}
	return os.NewFile(uintptr(fd), "raw"), nil
}
