package dap

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Limits of one message. A message is held in memory whole, once or twice.
const (
	// MaxMessage bounds a body, in bytes. The largest honest ones are readMemory answers and long strings; Delve's
	// own reader (go-dap) stops at 4 MiB.
	MaxMessage = 16 << 20
	// maxHeaderLine bounds one header line, in bytes. "Content-Length: 16777216" has 24.
	maxHeaderLine = 256
	// maxHeaderLines bounds the header: the protocol knows two fields.
	maxHeaderLines = 4
)

// errForeign says that the peer does not talk DAP. Its connection is closed without an answer: a web page can make a
// browser POST to a port of this machine, and what follows its headers would be a launch request.
var errForeign = errors.New("dap: reading a message: not the Debug Adapter Protocol")

// ReadFrame reads one message's body. Any header field but Content-Length and Content-Type is an error, and so is a
// body over MaxMessage. It returns io.EOF when the stream ends between messages, io.ErrUnexpectedEOF within one.
func ReadFrame(r *bufio.Reader) ([]byte, error) {
	length := -1
	for lines := 0; ; lines++ {
		line, err := readLine(r)
		if err != nil {
			if errors.Is(err, io.EOF) && (lines > 0 || line != "") {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if line == "" {
			break
		}
		if lines == maxHeaderLines {
			return nil, fmt.Errorf("%w: too many header fields", errForeign)
		}
		name, value, ok := strings.Cut(line, ":")
		switch {
		case ok && strings.EqualFold(name, "Content-Length"):
			n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32)
			if err != nil || n > MaxMessage || length >= 0 {
				return nil, fmt.Errorf("%w: bad Content-Length", errForeign)
			}
			length = int(n)
		case ok && strings.EqualFold(name, "Content-Type"):
		default:
			return nil, fmt.Errorf("%w: unknown header field", errForeign)
		}
	}
	if length < 0 {
		return nil, fmt.Errorf("%w: no Content-Length", errForeign)
	}
	return readBody(r, length)
}

// readLine reads up to CR LF (a lone LF is taken, too) and returns the line without it.
func readLine(r *bufio.Reader) (string, error) {
	var line []byte
	for {
		b, err := r.ReadByte()
		if err != nil {
			return string(line), err
		}
		if b == '\n' {
			return strings.TrimSuffix(string(line), "\r"), nil
		}
		if len(line) == maxHeaderLine {
			return "", fmt.Errorf("%w: header line too long", errForeign)
		}
		line = append(line, b)
	}
}

// readBody reads n bytes. Memory grows with what has arrived, not with what the header promised.
func readBody(r io.Reader, n int) ([]byte, error) {
	const step = 64 << 10
	body := make([]byte, 0, min(n, step))
	for len(body) < n {
		from := len(body)
		body = append(body, make([]byte, min(step, n-from))...)
		if _, err := io.ReadFull(r, body[from:]); err != nil {
			return nil, io.ErrUnexpectedEOF
		}
	}
	return body, nil
}

// AppendFrame appends the header and body to dst.
func AppendFrame(dst, body []byte) []byte {
	dst = append(dst, "Content-Length: "...)
	dst = strconv.AppendInt(dst, int64(len(body)), 10)
	dst = append(dst, "\r\n\r\n"...)
	return append(dst, body...)
}
