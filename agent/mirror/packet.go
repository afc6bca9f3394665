package mirror

import (
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// segment is a TCP segment, or what receive offload has merged of several. Its payload is valid as long as its frame.
type segment struct {
	from, to          netip.AddrPort
	seq, ack          uint32
	syn, fin, rst, lo bool
	payload           []byte
	at                time.Time
}

const (
	ip4Min, tcpMin = 20, 20
	ip4More        = 0x3fff // more fragments, or behind another
)

// parse reads the headers of IP (RFC 791, RFC 8200) and TCP (RFC 9293). A frame that is cut short, a fragment, one with a
// wrong checksum and one with IPv6 extension headers is not ok: what it held shows as a gap.
func parse(f frame) (s segment, ok bool) {
	b := f.data
	if len(b) < ip4Min {
		return s, false
	}
	var from, to netip.Addr
	var pseudo uint32 // the part of the checksum over the addresses
	switch b[0] >> 4 {
	case 4:
		header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
		if header < ip4Min || len(b) < header || b[ip4Protocol] != unix.IPPROTO_TCP || binary.BigEndian.Uint16(b[ip4Fragment:])&ip4More != 0 {
			return s, false
		}
		from, to, pseudo = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), sum(0, b[12:20])
		if b, ok = body(b, header, total); !ok {
			return s, false
		}
	case 6:
		if len(b) < ip6Header || b[ip6Next] != unix.IPPROTO_TCP {
			return s, false
		}
		total := int(binary.BigEndian.Uint16(b[4:]))
		if total > 0 {
			total += ip6Header
		}
		from, to, pseudo = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), sum(0, b[8:40])
		if b, ok = body(b, ip6Header, total); !ok {
			return s, false
		}
	default:
		return s, false
	}
	if len(b) < tcpMin {
		return s, false
	}
	offset, flags := int(b[12]>>4)*4, b[tcpFlags]
	if offset < tcpMin || offset > len(b) {
		return s, false
	}
	if !f.checked && fold(sum(pseudo+unix.IPPROTO_TCP+uint32(len(b)), b)) != 0xffff {
		return s, false
	}
	s = segment{from: netip.AddrPortFrom(from, binary.BigEndian.Uint16(b)), to: netip.AddrPortFrom(to, binary.BigEndian.Uint16(b[2:])),
		seq: binary.BigEndian.Uint32(b[4:]), ack: binary.BigEndian.Uint32(b[8:]), syn: flags&flagSYN != 0 && flags&flagACK == 0,
		fin: flags&flagFIN != 0, rst: flags&flagRST != 0, lo: f.lo, payload: b[offset:], at: f.at}
	return s, flags&flagSYN == 0 || s.syn
}

// body is what an IP packet of total bytes holds. Behind it a frame may be padded; a total of 0 is one larger than the
// field can say (BIG TCP).
func body(b []byte, header, total int) ([]byte, bool) {
	if total == 0 {
		total = len(b)
	}
	if total < header || total > len(b) {
		return nil, false
	}
	return b[header:total], true
}

// sum adds to a checksum (RFC 1071) without folding it. A frame is far from where that would overflow.
func sum(n uint32, b []byte) uint32 {
	wide := uint64(n)
	for ; len(b) >= 2; b = b[2:] {
		wide += uint64(b[0])<<8 | uint64(b[1])
	}
	if len(b) == 1 {
		wide += uint64(b[0]) << 8
	}
	return uint32(fold64(wide))
}

func fold64(n uint64) uint64 {
	for n>>16 != 0 {
		n = n&0xffff + n>>16
	}
	return n
}

func fold(n uint32) uint16 { return uint16(fold64(uint64(n))) }
