package netstack

import (
	"context"
	"encoding/binary"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// offline returns a Stack whose TUN device is one end of a datagram socket pair; packets are delivered by hand.
func offline(t testing.TB, cfg Config) *Stack {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Tun = os.NewFile(uintptr(pair[0]), "tun")
	other := os.NewFile(uintptr(pair[1]), "other end")
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); cfg.Tun.Close(); other.Close() })
	return s
}

func datagram(src, dst netip.AddrPort, data []byte) []byte {
	b := make([]byte, header.UDPMinimumSize, header.UDPMinimumSize+len(data))
	header.UDP(b).Encode(&header.UDPFields{SrcPort: src.Port(), DstPort: dst.Port(), Length: uint16(8 + len(data))})
	b = append(b, data...)
	return append(ipHeader(17, src.Addr(), dst.Addr(), len(b)), b...)
}

func segment(src, dst netip.AddrPort, flags header.TCPFlags, seq, ack uint32, options, data []byte) []byte {
	b := make([]byte, header.TCPMinimumSize+len(options), header.TCPMinimumSize+len(options)+len(data))
	header.TCP(b).Encode(&header.TCPFields{
		SrcPort: src.Port(), DstPort: dst.Port(), SeqNum: seq, AckNum: ack, Flags: flags, WindowSize: 1000,
		DataOffset: uint8(len(b)),
	})
	copy(b[header.TCPMinimumSize:], options)
	b = append(b, data...)
	sum := header.PseudoHeaderChecksum(6, fromAddr(src.Addr()), fromAddr(dst.Addr()), uint16(len(b)))
	header.TCP(b).SetChecksum(^checksum.Checksum(b, sum))
	return append(ipHeader(6, src.Addr(), dst.Addr(), len(b)), b...)
}

// FuzzPackets delivers packets, each behind two bytes of length, to a Stack whose handlers take some and refuse some.
func FuzzPackets(f *testing.F) {
	src4, src6 := netip.AddrPortFrom(podIP4, 1000), netip.AddrPortFrom(podIP6, 1000)
	seed := func(packets ...[]byte) {
		var b []byte
		for _, p := range packets {
			b = append(binary.BigEndian.AppendUint16(b, uint16(len(p))), p...)
		}
		f.Add(b)
	}
	mss := []byte{2, 4, 0xff, 0xc8, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7}
	for _, x := range [][2]netip.AddrPort{{src4, web4}, {src6, web6}, {src4, numbered(false, 113)}, {src6, numbered(true, 113)}} {
		seed(datagram(x[0], x[1], []byte("hello")))
		seed(segment(x[0], x[1], header.TCPFlagSyn, 7, 0, mss, nil), segment(x[0], x[1], header.TCPFlagSyn, 9, 0, mss, nil),
			segment(x[0], x[1], header.TCPFlagAck, 8, 1, nil, []byte("data")), segment(x[0], x[1], header.TCPFlagRst, 8, 0, nil, nil))
	}
	first, last := datagram(src4, web4, make([]byte, 64)), datagram(src4, web4, make([]byte, 64))
	first[6], last[6], last[7] = 0x20, 0, 2
	seed(first[:36], last)
	s := offline(f, Config{
		TCP: func(_ context.Context, _, dst netip.AddrPort) (func(*Conn), error) {
			if errno := byNumber(dst); errno > 100 {
				return nil, errno
			}
			return func(c *Conn) { _, _ = c.Read(make([]byte, 1)) }, nil
		},
		UDP: func(_ context.Context, _, dst netip.AddrPort) (func(*PacketConn), error) {
			if byNumber(dst) > 100 {
				return nil, syscall.ENETUNREACH
			}
			return func(p *PacketConn) { _, _ = p.Read(make([]byte, 1)) }, nil
		},
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 2 {
			n := min(int(binary.BigEndian.Uint16(b)), len(b)-2)
			s.link.deliver(b[2 : 2+n])
			b = b[2+n:]
		}
	})
}

// classify never reads out of bounds, and lets in nothing but TCP and UDP.
func FuzzClassify(f *testing.F) {
	f.Add(datagram(netip.AddrPortFrom(podIP4, 1), web4, []byte("x")))
	f.Add(datagram(netip.AddrPortFrom(podIP6, 1), web6, []byte("x")))
	f.Fuzz(func(t *testing.T, b []byte) {
		proto, ok := classify(b)
		if !ok {
			return
		}
		next := b[9]
		if proto == header.IPv6ProtocolNumber {
			if next = b[6]; next == v6Fragment {
				next = b[40]
			}
		}
		if next != 6 && next != 17 {
			t.Errorf("protocol %d let in", next)
		}
	})
}

func TestClassify(t *testing.T) {
	src4, src6 := netip.AddrPortFrom(podIP4, 1), netip.AddrPortFrom(podIP6, 1)
	good4, good6 := datagram(src4, web4, []byte("x")), datagram(src6, web6, []byte("x"))
	edit := func(p []byte, at int, v byte) []byte {
		p = append([]byte(nil), p...)
		p[at] = v
		return p
	}
	for name, x := range map[string]struct {
		p  []byte
		ok bool
	}{
		"udp4": {good4, true}, "udp6": {good6, true}, "empty": {nil, false},
		"icmp4": {edit(good4, 9, 1), false}, "icmp6": {edit(good6, 6, 58), false}, "hop by hop": {edit(good6, 6, 0), false},
		"version 5": {edit(good4, 0, 0x55), false}, "short": {good4[:19], false}, "short6": {good6[:39], false},
		"cut": {good4[:28], false}, "cut6": {good6[:48], false}, "ihl 4": {edit(good4, 0, 0x44), false},
		"ihl beyond": {edit(good4, 0, 0x4f), false}, "tcp in 9 bytes": {edit(good4, 9, 6), false}, "tcp6 in 9 bytes": {edit(good6, 6, 6), false},
		"padded":    {append(append([]byte(nil), good4...), 0, 0), true},
		"multicast": {datagram(src4, netip.MustParseAddrPort("224.0.0.251:5353"), nil), false}, "broadcast": {datagram(src4, netip.MustParseAddrPort("255.255.255.255:67"), nil), false},
		"multicast6":    {datagram(src6, netip.MustParseAddrPort("[ff02::fb]:5353"), nil), false},
		"last fragment": {edit(edit(good4, 7, 1), 9, 6), true},
	} {
		if _, ok := classify(x.p); ok != x.ok {
			t.Errorf("%s: %v", name, ok)
		}
	}
}
