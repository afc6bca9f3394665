package netstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// maxAssociations bounds the UDP four-tuples that are kept; the one idle longest makes room for a new one.
	maxAssociations = 1024
	// idleLimit ends an association that carried nothing; idleDNS one to port 53, where one answer is the rule.
	idleLimit = 60 * time.Second
	idleDNS   = 10 * time.Second
	// maxQueued and maxQueuedAll bound the bytes (each datagram with datagramCost) that wait to be read, in one
	// association and in all. What does not fit is lost, as in a socket whose buffer is full.
	maxQueued    = 256 << 10
	maxQueuedAll = 4 << 20
	// datagramCost is what keeping a datagram costs besides its bytes.
	datagramCost = 64
	// MaxDatagram is the largest UDP payload over IPv4, in bytes; IPv6 has room for 20 more.
	MaxDatagram = 65507
)

// associations are the UDP four-tuples in use. UDP has no gVisor endpoints: datagrams are taken from the stack after
// reassembly and queued here, so that their memory is counted in one place.
type associations struct {
	s      *Stack
	mu     sync.Mutex
	by     map[stack.TransportEndpointID]*PacketConn
	queued int // bytes in all queues
}

func newAssociations(s *Stack) *associations {
	return &associations{s: s, by: map[stack.TransportEndpointID]*PacketConn{}}
}

// packet sees every UDP datagram. It never leaves one to gVisor, which would answer for unknown ports by itself.
func (a *associations) packet(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	hdr := header.UDP(pkt.TransportHeader().Slice())
	size := int(hdr.Length()) - header.UDPMinimumSize
	if id.RemotePort == 0 || id.LocalPort == 0 || size < 0 || size > pkt.Data().Size() {
		return true
	}
	data := pkt.Data().AsRange().ToSlice()[:size:size]
	p, fresh := a.find(id, pkt.NetworkProtocolNumber)
	if p == nil {
		return true
	}
	a.queue(p, data)
	if fresh {
		go a.handle(p)
	}
	return true
}

// find returns the association, a new one if need be; nil when the Stack is closing.
func (a *associations) find(id stack.TransportEndpointID, proto tcpip.NetworkProtocolNumber) (p *PacketConn, fresh bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.by[id]; p != nil {
		return p, false
	}
	if !a.s.enter() {
		return nil, false
	}
	if len(a.by) >= maxAssociations {
		a.end(a.oldest(), io.EOF)
	}
	p = &PacketConn{a: a, id: id, proto: proto, ready: make(chan struct{}, 1), used: a.s.uptime()}
	p.src, p.dst = ends(id)
	p.ctx, p.cancel = context.WithTimeout(a.s.ctx, dialLimit)
	a.by[id] = p
	return p, true
}

func (a *associations) oldest() (old *PacketConn) {
	for _, p := range a.by {
		if old == nil || p.used < old.used {
			old = p
		}
	}
	return old
}

func (a *associations) queue(p *PacketConn, data []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	cost := len(data) + datagramCost
	p.used = a.s.uptime()
	if p.err != nil || p.queued+cost > maxQueued || a.queued+cost > maxQueuedAll {
		return
	}
	p.queue = append(p.queue, data)
	p.queued += cost
	a.queued += cost
	p.wake()
}

// handle runs in a goroutine of its own for each association and ends with it.
func (a *associations) handle(p *PacketConn) {
	defer a.s.wg.Done()
	serve, err := a.s.cfg.UDP(p.ctx, p.src, p.dst)
	p.cancel()
	if err == nil {
		serve(p)
	} else if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
		p.Refuse(errnoFrom(err))
	}
	_ = p.Close()
}

// end needs mu. The first reason stays.
func (a *associations) end(p *PacketConn, reason error) {
	if p.err != nil {
		return
	}
	p.err = reason
	p.cancel()
	a.queued -= p.queued
	p.queue, p.queued = nil, 0
	if a.by[p.id] == p {
		delete(a.by, p.id)
	}
	p.wake()
}

// sweep ends the idle ones.
func (a *associations) sweep() {
	now := a.s.uptime()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.by {
		limit := idleLimit
		if p.dst.Port() == 53 {
			limit = idleDNS
		}
		if now-p.used > limit {
			a.end(p, io.EOF)
		}
	}
}

func (a *associations) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.by {
		a.end(p, net.ErrClosed)
	}
}

func (a *associations) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.by)
}

