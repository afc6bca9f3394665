// Package mirror copies what clients send to some of the pod's TCP ports, out of the data path: it reads the frames that
// the kernel shows to a packet socket (packet(7)), puts each connection's bytes in order again and hands them to whoever
// asked for them. It must never send a frame, wait for a taker, or hold more than its bounds: what it cannot keep it
// loses, counts and says, and bytes behind a gap are never passed off as data.
package mirror

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds. What is beyond them is counted as lost.
const (
	maxConns  = 8192     // connections that are followed: some 300 bytes each
	maxCopies = 1024     // copies that takers have: each is a goroutine and a stream of a channel
	maxQueued = 8 << 20  // bytes that wait for one copy's taker: a burst is faster than the way to the session
	maxHeld   = 16 << 20 // bytes that wait for all takers: it is this that grows while a debuggee stands at a breakpoint
	// idle is how long a connection may be silent before it is forgotten; if it wakes up it is joined like one that was
	// open before.
	idle = 10 * time.Minute
	// linger is how long a connection that has ended is remembered, so that what its client sends again does not seem to be
	// another one's: longer than a client of a healthy network waits before it does. They make room for others.
	linger = 2 * time.Second
	// tick is how often timers are looked at and the kernel's counter of dropped frames is read.
	tick = 250 * time.Millisecond
)

// Port is a TCP port of the pod. With Loopback only callers from within the pod are copied.
type Port struct {
	Number   uint16
	Loopback bool
}

// Taker gets copies of the connections to its ports. Its functions are called by the capture's goroutine and must not
// wait.
type Taker struct {
	Ports  []Port
	Take   func(*Copy)  // a connection has sent its first bytes
	Notice func(string) // one line for people
	// Unwanted says of a connection that begins with head, for which there is no room, that it would not have been used
	// anyhow; then it is not counted. nil: none is.
	Unwanted func(cp *Copy, head []byte) bool
	Counts   Counts
	told     map[string]bool // notices, each once; belongs to the capture
}

// Counts say what a taker got. Each byte that was seen is in one of two, or waits; each connection that is known to have
// sent something is in Flows once.
type Counts struct {
	Flows, LostFlows atomic.Uint64 // connections; of them, those that the taker did not get, or not whole
	Bytes, Lost      atomic.Uint64 // bytes that the taker took; bytes that it did not get
}

// Capture copies connections for its takers.
//
// Goroutines: run, which ends with Close.
type Capture struct {
	log     *slog.Logger
	ring    *ring
	mark    uint32
	held    atomic.Int64 // bytes in all queues
	copies  atomic.Int64 // copies that are not over
	dropped atomic.Uint64
	done    chan struct{}

	mu      sync.Mutex
	takers  map[*Taker]bool
	conns   map[key]*conn
	ended   []*conn // those of them that are over, the oldest first
	ports   map[uint16]*port
	reorder *reorder
	finder  finder
	// endFinder ends that.
	endFinder func()
	now       time.Time // of what is just processed

	sawForTest func(frame)
}

// key names a connection.
type key struct{ client, local netip.AddrPort }

// Start begins to capture with a socket that Open made and takes it over. Packets with mark are the agent's own and are
// no client's; 0 is no mark.
func Start(socket *os.File, mark uint32, log *slog.Logger) (*Capture, error) {
	r, err := newRing(socket)
	if err != nil {
		return nil, err
	}
	find, end, err := openDiag()
	if err != nil {
		log.Warn("connections cannot be told from those that end in a sidecar", "err", err)
		find, end = func(key) bool { return true }, func() {}
	}
	c := newCapture(mark, find, log)
	c.ring, c.endFinder = r, end
	go c.run()
	return c, nil
}

func newCapture(mark uint32, find finder, log *slog.Logger) *Capture {
	c := &Capture{log: log, mark: mark, done: make(chan struct{}), takers: map[*Taker]bool{}, conns: map[key]*conn{},
		ports: map[uint16]*port{}, finder: find}
	c.reorder = newReorder(log)
	return c
}

// Add copies for t from now on.
func (c *Capture) Add(t *Taker) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	t.told = map[string]bool{}
	c.takers[t] = true
	for _, p := range t.Ports {
		if c.ports[p.Number] == nil {
			c.ports[p.Number] = &port{}
		}
	}
	for k, one := range c.conns { // they are joined midway
		if t.wants(k, one.lo) && !one.lost && !one.ignored && !one.over {
			one.offer(c, t, true)
		}
	}
	return c.filter()
}

// Remove ends t's copies.
func (c *Capture) Remove(t *Taker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.takers, t)
	for k, one := range c.conns {
		one.leave(t)
		if len(one.copies) == 0 {
			delete(c.conns, k)
		}
	}
	if err := c.filter(); err != nil {
		c.log.Warn("narrowing the capture", "err", err)
	}
}

// filter has the kernel show only what takers want, of which it forgets the ports that are nobody's any more.
func (c *Capture) filter() error {
	wanted := map[uint16]bool{}
	for t := range c.takers {
		for _, p := range t.Ports {
			wanted[p.Number] = true
		}
	}
	for number := range c.ports {
		if !wanted[number] {
			delete(c.ports, number)
		}
	}
	if c.ring == nil {
		return nil
	}
	return c.ring.filter(c.mark, wanted)
}

