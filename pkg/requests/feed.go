package requests

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxQueued is how many requests may wait to be told; those who take them need some microseconds each.
	maxQueued = 256
	// maxTold bounds the requests told in a second: more nobody reads, and each is a message to an editor.
	maxTold = 100
	// maxHeld bounds what all flows of a feed hold, in bytes, as far as it grows with what clients do. A flow that would
	// go beyond is only counted.
	maxHeld = 32 << 20
)

// Feed tells one listener of the requests of many flows. A nil feed has no listener, and follows nothing.
//
// Goroutines: run, which ends with Close.
type Feed struct {
	tell  func(Request)
	queue chan Request
	stop  chan struct{}
	ended chan struct{}
	once  sync.Once

	ids     atomic.Uint64
	skipped atomic.Uint64
	held    atomic.Int64
	panics  atomic.Uint64 // of reading: mistakes of ours, contained
}

// NewFeed calls tell with each request, one after the other, until Close. It must not wait.
func NewFeed(tell func(Request)) *Feed {
	if tell == nil {
		return nil
	}
	f := &Feed{tell: tell, queue: make(chan Request, maxQueued), stop: make(chan struct{}), ended: make(chan struct{})}
	go f.run()
	return f
}

// Close tells what is queued, and no more.
func (f *Feed) Close() {
	if f == nil {
		return
	}
	f.once.Do(func() { close(f.stop) })
	<-f.ended
}

// offer queues a request, or counts it where there is no room.
func (f *Feed) offer(r Request) {
	r.ID = f.ids.Add(1)
	select {
	case f.queue <- r:
	default:
		f.skipped.Add(1)
	}
}

// pace is what has been told in this second.
type pace struct {
	since time.Time
	told  int
	last  *Request // the last of those beyond maxTold: it is told when the second is over, and brings their count
	over  *time.Timer
}

func (f *Feed) run() {
	defer close(f.ended)
	p := pace{over: time.NewTimer(0)}
	defer p.over.Stop()
	for {
		select {
		case r := <-f.queue:
			f.pass(&p, r)
		case <-p.over.C:
			f.late(&p)
		case <-f.stop:
			for {
				select {
				case r := <-f.queue:
					f.pass(&p, r)
				default:
					f.late(&p)
					return
				}
			}
		}
	}
}

// pass tells a request, unless there were too many in this second.
func (f *Feed) pass(p *pace, r Request) {
	if now := time.Now(); now.Sub(p.since) >= time.Second {
		f.late(p)
		p.since, p.told = now, 0
	}
	if p.told < maxTold {
		p.told++
		f.deliver(r)
		return
	}
	if p.last != nil {
		f.skipped.Add(1)
	} else {
		p.over.Reset(time.Until(p.since.Add(time.Second)))
	}
	p.last = &r
}

// late tells the last of those that were too many.
func (f *Feed) late(p *pace) {
	if p.last == nil {
		return
	}
	r := *p.last
	p.last = nil
	f.deliver(r)
}

func (f *Feed) deliver(r Request) {
	r.Skipped = f.skipped.Swap(0)
	f.tell(r)
}

// hold books memory of a flow's, if there is any left.
func (f *Feed) hold(n int64) bool {
	if f.held.Add(n) > maxHeld {
		f.held.Add(-n)
		return false
	}
	return true
}
