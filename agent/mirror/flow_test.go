package mirror

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"
)

var (
	client4, local4 = netip.MustParseAddrPort("192.0.2.7:40000"), netip.MustParseAddrPort("10.0.0.9:8080")
	client6, local6 = netip.MustParseAddrPort("[2001:db8::7]:40000"), netip.MustParseAddrPort("[fd00::9]:8080")
)

// wireFrame makes what the packet socket would show of a segment.
func wireFrame(from, to netip.AddrPort, flags byte, seq, ack uint32, payload []byte) []byte {
	tcp := make([]byte, tcpMin, tcpMin+len(payload))
	binary.BigEndian.PutUint16(tcp, from.Port())
	binary.BigEndian.PutUint16(tcp[2:], to.Port())
	binary.BigEndian.PutUint32(tcp[4:], seq)
	binary.BigEndian.PutUint32(tcp[8:], ack)
	tcp[12], tcp[13] = tcpMin/4<<4, flags
	tcp = append(tcp, payload...)
	pseudo := sum(0, append(from.Addr().AsSlice(), to.Addr().AsSlice()...)) + 6 + uint32(len(tcp))
	binary.BigEndian.PutUint16(tcp[16:], ^fold(sum(pseudo, tcp)))
	if from.Addr().Is4() {
		ip := make([]byte, ip4Min)
		ip[0], ip[9] = 0x45, 6
		binary.BigEndian.PutUint16(ip[2:], uint16(ip4Min+len(tcp)))
		copy(ip[12:], from.Addr().AsSlice())
		copy(ip[16:], to.Addr().AsSlice())
		return append(ip, tcp...)
	}
	ip := make([]byte, ip6Header)
	ip[0], ip[6] = 0x60, 6
	binary.BigEndian.PutUint16(ip[4:], uint16(len(tcp)))
	copy(ip[8:], from.Addr().AsSlice())
	copy(ip[24:], to.Addr().AsSlice())
	return append(ip, tcp...)
}

// bench is a capture without a socket, and the taker of its copies.
type bench struct {
	*Capture
	t     testing.TB
	taker *Taker
	taken []*Copy
	said  []string
}

func newBench(t testing.TB, find finder) *bench {
	if find == nil {
		find = func(key) bool { return true }
	}
	b := &bench{Capture: newCapture(0, find, slog.New(slog.DiscardHandler)), t: t}
	b.now = time.Now()
	b.taker = &Taker{Ports: []Port{{Number: 8080}}, Take: func(c *Copy) { b.taken = append(b.taken, c) },
		Notice: func(line string) { b.said = append(b.said, line) }}
	if err := b.Add(b.taker); err != nil {
		t.Fatal(err)
	}
	return b
}

// sends is a client's segment.
func (b *bench) sends(from, to netip.AddrPort, lo bool, flags byte, seq uint32, payload string) {
	b.frame(frame{data: wireFrame(from, to, flags, seq, 1, []byte(payload)), at: time.Now(), lo: lo})
}

// later lets time pass.
func (b *bench) later(d time.Duration) {
	back := -d
	for _, one := range b.ended {
		one.seen = one.seen.Add(back)
	}
	for _, one := range b.conns {
		if !one.over {
			one.seen = one.seen.Add(back)
		}
		if one.hold != nil {
			one.hold.until = one.hold.until.Add(back)
		}
	}
	b.timers()
}

// got reads all of a copy that is there, and how it ends: "open" if it does not yet.
func got(c *Copy) (text, end string) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for {
		data, err := c.Next(ctx)
		var gap *Gap
		switch {
		case errors.Is(err, context.Canceled):
			return text, "open"
		case errors.As(err, &gap):
			return text, fmt.Sprint("gap ", gap.Lost)
		case errors.Is(err, io.EOF):
			return text, "end"
		case err != nil:
			return text, err.Error()
		}
		text += string(data)
	}
}

func (b *bench) want(what string, copies ...string) {
	b.t.Helper()
	var have []string
	for _, c := range b.taken {
		text, end := got(c)
		have = append(have, text+"|"+end)
	}
	if strings.Join(have, ", ") != strings.Join(copies, ", ") {
		b.t.Errorf("%s: %q, want %q", what, have, copies)
	}
}

