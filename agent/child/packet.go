package child

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// destination finds the address that a datagram was sent to among its control messages (ip(7), ipv6(7)).
func destination(oob []byte) (netip.Addr, bool) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.Addr{}, false
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			return netip.AddrFrom4([4]byte(m.Data[8:12])), true // ipi_addr, behind ifindex and spec_dst
		case m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			return netip.AddrFrom16([16]byte(m.Data[:16])).Unmap(), true
		}
	}
	return netip.Addr{}, false
}

// source makes the control message that sends from a.
func source(a netip.Addr) []byte {
	if a.Is4() {
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: a.As4()})
	}
	return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: a.As16()})
}

// send answers with the port that the client called: by NAT under a redirect, else with a UDP header of our own,
// because that port is bound by the pod's process.
func (f *flow) send(data []byte) error {
	oob := source(f.key.local.Addr())
	raw := f.r.child.raw[f.r.family]
	if f.r.child.start.Redirect {
		_, _, err := f.r.conn.WriteMsgUDPAddrPort(data, oob, netip.AddrPortFrom(f.key.client.Addr().WithZone(f.zone), f.key.client.Port()))
		return err
	}
	if raw == nil {
		return syscall.EAFNOSUPPORT
	}
	var to unix.Sockaddr = &unix.SockaddrInet4{}
	if a := f.key.client.Addr(); a.Is4() {
		to = &unix.SockaddrInet4{Addr: a.As4()}
	} else {
		to = &unix.SockaddrInet6{Addr: a.As16(), ZoneId: zoneID(f.zone)}
	}
	conn, err := raw.SyscallConn()
	if err != nil {
		return err
	}
	packet := udpPacket(f.key.local, f.key.client, data)
	var serr error
	if err := conn.Control(func(fd uintptr) { serr = unix.Sendmsg(int(fd), packet, oob, to, unix.MSG_DONTWAIT) }); err != nil {
		return err
	}
	return os.NewSyscallError("sendmsg", serr)
}

func zoneID(zone string) uint32 {
	if zone == "" {
		return 0
	}
	i, err := net.InterfaceByName(zone)
	if err != nil {
		return 0
	}
	return uint32(i.Index)
}

const udpHeaderLen = 8

// udpPacket is a UDP header (RFC 768) and data. The checksum is complete for IPv4; for IPv6 the kernel sets it
// (IPV6_CHECKSUM).
func udpPacket(from, to netip.AddrPort, data []byte) []byte {
	p := make([]byte, udpHeaderLen, udpHeaderLen+len(data))
	binary.BigEndian.PutUint16(p, from.Port())
	binary.BigEndian.PutUint16(p[2:], to.Port())
	binary.BigEndian.PutUint16(p[4:], uint16(udpHeaderLen+len(data)))
	p = append(p, data...)
	if from.Addr().Is4() {
		binary.BigEndian.PutUint16(p[6:], udpChecksum(from.Addr().As4(), to.Addr().As4(), p))
	}
	return p
}

// udpChecksum is RFC 768's over pseudo-header, header and data; 0 means none and is sent as its complement.
func udpChecksum(from, to [4]byte, p []byte) uint16 {
	sum := uint32(unix.IPPROTO_UDP) + uint32(len(p))
	add := func(b []byte) {
		for ; len(b) >= 2; b = b[2:] {
			sum += uint32(b[0])<<8 | uint32(b[1])
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	add(from[:])
	add(to[:])
	add(p)
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	if c := ^uint16(sum); c != 0 {
		return c
	}
	return 0xffff
}
