package session

import (
	"context"
	"net/netip"
	"sync"
	"syscall"

	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// datagrams holds the stolen UDP flows by the debuggee's address and the client's. What a client sends is written to
// the TUN device as if it came from there; what the debuggee answers comes back by the TUN device as any datagram of
// its own would, and is recognised here.
type datagrams struct {
	mu   sync.Mutex
	open map[[2]netip.AddrPort]*datagramFlow
}

// maxDatagramFlows bounds the stolen UDP flows; a client beyond gets no answer.
const maxDatagramFlows = 4096

// datagramFlow is one stolen UDP flow. It lives as long as the agent's stream.
type datagramFlow struct{ stream *mux.Stream }

func (d *datagrams) of(debuggee, client netip.AddrPort) *datagramFlow {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open[[2]netip.AddrPort{debuggee, client}]
}

func (d *datagrams) add(debuggee, client netip.AddrPort, f *datagramFlow) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open == nil {
		d.open = map[[2]netip.AddrPort]*datagramFlow{}
	}
	key := [2]netip.AddrPort{debuggee, client}
	if d.open[key] != nil || len(d.open) >= maxDatagramFlows {
		return false
	}
	d.open[key] = f
	return true
}

func (d *datagrams) remove(debuggee, client netip.AddrPort) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.open, [2]netip.AddrPort{debuggee, client})
}

// serveDatagrams takes a stolen UDP flow.
func (s *Session) serveDatagrams(r *mux.Request) {
	var in wire.Incoming
	if err := wire.Decode(r.Body, &in); err != nil {
		r.Refuse(err)
		return
	}
	dst, ok := s.ports.destination("udp", in.Local)
	if !ok {
		r.Refuse(syscall.ECONNREFUSED)
		return
	}
	stream, err := r.Accept(nil)
	if err != nil {
		return
	}
	defer stream.Close()
	if !s.datagrams.add(dst, in.Client, &datagramFlow{stream}) {
		return
	}
	defer s.datagrams.remove(dst, in.Client)
	chunks := wire.NewChunkReader(stream)
	for {
		ch, err := chunks.Read()
		if err != nil {
			return
		}
		if ch.Type == wire.ChunkData {
			s.front.SendUDP(in.Client, dst, ch.Data)
		}
	}
}

// serve sends the debuggee's answers back to the client.
func (f *datagramFlow) serve(c packets) {
	stop := context.AfterFunc(f.stream.Context(), func() { c.Close() })
	defer stop()
	buf, frame := make([]byte, wire.MaxChunk), []byte(nil)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		frame = wire.AppendData(frame[:0], buf[:n])
		if _, err := f.stream.Write(frame); err != nil {
			return
		}
	}
}
