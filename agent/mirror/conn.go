package mirror

import (
	"bytes"
	"syscall"
	"time"
)

// conn is a connection as its client's segments show it. It belongs to the capture.
type conn struct {
	key
	lo      bool // within the pod
	midway  bool // it was open before
	seen    time.Time
	begun   uint32 // sequence number of its first segment
	next    uint32 // of the first byte that is still missing
	fin     uint32 // behind the last byte, once ended
	ending  bool
	ack     uint32    // of the client's last data: what of the server's it had
	spoke   bool      // there was data
	unsure  time.Time // no socket of the pod's had it then; zero else
	suspect bool
	free    bool // its copies may be handed over
	hold    *hold
	lost    bool   // there is a gap
	high    uint32 // with lost: behind the last byte that was seen
	over    bool
	ignored bool // a sidecar's
	episode *episode
	copies  []*Copy
}

const errReset = syscall.ECONNRESET

// farAhead is more than a client may send ahead of what its server has taken: the largest window (RFC 7323) is 1 GiB, and
// Linux's receive buffers end far below this. What is further ahead says that everything up to it was missed.
const farAhead = 64 << 20

// offer makes a copy for a taker.
func (one *conn) offer(c *Capture, t *Taker, midway bool) {
	one.copies = append(one.copies, newCopy(c, one, t, midway))
}

// leave ends what a taker has of it.
func (one *conn) leave(t *Taker) {
	kept := one.copies[:0]
	for _, cp := range one.copies {
		if cp.taker == t {
			cp.end(errClosed)
		} else {
			kept = append(kept, cp)
		}
	}
	one.copies = kept
}

// take follows a client's segment.
func (one *conn) take(c *Capture, s segment) {
	if one.over { // sent again
		return
	}
	if one.ignored {
		if s.rst || s.fin {
			c.finish(one, nil)
		}
		return
	}
	seq, data := s.seq, s.payload
	if s.syn { // TCP fast open may bring data along
		seq++
	}
	ahead := int32(seq - one.next)
	if s.rst {
		if ahead >= 0 && ahead < farAhead {
			c.finish(one, errReset)
		}
		return
	}
	if s.fin && ahead > -farAhead && ahead < farAhead && !one.ending {
		one.fin, one.ending = seq+uint32(len(data)), true
	}
	switch {
	case one.lost:
		one.miss(seq + uint32(len(data)))
	case ahead >= farAhead || ahead <= -farAhead:
		one.gap(c, seq+uint32(len(data)))
	case len(data) == 0 || int(-ahead) >= len(data): // sent again
	case ahead <= 0 && one.episode == nil:
		one.deliver(c, data[-ahead:], s.ack)
	default:
		c.reorder.add(c, one, max(ahead, 0), data[max(0, -int(ahead)):], s.ack)
	}
	if one.ending && !one.over && (one.lost || one.next == one.fin) {
		if one.lost {
			one.miss(one.fin)
		}
		c.finish(one, nil)
	}
}

// deliver hands on what comes next.
func (one *conn) deliver(c *Capture, data []byte, ack uint32) {
	if len(data) == 0 || one.over {
		return
	}
	first, answered := !one.spoke, ack != one.ack
	one.next += uint32(len(data))
	one.spoke, one.ack = true, ack
	kept := bytes.Clone(data)
	if c.port(one).heard(c, one, kept, first && !one.midway); one.ignored {
		return
	}
	if first {
		c.consider(one, kept)
		if one.ignored {
			return
		}
	}
	for _, cp := range one.copies {
		if cp.push(kept, first || answered); one.free {
			cp.announce()
		}
	}
}

// gap gives the connection up: bytes up to high are known to be missing, or to be behind those that are.
func (one *conn) gap(c *Capture, high uint32) {
	if one.lost || one.over {
		return
	}
	one.lost, one.high = true, one.next
	c.reorder.forget(one)
	for _, cp := range one.copies {
		cp.lose(0)
	}
	one.miss(high)
}

// miss counts what a connection that is given up goes on to send.
func (one *conn) miss(high uint32) {
	if n := int32(high - one.high); n > 0 {
		one.high = high
		for _, cp := range one.copies {
			cp.lose(int(n))
		}
	}
}

// end is the connection's end: nil is the client's own.
func (one *conn) end(why error) {
	one.over = true
	for _, cp := range one.copies {
		cp.end(why)
	}
}
