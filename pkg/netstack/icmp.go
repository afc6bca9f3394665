package netstack

import (
	"encoding/binary"
	"net/netip"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// A notice is an ICMP type and code.
type notice struct{ kind, code byte }

// ICMP types: RFC 792 and RFC 4443.
const (
	v4Unreachable, v4BadParameter = 3, 12
	v6Unreachable, v6BadParameter = 1, 4
)

// noticeFor returns the ICMP message that makes Linux report errno, or the nearest there is, for a refused SYN or
// datagram; ok is false where silence is the answer. The package comment has the table.
func noticeFor(protocol byte, v6 bool, errno syscall.Errno) (n notice, ok bool) {
	udp := protocol == byte(header.UDPProtocolNumber)
	switch {
	case errno == 0 || errno == syscall.ETIMEDOUT:
		return notice{}, false
	case v6:
		return notice6(errno), true
	case udp:
		return notice4UDP(errno), true
	}
	return notice4TCP(errno), true
}

func notice6(errno syscall.Errno) notice {
	switch errno {
	case syscall.ECONNREFUSED, syscall.ECONNRESET:
		return notice{v6Unreachable, 4} // port unreachable
	case syscall.ENETUNREACH:
		return notice{v6Unreachable, 0} // no route
	case syscall.EACCES, syscall.EPERM:
		return notice{v6Unreachable, 1} // administratively prohibited
	case syscall.EPROTO:
		return notice{v6BadParameter, 0}
	}
	return notice{v6Unreachable, 3} // address unreachable
}

func notice4TCP(errno syscall.Errno) notice {
	switch errno {
	case syscall.ECONNREFUSED, syscall.ECONNRESET:
		return notice{v4Unreachable, 3} // port unreachable
	case syscall.ENETUNREACH:
		return notice{v4Unreachable, 0} // net unreachable
	}
	return notice4Rare(errno, notice{v4Unreachable, 1}) // host unreachable
}

// notice4UDP uses the codes that Linux calls hard: the soft ones never reach a UDP socket without IP_RECVERR.
func notice4UDP(errno syscall.Errno) notice {
	switch errno {
	case syscall.ECONNREFUSED, syscall.ECONNRESET:
		return notice{v4Unreachable, 3}
	case syscall.ENETUNREACH:
		return notice{v4Unreachable, 6} // network unknown
	}
	return notice4Rare(errno, notice{v4Unreachable, 10}) // host prohibited, which Linux reads as EHOSTUNREACH
}

func notice4Rare(errno syscall.Errno, other notice) notice {
	switch errno {
	case syscall.EACCES, syscall.EPERM:
		return notice{v4Unreachable, 13} // communication prohibited
	case syscall.EHOSTDOWN:
		return notice{v4Unreachable, 7}
	case syscall.ENONET:
		return notice{v4Unreachable, 8}
	case syscall.EPROTO:
		return notice{v4BadParameter, 0}
	}
	return other
}

// icmpPacket builds the whole IP packet with which dst says n of a packet from src to dst. The quoted packet is its IP
// header, made anew, and the 8 bytes by which the kernel finds the socket: ports and, for TCP, the sequence number,
// which must be that of the SYN.
func icmpPacket(n notice, protocol byte, src, dst netip.AddrPort, seq uint32) []byte {
	var quoted [8]byte
	binary.BigEndian.PutUint16(quoted[0:], src.Port())
	binary.BigEndian.PutUint16(quoted[2:], dst.Port())
	if protocol == byte(header.TCPProtocolNumber) {
		binary.BigEndian.PutUint32(quoted[4:], seq)
	} else {
		binary.BigEndian.PutUint16(quoted[4:], header.UDPMinimumSize)
	}
	inner := append(ipHeader(protocol, src.Addr(), dst.Addr(), len(quoted)), quoted[:]...)

	const fixed = 8 // type, code, checksum and four bytes that are zero
	body := append(make([]byte, fixed, fixed+len(inner)), inner...)
	body[0], body[1] = n.kind, n.code
	icmp, sum := byte(header.ICMPv4ProtocolNumber), uint16(0)
	if dst.Addr().Is6() {
		icmp = byte(header.ICMPv6ProtocolNumber)
		sum = header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, fromAddr(dst.Addr()), fromAddr(src.Addr()), uint16(len(body)))
	}
	binary.BigEndian.PutUint16(body[2:], ^checksum.Checksum(body, sum))
	return append(ipHeader(icmp, dst.Addr(), src.Addr(), len(body)), body...)
}

// ipHeader returns the header of a packet with n bytes of payload.
func ipHeader(protocol byte, src, dst netip.Addr, n int) []byte {
	const ttl = 64
	if src.Is6() {
		b := make([]byte, header.IPv6MinimumSize)
		header.IPv6(b).Encode(&header.IPv6Fields{
			PayloadLength: uint16(n), TransportProtocol: tcpip.TransportProtocolNumber(protocol), HopLimit: ttl,
			SrcAddr: fromAddr(src), DstAddr: fromAddr(dst),
		})
		return b
	}
	b := make([]byte, header.IPv4MinimumSize)
	ip := header.IPv4(b)
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(b) + n), TTL: ttl, Protocol: protocol,
		SrcAddr: fromAddr(src), DstAddr: fromAddr(dst),
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	return b
}
