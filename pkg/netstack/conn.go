package netstack

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Small writes. gVisor keeps each Write as a segment of its own until the debuggee's kernel has taken it, about
// 900 bytes besides the payload, and counts only the payload: a stalled flow fed byte by byte would hold 15 MiB in a
// send buffer of 16 KiB. So after smallWrites writes below smallWrite bytes the queue has to run empty once.
const (
	smallWrite  = 1 << 10 // bytes
	smallWrites = 16
)

// A Conn is one TCP flow with the debuggee, after the handshake: what the debuggee writes is read here, and the other
// way round. One goroutine may read while another writes; Close, CloseWrite and Abort may come from any at any time.
// It starts no goroutine.
type Conn struct {
	stack    *Stack
	src, dst netip.AddrPort

	ep tcpip.Endpoint // nil: the debuggee had gone when the handler answered (see newGone)
	wq waiter.Queue

	rmu      sync.Mutex // one reader
	arrivals arrivals
	rentry   waiter.Entry
	spill    []byte // read from the endpoint ahead of the reader; see compact
	sink     tcpip.SliceWriter
	rcall    func() // one ep.Read into sink; results in rn, rerr
	rdone    chan struct{}
	rn       int
	rerr     tcpip.Error
	rwin     window

	wmu      sync.Mutex // one writer
	writable chan struct{}
	wentry   waiter.Entry
	source   bytes.Reader
	wcall    func() // one ep.Write from source; results in wn, werr
	wdone    chan struct{}
	wn       int
	werr     tcpip.Error
	small    int // small writes since the send queue was last seen empty
	wwin     window

	closed atomic.Bool   // Close or Abort was called: own end
	emu    sync.Mutex    // guards errno
	errno  syscall.Errno // the first hard error; 0: none yet
}

// newConn makes a Conn without an endpoint; start gives it one.
func newConn(s *Stack, src, dst netip.AddrPort) *Conn {
	c := &Conn{stack: s, src: src, dst: dst}
	c.rwin = window{bank: &s.receiving, floor: floorReceive}
	c.wwin = window{bank: &s.sending, floor: floorSend}
	return c
}

// start takes the endpoint of a completed handshake.
func (c *Conn) start(ep tcpip.Endpoint) {
	c.ep = ep
	c.arrivals.readable = make(chan struct{}, 1)
	c.arrivals.crowded = func() { c.stack.deep.later(c) }
	c.rentry.Init(&c.arrivals, waiter.ReadableEvents)
	c.wentry, c.writable = waiter.NewChannelEntry(waiter.WritableEvents)
	c.wq.EventRegister(&c.rentry)
	c.wq.EventRegister(&c.wentry)
	c.rdone, c.wdone = make(chan struct{}, 1), make(chan struct{}, 1)
	c.rcall = func() {
		res, terr := ep.Read(&c.sink, tcpip.ReadOptions{})
		c.rn, c.rerr = res.Count, terr
	}
	c.wcall = func() {
		n, terr := ep.Write(&c.source, tcpip.WriteOptions{})
		c.wn, c.werr = int(n), terr
	}
	so := ep.SocketOptions()
	so.SetDelayOption(false)                                   // no Nagle, as on every hop
	so.SetSendBufferSize(int64(c.wwin.begin(firstSend)), true) // "true" also ends gVisor's own tuning
	so.SetReceiveBufferSize(floorReceive, true)                // likewise
}

// LocalAddr returns the debuggee's peer, the address it connected to: the flow's far end, which this side plays.
func (c *Conn) LocalAddr() netip.AddrPort { return c.dst }

// RemoteAddr returns the debuggee's own address and port.
func (c *Conn) RemoteAddr() netip.AddrPort { return c.src }

// Read reads what the debuggee wrote. io.EOF: it shut its writing side down. ECONNRESET: it reset the flow.
// net.ErrClosed: Close or Abort was called here.
func (c *Conn) Read(p []byte) (int, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	if len(c.spill) > 0 && !c.closed.Load() {
		return c.unspill(p), nil
	}
	for c.ep != nil {
		c.sink = p
		c.stack.deep.do(c.rcall, c.rdone)
		n, terr := c.rn, c.rerr
		c.sink = nil
		c.arrivals.n.Store(0)
		if _, ok := terr.(*tcpip.ErrWouldBlock); ok {
			<-c.arrivals.readable
			continue
		}
		if terr != nil {
			return 0, c.readFault(terr)
		}
		if size, grown := c.rwin.carried(n); grown && !c.closed.Load() {
			c.ep.SocketOptions().SetReceiveBufferSize(int64(size), true)
		}
		return n, nil
	}
	return 0, c.fault("read", syscall.ECONNABORTED)
}

// WaitReadable waits until Read would not: data, end or error. So a caller takes a buffer only when it is needed, and
// a thousand idle flows hold none.
func (c *Conn) WaitReadable() {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	for c.ep != nil && len(c.spill) == 0 && !c.closed.Load() && c.ep.Readiness(waiter.ReadableEvents)&waiter.ReadableEvents == 0 {
		c.rmu.Unlock() // compact may need it: nobody reads as yet
		<-c.arrivals.readable
		c.rmu.Lock()
	}
}

