package mirror

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"sync"
)

// Copy is what one taker gets of one connection. Next belongs to one goroutine; Leave may be called by any.
type Copy struct {
	Client, Local netip.AddrPort // the address that the client called
	Begun         bool           // from its first byte on; else from the beginning of a request

	capture *Capture
	taker   *Taker
	joined  bool // there are bytes to hand on; belongs to the capture, like told and cut
	told    bool // the taker knows of it, or it was refused
	counted bool // as a connection
	cut     bool // it has a gap
	tries   int  // segments that did not begin a request

	mu     sync.Mutex
	queue  [][]byte
	queued int
	lost   uint64
	broken bool  // there is a gap behind the queue
	why    error // of its end, nil while there is none
	wake   chan struct{}
	gone   bool
	taken  bool // it is one of maxCopies
}

// Gap is the end of a copy of which bytes are missing: what comes behind them would not be what the client sent.
type Gap struct {
	Lost uint64 // bytes, as far as was known then
}

func (g *Gap) Error() string {
	return fmt.Sprintf("mirror: %d bytes of the connection were not seen", g.Lost)
}

func newCopy(c *Capture, one *conn, t *Taker, midway bool) *Copy {
	return &Copy{Client: one.client, Local: one.local, Begun: !midway, joined: !midway, capture: c, taker: t, wake: make(chan struct{}, 1)}
}

// maxTogether is how much of what waits Next joins: small requests that came in one block of the ring then travel as one
// message. Each would wake every process on the way to the session, and those on the node compete with the pod.
const maxTogether = 16 << 10

// Next waits for what the client sent next, and takes all of it up to maxTogether. The end is io.EOF, ECONNRESET, a *Gap, or another error where the capture has
// ended.
func (cp *Copy) Next(ctx context.Context) ([]byte, error) {
	for {
		cp.mu.Lock()
		if len(cp.queue) > 0 {
			data := cp.together()
			cp.shrink(len(data))
			cp.mu.Unlock()
			cp.taker.Counts.Bytes.Add(uint64(len(data)))
			return data, nil
		}
		broken, lost, why := cp.broken, cp.lost, cp.why
		cp.mu.Unlock()
		switch {
		case broken:
			return nil, &Gap{lost}
		case why != nil:
			return nil, why
		}
		select {
		case <-cp.wake:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// together takes from the queue, which is not empty. It is called with cp.mu held.
func (cp *Copy) together() []byte {
	n, sum := 1, len(cp.queue[0])
	for n < len(cp.queue) && sum+len(cp.queue[n]) <= maxTogether {
		sum += len(cp.queue[n])
		n++
	}
	data := cp.queue[0]
	if n > 1 {
		data = bytes.Join(cp.queue[:n], nil)
	}
	clear(cp.queue[:n])
	cp.queue = cp.queue[n:]
	return data
}

// Leave says that nothing more is wanted. lost says whether what was not taken counts as lost: the taker could not take it.
func (cp *Copy) Leave(lost bool) {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	if cp.gone {
		return
	}
	cp.gone = true
	if lost && !cp.broken {
		cp.taker.Counts.LostFlows.Add(1)
	}
	if lost {
		cp.taker.Counts.Lost.Add(uint64(cp.queued))
	}
	cp.empty()
	if cp.taken {
		cp.capture.copies.Add(-1)
	}
}

// empty is called with cp.mu held.
func (cp *Copy) empty() {
	cp.queue = nil
	cp.shrink(cp.queued)
}

// shrink is called with cp.mu held.
func (cp *Copy) shrink(n int) {
	cp.queued -= n
	cp.capture.held.Add(-int64(n))
}

// push adds data. begins says that a request may begin here.
func (cp *Copy) push(data []byte, begins bool) {
	if cp.cut {
		cp.lose(len(data))
		return
	}
	if !cp.joined {
		if !begins || !beginning(data) {
			cp.missed(data)
			return
		}
		cp.joined = true
	}
	cp.mu.Lock()
	full := cp.queued+len(data) > maxQueued || cp.capture.held.Load()+int64(len(data)) > maxHeld
	if !full && !cp.gone {
		cp.queue = append(cp.queue, data)
		cp.queued += len(data)
		cp.capture.held.Add(int64(len(data)))
		cp.signal()
	}
	cp.mu.Unlock()
	if full {
		cp.lose(len(data))
	}
}

// announce tells the taker of a copy that has bytes.
func (cp *Copy) announce() {
	if cp.told || !cp.joined || !cp.has() {
		return
	}
	cp.told = true
	if cp.capture.copies.Load() >= maxCopies {
		cp.refuse()
		return
	}
	cp.capture.copies.Add(1)
	cp.mu.Lock()
	cp.taken = true
	cp.mu.Unlock()
	cp.count()
	cp.taker.Take(cp)
}

// has says whether there are bytes, or a gap in their place.
func (cp *Copy) has() bool {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	return len(cp.queue) > 0 || cp.broken
}

// refuse counts a copy as lost for which there is no room, unless its taker would have left it anyhow.
func (cp *Copy) refuse() {
	cp.mu.Lock()
	var head []byte
	if len(cp.queue) > 0 {
		head = cp.queue[0]
	}
	n := cp.queued
	cp.empty()
	unwanted := cp.taker.Unwanted != nil && cp.taker.Unwanted(cp, head)
	cp.gone = unwanted
	cp.mu.Unlock()
	if unwanted {
		return
	}
	cp.taker.say("too many connections wait for this program: further ones are not copied until it has taken some")
	cp.lose(n)
}

// count counts the connection, once.
func (cp *Copy) count() {
	if !cp.counted {
		cp.counted = true
		cp.taker.Counts.Flows.Add(1)
	}
}

// lose counts n bytes as lost; the copy ends before them. What a connection joined midway sends before its next request is
// nobody's loss.
func (cp *Copy) lose(n int) {
	if !cp.joined {
		return
	}
	cp.mu.Lock()
	defer cp.mu.Unlock()
	if cp.gone && !cp.broken {
		return // its taker has left it, and wants nothing
	}
	cp.count()
	if !cp.broken {
		cp.taker.Counts.LostFlows.Add(1)
	}
	cp.cut, cp.broken = true, true
	cp.lost += uint64(n)
	cp.taker.Counts.Lost.Add(uint64(n))
	cp.signal()
}

// end ends the copy behind what is queued.
func (cp *Copy) end(why error) {
	if !cp.told { // nobody will ask for it
		cp.Leave(false)
		return
	}
	if why == nil {
		why = io.EOF
	}
	cp.mu.Lock()
	defer cp.mu.Unlock()
	if cp.why == nil {
		cp.why = why
	}
	cp.signal()
}

func (cp *Copy) signal() {
	select {
	case cp.wake <- struct{}{}:
	default:
	}
}
