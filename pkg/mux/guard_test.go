package mux

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// frame is a yamux header, and so much of a body.
func frame(kind byte, flags uint16, id, length uint32, body int) []byte {
	b := make([]byte, frameHeader, frameHeader+body)
	b[1] = kind
	binary.BigEndian.PutUint16(b[2:], flags)
	binary.BigEndian.PutUint32(b[4:], id)
	binary.BigEndian.PutUint32(b[8:], length)
	return append(b, make([]byte, body)...)
}

// A stranger's bytes, over and over, until they are refused.
var strangers = map[string]func(n uint32) []byte{
	"streams":        func(n uint32) []byte { return frame(1, 1, 2*n+1, 0, 0) },
	"bytes":          func(n uint32) []byte { return frame(0, uint16(1-min(n, 1)), 1, 4<<10, 4<<10) },
	"a large body":   func(n uint32) []byte { return frame(0, uint16(1-min(n, 1)), 1, 256<<10, 0) },
	"questions":      func(n uint32) []byte { return frame(2, 1, 0, n, 0) },
	"other streams'": func(n uint32) []byte { return frame(0, 0, 77, 60<<10, 60<<10) },
}

// counting counts what is read.
type counting struct {
	net.Conn
	n atomic.Int64
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func TestStrangerIsRefused(t *testing.T) {
	for name, next := range strangers {
		t.Run(name, func(t *testing.T) {
			a, b := pipe(t)
			go io.Copy(io.Discard, a)
			go func() {
				for n := uint32(0); ; n++ {
					if _, err := a.Write(next(n)); err != nil {
						return
					}
				}
			}()
			read := &counting{Conn: b}
			_, err := Serve(t.Context(), read, admitAll, Config{})
			// What is no hello may be seen to be none before it is too much.
			if !errors.Is(err, errUnasked) && !errors.Is(err, wire.ErrMagic) {
				t.Fatal(err)
			}
			if n := read.n.Load(); n > helloBytes+64<<10 { // a read more than is looked at
				t.Errorf("%d bytes were read of a stranger", n)
			}
		})
	}
}

// A stranger that says nothing has its time.
func TestSilentStranger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer a.Close()
		began := time.Now()
		if _, err := Serve(t.Context(), b, admitAll, Config{}); err == nil {
			t.Fatal("it was served")
		}
		if took := time.Since(began); took != helloTimeout {
			t.Error(took)
		}
	})
}

// TestBudgetIsEnforced: a peer that ignores the credits ends its channel, in words, before it has filled more than twice
// the budget.
func TestBudgetIsEnforced(t *testing.T) {
	const budget = 256 << 10
	session, agent := pair(t, Config{Budget: budget}, func(r *Request) { r.Accept(nil) }) // and nobody reads
	var streams []*Stream
	for range 8 {
		s, err := session.Open(t.Context(), wire.KindDial, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
	}
	for _, s := range streams {
		go s.ys.Write(make([]byte, streamWindow)) // past the window of flow.go
	}
	<-agent.Done()
	if !errors.Is(agent.Err(), errOverfull) {
		t.Error(agent.Err())
	}
	agent.guard.mu.Lock()
	if held := agent.guard.held; held > heldFactor*budget+unbooked+streamWindow {
		t.Errorf("%d bytes were held", held)
	}
	agent.guard.mu.Unlock()
	<-session.Done()
	var bye ByeError
	if !errors.As(session.Err(), &bye) || bye.Reason != errOverfull.Error() {
		t.Error(session.Err())
	}
}

// What a closed or reset stream held counts no longer, and streams that a peer never closes come to an end.
func TestGuardForgets(t *testing.T) {
	const data, window, syn, fin, rst = 0, 1, 1, 4, 8
	fresh := func() *guard { return &guard{budget: Budget, admitted: true, streams: map[uint32]*holding{}} }
	g := fresh()
	feed := func(b []byte) {
		t.Helper()
		if err := g.see(b); err != nil {
			t.Fatal(err)
		}
	}
	for id := uint32(1); id < 4*maxKnown; id += 2 {
		feed(frame(data, syn, id, 64<<10, 64<<10))
		if id%4 == 1 {
			feed(frame(window, rst, id, 0, 0))
			continue
		}
		g.leave(id)
		feed(frame(window, fin, id, 0, 0))
	}
	if g.held != 0 || len(g.streams) != 0 {
		t.Errorf("%d bytes of %d streams", g.held, len(g.streams))
	}
	g = fresh()
	var err error
	for id := uint32(1); err == nil && id < 4*maxKnown; id += 2 {
		err = g.see(frame(window, syn, id, 0, 0))
	}
	if err != errUnclosed || len(g.streams) > maxKnown+1 {
		t.Error(err, len(g.streams))
	}
}

// FuzzGuard: whatever comes, in whatever pieces, is judged alike and counted rightly.
func FuzzGuard(f *testing.F) {
	for _, next := range strangers {
		b := append(next(0), next(1)...)
		f.Add(b[:min(len(b), 64)], 7, true)
		f.Add(b[:min(len(b), 64)], 1, false)
	}
	f.Fuzz(func(t *testing.T, b []byte, piece int, admitted bool) {
		whole := &guard{budget: 1 << 10, admitted: admitted, streams: map[uint32]*holding{}}
		parts := &guard{budget: 1 << 10, admitted: admitted, streams: map[uint32]*holding{}}
		werr := whole.see(b)
		var perr error
		piece = max(1, piece&0xfff)
		for rest := b; len(rest) > 0 && perr == nil; {
			n := min(piece, len(rest))
			perr = parts.see(rest[:n])
			rest = rest[n:]
		}
		if werr != perr && !(werr == errUnasked && len(b) > helloBytes) {
			t.Fatal(werr, perr)
		}
		sum := 0
		for _, h := range whole.streams {
			sum += h.bytes
		}
		if sum != whole.held || werr == nil && whole.held > heldFactor*whole.budget+unbooked+len(whole.streams)*minWindow {
			t.Fatal(sum, whole.held)
		}
	})
}

// TestPeerThatOnlyTalks: a peer that talks, and so lives, and reads nothing does not cost another goroutine with each
// heartbeat.
func TestPeerThatOnlyTalks(t *testing.T) {
	const beats, beat = 30, 30 * time.Millisecond
	peer, conn := net.Pipe()
	defer peer.Close()
	served := make(chan *Conn, 1)
	go func() {
		c, err := Serve(t.Context(), conn, admitAll, Config{Heartbeat: beat})
		if err != nil {
			t.Error(err)
		}
		served <- c
	}()
	go func() { // until it is served
		var header [2 * frameHeader]byte // the stream's acceptance and the welcome
		_, _ = io.ReadFull(peer, header[:])
		_, _ = io.CopyN(io.Discard, peer, int64(binary.BigEndian.Uint32(header[frameHeader+8:])))
	}()
	hello, err := wire.Append(nil, wire.KindHello, wire.Hello{Session: "s"})
	if err != nil {
		t.Fatal(err)
	}
	const syn, pong, ack = 1, 2, 2
	if _, err := peer.Write(append(frame(0, syn, 1, uint32(len(hello)), 0), hello...)); err != nil {
		t.Fatal(err)
	}
	agent := <-served
	before := runtime.NumGoroutine()
	for end := time.Now().Add(beats * beat); time.Now().Before(end); time.Sleep(beat / 10) {
		if _, err := peer.Write(frame(pong, ack, 0, 0, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if now := runtime.NumGoroutine(); now > before+beats/3 || agent.Err() != nil {
		t.Errorf("%d goroutines, %d before; %v", now, before, agent.Err())
	}
}