// TestTogether: what waits is taken at once, up to a bound that only a frame by itself may be beyond.
func TestTogether(t *testing.T) {
	b := newBench(t, nil)
	b.sends(client4, local4, false, flagSYN, 0, "")
	seq, want := uint32(1), []int{600, maxTogether, maxTogether / 2, 2 * maxTogether, 5}
	for _, n := range []int{100, 200, 300, maxTogether - 1, 1, maxTogether / 2, 2 * maxTogether, 5} {
		b.sends(client4, local4, false, flagACK, seq, strings.Repeat("x", n))
		seq += uint32(n)
	}
	for i, n := range want {
		data, err := b.taken[0].Next(context.Background())
		if err != nil || len(data) != n {
			t.Errorf("%d: %d bytes, want %d; %v", i, len(data), n, err)
		}
	}
	if held, bytes := b.held.Load(), b.taker.Counts.Bytes.Load(); held != 0 || bytes != uint64(seq-1) {
		t.Errorf("%d bytes are held, %d counted of %d", held, bytes, seq-1)
	}
}

// TestConnection follows connections as clients make them.
func TestConnection(t *testing.T) {
	const wrap = ^uint32(0) - 3
	for _, addrs := range [][2]netip.AddrPort{{client4, local4}, {client6, local6}} {
		for _, isn := range []uint32{1000, wrap} {
			at := func(n uint32) uint32 { return isn + 1 + n }
			for _, test := range []struct {
				name string
				send func(send func(flags byte, seq uint32, payload string))
				want string
			}{
				{"in order", func(s func(byte, uint32, string)) {
					s(0, at(0), "hello ")
					s(0, at(6), "world")
					s(flagFIN, at(11), "")
				}, "hello world|end"},
				{"end with data", func(s func(byte, uint32, string)) { s(flagFIN, at(0), "hello") }, "hello|end"},
				{"sent again", func(s func(byte, uint32, string)) {
					s(0, at(0), "hello ")
					s(0, at(0), "hello ")
					s(0, at(2), "llo world")
					s(0, at(10), "x"[:0])
				}, "hello world|open"},
				{"out of order", func(s func(byte, uint32, string)) {
					s(0, at(6), "world")
					s(0, at(3), "lo ")
					s(0, at(0), "hel")
					s(0, at(11), "!")
				}, "hello world!|open"},
				{"out of order, twice", func(s func(byte, uint32, string)) {
					s(0, at(2), "c")
					s(0, at(0), "ab")
					s(0, at(4), "e")
					s(0, at(3), "d")
					s(0, at(5), "f")
				}, "abcdef|open"},
				{"overlapping, out of order", func(s func(byte, uint32, string)) {
					s(0, at(3), "defg")
					s(0, at(1), "bcde")
					s(0, at(0), "ab")
					s(0, at(7), "h")
				}, "abcdefgh|open"},
				{"the end comes early", func(s func(byte, uint32, string)) { s(0, at(3), "lo"); s(flagFIN, at(5), ""); s(0, at(0), "hel") }, "hello|end"},
				{"an end that waits", func(s func(byte, uint32, string)) { s(flagFIN, at(3), "lo"); s(0, at(0), "hel") }, "hello|end"},
				{"reset", func(s func(byte, uint32, string)) { s(0, at(0), "hello"); s(flagRST, at(5), "") }, "hello|connection reset by peer"},
				{"a reset from afar", func(s func(byte, uint32, string)) { s(0, at(0), "hello"); s(flagRST, at(5)+1<<30, "") }, "hello|open"},
				{"kept alive", func(s func(byte, uint32, string)) {
					s(0, at(0), "hello")
					s(0, at(4), "")
					s(0, at(4), "o")
					s(0, at(5), "!")
				}, "hello!|open"},
				{"SYN again", func(s func(byte, uint32, string)) { s(flagSYN, isn, ""); s(0, at(0), "hello") }, "hello|open"},
				{"far ahead", func(s func(byte, uint32, string)) { s(0, at(0), "hello"); s(0, at(5)+farAhead, "x") }, fmt.Sprintf("hello|gap %d", farAhead+1)},
			} {
				t.Run(fmt.Sprintf("%s/%v/%d", test.name, addrs[0].Addr(), isn), func(t *testing.T) {
					b := newBench(t, nil)
					send := func(flags byte, seq uint32, payload string) { b.sends(addrs[0], addrs[1], false, flags, seq, payload) }
					send(flagSYN, isn, "")
					test.send(send)
					b.want(test.name, test.want)
				})
			}
		}
	}
}

