package netstack

import (
	"context"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// byNumber refuses with the errno that is the last byte of the destination's address.
func byNumber(dst netip.AddrPort) syscall.Errno {
	b := dst.Addr().AsSlice()
	return syscall.Errno(b[len(b)-1])
}

func numbered(v6 bool, errno syscall.Errno) netip.AddrPort {
	if v6 {
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0xfd, 0, 0, 0x96, 15: byte(errno)}), 80)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, 0, byte(errno)}), 80)
}

// The package comment's table.
var told = []struct{ handler, tcp4, tcp6, udp4, udp6 syscall.Errno }{
	{0, 0, 0, 0, 0},
	{syscall.ECONNREFUSED, syscall.ECONNREFUSED, syscall.ECONNREFUSED, syscall.ECONNREFUSED, syscall.ECONNREFUSED},
	{syscall.ECONNRESET, syscall.ECONNREFUSED, syscall.ECONNREFUSED, syscall.ECONNREFUSED, syscall.ECONNREFUSED},
	{syscall.EHOSTUNREACH, syscall.EHOSTUNREACH, syscall.EHOSTUNREACH, syscall.EHOSTUNREACH, syscall.ETIME},
	{syscall.ENETUNREACH, syscall.ENETUNREACH, syscall.ENETUNREACH, syscall.ENETUNREACH, syscall.ETIME},
	{syscall.EACCES, syscall.EHOSTUNREACH, syscall.EACCES, syscall.EHOSTUNREACH, syscall.EACCES},
	{syscall.EPERM, syscall.EHOSTUNREACH, syscall.EACCES, syscall.EHOSTUNREACH, syscall.EACCES},
	{syscall.EHOSTDOWN, syscall.EHOSTDOWN, syscall.EHOSTUNREACH, syscall.EHOSTDOWN, syscall.ETIME},
	{syscall.ENONET, syscall.ENONET, syscall.EHOSTUNREACH, syscall.ENONET, syscall.ETIME},
	{syscall.EPROTO, syscall.EPROTO, syscall.EPROTO, syscall.EPROTO, syscall.EPROTO},
	{syscall.EMFILE, syscall.EHOSTUNREACH, syscall.EHOSTUNREACH, syscall.EHOSTUNREACH, syscall.ETIME}, // one of the others
	{syscall.ETIMEDOUT, syscall.ETIMEDOUT, syscall.ETIMEDOUT, syscall.ETIME, syscall.ETIME},
}

// Each errno, blocking, with epoll registered before, and by Go's dialer, IPv4 and IPv6.
func testErrno(t *testing.T) {
	var dials []*dial
	var want []syscall.Errno
	for _, line := range told {
		for _, mode := range []string{"blocking", "epoll", "go"} {
			for _, v6 := range []bool{false, true} {
				x := &dial{Mode: mode, Dst: numbered(v6, line.handler)}
				if line.handler == syscall.ETIMEDOUT {
					x.SynCnt = 1 // the kernel's own time-out after about 3 s
				}
				dials = append(dials, x)
				want = append(want, map[bool]syscall.Errno{false: line.tcp4, true: line.tcp6}[v6])
			}
		}
	}
	r := start(t, "dial", dials, Config{TCP: func(_ context.Context, _, dst netip.AddrPort) (func(*Conn), error) {
		if errno := byNumber(dst); errno != 0 {
			return nil, errno
		}
		return func(*Conn) {}, nil
	}})
	r.hear(&dials)
	for i, x := range dials {
		if x.Errno != want[i] {
			t.Errorf("%s to %s: %v, want %v (after %v, events %s)", x.Mode, x.Dst, x.Errno, want[i], x.Took, x.Events)
		}
		if slow := x.Took > 2500*time.Millisecond; slow && want[i] != syscall.ETIMEDOUT {
			t.Errorf("%s to %s: %v only after %v", x.Mode, x.Dst, x.Errno, x.Took)
		}
	}
}

func testErrnoUDP(t *testing.T) {
	var dials []*dial
	var want []syscall.Errno
	for _, line := range told {
		dials = append(dials, &dial{Dst: numbered(false, line.handler)}, &dial{Dst: numbered(true, line.handler)})
		want = append(want, line.udp4, line.udp6)
	}
	r := start(t, "dial udp", dials, Config{UDP: func(_ context.Context, _, dst netip.AddrPort) (func(*PacketConn), error) {
		if errno := byNumber(dst); errno != 0 {
			return nil, errno
		}
		return echoUDP, nil
	}})
	r.hear(&dials)
	for i, x := range dials {
		if x.Errno != want[i] {
			t.Errorf("%s: %v, want %v", x.Dst, x.Errno, want[i])
		}
	}
}

// A dial that takes its time: the socket is EINPROGRESS without an event until it has ended.
func TestErrnoOnlyAfterTheDial(t *testing.T) {
	t.Parallel()
	dials := []*dial{
		{Mode: "epoll", Dst: numbered(false, 0)}, {Mode: "epoll", Dst: numbered(true, 0)},
		{Mode: "epoll", Dst: numbered(false, syscall.ECONNREFUSED)}, {Mode: "epoll", Dst: numbered(true, syscall.EHOSTUNREACH)},
	}
	const takes = 200 * time.Millisecond
	r := start(t, "dial", dials, Config{TCP: func(ctx context.Context, _, dst netip.AddrPort) (func(*Conn), error) {
		time.Sleep(takes)
		if errno := byNumber(dst); errno != 0 {
			return nil, errno
		}
		return func(c *Conn) { c.WaitReadable() }, nil
	}})
	r.hear(&dials)
	for _, x := range dials {
		if !x.Pending || x.Took < takes {
			t.Errorf("%s: pending %v, ended after %v", x.Dst, x.Pending, x.Took)
		}
		if x.Errno != byNumber(x.Dst) {
			t.Errorf("%s: %v", x.Dst, x.Errno)
		}
		if x.Errno == 0 && x.Events != "0x4" { // EPOLLOUT and nothing else
			t.Errorf("%s: events %s", x.Dst, x.Events)
		}
	}
}
