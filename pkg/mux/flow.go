package mux

import (
	"context"
	"math"
	"sync"
	"syscall"
	"time"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// Flow control. yamux has a window a stream and no limit over all of them: 200 stalled streams with windows of 4 MiB
// held 1.6 GiB at the receiver (measured). So the sender keeps what is under way, that is written here and not yet
// passed on by the peer, within a budget, and each stream within a window of its own. A window begins small and
// doubles while its stream is both limited by it and drained by the peer; a stalled stream never grows. So it is the
// streams that move that share the budget, however many stand still.
const (
	// Budget is the default for the bytes under way over all streams of one direction. Memory is at least twice that,
	// since yamux's buffers double as they grow: with 32 MiB under way a thousand stalled flows cost the session 150 MiB
	// (measured). 8 MiB still fill 40 MB/s over a round trip of 200 ms.
	Budget = 8 << 20
	// maxWindow lets one flow alone run at about 80 MB/s over a round trip of 50 ms.
	maxWindow = 4 << 20
	// firstWindow is enough for the requests and answers that most flows are.
	firstWindow = 32 << 10
	// minWindow is what a stream may always have under way, whatever the budget: no flow is harmed by others that
	// stand still. With maxStreams stalled ones it adds 32 MiB.
	minWindow = 4 << 10
	// creditStep is how many passed-on bytes are worth a message at once, half of the smallest window; less goes with the
	// next heartbeat.
	creditStep = minWindow / 2
	// creditPause is kept between two messages of credit. In a port-forward one costs each process on the way as much as
	// a frame of data; the smallest window moves 4 MB/s all the same.
	creditPause = time.Millisecond
	// allOfIt in a Grant says that the receiver has closed the stream: nothing of it is under way any more, and
	// nothing more is read.
	allOfIt = math.MaxUint32
)

// flowControl is the sending side's book (windows, total) and the receiving side's (owed) of one channel.
type flowControl struct {
	mu      sync.Mutex
	budget  int
	total   int // under way over all windows
	active  int // windows with bytes under way
	windows map[uint32]*window
	waiting map[*window]struct{}
	closed  bool

	owedMu sync.Mutex
	owed   map[uint32]uint32 // stream to bytes passed on since the last Credit
	kick   chan struct{}     // capacity 1: there is something worth a Credit
}

// window is one stream's part of the book. Its fields belong to flowControl.mu.
type window struct {
	f        *flowControl
	id       uint32
	size     int
	underWay int
	limited  bool          // take has waited for this window since it last grew
	ended    bool          // closed here
	unread   bool          // closed by the peer, which reads no more
	wake     chan struct{} // capacity 1
}

func (f *flowControl) init(budget int) {
	f.budget = budget
	f.windows = map[uint32]*window{}
	f.waiting = map[*window]struct{}{}
	f.owed = map[uint32]uint32{}
	f.kick = make(chan struct{}, 1)
}

func (f *flowControl) open(id uint32) *window {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := &window{f: f, id: id, size: firstWindow, wake: make(chan struct{}, 1)}
	f.windows[id] = w
	return w
}

func (f *flowControl) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.wakeAll()
}

// first is the window of a stream that has never been drained: small where many have bytes under way, since most of
// those that stand still do so from the start.
func (f *flowControl) first() int {
	const share = 16 // of the budget, for those that may never be drained; yamux holds twice what is under way
	return min(firstWindow, max(minWindow, f.budget/share/(f.active+1)))
}

// room is how much w may send now: what is left of its window, and, beyond minWindow, at most half of what is left of
// the budget, so that the streams that come next find room.
func (f *flowControl) room(w *window) int {
	size := w.size
	if size <= firstWindow {
		size = min(size, f.first())
	}
	own := size - w.underWay
	if left := (f.budget - f.total) / 2; own > left {
		own = max(left, minWindow-w.underWay)
	}
	return own
}

