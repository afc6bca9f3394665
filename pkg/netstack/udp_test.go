package netstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"syscall"
	"testing"
)

func echoUDP(p *PacketConn) {
	buf := make([]byte, 1<<16)
	for {
		n, err := p.Read(buf)
		if err != nil {
			return
		}
		_, _ = p.Write(buf[:n])
	}
}

// Datagrams up to the largest, both families, connected or not, with the true peer.
func testUDP(t *testing.T) {
	for _, to := range []netip.AddrPort{web4, web6, home} {
		for _, connected := range []bool{true, false} {
			t.Run(fmt.Sprint(to, " ", connected), func(t *testing.T) {
				args := map[string]any{"To": to, "Sizes": []int{1, 0, 512, 1500, 65000, 65470, MaxDatagram}, "Connected": connected}
				r := start(t, "udp", args, Config{UDP: func(_ context.Context, src, dst netip.AddrPort) (func(*PacketConn), error) {
					if dst != to {
						t.Errorf("dst %s", dst)
					}
					return echoUDP, nil
				}})
				var wrong []string
				if r.hear(&wrong); len(wrong) > 0 {
					t.Error(wrong)
				}
				if r.Flows() != 1 {
					t.Errorf("%d associations", r.Flows())
				}
			})
		}
	}
}

// A refusal in the middle: the pod side's port closed after the association was there.
func TestRefuseUDP(t *testing.T) {
	dials := []*dial{{Dst: web4}, {Dst: web6}}
	r := start(t, "dial udp", dials, Config{UDP: func(context.Context, netip.AddrPort, netip.AddrPort) (func(*PacketConn), error) {
		return func(p *PacketConn) {
			_, _ = p.Read(make([]byte, 10))
			p.Refuse(syscall.ECONNREFUSED)
		}, nil
	}})
	r.hear(&dials)
	for _, x := range dials {
		if x.Errno != syscall.ECONNREFUSED {
			t.Errorf("%s: %v", x.Dst, x.Errno)
		}
	}
}

func TestDatagramTooLarge(t *testing.T) {
	got := make(chan error, 1)
	dials := []*dial{{Dst: web4}}
	r := start(t, "dial udp", dials, Config{UDP: func(context.Context, netip.AddrPort, netip.AddrPort) (func(*PacketConn), error) {
		return func(p *PacketConn) {
			_, err := p.Write(make([]byte, MaxDatagram+1))
			got <- err
			_, _ = p.Write([]byte("ok"))
		}, nil
	}})
	r.hear(&dials)
	if err := <-got; !errors.Is(err, syscall.EMSGSIZE) {
		t.Error(err)
	}
	if dials[0].Errno != 0 {
		t.Error(dials[0].Errno)
	}
}

// Associations are bounded: the one idle longest makes room, and its reader is told.
func TestAssociationsBounded(t *testing.T) {
	ends := make(chan error, 2*maxAssociations)
	s := offline(t, Config{UDP: func(context.Context, netip.AddrPort, netip.AddrPort) (func(*PacketConn), error) {
		return func(p *PacketConn) {
			for {
				if _, err := p.Read(make([]byte, 10)); err != nil {
					ends <- err
					return
				}
			}
		}, nil
	}})
	const extra = 100
	for i := range maxAssociations + extra {
		s.link.deliver(datagram(netip.AddrPortFrom(podIP4, uint16(1000+i)), web4, []byte("x")))
	}
	if n := s.Flows(); n != maxAssociations {
		t.Errorf("%d associations", n)
	}
	for range extra {
		if err := <-ends; err != io.EOF {
			t.Error(err)
		}
	}
}

// What nobody reads is bounded, per association and in all.
func TestDatagramsBounded(t *testing.T) {
	s := offline(t, Config{UDP: func(ctx context.Context, _, _ netip.AddrPort) (func(*PacketConn), error) {
		<-ctx.Done()
		return nil, syscall.ETIMEDOUT
	}})
	for i := range 40 {
		for range 100 {
			s.link.deliver(datagram(netip.AddrPortFrom(podIP4, uint16(1000+i)), web4, make([]byte, 9000)))
		}
	}
	s.udp.mu.Lock()
	defer s.udp.mu.Unlock()
	if q := s.udp.queued; q > maxQueuedAll || q < maxQueuedAll/2 {
		t.Errorf("%d bytes queued", q)
	}
	for _, p := range s.udp.by {
		if p.queued > maxQueued {
			t.Errorf("%d bytes queued in one", p.queued)
		}
	}
}

// Idle associations end; port 53 sooner.
func TestAssociationsIdle(t *testing.T) {
	ends := make(chan netip.AddrPort, 2)
	s := offline(t, Config{UDP: func(context.Context, netip.AddrPort, netip.AddrPort) (func(*PacketConn), error) {
		return func(p *PacketConn) {
			for {
				if _, err := p.Read(make([]byte, 10)); err != nil {
					ends <- p.LocalAddr()
					return
				}
			}
		}, nil
	}})
	dns := netip.AddrPortFrom(web4.Addr(), 53)
	s.link.deliver(datagram(netip.AddrPortFrom(podIP4, 1000), web4, nil))
	s.link.deliver(datagram(netip.AddrPortFrom(podIP4, 1000), dns, nil))
	age := func(by int64) {
		s.udp.mu.Lock()
		for _, p := range s.udp.by {
			p.used -= idleDNS * 3 / 2
		}
		s.udp.mu.Unlock()
		s.udp.sweep()
	}
	age(1)
	if got := <-ends; got != dns {
		t.Error(got)
	}
	if n := s.Flows(); n != 1 {
		t.Errorf("%d associations", n)
	}
	for range 4 {
		age(1)
	}
	if got := <-ends; got != web4 {
		t.Error(got)
	}
}
