package mux

import (
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// What a peer may send before it is admitted: one stream with a hello (wire.MaxBody and a header), and the few frames
// that yamux sends of itself. Anybody in the pod can dial an agent, so this is what a stranger can make it hold.
const (
	helloBytes   = 128 << 10
	helloFrames  = 64 // a ping costs a goroutine until it is answered
	helloStreams = 1
)

const (
	// heldFactor is what a peer may fill here, in budgets. It keeps to one (flow.go), but learns of a stream that was
	// closed here while what came of it is still being drained.
	heldFactor = 2
	// unbooked is for what no budget counts, since it is read at once: headers, replies, control messages.
	unbooked = 1 << 20
	// maxKnown bounds the streams that yamux keeps: it forgets one only when both sides have closed it.
	maxKnown = 2 * maxStreams
)

// Errors of a peer that does not keep to what was agreed. Each is the end of its channel.
var (
	errUnasked  = errors.New("mux: more came than a hello, before one was admitted")
	errOverfull = errors.New("mux: the other side sends more than its budget allows")
	errUnclosed = errors.New("mux: the other side leaves too many streams open")
)

// guard reads along what comes, frame by frame (yamux spec.md), before yamux does: yamux bounds each stream and nothing over
// all of them, and trusts whoever has connected.
type guard struct {
	mu       sync.Mutex
	budget   int
	admitted bool
	err      error

	header [frameHeader]byte
	have   int    // bytes of header
	body   uint32 // of the frame under way, still to come

	bytes, frames, opened int // before the hello was admitted

	streams map[uint32]*holding
	held    int // over all streams
}

// holding is what lies in yamux's buffer of a stream, unread.
type holding struct {
	bytes int
	left  bool // nobody reads it any more
	ended bool // by the peer; with both yamux forgets the stream
}

// see is given all that comes, in order. Its error says that p must not be read.
func (g *guard) see(p []byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.admitted {
		if g.bytes += len(p); g.bytes > helloBytes && g.err == nil {
			g.err = errUnasked
		}
	}
	for len(p) > 0 && g.err == nil {
		if g.body > 0 {
			n := min(uint32(len(p)), g.body)
			g.body -= n
			p = p[n:]
			continue
		}
		n := copy(g.header[g.have:], p)
		g.have += n
		p = p[n:]
		if g.have == frameHeader {
			g.have = 0
			g.err = g.frame()
		}
	}
	return g.err
}

// frame judges the frame whose header is there.
func (g *guard) frame() error {
	const (
		data, window  = 0, 1
		syn, fin, rst = 1, 4, 8
	)
	kind, flags := g.header[1], binary.BigEndian.Uint16(g.header[2:])
	id, length := binary.BigEndian.Uint32(g.header[4:]), binary.BigEndian.Uint32(g.header[8:])
	if kind == data {
		g.body = length
	}
	if !g.admitted {
		if g.frames++; g.frames > helloFrames || g.body > helloBytes {
			return errUnasked
		}
	}
	if kind != data && kind != window {
		return nil
	}
	if flags&syn != 0 {
		if g.opened++; !g.admitted && g.opened > helloStreams {
			return errUnasked
		}
		g.know(id)
		if len(g.streams) > maxKnown {
			return errUnclosed
		}
	}
	h := g.streams[id]
	if h == nil {
		return nil // yamux skips it
	}
	h.bytes += int(g.body)
	g.held += int(g.body)
	if h.ended = h.ended || flags&fin != 0; flags&rst != 0 || h.ended && h.left {
		g.drop(id, h)
	}
	if g.held > heldFactor*g.budget+unbooked+len(g.streams)*minWindow {
		return errOverfull
	}
	return nil
}

func (g *guard) know(id uint32) {
	if g.streams[id] == nil {
		g.streams[id] = &holding{}
	}
}

func (g *guard) leave(id uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if h := g.streams[id]; h != nil {
		if h.left = true; h.ended {
			g.drop(id, h)
		}
	}
}

func (g *guard) drop(id uint32, h *holding) {
	g.held -= h.bytes
	delete(g.streams, id)
}

// admit ends the time of the stranger.
func (g *guard) admit() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.admitted = true
}

// knows says that the peer is admitted.
func (g *guard) knows() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.admitted
}

// wrong is what the peer did wrong; nil as long as it has not.
func (g *guard) wrong() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// source is a yamux stream that tells the guard what is read of it.
type source struct {
	*yamux.Stream
	guard *guard
}

// watched is a stream that the guard knows: one of the peer's since its first frame, one of ours from now on.
func (g *guard) watched(ys *yamux.Stream) source {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.know(ys.StreamID())
	return source{ys, g}
}

// Read reads what has come.
func (s source) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	if n > 0 {
		s.guard.mu.Lock()
		if h := s.guard.streams[s.StreamID()]; h != nil {
			n := min(n, h.bytes) // a reply may have come before watched
			h.bytes -= n
			s.guard.held -= n
		}
		s.guard.mu.Unlock()
	}
	return n, err
}

// leave says that nobody reads it any more.
func (s source) leave() { s.guard.leave(s.StreamID()) }

// look has the guard see what has come. A peer that is admitted and does wrong is told why before the channel ends; until
// then nothing more is read of it.
func (c *Conn) look(p []byte) error {
	err := c.guard.see(p)
	if err != nil && c.guard.knows() {
		go c.accuse(err)
		<-c.done
	}
	return err
}

// accuse ends the channel in words, since the peer may only be mistaken. It has hearOut to take them.
func (c *Conn) accuse(err error) {
	late := time.AfterFunc(hearOut, func() { c.fail(err) })
	defer late.Stop()
	_ = c.Send(wire.KindBye, wire.Bye{Reason: err.Error()})
	select {
	case <-c.out.written():
	case <-c.done:
	}
	c.fail(err)
}
