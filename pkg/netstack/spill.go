package netstack

import (
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Small segments. A segment in gVisor's receive queue costs about a kilobyte besides its bytes, and gVisor counts that:
// after some sixteen unread single bytes the receive buffer is full, though the window that was advertised is not. The
// rest is then dropped, the debuggee's kernel takes that for a bad network and waits longer each time, up to two
// minutes; when the reader comes back, the flow does not, and after a quarter of an hour the kernel gives it up
// (tcp_retries2). So when crowd segments wait and nobody reads, a worker moves their bytes into Conn.spill, and takes
// as much from the receive buffer, so that the window ends where it would have: at one full window of bytes.
//
// From then on each segment is moved at once: the receive buffer may have become smaller than one.
//
// A burst that comes faster than the worker is still cut, and what comes out of order behind it fills the rest of the
// buffer until the reader is back. So the namespaces should not let the kernel back off for long either: sysctls
// net.ipv4.tcp_rto_max_ms = 1000 (Linux 6.15) and tcp_retries2 = 255.
const crowd = 4

// arrivals is told of each segment that a flow receives. gVisor calls it with the endpoint locked.
type arrivals struct {
	readable chan struct{} // holds a token when something has come
	crowded  func()
	n        atomic.Int32 // segments since somebody last looked
	spilled  atomic.Bool  // spill is not empty
}

// NotifyEvent implements waiter.EventListener.
func (a *arrivals) NotifyEvent(waiter.EventMask) {
	select {
	case a.readable <- struct{}{}:
	default:
	}
	if n := a.n.Add(1); n%crowd == 0 || a.spilled.Load() {
		a.crowded()
	}
}

// compact moves what waits in small segments into spill.
func (c *Conn) compact() {
	if !c.rmu.TryLock() {
		return // somebody reads
	}
	defer c.rmu.Unlock()
	for segments := int(c.arrivals.n.Swap(0)); !c.closed.Load(); segments = 0 {
		used, terr := c.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption)
		n := min(used, c.rwin.size()/2-len(c.spill))
		if terr != nil || n <= 0 || len(c.spill) == 0 && used > segments*tcpOverhead {
			return
		}
		c.arrivals.spilled.Store(true) // before the last look at the queue, or a segment might come unnoticed
		// The buffer shrinks before the read, which may advertise a new window: half of the buffer.
		c.ep.SocketOptions().SetReceiveBufferSize(int64(max(1, c.rwin.size()-2*(len(c.spill)+n))), true)
		b := make([]byte, n)
		c.sink = b
		res, terr := c.ep.Read(&c.sink, tcpip.ReadOptions{})
		c.sink = nil
		if terr != nil {
			return // the reader will be told; it is not lost: gVisor keeps the state that it stands for
		}
		c.spill = append(c.spill, b[:res.Count]...)
	}
}

// tcpOverhead is about what a segment costs besides its bytes.
const tcpOverhead = 1 << 10

// unspill serves a Read from spill; it needs rmu.
func (c *Conn) unspill(p []byte) int {
	n := copy(p, c.spill)
	if c.spill = c.spill[n:]; len(c.spill) == 0 {
		c.spill = nil
		c.arrivals.spilled.Store(false)
		if !c.closed.Load() {
			c.ep.SocketOptions().SetReceiveBufferSize(int64(c.rwin.size()), true)
		}
	}
	return n
}
