package probe

import (
	"bytes"
	"strings"

	"golang.org/x/net/http2/hpack"
)

// Preface is how an HTTP/2 client begins (RFC 9113 §3.4).
const Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Settings is an empty SETTINGS frame. A gRPC client waits for a server's before it asks anything, so that it must be
// sent to be asked; the server's own comes later and counts as well (§6.5).
var Settings = []byte{0, 0, 0, frameSettings, 0, 0, 0, 0, 0}

const (
	frameHeader       = 9
	frameHeaders      = 1
	frameSettings     = 4
	frameContinuation = 9

	flagAck        = 0x1 // of SETTINGS
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20

	// maxFrame is what a client may send before it is told otherwise (§4.2).
	maxFrame = 16 << 10
	// MaxGreeting bounds what is looked at: preface, settings and one request's head are a few hundred bytes.
	MaxGreeting = 32 << 10
	// maxTable is the size of the header table before it is told otherwise (§6.5.2).
	maxTable = 4096
)

// healthCheck is what kubelet's gRPC probes call.
const healthCheck = "/grpc.health.v1.Health/Check"

// HTTP2 looks for the health check of kubelet in the first request of a connection that begins with Preface, to whose
// client Settings was sent. ack is where in b the client acknowledges it, which the server must not see, for it has
// sent none yet; -1 where it has not come. Until it has the verdict is More, if there is hope.
func HTTP2(b []byte) (v Verdict, ack int) {
	ack = -1
	if len(b) < len(Preface) {
		if strings.HasPrefix(Preface, string(b)) {
			return More, ack
		}
		return Other, ack
	}
	if !bytes.HasPrefix(b, []byte(Preface)) {
		return Other, ack
	}
	var block []byte
	open, decided := false, More // a header block has begun
	for at := len(Preface); ; {
		if len(b)-at < frameHeader {
			break
		}
		n := int(b[at])<<16 | int(b[at+1])<<8 | int(b[at+2])
		kind, flags := b[at+3], b[at+4]
		if n > maxFrame {
			return Other, ack
		}
		if len(b)-at-frameHeader < n {
			break
		}
		payload := b[at+frameHeader : at+frameHeader+n]
		switch {
		case kind == frameSettings && flags&flagAck != 0 && ack < 0:
			ack = at
		case kind == frameHeaders && decided == More && !open:
			block, open = fragment(payload, flags), true
		case kind == frameContinuation && open:
			block = append(bytes.Clone(block), payload...)
		}
		if open && flags&flagEndHeaders != 0 && (kind == frameHeaders || kind == frameContinuation) {
			open, decided = false, request(block)
		}
		at += frameHeader + n
	}
	switch {
	case decided != More && ack >= 0:
		return decided, ack
	case len(b) >= MaxGreeting:
		return Other, ack
	}
	return More, ack
}

// AckLen is the length of an acknowledgement.
const AckLen = frameHeader

// fragment is a HEADERS frame's part of the header block (§6.2).
func fragment(payload []byte, flags byte) []byte {
	r := reader(payload)
	padding := 0
	if flags&flagPadded != 0 {
		if p := r.take(1); p != nil {
			padding = int(p[0])
		}
	}
	if flags&flagPriority != 0 {
		const priorityLen = 5
		r.take(priorityLen)
	}
	return r[:max(0, len(r)-padding)]
}

// request says whose a request's head is.
func request(block []byte) Verdict {
	var path, who string
	d := hpack.NewDecoder(maxTable, func(f hpack.HeaderField) {
		switch f.Name {
		case ":path":
			path = f.Value
		case "user-agent":
			who = f.Value
		}
	})
	d.SetMaxStringLength(MaxHead)
	if _, err := d.Write(block); err != nil || d.Close() != nil {
		return Other
	}
	if path == healthCheck && strings.HasPrefix(who, agent) {
		return Probe
	}
	return Other
}