// TestGap: what was missed ends the copy, is counted, and nothing behind it is passed on.
func TestGap(t *testing.T) {
	b := newBench(t, nil)
	b.sends(client4, local4, false, flagSYN, 0, "")
	b.sends(client4, local4, false, 0, 1, "hello")
	b.sends(client4, local4, false, 0, 11, "world")
	b.want("while it may still come", "hello|open")
	b.now = b.now.Add(2 * patience)
	b.reorder.flush(b.now)
	b.sends(client4, local4, false, 0, 6, "late.") // it was given up
	b.sends(client4, local4, false, 0, 16, "more")
	b.sends(client4, local4, false, flagFIN, 20, "")
	b.want("after that", "|gap 14")
	if n := b.taker.Counts.Lost.Load(); n != 14 || b.taker.Counts.LostFlows.Load() != 1 || b.taker.Counts.Bytes.Load() != 5 {
		t.Errorf("lost %d bytes", n)
	}
	if b.later(3 * patience); len(b.conns) != 0 {
		t.Error("it is not forgotten")
	}
	// The end itself was seen, and not what was before it.
	b = newBench(t, nil)
	b.sends(client4, local4, false, flagSYN, 0, "")
	b.sends(client4, local4, false, 0, 1, "hello")
	b.sends(client4, local4, false, flagFIN, 11, "")
	b.later(2 * patience)
	b.want("an end without its data", "hello|gap 5")
}

// TestMidway: a connection that was open before is joined at a request, and never within one.
func TestMidway(t *testing.T) {
	request := "GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, test := range []struct {
		name  string
		parts []string // each in answer to something of the server's
		same  bool     // but not these
		want  []string
		said  string
	}{
		{"at once", []string{request}, false, []string{request + "|open"}, ""},
		{"behind the rest of one", []string{"rest of a body", request, "POST"}, false, []string{request + "POST|open"}, ""},
		{"within a body", []string{"a body\r\n", request, "more"}, true, nil, "no request of HTTP/1 begins"},
		{"HTTP/2", []string{"\x00\x00\x04\x08\x00\x00\x00\x00\x01abcd", "x", "y"}, false, nil, "connections of HTTP/2"},
		{"HTTP/2 from the start", []string{preface + "x"}, false, []string{preface + "x|open"}, ""},
		{"TLS", []string{"\x17\x03\x03\x00\x05hello", "x", "y", "z"}, false, nil, "no request of HTTP/1 begins"},
	} {
		b := newBench(t, nil)
		seq := uint32(5000)
		for i, part := range test.parts {
			ack := uint32(i)
			if test.same {
				ack = 0
			}
			b.frame(frame{data: wireFrame(client4, local4, flagACK, seq, ack, []byte(part))})
			seq += uint32(len(part))
		}
		b.want(test.name, test.want...)
		if got := strings.Join(b.said, ""); !strings.Contains(got, test.said) || test.said == "" && got != "" {
			t.Errorf("%s: said %q, want %q", test.name, got, test.said)
		}
	}
}

