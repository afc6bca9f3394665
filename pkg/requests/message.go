package requests

import (
	"bytes"
	"strconv"
)

const (
	// maxLine is what is kept of a line that does not come whole, in bytes: its beginning and, after that, lineTail of its
	// end. It is more than maxPath.
	maxLine  = 3 << 10
	lineTail = 16
	// maxHead bounds a message's header, in bytes, as net/http does.
	maxHead = 1 << 20
)

// line gathers a line of text from pieces.
type line struct {
	buf []byte
	cut bool // there was more in the middle
}

// take uses up p to the end of the line, or all of it. The text is without its end, and the caller's until p or the line
// changes.
func (l *line) take(p []byte) (n int, text []byte, whole bool) {
	i := bytes.IndexByte(p, '\n')
	if i < 0 {
		l.add(p)
		return len(p), nil, false
	}
	text = p[:i]
	if len(l.buf) > 0 {
		l.add(text)
		text = l.buf
	}
	return i + 1, bytes.TrimSuffix(text, []byte("\r")), true
}

func (l *line) add(p []byte) {
	if len(p) > maxLine {
		l.add(p[:maxLine])
		l.add(p[len(p)-lineTail:])
		return
	}
	l.buf = append(l.buf, p...)
	if len(l.buf) > maxLine {
		copy(l.buf[maxLine-lineTail:], l.buf[len(l.buf)-lineTail:])
		l.buf, l.cut = l.buf[:maxLine], true
	}
}

// step is what comes next in one direction of HTTP/1 (RFC 9112).
type step int

const (
	atStart step = iota // the start line of a message
	atHeader
	inBody
	atSize  // of a chunk
	inChunk // its bytes
	afterChunk
	atTrailer
	inRest // whatever comes is the message's
)

// token is what next has come to.
type token int

const (
	more       token = iota // the bytes are used up
	startLine               // half.text is it
	headEnd                 // body is to be called
	messageEnd              // of one with a body
)

// messages reads one direction of HTTP/1.
type messages struct {
	step step
	line line
	text []byte // the start line, until next is called again
	cut  bool   // without its middle
	left int64  // bytes of the body or of the chunk
	head int    // bytes of the header so far

	length   int64 // content-length, -1: none
	chunked  bool
	encoded  bool // transfer-encoding, but not chunked
	upgrade2 bool // upgrade: h2c
}

// fresh says that nothing of the next message has come.
func (m *messages) fresh() bool { return m.step == atStart && len(m.line.buf) == 0 }

// next reads on and says how much of p it has used.
func (m *messages) next(p []byte) (n int, t token, err error) {
	switch m.step {
	case inRest:
		return len(p), more, nil
	case inBody, inChunk:
		n = int(min(int64(len(p)), m.left))
		if m.left -= int64(n); m.left > 0 {
			return n, more, nil
		}
		if m.step == inChunk {
			m.step = afterChunk
			return n, more, nil
		}
		m.step = atStart
		return n, messageEnd, nil
	}
	n, text, whole := m.line.take(p)
	if m.step != atSize && m.step != afterChunk {
		if m.head += n; m.head > maxHead {
			return n, more, errForeign
		}
	}
	if !whole {
		return n, more, nil
	}
	cut := m.line.cut
	m.line = line{}
	t, err = m.whole(text, cut)
	return n, t, err
}

// whole takes a whole line.
func (m *messages) whole(text []byte, cut bool) (token, error) {
	switch m.step {
	case atStart:
		if len(text) == 0 {
			return more, nil // RFC 9112, 2.2: some clients send an empty line before a request
		}
		*m = messages{step: atHeader, text: text, cut: cut, head: m.head, length: -1}
		return startLine, nil
	case atHeader:
		if len(text) == 0 {
			m.head = 0
			return headEnd, nil
		}
		return more, m.header(text, cut)
	case atSize:
		size, _, _ := bytes.Cut(text, []byte(";"))
		n, err := strconv.ParseUint(string(bytes.TrimSpace(size)), 16, 63)
		if err != nil {
			return more, errForeign
		}
		m.left, m.step = int64(n), inChunk
		if n == 0 {
			m.step = atTrailer
		}
		return more, nil
	case afterChunk:
		if len(text) > 0 {
			return more, errForeign
		}
		m.step = atSize
		return more, nil
	default: // atTrailer
		if len(text) > 0 {
			return more, nil
		}
		m.head, m.step = 0, atStart
		return messageEnd, nil
	}
}

// header takes what says how long the message is.
func (m *messages) header(text []byte, cut bool) error {
	name, value, ok := bytes.Cut(text, []byte(":"))
	if !ok {
		return nil // a server may accept what it should not (obs-fold); it is no length
	}
	value = bytes.TrimSpace(value)
	is := func(what string) bool { return bytes.EqualFold(name, []byte(what)) }
	switch {
	case is("content-length"):
		n, err := strconv.ParseUint(string(value), 10, 63)
		if err != nil || cut || m.length >= 0 && m.length != int64(n) {
			return errForeign
		}
		m.length = int64(n)
	case is("transfer-encoding"):
		last := value[bytes.LastIndexByte(value, ',')+1:]
		m.chunked = bytes.EqualFold(bytes.TrimSpace(last), []byte("chunked"))
		m.encoded = !m.chunked
	case is("upgrade"):
		m.upgrade2 = bytes.EqualFold(value, []byte("h2c"))
	}
	return nil
}

// body is what the header says that follows; ended: nothing. A message without a length has no body, unless it lasts
// until the end of the connection.
func (m *messages) body(untilEnd bool) (ended bool) {
	switch {
	case m.chunked:
		m.step = atSize
	case m.length > 0 && !m.encoded:
		m.step, m.left = inBody, m.length
	case untilEnd && (m.length < 0 || m.encoded):
		m.step = inRest
	default:
		m.step = atStart
		return true
	}
	return false
}

// number reads exactly three digits.
func number(b []byte) (int, bool) {
	n, err := strconv.ParseUint(string(b), 10, 10)
	return int(n), err == nil && len(b) == 3 && n >= 100
}
