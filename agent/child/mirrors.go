package child

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/stepin-dev/stepin/agent/mirror"
	"github.com/stepin-dev/stepin/agent/pair"
	"github.com/stepin-dev/stepin/agent/probe"
	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

const (
	// reportEvery is how often a session learns what its mirrors have copied and lost, if that has changed.
	reportEvery = time.Second
	// maxTexts bounds the lines for a session that wait for that.
	maxTexts = 16
)

// mirrors is the one capture of the pod's frames, which there is while somebody mirrors.
type mirrors struct {
	mu      sync.Mutex
	capture *mirror.Capture
	takers  int
}

// join has t get copies. socket is what there is to capture with if nobody does yet.
func (m *mirrors) join(c *Child, t *mirror.Taker, socket *os.File, mark uint32) (leave func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.capture != nil {
		socket.Close()
	} else if m.capture, err = mirror.Start(socket, mark, c.log); err != nil {
		return nil, err
	}
	m.takers++
	if err := m.capture.Add(t); err != nil {
		m.leave(t)
		return nil, err
	}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.leave(t)
	}, nil
}

// leave is called with m.mu held.
func (m *mirrors) leave(t *mirror.Taker) {
	m.capture.Remove(t)
	if m.takers--; m.takers == 0 {
		m.capture.Close()
		m.capture = nil
	}
}

func (m *mirrors) dropped() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.capture == nil {
		return 0
	}
	return m.capture.Dropped()
}

// copying is one mirror of one session: its stream's life.
//
// Goroutines: one a copy, at most as many as package mirror has; all end with ctx.
type copying struct {
	session *session
	stream  uint32
	probes  probes
	taker   *mirror.Taker
	texts   chan string
	ready   chan struct{} // closed once the session knows of the mirror
	ctx     context.Context
}

// mirror copies ports for a session until the stream ends.
func (c *Child) mirror(s *session, r *mux.Request) {
	ask, ok := askedPorts(r)
	if !ok {
		return
	}
	var got pair.Mirror
	sockets, err := c.caller.Call(pair.OpMirror, pair.Steal{Channel: s.Channel, Stream: r.ID(), Ports: ask.Ports}, &got)
	if err != nil {
		r.Refuse(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	m := &copying{session: s, stream: r.ID(), probes: probes{ask.Probes, append(slices.Clone(c.start.Gateways), ask.Nodes...)},
		texts: make(chan string, maxTexts), ready: make(chan struct{}), ctx: ctx}
	m.taker = &mirror.Taker{Unwanted: m.isProbe, Take: func(cp *mirror.Copy) { go c.copy(m, cp) }, Notice: func(line string) {
		select {
		case m.texts <- line:
		default:
		}
	}}
	for _, p := range ask.Ports {
		m.taker.Ports = append(m.taker.Ports, mirror.Port{Number: p.Port, Loopback: p.Loopback})
	}
	defer func() { _, _ = c.caller.Call(pair.OpUnsteal, pair.Unsteal{Channel: s.Channel, Stream: r.ID()}, nil) }()
	if len(sockets) != 1 {
		pair.CloseAll(sockets)
		r.Refuse(syscall.EBADMSG)
		return
	}
	leave, err := c.mirrors.join(c, m.taker, sockets[0], got.Mark)
	if err != nil {
		r.Refuse(err)
		return
	}
	defer leave()
	stream, err := r.Accept(nil)
	if err != nil {
		return
	}
	close(m.ready)
	c.log.Debug("mirroring", "session", s.Session, "ports", ask.Ports)
	go c.report(m, stream)
	_ = untilEnd(stream)
	stream.Close()
}

// report tells the session what was copied and lost.
func (c *Child) report(m *copying, stream *mux.Stream) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	out := json.NewEncoder(stream)
	var told wire.Mirrored
	for {
		now := told
		select {
		case now.Text = <-m.texts:
		case <-tick.C:
		case <-m.ctx.Done():
			return
		}
		counts := &m.taker.Counts
		now.Flows, now.LostFlows = counts.Flows.Load(), counts.LostFlows.Load()
		now.Bytes, now.Lost, now.Dropped = counts.Bytes.Load(), counts.Lost.Load(), c.mirrors.dropped()
		if now == told {
			continue
		}
		if out.Encode(now) != nil {
			return
		}
		told = now
		told.Text = ""
	}
}

// copy hands one connection's bytes to the session.
func (c *Child) copy(m *copying, cp *mirror.Copy) {
	lost := false
	defer func() { cp.Leave(lost) }()
	head, isProbe, end := m.head(cp)
	if isProbe {
		return
	}
	select {
	case <-m.ready:
	case <-m.ctx.Done():
		return
	}
	ctx, cancel := context.WithTimeout(m.ctx, answerWait)
	stream, err := m.session.conn.Open(ctx, wire.KindCopy, wire.Incoming{Network: "tcp", Client: cp.Client, Local: cp.Local, Steal: m.stream}, nil)
	cancel()
	if err != nil {
		c.log.Debug("a copy is not taken", "client", cp.Client, "local", cp.Local, "err", err)
		lost = true
		return
	}
	defer stream.Close()
	for data := head; ; {
		if wire.WriteData(stream, data, false) != nil { // EPIPE: the debuggee wants no more
			lost = m.session.conn.Err() != nil
			return
		}
		if end == nil {
			data, end = cp.Next(m.ctx)
		}
		if end != nil {
			break
		}
	}
	var gap *mirror.Gap
	switch {
	case errors.Is(end, io.EOF):
	case errors.As(end, &gap):
		_, _ = stream.Write(wire.AppendGap(nil, gap.Lost))
	default:
		stream.Reset(syscall.ECONNRESET)
		return
	}
	_ = stream.CloseWrite()
	stop := context.AfterFunc(m.ctx, func() { stream.Close() })
	defer stop()
	_ = untilEnd(stream) // the session has a connection open until then: the bound on copies is one on those, too
}

// isProbe says whether a connection that begins with head is a health probe's.
func (m *copying) isProbe(cp *mirror.Copy, head []byte) bool {
	if w := m.watched(cp); cp.Begun && w.any() {
		verdict, _ := w.decide(head)
		return verdict == probe.Probe
	}
	return false
}

func (m *copying) watched(cp *mirror.Copy) watched {
	return m.probes.of(netip.AddrPortFrom(cp.Client.Addr().Unmap(), cp.Client.Port()), cp.Local)
}

// head takes as much of a copy as it takes to know whether it is a health probe's, which is the pod's. end is the copy's
// end, if it came before.
func (m *copying) head(cp *mirror.Copy) (head []byte, isProbe bool, end error) {
	w := m.watched(cp)
	verdict := probe.More
	if !cp.Begun || !w.any() {
		verdict = probe.Other
	}
	ctx, cancel := context.WithTimeout(m.ctx, headWait)
	defer cancel()
	for verdict == probe.More && len(head) < probe.MaxHead {
		data, err := cp.Next(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			break
		}
		if err != nil {
			return head, false, err
		}
		head = append(head, data...)
		if verdict, _ = w.decide(head); verdict == probe.More && w.grpc && len(head) >= len(probe.Preface) {
			verdict, _ = probe.HTTP2(head) // the client's requests are there without an answer of ours
		}
	}
	return head, verdict == probe.Probe, nil
}
