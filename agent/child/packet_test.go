package child

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/wire"
)

func TestUDPPacket(t *testing.T) {
	// RFC 1071: the sum over pseudo-header, header and data, checksum included, is 0xffff.
	for _, data := range []string{"", "a", "hello, world"} {
		from, to := netip.MustParseAddrPort("10.0.0.1:8080"), netip.MustParseAddrPort("10.0.0.2:5353")
		p := udpPacket(from, to, []byte(data))
		if p[0] != 0x1f || p[1] != 0x90 || string(p[8:]) != data || int(p[5]) != len(p) {
			t.Errorf("%x", p)
		}
		if got := udpChecksum(from.Addr().As4(), to.Addr().As4(), p); got != 0xffff {
			t.Errorf("%q: sum %x", data, got)
		}
	}
}

func FuzzDestination(f *testing.F) {
	f.Add(source(netip.MustParseAddr("10.0.0.1")))
	f.Add(source(netip.MustParseAddr("::1")))
	f.Fuzz(func(t *testing.T, oob []byte) {
		if a, ok := destination(oob); ok && !a.IsValid() {
			t.Error("no address")
		}
	})
}

func TestDestination(t *testing.T) {
	oob := unix.PktInfo4(&unix.Inet4Pktinfo{Ifindex: 3, Spec_dst: [4]byte{1, 1, 1, 1}, Addr: [4]byte{10, 0, 0, 1}})
	if a, ok := destination(oob); !ok || a.String() != "10.0.0.1" {
		t.Error(a, ok)
	}
	oob = unix.PktInfo6(&unix.Inet6Pktinfo{Addr: netip.MustParseAddr("fd00::1").As16()})
	if a, ok := destination(oob); !ok || a.String() != "fd00::1" {
		t.Error(a, ok)
	}
	if _, ok := destination(nil); ok {
		t.Error("from nothing")
	}
}

func TestSteals(t *testing.T) {
	var s steals
	st := &steal{ports: []wire.Port{{Network: "tcp", Port: 80}, {Network: "udp", Port: 81}}, session: &session{}}
	st.ctx, st.cancel = context.WithCancel(context.Background())
	found := make(chan *steal)
	go func() { found <- s.find(context.Background(), 80) }()
	s.add(st)
	if <-found != st {
		t.Error("another steal")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if s.find(ctx, 81) != nil {
		t.Error("a UDP port found for TCP")
	}
	next := &steal{ports: st.ports, session: &session{}}
	next.ctx, next.cancel = context.WithCancel(context.Background())
	s.add(next)
	s.remove(st)
	if st.ctx.Err() == nil || s.find(context.Background(), 80) != next {
		t.Error("the former steal's end took the next one's port")
	}
	s.drop(next.session)
	if s.find(ctx, 80) != nil {
		t.Error("a dropped session's port")
	}
}

func TestTrace(t *testing.T) {
	var b bytes.Buffer
	tr := &trace{log: slog.New(slog.DiscardHandler), w: &b}
	tr.note("open", "/a \"b\"\n", true)
	var l traceLine
	if err := json.Unmarshal(b.Bytes(), &l); err != nil || l != (traceLine{"open", "/a \"b\"\n", true}) || bytes.Count(b.Bytes(), []byte("\n")) != 1 {
		t.Errorf("%q %v", b.String(), err)
	}
}
