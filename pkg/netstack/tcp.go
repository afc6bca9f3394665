package netstack

import (
	"context"
	"errors"
	"slices"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

const (
	// maxAttempts bounds the SYNs under way, each with a goroutine and a dial of the handler's. A SYN beyond it is
	// not answered, so the kernel sends it again a second later.
	maxAttempts = 2048
	// dialLimit bounds one call of a handler. It is about what Linux waits in connect(2) (tcp_syn_retries 6: 127 s).
	dialLimit = 2 * time.Minute
	// patience is added to twice the time between a debuggee's last two SYNs; when it has passed without another one,
	// the debuggee has closed its socket (which the kernel tells nobody) and the dial is cancelled.
	patience = 2 * time.Second
)

// ErrReturn is a TCP handler's word that the debuggee itself listens at the address: the SYN goes back to its kernel,
// unchanged, to be answered there. The handler has seen to it that the packets behind it do not come here.
var ErrReturn = errors.New("netstack: the flow is the debuggee's own")

// errGaveUp is the cause of a cancelled dial.
var errGaveUp = errors.New("netstack: the debuggee gave the connection up")

// An attempt is one SYN under way: the handler is asking, the debuggee waits.
type attempt struct {
	id     stack.TransportEndpointID
	seq    uint32 // of the SYN
	syn    []byte // the whole packet, where it may have to go back: to an address of the debuggee's; else nil
	cancel context.CancelCauseFunc
	ctx    context.Context

	// guarded by attempts.mu
	last, gap time.Duration // when the SYN was seen last, on the stack's clock, and the time since the one before
	req       *tcp.ForwarderRequest
	settled   bool
}

// attempts are the SYNs under way by their four-tuple. A SYN that comes again is the same attempt; one with another
// sequence number is another socket on the same port, and the first has gone.
type attempts struct {
	s  *Stack
	f  *tcp.Forwarder
	mu sync.Mutex
	by map[stack.TransportEndpointID]*attempt
}

func newAttempts(s *Stack) *attempts {
	a := &attempts{s: s, by: map[stack.TransportEndpointID]*attempt{}}
	// gVisor's own bound is out of the way: a request it dropped would be an attempt that never ends.
	a.f = tcp.NewForwarder(s.st, floorReceive, 4*maxAttempts, a.handle)
	return a
}

// packet sees every TCP segment that belongs to no endpoint; false leaves it to gVisor, which answers with RST.
func (a *attempts) packet(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	hdr := header.TCP(pkt.TransportHeader().Slice())
	flags := hdr.Flags()
	if flags.Contains(header.TCPFlagRst) {
		a.reset(id)
		return true
	}
	if !flags.Contains(header.TCPFlagSyn) || flags.Contains(header.TCPFlagAck) {
		return false
	}
	if id.RemotePort == 0 || id.LocalPort == 0 || !a.admit(id, hdr.SequenceNumber(), pkt) {
		return true
	}
	if !a.f.HandlePacket(id, pkt) { // malformed options: no goroutine was started
		a.mu.Lock()
		a.forget(a.by[id])
		a.mu.Unlock()
		a.s.wg.Done()
	}
	return true
}

// admit says whether the SYN is a new attempt, and records it; the WaitGroup has counted it then.
func (a *attempts) admit(id stack.TransportEndpointID, seq uint32, pkt *stack.PacketBuffer) bool {
	now := a.s.uptime()
	a.mu.Lock()
	defer a.mu.Unlock()
	if old := a.by[id]; old != nil {
		if old.seq == seq {
			old.last, old.gap = now, now-old.last
			return false
		}
		if old.req == nil || old.settled {
			return false // its goroutine is just starting or ending; the kernel will ask again
		}
		a.settle(old, false)
		a.forget(old)
	}
	if len(a.by) >= maxAttempts || !a.s.enter() {
		return false
	}
	ctx, cancel := context.WithCancelCause(a.s.ctx)
	t := &attempt{id: id, seq: seq, ctx: ctx, cancel: cancel, last: now, gap: time.Second}
	if id.LocalAddress == id.RemoteAddress || toAddr(id.LocalAddress).IsLoopback() {
		whole := stack.PayloadSince(pkt.NetworkHeader())
		t.syn = slices.Clone(whole.AsSlice())
		whole.Release()
	}
	a.by[id] = t
	return true
}

// settle ends the SYN's life in gVisor once; it needs mu.
func (a *attempts) settle(t *attempt, reset bool) bool {
	if t.settled || t.req == nil {
		return false
	}
	t.settled = true
	t.req.Complete(reset)
	return true
}

// forget needs mu.
func (a *attempts) forget(t *attempt) {
	if t == nil {
		return
	}
	t.cancel(errGaveUp)
	if a.by[t.id] == t {
		delete(a.by, t.id)
	}
}

// reset cancels the attempt of a debuggee that sent RST.
func (a *attempts) reset(id stack.TransportEndpointID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t := a.by[id]; t != nil {
		t.cancel(errGaveUp)
	}
}

// sweep cancels the attempts whose SYN no longer comes.
func (a *attempts) sweep() {
	now := a.s.uptime()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range a.by {
		if now-t.last > 2*t.gap+patience {
			t.cancel(errGaveUp)
		}
	}
}

// handle runs in a goroutine of its own for each attempt; it ends with the handshake, when serve's begins.
func (a *attempts) handle(req *tcp.ForwarderRequest) {
	defer a.s.wg.Done()
	a.mu.Lock()
	t := a.by[req.ID()]
	t.req = req
	a.mu.Unlock()

	src, dst := ends(t.id)
	ctx, cancel := context.WithTimeout(t.ctx, dialLimit)
	serve, err := a.s.cfg.TCP(ctx, src, dst)
	gaveUp := t.ctx.Err() != nil
	cancel()
	if err != nil {
		a.refuse(t, err, gaveUp)
		return
	}
	c := newConn(a.s, src, dst)
	if !gaveUp {
		a.establish(t, c)
	} else {
		a.drop(t)
	}
	// The handshake has grown this goroutine's stack, and an idle flow is to keep a small one: serve gets a fresh one.
	a.s.wg.Add(1) // this goroutine is still counted, so the count is not zero
	go func() {
		defer a.s.wg.Done()
		serve(c)
		_ = c.Close()
	}()
}

// refuse tells the debuggee why there is no connection. The notice goes out before the attempt ends, so a SYN that
// comes again in between does not start another one.
func (a *attempts) refuse(t *attempt, err error, gaveUp bool) {
	if errors.Is(err, ErrReturn) && t.syn != nil {
		a.s.link.send(t.syn)
		a.drop(t)
		return
	}
	errno := errnoFrom(err)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || gaveUp {
		errno = syscall.ETIMEDOUT
	}
	reset := errno == syscall.ECONNREFUSED || errno == syscall.ECONNRESET
	a.mu.Lock()
	defer a.mu.Unlock()
	defer a.forget(t)
	if t.settled {
		return
	}
	if !reset {
		a.s.notify(byte(header.TCPProtocolNumber), t.id, t.seq, errno)
	}
	a.settle(t, reset)
}

// drop ends an attempt without a word.
func (a *attempts) drop(t *attempt) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.settle(t, false)
	a.forget(t)
}

// establish completes the handshake. If the debuggee has gone, c stays without an endpoint.
func (a *attempts) establish(t *attempt, c *Conn) {
	a.mu.Lock()
	if t.settled {
		a.mu.Unlock()
		return
	}
	t.settled = true
	a.mu.Unlock()
	ep, terr := t.req.CreateEndpoint(&c.wq) // waits for the debuggee's ACK; Stack.Close aborts it
	t.req.Complete(false)
	a.mu.Lock()
	a.forget(t)
	a.mu.Unlock()
	if terr != nil {
		a.s.cfg.Log.Debug("netstack: handshake", "src", c.src, "dst", c.dst, "err", terr.String())
		return
	}
	c.start(ep)
	if !a.s.addConn(c) {
		c.Abort()
	}
}
