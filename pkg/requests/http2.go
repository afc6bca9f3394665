package requests

import (
	"encoding/binary"
	"strconv"
	"time"

	"golang.org/x/net/http2/hpack"
)

const (
	protocol2 = "HTTP/2"
	// wholePreface is what a client of HTTP/2 sends first (RFC 9113, 3.4); afterPRI what of it follows its first line.
	wholePreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	afterPRI     = "\r\nSM\r\n\r\n"
	// maxTable bounds HPACK's table of one direction, in bytes: four times what everybody has. An encoder that may use
	// more, and does, cannot be followed.
	maxTable = 16 << 10
	// maxString bounds one header's value, in bytes: twice what servers take by default.
	maxString = 32 << 10
	// http2Cost is what the tables of both directions hold, in bytes.
	http2Cost = 2 * maxTable
)

// Frames and flags (RFC 9113, 6).
const (
	frameData, frameHeaders, frameReset, framePush, frameContinuation = 0, 1, 3, 5, 9

	flagEndStream, flagEndHeaders, flagPadded, flagPriority = 1, 4, 8, 32
)

// http2Flow reads HTTP/2. Streams beyond maxWaiting are not told of.
type http2Flow struct {
	flow     *Flow
	preface  string // what of it is still to come
	from, to *frames
	streams  map[uint32]*exchange
	last     uint32 // the client's latest
}

func newHTTP2(l *Flow, preface string) *http2Flow {
	l.http = true
	h := &http2Flow{flow: l, preface: preface, streams: map[uint32]*exchange{}}
	h.from, h.to = newFrames(h, true), newFrames(h, false)
	return h
}

func (h *http2Flow) left() (all []*exchange) {
	for _, e := range h.streams {
		all = append(all, e)
	}
	return all
}

func (h *http2Flow) debuggeeEnd() {}

func (h *http2Flow) client(p []byte) error {
	if n := min(len(p), len(h.preface)); n > 0 {
		if string(p[:n]) != h.preface[:n] {
			return errForeign
		}
		if h.preface, p = h.preface[n:], p[n:]; h.preface == "" && !h.flow.hold(http2Cost) {
			return errFull
		}
	}
	return h.from.read(p)
}

func (h *http2Flow) debuggee(p []byte) error { return h.to.read(p) }

// frames reads one direction.
type frames struct {
	h          *http2Flow
	fromClient bool

	header [9]byte
	have   int // of header
	// The frame that is being read:
	kind, flags byte
	stream      uint32
	left        int // bytes of its payload that are to come
	lead        int // of those, what is before the header block
	pad         int // and what is behind it
	of          *exchange

	block     uint32 // the stream whose header block goes on in the next frame
	endStream bool   // that block is a stream's last
	size      int64  // of its frames
	decoder   *hpack.Decoder
	method    string
	path      string
	status    int
	grpc      int
}

func newFrames(h *http2Flow, fromClient bool) *frames {
	const initial = 4096 // RFC 9113, 6.5.2
	f := &frames{h: h, fromClient: fromClient, grpc: noGRPC}
	f.decoder = hpack.NewDecoder(initial, f.field)
	f.decoder.SetAllowedMaxDynamicTableSize(maxTable)
	f.decoder.SetMaxStringLength(maxString)
	return f
}

// field takes what is told of a header block, and has the decoder make nothing of the rest.
func (f *frames) field(hf hpack.HeaderField) {
	switch {
	case f.fromClient && hf.Name == ":method" && isMethod([]byte(hf.Value)):
		f.method = hf.Value
	case f.fromClient && hf.Name == ":path":
		f.path = printable(hf.Value, false)
	case f.fromClient && !hf.IsPseudo():
		f.decoder.SetEmitEnabled(false)
	case !f.fromClient && hf.Name == ":status":
		f.status, _ = number([]byte(hf.Value))
	case !f.fromClient && hf.Name == "grpc-status":
		if n, err := strconv.ParseUint(hf.Value, 10, 8); err == nil {
			f.grpc = int(n)
		}
	}
}

func (f *frames) read(p []byte) error {
	for len(p) > 0 {
		if f.have < len(f.header) {
			n := copy(f.header[f.have:], p)
			f.have += n
			if p = p[n:]; f.have < len(f.header) {
				return nil
			}
			if err := f.begin(); err != nil {
				return err
			}
		} else {
			n := min(len(p), f.left)
			if err := f.payload(p[:n]); err != nil {
				return err
			}
			p = p[n:]
		}
		if f.left > 0 {
			continue
		}
		f.have = 0
		if err := f.end(); err != nil {
			return err
		}
	}
	return nil
}

