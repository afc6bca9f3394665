package netstack

import "sync/atomic"

// directFlows is how many open flows may call gVisor on their own goroutines' stacks.
const directFlows = 64

// deep runs calls that need much stack. A write goes down through gVisor to the TUN device and back up with the
// acknowledgements, and leaves 16 KiB of stack with its goroutine, until a garbage collection that need never come
// while everything stands still: 16 MiB with a thousand flows (measured; half of all they cost). So when many flows
// are open, a few workers make these calls, none of which blocks, and the flows' goroutines stay small. With few flows
// open the hand-over, some microseconds, is saved.
type deep struct {
	flows atomic.Int64 // open TCP flows
	jobs  chan job
	crowd chan *Conn // receive queues to compact
	quit  chan struct{}
}

type job struct {
	call func()
	done chan<- struct{}
}

func newDeep() *deep {
	return &deep{jobs: make(chan job), crowd: make(chan *Conn, 1024), quit: make(chan struct{})}
}

// work runs calls until quit is closed.
func (d *deep) work() {
	for {
		select {
		case j := <-d.jobs:
			j.call()
			j.done <- struct{}{}
		case c := <-d.crowd:
			c.compact()
		case <-d.quit:
			return
		}
	}
}

// later has c compacted, soon; never waits. If there is no room, the next segment asks again.
func (d *deep) later(c *Conn) {
	select {
	case d.crowd <- c:
	default:
	}
}

// do makes the call, here or there, and returns when it has returned. done has room for one.
func (d *deep) do(call func(), done chan struct{}) {
	if d.flows.Load() > directFlows {
		select {
		case d.jobs <- job{call, done}:
			<-done
			return
		case <-d.quit:
		}
	}
	call()
}