// TestSidecar: where a sidecar ends the connections that come from elsewhere, what it sends on is copied, and only that.
func TestSidecar(t *testing.T) {
	const hello = "\x16\x03\x01\x02\x00\x01client hello"
	sidecar := netip.MustParseAddrPort("127.0.0.6:50000")
	outside := func(b *bench, payload string) {
		b.sends(client4, local4, false, flagSYN, 0, "")
		time.Sleep(time.Millisecond) // the data's time is another than that of the look for the socket
		b.sends(client4, local4, false, 0, 1, payload)
	}
	within := func(b *bench, payload string) {
		b.sends(sidecar, local4, true, flagSYN, 0, "")
		b.sends(sidecar, local4, true, 0, 1, payload)
	}
	none := func(k key) bool { return k.client.Addr().IsLoopback() }
	t.Run("redirected, TLS", func(t *testing.T) {
		b := newBench(t, none)
		outside(b, hello)
		b.want("before the sidecar's", []string{}...)
		within(b, "plain")
		b.later(2 * holdFor)
		b.want("the sidecar's", "plain|open")
		other := netip.MustParseAddrPort("192.0.2.8:1")
		b.sends(other, local4, false, flagSYN, 0, "")
		b.sends(other, local4, false, 0, 1, hello)
		b.later(2 * holdFor)
		b.want("another", "|open")
		if len(b.said) != 1 || !strings.Contains(b.said[0], "sidecar") {
			t.Errorf("%q", b.said)
		}
	})
	t.Run("redirected, plain", func(t *testing.T) {
		b := newBench(t, none)
		outside(b, "plain from outside")
		within(b, "plain")
		b.later(2 * holdFor)
		b.want("the sidecar's", "plain|open")
	})
	t.Run("TLS ended on the same port", func(t *testing.T) {
		b := newBench(t, nil)
		outside(b, hello)
		within(b, "plain")
		b.later(2 * holdFor)
		b.want("the sidecar's", "plain|open")
	})
	t.Run("no sidecar, TLS", func(t *testing.T) {
		b := newBench(t, nil)
		outside(b, hello)
		b.want("held", []string{}...)
		b.later(2 * holdFor)
		b.want("the service's own", hello+"|open")
	})
	t.Run("no sidecar, and gone at once", func(t *testing.T) {
		b := newBench(t, none)
		b.sends(client4, local4, false, flagSYN, 0, "")
		b.sends(client4, local4, false, flagFIN, 1, "short")
		b.want("not withheld", "short|end")
	})
	t.Run("no sidecar, callers within the pod besides", func(t *testing.T) {
		b := newBench(t, nil)
		within(b, "from within")
		outside(b, "from outside")
		b.want("both", "from within|open", "from outside|open")
	})
}

// TestBounds: a taker that takes nothing costs no more than its bound, and learns what it lost.
func TestBounds(t *testing.T) {
	b := newBench(t, nil)
	part := strings.Repeat("x", 60000)
	const conns, parts = 40, 30
	for i := range uint16(conns) {
		from := netip.AddrPortFrom(client4.Addr(), 1000+i)
		b.sends(from, local4, false, flagSYN, 0, "")
		for n := range uint32(parts) {
			b.sends(from, local4, false, 0, 1+n*60000, part)
		}
	}
	if held := b.held.Load(); held > maxHeld {
		t.Errorf("%d bytes are held", held)
	}
	for _, c := range b.taken {
		got(c)
		c.Leave(false)
	}
	counts := &b.taker.Counts
	if all := counts.Bytes.Load() + counts.Lost.Load(); all != conns*parts*60000 {
		t.Errorf("%d bytes are accounted for, of %d", all, conns*parts*60000)
	}
	if counts.LostFlows.Load() == 0 || b.held.Load() != 0 || b.copies.Load() != 0 {
		t.Errorf("%d flows lost, %d bytes and %d copies held in the end", counts.LostFlows.Load(), b.held.Load(), b.copies.Load())
	}
}

// TestShuffled sends connections in any order that a network makes of them.
func TestShuffled(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		b := newBench(t, nil)
		data := make([]byte, 1+r.IntN(30000))
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		isn := r.Uint32()
		b.sends(client4, local4, false, flagSYN, isn, "")
		type piece struct{ from, to int }
		var pieces []piece
		for at := 0; at < len(data); {
			n := min(1+r.IntN(3000), len(data)-at)
			pieces = append(pieces, piece{at, at + n})
			if r.IntN(4) == 0 { // again, with another cut
				from := r.IntN(at + n)
				pieces = append(pieces, piece{from, min(len(data), from+1+r.IntN(3000))})
			}
			at += n
		}
		for i := range pieces {
			j := min(len(pieces)-1, i+r.IntN(8))
			pieces[i], pieces[j] = pieces[j], pieces[i]
		}
		for _, p := range pieces {
			b.sends(client4, local4, false, 0, isn+1+uint32(p.from), string(data[p.from:p.to]))
		}
		b.sends(client4, local4, false, flagFIN, isn+1+uint32(len(data)), "")
		if len(b.taken) != 1 {
			t.Fatalf("%d copies", len(b.taken))
		}
		if text, end := got(b.taken[0]); end != "end" || !bytes.Equal([]byte(text), data) {
			t.Fatalf("%d of %d bytes, %s", len(text), len(data), end)
		}
	}
}