// A PacketConn is one UDP association with the debuggee. One goroutine may read while others write; Close may come at
// any time. It starts no goroutine.
type PacketConn struct {
	a        *associations
	id       stack.TransportEndpointID
	proto    tcpip.NetworkProtocolNumber
	src, dst netip.AddrPort
	ctx      context.Context // of the handler's call
	cancel   context.CancelFunc
	ready    chan struct{} // holds a token when something has changed

	// guarded by a.mu
	queue  [][]byte
	queued int           // bytes, with datagramCost each
	used   time.Duration // last datagram either way, on the stack's clock
	err    error         // why it has ended
}

// LocalAddr returns the address that the debuggee sends to; this side plays it.
func (p *PacketConn) LocalAddr() netip.AddrPort { return p.dst }

// RemoteAddr returns the debuggee's own address and port.
func (p *PacketConn) RemoteAddr() netip.AddrPort { return p.src }

func (p *PacketConn) wake() {
	select {
	case p.ready <- struct{}{}:
	default:
	}
}

// Read reads one datagram; what of it does not fit in b is lost. io.EOF: the association was idle too long, or made
// room for another one. net.ErrClosed: it was closed here.
func (p *PacketConn) Read(b []byte) (int, error) {
	for {
		data, ok, err := p.next()
		if ok || err != nil {
			return copy(b, data), err
		}
		<-p.ready
	}
}

// next takes the first datagram, if there is one.
func (p *PacketConn) next() (data []byte, ok bool, err error) {
	p.a.mu.Lock()
	defer p.a.mu.Unlock()
	if p.err != nil {
		p.wake() // for the next reader
		return nil, false, p.err
	}
	if len(p.queue) == 0 {
		return nil, false, nil
	}
	data = p.queue[0]
	p.queue[0] = nil
	if p.queue = p.queue[1:]; len(p.queue) == 0 {
		p.queue = nil
	}
	p.queued -= len(data) + datagramCost
	p.a.queued -= len(data) + datagramCost
	return data, true, nil
}

// Write sends b to the debuggee as one datagram from the address it sent to; EMSGSIZE if it is larger than UDP allows.
func (p *PacketConn) Write(b []byte) (int, error) {
	if err := p.touch(); err != nil {
		return 0, err
	}
	limit := MaxDatagram
	if p.dst.Addr().Is6() {
		limit += header.IPv4MinimumSize
	}
	if len(b) > limit {
		return 0, fmt.Errorf("netstack: write of %d bytes to %s: %w", len(b), p.src, syscall.EMSGSIZE)
	}
	route, terr := p.a.s.st.FindRoute(nicID, p.id.LocalAddress, p.id.RemoteAddress, p.proto, false)
	if terr != nil {
		return 0, fmt.Errorf("netstack: write to %s: %w", p.src, errnoOf(terr))
	}
	defer route.Release()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: header.UDPMinimumSize + int(route.MaxHeaderLength()),
		Payload:            buffer.MakeWithData(b),
	})
	defer pkt.DecRef()
	hdr := header.UDP(pkt.TransportHeader().Push(header.UDPMinimumSize))
	pkt.TransportProtocolNumber = header.UDPProtocolNumber
	length := uint16(header.UDPMinimumSize + len(b))
	hdr.Encode(&header.UDPFields{SrcPort: p.id.LocalPort, DstPort: p.id.RemotePort, Length: length})
	sum := route.PseudoHeaderChecksum(header.UDPProtocolNumber, length)
	sum = hdr.CalculateChecksum(checksum.Combine(sum, pkt.Data().Checksum()))
	if sum != 0xffff { // zero would mean "no checksum" (RFC 768)
		sum = ^sum
	}
	hdr.SetChecksum(sum)
	terr = route.WritePacket(stack.NetworkHeaderParams{Protocol: header.UDPProtocolNumber, TTL: route.DefaultTTL()}, pkt)
	if terr != nil {
		return 0, fmt.Errorf("netstack: write to %s: %w", p.src, errnoOf(terr))
	}
	return len(b), nil
}

// touch notes that the association is in use; an error says that it has ended.
func (p *PacketConn) touch() error {
	p.a.mu.Lock()
	defer p.a.mu.Unlock()
	p.used = p.a.s.uptime()
	return p.err
}

// Refuse tells the debuggee, by ICMP, that its datagrams cannot be delivered, because of errno; the package comment
// has the table. The association goes on: a UDP socket survives a refusal.
func (p *PacketConn) Refuse(errno syscall.Errno) {
	p.a.s.notify(byte(header.UDPProtocolNumber), p.id, 0, errno)
}

// Close ends the association; a datagram of the debuggee's afterwards begins a new one. It is idempotent.
func (p *PacketConn) Close() error {
	p.a.mu.Lock()
	defer p.a.mu.Unlock()
	p.a.end(p, net.ErrClosed)
	return nil
}