// take waits for room and takes at most want bytes of it. It fails with EPIPE when the peer reads no more, otherwise
// when the channel or ctx has ended.
func (w *window) take(ctx context.Context, want int) (int, error) {
	f := w.f
	for {
		f.mu.Lock()
		if f.closed || w.ended {
			f.mu.Unlock()
			return 0, ErrLost
		}
		if w.unread {
			f.mu.Unlock()
			return 0, syscall.EPIPE
		}
		if n := min(want, f.room(w)); n > 0 && ctx.Err() == nil {
			f.add(w, n)
			f.mu.Unlock()
			return n, nil
		}
		w.limited = true
		f.waiting[w] = struct{}{}
		f.mu.Unlock()
		select {
		case <-w.wake:
		case <-ctx.Done():
			f.mu.Lock()
			delete(f.waiting, w)
			f.mu.Unlock()
			return 0, ctx.Err()
		}
	}
}

func (w *window) release(n int) {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	w.f.add(w, -n)
	w.f.wakeWindow(w)
}

// end forgets the window once nothing of it is under way.
func (w *window) end() {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	w.ended = true
	w.f.wakeWindow(w)
	w.f.forget(w)
}

func (f *flowControl) forget(w *window) {
	if w.ended && w.underWay == 0 {
		delete(f.windows, w.id)
	}
}

func (f *flowControl) add(w *window, n int) {
	before := w.underWay
	w.underWay = max(0, w.underWay+n)
	f.total += w.underWay - before
	switch {
	case before == 0 && w.underWay > 0:
		f.active++
	case before > 0 && w.underWay == 0:
		f.active--
	}
}

// grant books what the peer has passed on and lets those go on who waited for it.
func (f *flowControl) grant(g wire.Grant) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.windows[g.Stream]
	if w == nil {
		return
	}
	wasFull := f.total >= f.budget
	if g.Bytes == allOfIt {
		f.add(w, -w.underWay)
		w.unread = true
	} else {
		f.add(w, -min(int(g.Bytes), w.underWay))
	}
	if w.limited && w.size < maxWindow {
		w.size *= 2
	}
	w.limited = false
	f.forget(w)
	if wasFull {
		f.wakeAll()
		return
	}
	f.wakeWindow(w)
}

func (f *flowControl) wakeAll() {
	for w := range f.waiting {
		f.wakeWindow(w)
	}
}

func (f *flowControl) wakeWindow(w *window) {
	delete(f.waiting, w)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// owe books bytes that were passed on here, for the next Credit.
func (f *flowControl) owe(id, n uint32) {
	f.owedMu.Lock()
	sum := f.owed[id]
	if n == allOfIt || sum > allOfIt-n {
		sum = allOfIt
	} else {
		sum += n
	}
	f.owed[id] = sum
	f.owedMu.Unlock()
	if sum >= creditStep {
		f.wakeFlush()
	}
}

// wakeFlush has flushCredit send what is owed.
func (f *flowControl) wakeFlush() {
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

// settle takes what is owed, at most one Credit's worth.
func (f *flowControl) settle() wire.Credit {
	f.owedMu.Lock()
	defer f.owedMu.Unlock()
	var c wire.Credit
	for id, n := range f.owed {
		if len(c) == wire.MaxGrants {
			break
		}
		c = append(c, wire.Grant{Stream: id, Bytes: n})
		delete(f.owed, id)
	}
	return c
}

// flushCredit sends what is owed. Between two messages more is gathered, so that a fast flow costs few of them.
func (c *Conn) flushCredit() {
	pause := time.NewTimer(creditPause)
	defer pause.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-pause.C:
		}
		select {
		case <-c.done:
			return
		case <-c.flow.kick:
		}
		for full := true; full; {
			credit := c.flow.settle()
			full = len(credit) == wire.MaxGrants
			if len(credit) > 0 && c.Send(wire.KindCredit, credit) != nil {
				return
			}
		}
		pause.Reset(creditPause)
	}
}
