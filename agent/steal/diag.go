package steal

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// Values of the kernel's include/uapi/linux/{sock_diag,inet_diag}.h and TCP states.
const (
	sockDiagByFamily = 20
	sockDestroy      = 21 // CONFIG_INET_DIAG_DESTROY
	diagMark         = 15 // INET_DIAG_MARK, shown to CAP_NET_ADMIN
	diagIDLen        = 48
	diagMsgLen       = 72

	stateTimeWait, stateClose, stateListen, stateNewSynRecv = 6, 7, 10, 12
	// openStates are those in which a connection is somebody's: all but the four above.
	openStates = 0x1fff &^ (1<<stateTimeWait | 1<<stateClose | 1<<stateListen | 1<<stateNewSynRecv | 1)
)

// diagSocket is one line of the kernel's list of sockets.
type diagSocket struct {
	family        byte
	id            []byte // struct inet_diag_sockid, to name it again
	local, remote netip.AddrPort
	mark          uint32
}

// closeExisting ends the TCP connections to port that were open before it was stolen: they never reach the steal.
// The agent's own are left: those that bear mark, and those whose other end does. It returns how many it ended and must
// be called in the pod's network namespace.
func closeExisting(port uint16, loopback bool, mark uint32) (ended int, err error) {
	nl, err := openNetlink(unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return 0, fmt.Errorf("steal: listing connections: %w", err)
	}
	defer nl.close()
	var clients, servers []diagSocket
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		c, err := listSockets(nl, family, 0, port)
		if err != nil {
			return 0, fmt.Errorf("steal: listing connections: %w", err)
		}
		s, err := listSockets(nl, family, port, 0)
		if err != nil {
			return 0, fmt.Errorf("steal: listing connections: %w", err)
		}
		clients, servers = append(clients, c...), append(servers, s...)
	}
	own := map[netip.AddrPort]bool{}
	for _, c := range clients {
		if c.mark == mark {
			own[c.local] = true
		}
	}
	var first error
	for _, s := range servers {
		if s.mark == mark || own[s.remote] || loopback && !s.local.Addr().IsLoopback() {
			continue
		}
		switch err := destroy(nl, s); err {
		case nil:
			ended++
		case syscall.ENOENT: // gone by itself
		default:
			first = fmt.Errorf("steal: ending a connection: %w", err)
		}
	}
	return ended, first
}

func listSockets(nl *netlink, family byte, local, remote uint16) (all []diagSocket, err error) {
	body := []byte{family, unix.IPPROTO_TCP, 1 << (diagMark - 1) & 0xff, 0}
	body = binary.NativeEndian.AppendUint32(body, openStates)
	id := make([]byte, diagIDLen)
	binary.BigEndian.PutUint16(id, local)
	binary.BigEndian.PutUint16(id[2:], remote)
	msg, seq := nl.message(nil, sockDiagByFamily, unix.NLM_F_DUMP, append(body, id...))
	if err := nl.send(msg); err != nil {
		return nil, err
	}
	err = nl.receive(func(m nlMessage) (bool, error) {
		switch {
		case m.seq != seq:
			return false, nil
		case m.kind == unix.NLMSG_DONE:
			return true, nil
		case m.kind == unix.NLMSG_ERROR:
			return true, m.errno()
		}
		if s, ok := parseSocket(m.body); ok {
			all = append(all, s)
		}
		return false, nil
	})
	return all, err
}

// parseSocket reads struct inet_diag_msg and its mark.
func parseSocket(b []byte) (s diagSocket, ok bool) {
	if len(b) < diagMsgLen {
		return s, false
	}
	s.family = b[0]
	s.id = append([]byte(nil), b[4:4+diagIDLen]...)
	addr := func(b []byte) netip.Addr {
		if s.family == unix.AF_INET {
			return netip.AddrFrom4([4]byte(b[:4]))
		}
		return netip.AddrFrom16([16]byte(b[:16])).Unmap()
	}
	s.local = netip.AddrPortFrom(addr(s.id[4:]), binary.BigEndian.Uint16(s.id))
	s.remote = netip.AddrPortFrom(addr(s.id[20:]), binary.BigEndian.Uint16(s.id[2:]))
	if m := findAttr(b[diagMsgLen:], diagMark); len(m) == 4 {
		s.mark = binary.NativeEndian.Uint32(m)
	}
	return s, true
}

func destroy(nl *netlink, s diagSocket) error {
	body := []byte{s.family, unix.IPPROTO_TCP, 0, 0}
	body = binary.NativeEndian.AppendUint32(body, openStates)
	msg, seq := nl.message(nil, sockDestroy, unix.NLM_F_ACK, append(body, s.id...))
	if err := nl.send(msg); err != nil {
		return err
	}
	return nl.acked(seq)
}
