package mirror

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

// FuzzFrames gives the capture whatever frames the network may have: as they are, and as segments of one connection in any
// order. Bytes that are handed on must be those that were sent, at their place.
func FuzzFrames(f *testing.F) {
	f.Add(wireFrame(client4, local4, flagSYN, 1, 0, nil), []byte{0, 0, 5, 2, 0, 3})
	f.Add(wireFrame(client6, local6, flagACK, 7, 0, []byte("GET / HTTP/1.1\r\n\r\n")), []byte{0, 9, 200, 0, 0, 9, 0, 1, 255})
	f.Add([]byte{0x60}, []byte{})
	f.Fuzz(func(t *testing.T, raw, script []byte) {
		b := newBench(t, nil)
		b.taker.Ports = append(b.taker.Ports, Port{Number: 40000})
		b.frame(frame{data: raw, at: time.Now()})
		b.frame(frame{data: raw, checked: true, lo: true})
		checkBlock(raw)

		content := func(n int) (all []byte) {
			for i := range n {
				all = append(all, byte(i*7)^byte(i>>8))
			}
			return all
		}
		const isn = ^uint32(0) - 1000 // it wraps soon
		from := netip.MustParseAddrPort("203.0.113.1:1")
		b.sends(from, local4, false, flagSYN, isn, "")
		before := len(b.taken)
		all := content(1 << 17)
		for ; len(script) >= 3; script = script[3:] {
			at, n := int(binary.BigEndian.Uint16(script)), int(script[2])*16
			b.sends(from, local4, false, flagACK, isn+1+uint32(at), string(all[at:at+n]))
			if script[2] == 255 {
				b.now = b.now.Add(2 * patience)
				b.reorder.flush(b.now)
			}
		}
		for _, c := range b.taken[min(before, len(b.taken)):] {
			if text, _ := got(c); text != string(all[:len(text)]) {
				t.Errorf("%d bytes are not those that were sent", len(text))
			}
		}
	})
}

// checkBlock reads a block of the ring that may hold anything.
func checkBlock(raw []byte) {
	block := make([]byte, 4<<10)
	copy(block[8:], raw)
	for _, f := range frames(nil, block) {
		parse(f)
	}
}
