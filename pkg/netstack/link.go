package netstack

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// maxPacket is room for the largest IP packet, in bytes.
const maxPacket = 64 << 10

// sendMTU is the MTU that gVisor is told, in bytes: the largest packet that it sends, and by the MSS that it offers, the
// largest segment that it is sent. It is half of a kernel's first receive window: the device would take 65,520, a third
// more throughput, but with one segment to a window TCP waits for its timers whenever a debuggee reads late. And it is
// a power of two less what the kernel adds to a packet (skb_shared_info and head room, below 512 bytes): a byte more
// and older kernels count twice the memory, more than their window allowed for, and drop the packet.
const sendMTU = 32<<10 - 512

// chunk is the size in bytes of the pieces that a packet is copied into. gVisor's pools have powers of two only:
// one piece would round a packet of 4,148 bytes (half of the smallest window, and its headers) up to 8,192.
const chunk = 4 << 10

// A link is the TUN device as gVisor sees it, a stack.LinkEndpoint. It starts no goroutine: Stack runs read, and
// packets to the debuggee are written by whoever made them. So there is no queue that would need a bound: a write to a
// TUN device runs the kernel's receive path and returns, it never waits.
//
// Inbound checksums are not verified (the kernel computed them a moment ago, on this machine). Outbound ones are
// computed by gVisor: the kernel verifies what comes from a TUN device without virtio headers.
type link struct {
	tun *os.File // the caller's; never closed here
	raw syscall.RawConn
	lo6 syscall.RawConn // takes packets from and to ::1, which the kernel drops from a TUN device; nil: none
	log *slog.Logger

	up stack.NetworkDispatcher // set once by Attach, before read starts

	wmu    sync.Mutex // guards what follows: one vectored write at a time
	iov    [][]byte
	werr   error
	writev func(fd uintptr) bool

	ignored, unsent atomic.Uint64 // packets not taken in; packets that the device did not take
}

func newLink(tun, lo6 *os.File, log *slog.Logger) (*link, error) {
	raw, err := tun.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("netstack: using the TUN device: %w", err)
	}
	l := &link{tun: tun, raw: raw, log: log}
	if lo6 != nil {
		if l.lo6, err = lo6.SyscallConn(); err != nil {
			return nil, fmt.Errorf("netstack: using the way to ::1: %w", err)
		}
	}
	l.writev = func(fd uintptr) bool {
		_, l.werr = unix.Writev(int(fd), l.iov)
		return true // never wait for room: TCP sends again, UDP may be lost
	}
	return l, nil
}

// read carries packets into the stack until the device is gone or its read deadline passes (Stack.Close sets it).
func (l *link) read() error {
	buf := make([]byte, maxPacket)
	for {
		n, err := l.tun.Read(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, os.ErrClosed):
			return nil
		case errors.Is(err, syscall.EINTR), errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.ENOMEM):
			continue
		case err != nil:
			return fmt.Errorf("netstack: reading the TUN device: %w", err)
		}
		l.deliver(buf[:n])
	}
}

// deliver takes in one packet; p is copied, into chunks of about its own size, so that what waits in a receive queue
// holds little more memory than it has bytes.
func (l *link) deliver(p []byte) {
	proto, ok := classify(p)
	if !ok {
		l.ignored.Add(1)
		return
	}
	var b buffer.Buffer
	// The odd piece comes first: it is cut off the front and holds all headers whenever it can.
	if odd := len(p) % chunk; odd >= maxHeaders || odd == len(p) {
		_ = b.Append(buffer.NewViewWithData(p[:odd]))
		p = p[odd:]
	}
	for len(p) > 0 {
		n := min(len(p), chunk)
		_ = b.Append(buffer.NewViewWithData(p[:n]))
		p = p[n:]
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: b})
	l.up.DeliverNetworkPacket(proto, pkt)
	pkt.DecRef()
}

// send writes one whole IP packet to the debuggee, in pieces as they lie.
func (l *link) send(pieces ...[]byte) {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	l.iov = append(l.iov[:0], pieces...)
	l.flush()
}

// flush needs wmu.
func (l *link) flush() {
	to := l.raw
	if l.lo6 != nil && len(l.iov) > 0 && ofLoopback6(l.iov[0]) {
		to = l.lo6
	}
	err := to.Write(l.writev)
	if err == nil {
		err = l.werr
	}
	clear(l.iov) // hold on to nobody's memory
	if err != nil && l.unsent.Add(1) == 1 {
		l.log.Debug("netstack: the TUN device does not take packets", "err", err)
	}
}

// ofLoopback6 says whether a packet, whose IP header lies whole in p, comes from ::1 or goes there.
func ofLoopback6(p []byte) bool {
	return len(p) >= header.IPv6MinimumSize && p[0]>>4 == 6 &&
		(netip.AddrFrom16([16]byte(p[8:24])).IsLoopback() || netip.AddrFrom16([16]byte(p[24:40])).IsLoopback())
}

// WritePackets implements stack.LinkWriter. A packet that the device does not take is lost, like on any network.
func (l *link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	for _, pkt := range pkts.AsSlice() {
		views, skip := pkt.AsViewList()
		l.iov = l.iov[:0]
		for v := views.Front(); v != nil; v = v.Next() {
			s := v.AsSlice()
			n := min(skip, len(s))
			skip -= n
			if s = s[n:]; len(s) > 0 {
				l.iov = append(l.iov, s)
			}
		}
		l.flush()
	}
	return pkts.Len(), nil
}

// Attach implements stack.NetworkLinkEndpoint. gVisor calls it with nil when the NIC is removed; the reader has ended
// by then.
func (l *link) Attach(d stack.NetworkDispatcher) { l.up = d }

// IsAttached implements stack.NetworkLinkEndpoint.
func (l *link) IsAttached() bool { return l.up != nil }

// MTU implements stack.NetworkLinkEndpoint.
func (l *link) MTU() uint32 { return sendMTU }

// SetMTU implements stack.NetworkLinkEndpoint; the device's MTU is the holder's to set.
func (l *link) SetMTU(uint32) {}

// MaxHeaderLength implements stack.NetworkLinkEndpoint: a TUN device has no link header.
func (*link) MaxHeaderLength() uint16 { return 0 }

// LinkAddress implements stack.NetworkLinkEndpoint.
func (*link) LinkAddress() tcpip.LinkAddress { return "" }

// SetLinkAddress implements stack.NetworkLinkEndpoint.
func (*link) SetLinkAddress(tcpip.LinkAddress) {}

// Capabilities implements stack.NetworkLinkEndpoint.
func (*link) Capabilities() stack.LinkEndpointCapabilities { return stack.CapabilityRXChecksumOffload }

// Wait implements stack.NetworkLinkEndpoint: there is no goroutine to wait for.
func (*link) Wait() {}

// ARPHardwareType implements stack.NetworkLinkEndpoint.
func (*link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }

// AddHeader implements stack.NetworkLinkEndpoint.
func (*link) AddHeader(*stack.PacketBuffer) {}

// ParseHeader implements stack.NetworkLinkEndpoint.
func (*link) ParseHeader(*stack.PacketBuffer) bool { return true }

// Close implements stack.NetworkLinkEndpoint; the device is the caller's.
func (*link) Close() {}

// SetOnCloseAction implements stack.NetworkLinkEndpoint.
func (*link) SetOnCloseAction(func()) {}