// Write writes to the debuggee. It returns when all of p is in the send buffer, which is before the debuggee has it.
func (c *Conn) Write(p []byte) (int, error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	n := 0
	for c.ep != nil && n < len(p) {
		c.spaceSmall(len(p) - n)
		c.source.Reset(p[n:])
		c.stack.deep.do(c.wcall, c.wdone)
		k, terr := c.wn, c.werr
		c.source.Reset(nil)
		n += k
		if _, ok := terr.(*tcpip.ErrWouldBlock); ok {
			<-c.writable
			continue
		}
		if terr != nil {
			return n, c.writeFault(terr)
		}
		if size, grown := c.wwin.carried(k); grown {
			c.ep.SocketOptions().SetSendBufferSize(int64(size), false)
		}
	}
	if c.ep == nil {
		return 0, c.fault("write", syscall.ECONNABORTED)
	}
	return n, nil
}

// spaceSmall counts a write of n bytes, and after smallWrites small ones waits for the send queue to run empty.
func (c *Conn) spaceSmall(n int) {
	if n >= smallWrite {
		return
	}
	if c.small++; c.small <= smallWrites {
		return
	}
	// With a size of 2 the endpoint is writable, and says so, when fewer than (2 for one that looks, 1 for one that
	// waits) bytes are queued.
	so := c.ep.SocketOptions()
	so.SetSendBufferSize(2, false)
	for c.ep.Readiness(waiter.WritableEvents)&waiter.WritableEvents == 0 {
		<-c.writable
	}
	so.SetSendBufferSize(int64(c.wwin.size()), false)
	c.small = 1
}

// CloseWrite sends FIN after what was written; reading goes on.
func (c *Conn) CloseWrite() error {
	if c.ep == nil {
		return c.fault("close", syscall.ECONNABORTED)
	}
	if terr := c.ep.Shutdown(tcpip.ShutdownWrite); terr != nil {
		return c.writeFault(terr)
	}
	return nil
}

// Close ends the flow in order: what was written is still delivered, then FIN; RST if there is unread data, as a
// kernel does. It does not wait.
func (c *Conn) Close() error {
	if c.closed.Swap(true) || c.ep == nil {
		return nil
	}
	if c.rmu.TryLock() {
		unread := len(c.spill) > 0
		c.rmu.Unlock()
		if unread {
			c.Abort()
			return nil
		}
	}
	c.ep.Close()
	c.rwin.end()
	c.stack.dropConn(c, true)
	return nil
}

// Abort resets the flow: the debuggee reads ECONNRESET. After Close it ends what Close left under way.
func (c *Conn) Abort() {
	c.closed.Store(true)
	if c.ep == nil {
		return
	}
	c.ep.Abort()
	c.rwin.end()
	c.wwin.end()
	c.stack.dropConn(c, false)
}

// settle is called each second. It gives back what an idle send buffer was lent.
func (c *Conn) settle() {
	if !c.wwin.quiet() || !c.wmu.TryLock() {
		return // a writer that waits holds the lock: its buffer is full, the loan in use
	}
	defer c.wmu.Unlock()
	so := c.ep.SocketOptions()
	so.SetSendBufferSize(floorSend, false)
	if c.ep.Readiness(waiter.WritableEvents)&waiter.WritableEvents == 0 {
		so.SetSendBufferSize(int64(c.wwin.size()), false) // more than the floor is still queued
		return
	}
	c.wwin.release()
}

// gone says whether a closed flow has delivered everything, so that its memory is free.
func (c *Conn) gone() bool {
	switch tcp.EndpointState(c.ep.State()) {
	case tcp.StateClose, tcp.StateError, tcp.StateTimeWait, tcp.StateFinWait2:
		return true
	}
	return false
}

func (c *Conn) readFault(terr tcpip.Error) error {
	if _, ok := terr.(*tcpip.ErrClosedForReceive); ok {
		if c.closed.Load() {
			return net.ErrClosed
		}
		if tcp.EndpointState(c.ep.State()) != tcp.StateError {
			return io.EOF
		}
		return c.fault("read", syscall.ECONNRESET) // the writer was told the cause first
	}
	return c.fault("read", errnoOf(terr))
}

func (c *Conn) writeFault(terr tcpip.Error) error {
	if _, ok := terr.(*tcpip.ErrClosedForSend); ok && tcp.EndpointState(c.ep.State()) == tcp.StateError {
		return c.fault("write", syscall.ECONNRESET) // the reader was told the cause first
	}
	return c.fault("write", errnoOf(terr))
}

// fault keeps the first hard error (gVisor tells it once) and returns it to everybody after.
func (c *Conn) fault(op string, errno syscall.Errno) error {
	if c.closed.Load() {
		return net.ErrClosed
	}
	c.emu.Lock()
	defer c.emu.Unlock()
	if errno != syscall.EPIPE && errno != syscall.ENOTCONN && c.errno == 0 {
		c.errno = errno
	}
	if c.errno != 0 {
		errno = c.errno
	}
	return fmt.Errorf("netstack: %s %s from %s: %w", op, c.dst, c.src, errno)
}
