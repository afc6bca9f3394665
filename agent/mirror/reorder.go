package mirror

import (
	"encoding/binary"
	"log/slog"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/reassembly"
)

// reorder holds what came before its turn, in gopacket's assembler. That is no longer maintained, and what it gets is
// therefore kept to what it does well: an episode is the time from a connection's first segment that is ahead until
// nothing is missing any more. Outside of episodes it sees nothing. Each has a key and sequence numbers of its own, so
// that these never wrap (the assembler is one off there), and no FIN or RST (a FIN that comes early it forgets, and pages
// behind one it never gives back). If it panics all episodes become gaps, and a new one takes its place.
type reorder struct {
	log       *slog.Logger
	assembler *reassembly.Assembler
	open      map[*episode]bool
	number    uint64
	looked    time.Time // flush's last
	used      time.Time // add's last
	ack       uint32    // of the segment that is given to it
	capture   *Capture
}

// episode is one connection's. The assembler calls it while a segment is given to it.
type episode struct {
	r    *reorder
	conn *conn // nil: it is over
	flow gopacket.Flow
	base uint32 // the connection's sequence number at origin
	high uint32 // behind the last byte that is held
}

const (
	// pageBytes is how much the assembler holds in one page, of some 2 KiB. One connection may hold 4 MiB, all together 8.
	connPages, allPages = 2048, 4096
	// patience is how long a missing segment is waited for: longer than a client waits before it sends it again for the
	// third time (RFC 6298: 0.2 or 1 s, doubled each time). What was not seen then was missed here.
	patience = 5 * time.Second
	// origin is where an episode's sequence numbers begin: far from where they wrap for all of farAhead.
	origin = 1 << 28
)

func newReorder(log *slog.Logger) *reorder { return &reorder{log: log, open: map[*episode]bool{}} }

// add holds data that is ahead bytes in front of what comes next for conn.
func (r *reorder) add(c *Capture, one *conn, ahead int32, data []byte, ack uint32) {
	r.capture, r.ack, r.used = c, ack, c.now
	r.safely(func() {
		if one.episode == nil {
			r.begin(one)
		}
		e := one.episode
		seq := one.next + uint32(ahead)
		if end := seq + uint32(len(data)); int32(end-e.high) > 0 {
			e.high = end
		}
		r.feed(e, origin+(seq-e.base), data, false)
		if !one.lost && e.conn != nil && one.next == e.high {
			r.forget(one)
		}
	})
}

// begin opens an episode at the connection's next byte, by what the assembler takes for a connection's beginning.
func (r *reorder) begin(one *conn) {
	if r.assembler == nil {
		r.assembler = reassembly.NewAssembler(reassembly.NewStreamPool(r))
		r.assembler.MaxBufferedPagesPerConnection, r.assembler.MaxBufferedPagesTotal = connPages, allPages
	}
	r.number++
	id := binary.BigEndian.AppendUint64(nil, r.number)
	one.episode = &episode{r: r, conn: one, flow: gopacket.NewFlow(gopacket.EndpointInvalid, id, []byte{0}), base: one.next, high: one.next}
	r.open[one.episode] = true
	r.feed(one.episode, origin-1, nil, true)
}

// feed gives one segment to the assembler.
func (r *reorder) feed(e *episode, seq uint32, data []byte, syn bool) {
	tcp := &layers.TCP{Seq: seq, SYN: syn, BaseLayer: layers.BaseLayer{Payload: data}}
	r.assembler.AssembleWithContext(e.flow, tcp, &moment{r.capture.now, e})
}

// moment is what goes with a segment.
type moment struct {
	at time.Time
	*episode
}

func (m *moment) GetCaptureInfo() gopacket.CaptureInfo { return gopacket.CaptureInfo{Timestamp: m.at} }

// New is the assembler asking who gets a connection's bytes.
func (r *reorder) New(_, _ gopacket.Flow, _ *layers.TCP, ac reassembly.AssemblerContext) reassembly.Stream {
	return ac.(*moment).episode
}

// Accept takes everything while the episode lasts.
func (e *episode) Accept(*layers.TCP, gopacket.CaptureInfo, reassembly.TCPFlowDirection, reassembly.Sequence, *bool, reassembly.AssemblerContext) bool {
	return e.conn != nil
}

// ReassembledSG is given what is in order now, or what comes behind a gap.
func (e *episode) ReassembledSG(sg reassembly.ScatterGather, _ reassembly.AssemblerContext) {
	one := e.conn
	if one == nil {
		return
	}
	if _, _, _, skipped := sg.Info(); skipped != 0 {
		one.gap(e.r.capture, e.high)
		return
	}
	if n, _ := sg.Lengths(); n > 0 {
		one.deliver(e.r.capture, sg.Fetch(n), e.r.ack)
	}
}

// ReassemblyComplete lets the assembler forget it.
func (e *episode) ReassemblyComplete(reassembly.AssemblerContext) bool { return true }

// forget ends a connection's episode. What the assembler still holds of it goes with the next flush.
func (r *reorder) forget(one *conn) {
	if e := one.episode; e != nil {
		delete(r.open, e)
		one.episode, e.conn = nil, nil
	}
}

// flush gives up what has waited for too long.
func (r *reorder) flush(now time.Time) {
	r.looked = now
	if r.assembler == nil {
		return
	}
	r.safely(func() { r.assembler.FlushCloseOlderThan(now.Add(-patience)) })
	if len(r.open) == 0 && now.Sub(r.used) > 2*patience {
		r.assembler = nil // its memory does not shrink
	}
}

// safely runs what calls the assembler.
func (r *reorder) safely(f func()) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		r.log.Error("the assembler failed; what it held is lost", "panic", p)
		broken := r.open
		r.open = map[*episode]bool{}
		r.assembler = nil
		for e := range broken {
			if one := e.conn; one != nil {
				one.gap(r.capture, e.high)
			}
		}
	}()
	f()
}
