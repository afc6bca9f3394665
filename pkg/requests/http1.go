package requests

import (
	"bytes"
	"strings"
	"time"
)

// http1Flow reads HTTP/1, and a flow of which nothing is known yet. Answers come in the order of the requests.
type http1Flow struct {
	flow          *Flow
	asks, answers messages
	since         time.Time   // when the request that is being read began
	before        int64       // its bytes before its start line was whole
	asking        *exchange   // whose bytes the client sends
	waiting       []*exchange // in order
	tunnel        *exchange   // the connection is another protocol's, which this one asked for
	lines         bool        // linesCost is booked
}

func newHTTP1(l *Flow) *http1Flow { return &http1Flow{flow: l} }

func (h *http1Flow) left() []*exchange { return h.waiting }

// keep books what is kept of a line until the rest of it comes.
func (h *http1Flow) keep(m *messages) error {
	if len(m.line.buf) == 0 || h.lines {
		return nil
	}
	if h.lines = h.flow.hold(linesCost); !h.lines {
		return errFull
	}
	return nil
}

func (h *http1Flow) client(p []byte) error {
	for len(p) > 0 {
		if h.tunnel != nil {
			h.tunnel.in += int64(len(p))
			return nil
		}
		if h.asks.fresh() {
			if !tokenByte(p[0]) && p[0] != '\r' && p[0] != '\n' {
				return errForeign
			}
			h.since, h.asking = time.Now(), nil
		}
		n, t, err := h.asks.next(p)
		if err != nil {
			return err
		}
		if h.asking != nil {
			h.asking.in += int64(n)
		} else {
			h.before += int64(n)
		}
		switch t {
		case startLine:
			if string(h.asks.text) == "PRI * HTTP/2.0" && !h.flow.http {
				h.flow.language = newHTTP2(h.flow, afterPRI)
				return h.flow.language.client(p[n:])
			}
			if err := h.ask(); err != nil {
				return err
			}
			h.asks.text = nil // it was p's
		case headEnd:
			if h.asks.encoded {
				return errForeign
			}
			if h.asking.method == "CONNECT" {
				h.asks.step = inRest // until it is answered
			} else {
				h.asks.body(false)
			}
		}
		p = p[n:]
	}
	return h.keep(&h.asks)
}

// ask takes the start line of a request.
func (h *http1Flow) ask() error {
	text := h.asks.text
	method, rest, ok := bytes.Cut(text, []byte(" "))
	end := bytes.LastIndexByte(rest, ' ')
	if !ok || end <= 0 || !isMethod(method) {
		return errForeign
	}
	version := string(rest[end+1:])
	if version != "HTTP/1.1" && version != "HTTP/1.0" {
		return errForeign
	}
	if len(h.waiting) >= maxWaiting {
		return errFull
	}
	e := &exchange{protocol: version, method: string(method), path: printable(rest[:end], h.asks.cut), at: h.since, in: h.before}
	if err := h.flow.begin(e); err != nil {
		return err
	}
	h.before = 0
	h.asking = e
	h.waiting = append(h.waiting, e)
	return nil
}

func (h *http1Flow) debuggee(p []byte) error {
	for len(p) > 0 {
		if h.tunnel != nil {
			h.tunnel.out += int64(len(p))
			return nil
		}
		if len(h.waiting) == 0 {
			return errForeign // nobody has asked
		}
		now := h.waiting[0]
		n, t, err := h.answers.next(p)
		if err != nil {
			return err
		}
		now.out += int64(n)
		p = p[n:]
		switch t {
		case startLine:
			text := h.answers.text
			version, rest, ok := bytes.Cut(text, []byte(" "))
			code, _, _ := bytes.Cut(rest, []byte(" "))
			if !ok || !bytes.HasPrefix(version, []byte("HTTP/1.")) {
				return errForeign
			}
			if now.status, ok = number(code); !ok {
				return errForeign
			}
			h.answers.text = nil
		case headEnd:
			if now.status == 101 && h.answers.upgrade2 {
				return h.become2(now, p)
			}
			if err := h.answerBody(now); err != nil {
				return err
			}
		case messageEnd:
			h.answered()
		}
	}
	return h.keep(&h.answers)
}

// answerBody is what follows the header of an answer (RFC 9112, 6.3).
func (h *http1Flow) answerBody(now *exchange) error {
	m := &h.answers
	connected := now.method == "CONNECT" && now.status/100 == 2
	switch {
	case now.status == 101 || connected:
		now.tunnel = true
		h.tunnel = now
	case now.status < 200: // the answer itself is still to come
		now.status, m.step = 0, atStart
	case now.method == "HEAD" || now.status == 204 || now.status == 304 || m.body(true):
		m.step = atStart
		h.answered()
	}
	if now.method != "CONNECT" || connected || now.status == 0 {
		return nil
	}
	if h.asking != now || h.asks.step != inRest {
		return errForeign
	}
	h.asks.step = atStart // refused: it goes on with the next request
	return nil
}

func (h *http1Flow) answered() {
	h.flow.told(h.waiting[0], "")
	h.waiting[0] = nil
	if h.waiting = h.waiting[1:]; len(h.waiting) == 0 {
		h.waiting = nil
	}
}

// become2 goes on in HTTP/2 (RFC 7540, 3.2): the request is its first stream's.
func (h *http1Flow) become2(now *exchange, p []byte) error {
	if len(h.waiting) != 1 || !h.asks.fresh() {
		return errForeign
	}
	now.protocol, now.status = protocol2, 0
	next := newHTTP2(h.flow, wholePreface)
	next.last, next.streams[1] = 1, now
	h.flow.language = next
	return next.debuggee(p)
}

func (h *http1Flow) debuggeeEnd() {
	if h.tunnel == nil && h.answers.step == inRest && len(h.waiting) > 0 {
		h.answers.step = atStart
		h.answered()
	}
}

// isMethod says whether it can be one; there are longer ones in no registry.
func isMethod(b []byte) bool {
	const longest = 32
	for _, c := range b {
		if !tokenByte(c) {
			return false
		}
	}
	return len(b) > 0 && len(b) <= longest
}

// tokenByte is a tchar (RFC 9110, 5.6.2).
func tokenByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}
