package mirror

import (
	"bytes"
	"fmt"
)

const (
	// maxMethod and maxLine bound what is looked at of a request's first line.
	maxMethod, maxLine = 20, 8 << 10
	// joinTries is how many segments at which a request of HTTP/1 could begin, and does not, it takes to say that the
	// connection's protocol is not known.
	joinTries = 3
	preface   = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" // RFC 9113 §3.4
)

// beginning says whether data begins what a server can read without what was before it: a request of HTTP/1 (RFC 9112 §3),
// or a connection of HTTP/2 or TLS whose handshake alone was missed.
func beginning(data []byte) bool {
	if bytes.HasPrefix(data, []byte(preface)) || clientHello(data) {
		return true
	}
	line, _, ok := bytes.Cut(data[:min(len(data), maxLine)], []byte("\r\n"))
	if !ok {
		return false
	}
	method, rest, ok := bytes.Cut(line, []byte(" "))
	target, version, ok2 := bytes.Cut(rest, []byte(" "))
	return ok && ok2 && len(method) > 0 && len(method) <= maxMethod && len(target) > 0 &&
		bytes.IndexFunc(method, func(r rune) bool { return (r < 'A' || r > 'Z') && r != '-' }) < 0 &&
		(string(version) == "HTTP/1.1" || string(version) == "HTTP/1.0")
}

// clientHello says whether data begins TLS: a record of type handshake with a ClientHello (RFC 8446 §4, §5.1).
func clientHello(data []byte) bool {
	return len(data) > 5 && data[0] == 22 && data[1] == 3 && data[5] == 1
}

// frameOfHTTP2 says whether data looks like a frame of HTTP/2 (RFC 9113 §4.1): a length that fits, a type and a stream that
// exist.
func frameOfHTTP2(data []byte) bool {
	if len(data) < 9 {
		return false
	}
	length, kind, stream := int(data[0])<<16|int(data[1])<<8|int(data[2]), data[3], data[5]
	const maxFrame, lastKind = 1 << 14, 9
	return length <= maxFrame && kind <= lastKind && stream < 1<<7 && length+9 <= max(len(data), maxFrame)
}

// missed looks at what a connection that was open before sends while it is not joined, and says once what cannot be.
func (cp *Copy) missed(data []byte) {
	cp.tries++
	switch port := cp.Local.Port(); {
	case cp.tries == 1 && frameOfHTTP2(data):
		cp.taker.say(fmt.Sprintf("port %d has connections of HTTP/2 that were open before; they cannot be read from the middle: only new ones are copied", port))
		cp.tries = joinTries
	case cp.tries == joinTries:
		cp.taker.say(fmt.Sprintf("port %d has connections that were open before, and in which no request of HTTP/1 begins: only new ones are copied", port))
	}
}