// begin takes the header of a frame.
func (f *frames) begin() error {
	f.left = int(f.header[0])<<16 | int(f.header[1])<<8 | int(f.header[2])
	f.kind, f.flags = f.header[3], f.header[4]
	f.stream = binary.BigEndian.Uint32(f.header[5:]) & (1<<31 - 1)
	f.lead, f.pad, f.of = 0, 0, nil
	if (f.kind == frameContinuation) != (f.block != 0) || f.block != 0 && f.block != f.stream {
		return errForeign
	}
	switch f.kind {
	case frameData:
		f.of = f.h.streams[f.stream]
		f.count(len(f.header))
		return nil
	case frameHeaders:
		f.endStream = f.flags&flagEndStream != 0
		if f.flags&flagPriority != 0 {
			f.lead += 5
		}
	case framePush:
		if f.fromClient {
			return errForeign
		}
		f.lead += 4 // the promised stream
	case frameContinuation:
		f.size += int64(len(f.header) + f.left)
		return nil
	default:
		return nil
	}
	f.block, f.size = f.stream, int64(len(f.header)+f.left)
	f.method, f.path, f.status, f.grpc = "", "", 0, noGRPC
	f.decoder.SetEmitEnabled(f.kind == frameHeaders)
	if f.flags&flagPadded != 0 {
		f.lead++
	}
	if f.lead > f.left || f.stream == 0 {
		return errForeign
	}
	return nil
}

func (f *frames) count(n int) {
	switch {
	case f.of == nil:
	case f.fromClient:
		f.of.in += int64(n)
	default:
		f.of.out += int64(n)
	}
}

// payload takes a part of a frame's payload that is not empty.
func (f *frames) payload(p []byte) error {
	f.count(len(p))
	if f.block == 0 {
		f.left -= len(p)
		return nil
	}
	for ; f.lead > 0 && len(p) > 0; p = p[1:] {
		if f.flags&flagPadded != 0 { // the first byte says how much
			f.flags &^= flagPadded
			if f.pad = int(p[0]); f.pad > f.left-f.lead {
				return errForeign
			}
		}
		f.lead--
		f.left--
	}
	fragment := p[:max(0, min(len(p), f.left-f.pad))]
	f.left -= len(p)
	_, err := f.decoder.Write(fragment)
	return err
}

// end is called when a frame has been read whole.
func (f *frames) end() error {
	switch f.kind {
	case frameData:
		if f.flags&flagEndStream != 0 {
			f.over()
		}
	case frameReset:
		if e := f.h.streams[f.stream]; e != nil && f.fromClient {
			f.finish(e, "cancelled by the client")
		} else if e != nil {
			f.finish(e, "reset by the program")
		}
	case frameHeaders, framePush, frameContinuation:
		if f.flags&flagEndHeaders == 0 {
			return nil
		}
		f.block = 0
		if err := f.decoder.Close(); err != nil {
			return err
		}
		if err := f.headers(); err != nil {
			return err
		}
		if f.endStream {
			f.endStream = false
			f.over()
		}
	}
	return nil
}

// headers takes a whole header block: of a request, an answer, or what follows their bodies; or of a push promise, which
// counts as a part of the answer that it comes with.
func (f *frames) headers() error {
	e := f.h.streams[f.stream]
	switch {
	case f.fromClient && f.stream > f.h.last:
		if f.h.last = f.stream; f.method == "" {
			return errForeign
		}
		if len(f.h.streams) >= maxWaiting {
			f.h.flow.feed.skipped.Add(1)
			return nil
		}
		e = &exchange{protocol: protocol2, method: f.method, path: f.path, at: time.Now(), in: f.size}
		if err := f.h.flow.begin(e); err != nil {
			return err
		}
		f.h.streams[f.stream] = e
	case f.fromClient || e == nil:
	default:
		e.out += f.size
		if f.status >= 200 {
			e.status = f.status
		}
		if f.grpc != noGRPC {
			e.grpc = f.grpc
		}
	}
	return nil
}

// over is the end of a stream in this direction.
func (f *frames) over() {
	e := f.h.streams[f.stream]
	if f.fromClient || e == nil {
		return
	}
	f.finish(e, "")
}

func (f *frames) finish(e *exchange, why string) {
	delete(f.h.streams, f.stream)
	f.h.flow.told(e, why)
}
