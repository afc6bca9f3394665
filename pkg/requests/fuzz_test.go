package requests

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// both are the parts of an input that each side sends: pieces that begin with a byte whose lowest bit says whose they are.
func both(flow *Flow, data []byte) (in, out int64) {
	for len(data) > 1 {
		n := min(len(data)-1, int(data[0]>>1)+1)
		piece := bytes.Clone(data[1 : 1+n])
		if data[0]&1 == 0 {
			flow.Client(piece)
			in += int64(n)
		} else {
			flow.Debuggee(piece)
			out += int64(n)
		}
		data = data[1+n:]
	}
	return in, out
}

// FuzzFlow: whatever both sides send in whatever order, nothing panics, bytes are not told twice, and all is given back.
func FuzzFlow(f *testing.F) {
	for _, seed := range [][2]string{
		{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"},
		{"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"},
		{"GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n", "HTTP/1.1 101 Yes\r\nUpgrade: h2c\r\n\r\n"},
		{"CONNECT x:1 HTTP/1.1\r\n\r\nabc", "HTTP/1.1 200 OK\r\n\r\ndef"},
		{wholePreface, "\x00\x00\x00\x04\x00\x00\x00\x00\x00"},
		{"\x00\x00\x05\x01\x05\x00\x00\x00\x01\x82\x84\x86\x41\x00", "\x00\x00\x01\x01\x05\x00\x00\x00\x01\x88"},
		{"\x16\x03\x01", "\x16\x03\x03"},
	} {
		f.Add(pieces(seed[0], seed[1]))
	}
	f.Add(pieces(wholePreface+frame(frameHeaders, flagPadded|flagPriority, 1, "\x03\x00\x00\x00\x00\x07\x83\x84\x00\x00\x00")+
		frame(frameContinuation, flagEndHeaders, 1, "\x86")+frame(frameData, flagEndStream, 1, "body")+frame(frameReset, 0, 1, "\x00\x00\x00\x08"),
		frame(4, 0, 0, "")+frame(framePush, flagEndHeaders, 1, "\x00\x00\x00\x02\x82")+frame(frameHeaders, flagEndHeaders, 1, "\x88")+frame(frameData, flagEndStream, 1, "x")))
	f.Add(pieces(wholePreface+"\x00\x00\x05\x01\x05\x00\x00\x00\x01\x82\x84\x86\x41\x00", "\x00\x00\x01\x01\x05\x00\x00\x00\x01\x88"))
	f.Fuzz(func(t *testing.T, data []byte) {
		feed := &Feed{queue: make(chan Request, maxQueued)} // nothing runs: the fuzzer wants the same again
		flow := feed.Follow(About{})
		in, out := both(flow, data)
		flow.End("")
		if feed.panics.Load() > 0 {
			t.Error("reading panicked")
		}
		var toldIn, toldOut int64
		for range len(feed.queue) {
			r := <-feed.queue
			toldIn, toldOut = toldIn+r.In, toldOut+r.Out
			if bytes.ContainsFunc([]byte(r.Line()), func(c rune) bool { return c < ' ' || c == 0x7f }) {
				t.Errorf("%q", r.Line())
			}
		}
		if toldIn > in || toldOut > out {
			t.Errorf("%d bytes in, told %d; %d out, told %d", in, toldIn, out, toldOut)
		}
		if n := feed.held.Load(); n != 0 {
			t.Errorf("%d bytes are still booked", n)
		}
	})
}

// pieces is an input of both's.
func pieces(client, debuggee string) (data []byte) {
	for len(client)+len(debuggee) > 0 {
		n := min(len(client), 128)
		if n > 0 {
			data = append(append(data, byte(n-1)<<1), client[:n]...)
			client = client[n:]
			continue
		}
		n = min(len(debuggee), 128)
		data = append(append(data, byte(n-1)<<1|1), debuggee[:n]...)
		debuggee = debuggee[n:]
	}
	return data
}

// frame is one of HTTP/2.
func frame(kind, flags byte, stream uint32, payload string) string {
	b := []byte{0, byte(len(payload) >> 8), byte(len(payload)), kind, flags}
	return string(binary.BigEndian.AppendUint32(b, stream)) + payload
}