// Dropped is how many frames the kernel had no room for, over all takers: what was in them shows as gaps, and connections
// of which nothing else was seen do not show at all.
func (c *Capture) Dropped() uint64 { return c.dropped.Load() }

// Close ends all copies. It is called once.
func (c *Capture) Close() {
	c.ring.close()
	<-c.done
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range c.conns {
		one.end(errClosed)
	}
	c.conns = nil
	c.endFinder()
}

var errClosed = errors.New("mirror: the capture has ended")

func (c *Capture) run() {
	defer close(c.done)
	defer c.ring.unmap()
	for {
		c.mu.Lock()
		c.now = time.Now()
		c.mu.Unlock()
		err := c.ring.read(time.Now().Add(tick), func(frames []frame) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.now = time.Now()
			for _, f := range frames {
				c.frame(f)
			}
		})
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			c.log.Error("reading frames", "err", err)
			time.Sleep(tick)
		}
		c.mu.Lock()
		if time.Since(c.reorder.looked) >= tick {
			c.dropped.Add(c.ring.dropped())
			c.timers()
		}
		c.mu.Unlock()
	}
}

// frame follows one frame.
func (c *Capture) frame(f frame) {
	if c.sawForTest != nil {
		c.sawForTest(f)
	}
	s, ok := parse(f)
	if !ok {
		return
	}
	if one := c.conns[key{s.to, s.from}]; one != nil && s.rst { // the server's; nothing else of it is shown
		c.finish(one, errReset)
	}
	if !f.outgoing && c.ports[s.to.Port()] != nil {
		c.segment(s)
	}
}

// segment follows what a client sent.
func (c *Capture) segment(s segment) {
	k := key{s.from, s.to}
	one := c.conns[k]
	if s.syn {
		if one != nil && one.begun == s.seq && !one.midway { // sent again
			return
		}
		if one != nil {
			c.finish(one, errReset) // its port is used anew
			delete(c.conns, k)
		}
		one = c.follow(k, s, false)
	} else if one == nil {
		if s.rst || len(s.payload) == 0 { // there is nothing to copy, and perhaps never will be: what acknowledges a server's end
			return
		}
		one = c.follow(k, s, true)
	}
	if one == nil {
		return
	}
	if !one.over {
		one.seen = c.now
		c.suspect(one, s)
	}
	one.take(c, s)
}

// follow begins a connection; nil where nobody wants it, or there is no room.
func (c *Capture) follow(k key, s segment, midway bool) *conn {
	var takers []*Taker
	for t := range c.takers {
		if t.wants(k, s.lo) {
			takers = append(takers, t)
		}
	}
	if len(takers) == 0 {
		return nil
	}
	c.bury(c.now.Add(-linger), maxConns-1)
	if len(c.conns) >= maxConns {
		for _, t := range takers {
			if !midway { // else it would be counted with each of its frames
				t.Counts.Flows.Add(1)
				t.Counts.LostFlows.Add(1)
			}
			t.Counts.Lost.Add(uint64(len(s.payload)))
			t.say(fmt.Sprintf("more than %d connections at a time: the others are not copied", maxConns))
		}
		return nil
	}
	one := &conn{key: k, lo: s.lo, seen: c.now, begun: s.seq, next: s.seq, midway: midway, ack: s.ack}
	if s.syn {
		one.next++
	}
	for _, t := range takers {
		one.offer(c, t, midway)
	}
	c.conns[k] = one
	return one
}

// finish ends a connection, which is remembered for linger.
func (c *Capture) finish(one *conn, why error) {
	if one.over {
		return
	}
	c.reveal(one)
	one.end(why)
	one.copies, one.seen = nil, c.now
	c.reorder.forget(one)
	c.ended = append(c.ended, one)
}

// bury forgets connections that are over: those that ended before then, and more while there are more than room in all.
func (c *Capture) bury(then time.Time, room int) {
	for len(c.ended) > 0 && (c.ended[0].seen.Before(then) || len(c.conns) > room || len(c.ended) > maxConns) {
		one := c.ended[0]
		c.ended[0], c.ended = nil, c.ended[1:]
		if c.conns[one.key] == one {
			delete(c.conns, one.key)
		}
	}
}

// timers does what is due by the clock.
func (c *Capture) timers() {
	c.now = time.Now()
	c.bury(c.now.Add(-linger), maxConns)
	c.reorder.flush(c.now)
	for _, one := range c.conns {
		switch {
		case one.over:
		case c.now.Sub(one.seen) > idle:
			c.finish(one, nil)
		case one.ending && c.now.Sub(one.seen) > patience: // what is before its end was missed
			one.gap(c, one.fin)
			c.finish(one, nil)
		case one.hold != nil && c.now.After(one.hold.until):
			c.release(one)
		}
	}
}

// wants says whether a connection is for t.
func (t *Taker) wants(k key, lo bool) bool {
	for _, p := range t.Ports {
		if p.Number == k.local.Port() && (lo || !p.Loopback) {
			return true
		}
	}
	return false
}

// say says a line once.
func (t *Taker) say(line string) {
	if !t.told[line] {
		t.told[line] = true
		t.Notice(line)
	}
}
