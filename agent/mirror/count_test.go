package mirror

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestCount: every connection that sent something is with its taker, whole, or counted as lost, and none is twice: with
// more copies than there may be, a taker that stands still, probes among them, segments that are missing and others that are
// sent again.
func TestCount(t *testing.T) {
	b := newBench(t, nil)
	const probe = "GET /ready"
	b.taker.Unwanted = func(cp *Copy, head []byte) bool { return strings.HasPrefix(string(head), probe) }
	sent, probes := 0, 0
	client := func(n int) netip.AddrPort { return netip.AddrPortFrom(client4.Addr(), uint16(1000+n)) }
	for n := range 2*maxCopies + maxCopies/2 {
		from, text := client(n), "a request"
		b.sends(from, local4, false, flagSYN, 0, "")
		switch {
		case n%5 == 1: // it says nothing
			b.sends(from, local4, false, flagACK|flagFIN, 1, "")
			b.sends(from, local4, false, flagACK, 2, "")
			continue
		case n%5 == 2:
			text = probe
			probes++
		case n%5 == 3: // what it says is missed
			sent++
			b.sends(from, local4, false, flagFIN, 1+uint32(len(text)), "")
			continue
		default:
			sent++
		}
		b.sends(from, local4, false, flagACK, 1, text)
		b.sends(from, local4, false, flagACK|flagFIN, 1+uint32(len(text)), "")
		b.sends(from, local4, false, flagACK|flagFIN, 1, text)         // all of it again
		b.sends(from, local4, false, flagACK, 2+uint32(len(text)), "") // the server's end is acknowledged
		if n%10 == 0 {                                                 // another connection from the same port
			sent++
			b.sends(from, local4, false, flagSYN, 1<<20, "")
			b.sends(from, local4, false, flagACK, 1<<20+1, "a request")
		}
	}
	b.later(2 * patience)
	if len(b.taken) != maxCopies || b.copies.Load() != maxCopies {
		t.Fatalf("%d copies are with the taker, %d counted", len(b.taken), b.copies.Load())
	}
	check := func(when string) {
		t.Helper()
		copied := 0
		for _, cp := range b.taken {
			if text, end := got(cp); text == "a request" && (end == "end" || end == "open") {
				copied++
			} else if text != probe {
				t.Errorf("%s: a copy is %q, %s", when, text, end)
			}
			cp.Leave(false)
		}
		b.taken = nil
		counts := &b.taker.Counts
		if lost := counts.LostFlows.Load(); uint64(copied)+lost != uint64(sent) {
			t.Errorf("%s: %d copied and %d lost of %d", when, copied, lost, sent)
		}
		sent = int(counts.LostFlows.Load())
	}
	check("too many")
	if b.copies.Load() != 0 || b.held.Load() != 0 {
		t.Errorf("%d copies and %d bytes are held", b.copies.Load(), b.held.Load())
	}
	if len(b.said) != 1 || !strings.Contains(b.said[0], "too many connections wait") {
		t.Errorf("said %q", b.said)
	}
	for n := range maxCopies { // there is room again
		b.sends(client(n), local4, false, flagSYN, 1<<24, "")
		b.sends(client(n), local4, false, flagACK, 1<<24+1, "a request")
		sent++
	}
	if check("room again"); len(b.taken) != 0 || probes == 0 {
		t.Error("there were none")
	}
	b.later(2 * idle)
	b.later(2 * linger)
	if len(b.conns) != 0 || len(b.ended) != 0 {
		t.Errorf("%d connections are kept, %d of them over", len(b.conns), len(b.ended))
	}
}

// TestEndedMakeRoom: connections that are over do not take the place of those that are not.
func TestEndedMakeRoom(t *testing.T) {
	b := newBench(t, nil)
	for n := range 3 * maxConns {
		from := netip.AddrPortFrom(client4.Addr(), uint16(1000+n))
		b.sends(from, local4, false, flagSYN, 0, "")
		b.sends(from, local4, false, flagFIN, 1, "x")
		b.taken[n].Leave(false)
	}
	for n := range 3 * maxConns { // always the same port
		b.sends(client4, local4, false, flagSYN, uint32(n+1)<<8, "")
	}
	if n := b.taker.Counts.LostFlows.Load(); n != 0 || len(b.conns) > maxConns || len(b.ended) > maxConns+1 {
		t.Errorf("%d lost; %d connections, %d over", n, len(b.conns), len(b.ended))
	}
}

// TestDropped: a capture that gets no time loses frames. Each connection of which it knows nothing is one at least.
func TestDropped(t *testing.T) {
	if !inside(t) {
		return
	}
	r := newRig(t)
	r.serve(":8080", func(c net.Conn) { drain(c) })
	r.mirror(Port{Number: 8080})
	stall := func(what string, last time.Duration) (sent int) {
		r.capture.mu.Lock()
		go func() {
			time.Sleep(last)
			r.capture.mu.Unlock()
		}()
		for end := time.Now().Add(last + 100*time.Millisecond); time.Now().Before(end); sent++ {
			time.Sleep(5 * time.Millisecond)
			upload(t, r.dial(pod4+":8080"), []byte(what))
		}
		return sent
	}
	account := func(what string, sent int) (copied, lost, dropped int) {
		was := int(r.taker.Counts.LostFlows.Load())
		for end := time.Now().Add(8 * tick); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			r.mu.Lock()
			copies := r.copies
			r.copies = nil
			r.mu.Unlock()
			for _, cp := range copies {
				text, end := got(cp)
				for end == "open" {
					var more string
					more, end = got(cp)
					text += more
				}
				if text == what && end == "end" {
					copied++
				}
				cp.Leave(false)
			}
			lost, dropped = int(r.taker.Counts.LostFlows.Load())-was, int(r.capture.Dropped())
			if copied+lost >= sent {
				break
			}
		}
		return copied, lost, dropped
	}
	for _, last := range []time.Duration{retireWait * blocks / 8, retireWait * blocks * 3} {
		what := last.String()
		sent := stall(what, last)
		copied, lost, dropped := account(what, sent)
		text := fmt.Sprintf("%s: %d sent, %d copied, %d lost, %d frames dropped", what, sent, copied, lost, dropped)
		if t.Log(text); copied+lost > sent || copied+lost+dropped < sent || last > retireWait*blocks && dropped == 0 {
			t.Errorf("%s: that is not all", text)
		}
	}
}
