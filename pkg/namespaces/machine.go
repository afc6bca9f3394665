package namespaces

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Machine tells of the sockets in the network namespace that stepin itself is in, for the front end that gives the debuggee
// none of its own. Its methods may be called from any goroutine; each costs the kernel's answer, some 20 µs.
type Machine struct{ diag *kernelSocket }

// OpenMachine asks the kernel of the calling process's network namespace. Sock_diag needs no right.
func OpenMachine() (*Machine, error) {
	fd, err := openKernelSocket(unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("namespaces: opening sock_diag: %w", err)
	}
	k, err := newKernelSocket(fd)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &Machine{k}, nil
}

// Close ends it; what is asked later is an error.
func (m *Machine) Close() { m.diag.close() }

// Listeners lists all sockets of this machine that wait for flows, whosever they are.
func (m *Machine) Listeners() ([]Listener, error) { return m.diag.listeners() }

// Connected returns the local ports of this machine's TCP connections that are not over in both directions.
func (m *Machine) Connected() (map[uint16]bool, error) { return m.diag.connected() }

// Inode is the socket's with these addresses; ErrNoOwner where there is none. A UDP socket that is not connected is
// found by its own address.
func (m *Machine) Inode(network string, local, remote netip.AddrPort) (uint32, error) {
	protocol, err := protocolOf(network)
	if err != nil {
		return 0, err
	}
	return m.diag.inode(protocol, local, remote)
}

const tcpStateSynSent = 2 // include/net/tcp_states.h

// Connecting finds the TCP socket of that inode whose SYN has not been answered yet: where it is and whom it calls.
func (m *Machine) Connecting(inode uint32) (local, remote netip.AddrPort, ok bool, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		err := m.diag.sockets(family, unix.IPPROTO_TCP, 1<<tcpStateSynSent, func(s socketInfo) {
			if s.inode == inode {
				local, remote, ok = s.local, s.remote, true
			}
		})
		if err != nil || ok {
			return local, remote, ok, err
		}
	}
	return local, remote, false, nil
}

// Pair is one TCP connection by its two ends.
type Pair struct{ Local, Remote netip.AddrPort }

// Pairs are this machine's TCP connections that are not over in both directions.
func (m *Machine) Pairs() (map[Pair]bool, error) {
	all := map[Pair]bool{}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		err := m.diag.sockets(family, unix.IPPROTO_TCP, tcpStatesOpen, func(s socketInfo) { all[Pair{s.local, s.remote}] = true })
		if err != nil {
			return nil, fmt.Errorf("namespaces: listing the connections: %w", err)
		}
	}
	return all, nil
}

// UDP are the inodes of this machine's UDP sockets.
func (m *Machine) UDP() (map[uint32]bool, error) {
	all := map[uint32]bool{}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if err := m.diag.sockets(family, unix.IPPROTO_UDP, allSocketStates, func(s socketInfo) { all[s.inode] = true }); err != nil {
			return nil, fmt.Errorf("namespaces: listing the UDP sockets: %w", err)
		}
	}
	return all, nil
}
