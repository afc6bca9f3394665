package netstack

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// maxHeaders is the most that an IPv4 and a TCP header with all options take, in bytes (IPv6 with a fragment header
// and TCP: 108). What waits in one piece of at least this size needs no copy when headers are parsed.
const maxHeaders = 60 + 60

// protocols that may be the first payload of an IPv6 packet here; see classify.
const v6Fragment = 44

// classify says which network protocol a packet from the TUN device is for, and whether the stack is to see it at all:
// whole headers, lengths that agree with the packet's, TCP or UDP (or an IPv6 fragment of such), and a unicast
// destination. Everything else ends here, so that gVisor's code for ICMP, multicast, options of hosts and extension
// headers never runs on the debuggee's bytes.
func classify(p []byte) (tcpip.NetworkProtocolNumber, bool) {
	if len(p) == 0 {
		return 0, false
	}
	switch p[0] >> 4 {
	case 4:
		return header.IPv4ProtocolNumber, plausible4(p)
	case 6:
		return header.IPv6ProtocolNumber, plausible6(p)
	}
	return 0, false
}

func plausible4(p []byte) bool {
	if len(p) < header.IPv4MinimumSize {
		return false
	}
	ihl, total := int(p[0]&0x0f)*4, int(binary.BigEndian.Uint16(p[2:]))
	if ihl < header.IPv4MinimumSize || ihl > total || total > len(p) {
		return false
	}
	dst := netip.AddrFrom4([4]byte(p[16:20]))
	if dst.IsMulticast() || dst.IsUnspecified() || dst == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return false
	}
	fragment := binary.BigEndian.Uint16(p[6:])&0x1fff != 0
	return fragment && carried(p[9], minHeader) || carried(p[9], total-ihl)
}

func plausible6(p []byte) bool {
	if len(p) < header.IPv6MinimumSize {
		return false
	}
	length := int(binary.BigEndian.Uint16(p[4:]))
	if length > len(p)-header.IPv6MinimumSize {
		return false
	}
	dst := netip.AddrFrom16([16]byte(p[24:40]))
	if dst.IsMulticast() || dst.IsUnspecified() || dst.Is4In6() {
		return false
	}
	if p[6] != v6Fragment {
		return carried(p[6], length)
	}
	return length >= header.IPv6FragmentHeaderSize && carried(p[header.IPv6MinimumSize], minHeader)
}

// minHeader satisfies carried for any protocol: used where the header is in another fragment.
const minHeader = header.TCPMinimumSize

// carried says whether the transport protocol is one we carry, with room for its header in n bytes.
func carried(protocol byte, n int) bool {
	switch tcpip.TransportProtocolNumber(protocol) {
	case header.TCPProtocolNumber:
		return n >= header.TCPMinimumSize
	case header.UDPProtocolNumber:
		return n >= header.UDPMinimumSize
	}
	return false
}

// ends returns a flow's two ends as the debuggee sees them: src is its own socket, dst whom it calls. (gVisor, being
// the callee, calls dst local and src remote.)
func ends(id stack.TransportEndpointID) (src, dst netip.AddrPort) {
	return netip.AddrPortFrom(toAddr(id.RemoteAddress), id.RemotePort), netip.AddrPortFrom(toAddr(id.LocalAddress), id.LocalPort)
}

func toAddr(a tcpip.Address) netip.Addr {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return addr
}

func fromAddr(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }
