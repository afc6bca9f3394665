package steal

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func FuzzNetlink(f *testing.F) {
	n := &netlink{}
	b, _ := n.message(nil, unix.NLMSG_ERROR, 0, make([]byte, 4))
	f.Add(b)
	f.Add(attr(make([]byte, diagMsgLen+nlHeaderLen), diagMark, []byte{1, 2, 3, 4}))
	f.Fuzz(func(t *testing.T, b []byte) {
		messages, err := parseMessages(b)
		if err != nil {
			return
		}
		for _, m := range messages {
			_ = m.errno()
			_, _ = parseSocket(m.body)
			_ = findAttr(m.body, diagMark)
		}
	})
}

func TestParseSocket(t *testing.T) {
	b := make([]byte, diagMsgLen)
	b[0] = unix.AF_INET
	binary.BigEndian.PutUint16(b[4:], 8080)
	binary.BigEndian.PutUint16(b[6:], 5000)
	copy(b[8:], []byte{10, 0, 0, 1})
	copy(b[24:], []byte{10, 0, 0, 2})
	b = attr(b, 1, []byte("other"))
	b = attr(b, diagMark, binary.NativeEndian.AppendUint32(nil, 77))
	s, ok := parseSocket(b)
	if !ok || s.local != netip.MustParseAddrPort("10.0.0.1:8080") || s.remote != netip.MustParseAddrPort("10.0.0.2:5000") || s.mark != 77 {
		t.Errorf("%+v %v", s, ok)
	}
	if _, ok := parseSocket(b[:diagMsgLen-1]); ok {
		t.Error("too short")
	}
}

func TestKeyOf(t *testing.T) {
	k := keyOf("tcp", netip.MustParseAddrPort("10.0.0.1:258"), netip.MustParseAddrPort("10.0.0.2:80"))
	want := bypassKey{Source: netip.MustParseAddr("::ffff:10.0.0.1").As16(), SourcePort: 0x0201, DestPort: 80, Protocol: 6}
	if k != want {
		t.Errorf("%+v", k)
	}
}
