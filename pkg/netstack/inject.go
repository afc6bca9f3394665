package netstack

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// SendUDP writes one datagram to the debuggee as if src had sent it to dst, one of the debuggee's own addresses. What
// the debuggee answers arrives as an association of its own, from dst to src. Both are of one family.
func (s *Stack) SendUDP(src, dst netip.AddrPort, data []byte) error {
	limit := MaxDatagram
	if dst.Addr().Is6() {
		limit += header.IPv4MinimumSize
	}
	if len(data) > limit || src.Addr().Is4() != dst.Addr().Is4() {
		return fmt.Errorf("netstack: sending %d bytes from %s to %s: %w", len(data), src, dst, syscall.EMSGSIZE)
	}
	udp := make([]byte, header.UDPMinimumSize)
	binary.BigEndian.PutUint16(udp[0:], src.Port())
	binary.BigEndian.PutUint16(udp[2:], dst.Port())
	length := uint16(len(udp) + len(data))
	binary.BigEndian.PutUint16(udp[4:], length)
	sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, fromAddr(src.Addr()), fromAddr(dst.Addr()), length)
	sum = ^checksum.Combine(checksum.Checksum(udp, sum), checksum.Checksum(data, 0))
	if sum == 0 { // zero would mean "no checksum" (RFC 768)
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(udp[6:], sum)
	s.link.send(ipHeader(byte(header.UDPProtocolNumber), src.Addr(), dst.Addr(), int(length)), udp, data)
	return nil
}
