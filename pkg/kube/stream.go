package kube

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxErrorText bounds what a node says of a failure.
	maxErrorText = 4 << 10
	// errorWait is how long the end of the data waits for the node's words about it, which come on another stream of the
	// same connection, and before that end.
	errorWait = time.Second
	// goodbye is how long a reset may take to be written.
	goodbye = time.Second
)

// half is a stream of SPDY: Close ends our direction only, Reset both.
type half interface {
	io.ReadWriteCloser
	Reset() error
}

// stream is a port-forward as a net.Conn.
//
// Goroutines: one reads the error stream until it ends, one pings; both end with the connection. One more writes the resets at the
// end, and ends when the connection is closed at the latest.
type stream struct {
	gone   <-chan bool
	hangUp func()  // closes the connection
	tunnel *tunnel // the connection, where another stream may take the place of one that was refused; nil: none may

	data, failed half

	said  chan struct{} // closed when text is whole
	text  string        // what the node said of a failure
	begun atomic.Bool   // bytes have come

	mu    sync.Mutex
	timer [2]*time.Timer // of read and write
	late  bool           // a deadline has passed and ended the connection
	shut  bool
	left  chan struct{} // closed when another stream has taken over the connection
}

func newStream(gone <-chan bool, hangUp func()) *stream {
	return &stream{gone: gone, hangUp: hangUp, said: make(chan struct{}), left: make(chan struct{})}
}

// orNil keeps a nil *stream from becoming a net.Conn that is not nil.
func (s *stream) orNil() net.Conn {
	if s == nil {
		return nil
	}
	return s
}

func (s *stream) start(ping func()) {
	go func() {
		defer close(s.said)
		text, _ := io.ReadAll(io.LimitReader(s.failed, maxErrorText))
		s.text = ending(strings.TrimSpace(string(text)))
		if s.text != "" {
			_ = s.data.Reset() // the node is done with this stream, and may forget to end the other
		}
	}()
	if ping == nil {
		return
	}
	go func() {
		tick := time.NewTicker(pingPeriod)
		defer tick.Stop()
		for {
			select {
			case <-s.gone:
				return
			case <-s.left:
				return
			case <-tick.C:
				ping()
			}
		}
	}()
}

// maxEnding bounds what is shown of a node's words, in bytes.
const maxEnding = 160

// refusedDial is what lies innermost in a node's words, said for one family and then for the other.
var refusedDial = regexp.MustCompile(`dial tcp[46]? (\S+): connect: ([a-z ]+?)(?: IPv6.*)?$`)

// ending is the end of a node's words: each layer of the node puts its own before, with namespaces and numbers that mean
// nothing to a developer.
func ending(words string) string {
	if m := refusedDial.FindStringSubmatch(words); m != nil {
		return m[1] + ": " + m[2]
	}
	if len(words) <= maxEnding {
		return words
	}
	words = strings.ToValidUTF8(words[len(words)-maxEnding:], "")
	if _, after, found := strings.Cut(words, ": "); found {
		words = after
	}
	return "… " + words
}

// Read returns ErrNotYet where the pod refused the connection, and the node's own words for any other failure.
func (s *stream) Read(p []byte) (int, error) {
	n, err := s.data.Read(p)
	if n > 0 {
		s.begun.Store(true)
	}
	if err == nil {
		return n, nil
	}
	return n, s.why(err)
}

func (s *stream) Write(p []byte) (int, error) {
	n, err := s.data.Write(p)
	if err != nil {
		err = s.why(err)
		if errors.Is(err, io.EOF) {
			err = net.ErrClosed
		}
	}
	return n, err
}

// why finds the reason of an end.
func (s *stream) why(err error) error {
	s.mu.Lock()
	late, shut := s.late, s.shut
	s.mu.Unlock()
	if late {
		return os.ErrDeadlineExceeded
	}
	if shut {
		return net.ErrClosed
	}
	wait := time.NewTimer(errorWait)
	defer wait.Stop()
	select {
	case <-s.said: // at the latest when the connection ends
	case <-wait.C:
		return err
	}
	switch {
	case s.text == "" && !errors.Is(err, io.EOF):
		return fmt.Errorf("kube: port-forward: %w", err)
	case s.text == "":
		return err
	case !s.begun.Load():
		return fmt.Errorf("kube: %w: %s", ErrNotYet, s.text)
	default:
		return fmt.Errorf("kube: port-forward: %s", s.text)
	}
}

// CloseWrite ends our direction; the pod's process reads an end of file.
func (s *stream) CloseWrite() error {
	if err := s.data.Close(); err != nil {
		return fmt.Errorf("kube: ending a direction: %w", err)
	}
	return nil
}

// again ends a stream that was refused and opens another in its place, over the same connection: that costs one round
// trip, a new connection four. Where it cannot be, both are closed and the error says why.
func (s *stream) again() (*stream, error) {
	s.mu.Lock()
	over := s.tunnel != nil && s.tunnel.opened < maxPairs && !s.shut && !s.late
	if over {
		s.shut = true
		close(s.left)
		for _, t := range s.timer {
			if t != nil {
				t.Stop()
			}
		}
	}
	s.mu.Unlock()
	if !over {
		_ = s.Close()
		return nil, net.ErrClosed
	}
	_ = s.data.Reset()
	_ = s.failed.Reset()
	return s.tunnel.open()
}

// Close ends both directions and the connection below.
func (s *stream) Close() error {
	s.mu.Lock()
	was := s.shut
	s.shut = true
	for _, t := range s.timer {
		if t != nil {
			t.Stop()
		}
	}
	s.mu.Unlock()
	if !was {
		s.end()
	}
	return nil
}

// end resets the streams, which wakes their readers, and closes the connection; a way that takes nothing any more is
// waited for no longer than goodbye.
func (s *stream) end() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.data.Reset()
		_ = s.failed.Reset()
	}()
	wait := time.NewTimer(goodbye)
	defer wait.Stop()
	select {
	case <-done:
	case <-wait.C:
	}
	s.hangUp()
}

func (s *stream) LocalAddr() net.Addr  { return address("stepin") }
func (s *stream) RemoteAddr() net.Addr { return address("port-forward") }

// address is an address of nothing: a port-forward has none that means anything here.
type address string

func (a address) Network() string { return "kube" }
func (a address) String() string  { return string(a) }

func (s *stream) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

func (s *stream) SetReadDeadline(t time.Time) error  { return s.deadline(0, t) }
func (s *stream) SetWriteDeadline(t time.Time) error { return s.deadline(1, t) }

// deadline ends the connection at t: SPDY's streams have none of their own.
func (s *stream) deadline(which int, t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shut {
		return net.ErrClosed
	}
	if old := s.timer[which]; old != nil {
		old.Stop()
		s.timer[which] = nil
	}
	if t.IsZero() {
		return nil
	}
	var mine *time.Timer
	mine = time.AfterFunc(time.Until(t), func() {
		s.mu.Lock()
		fires := s.timer[which] == mine && !s.shut && !s.late
		s.late = s.late || fires
		s.mu.Unlock()
		if fires {
			s.end()
		}
	})
	s.timer[which] = mine
	return nil
}

// framed writes each frame of SPDY at once. spdystream writes a frame's parts one by one, and each would be a WebSocket
// message, a TLS record and a system call of its own. Its caller writes one frame at a time.
type framed struct {
	net.Conn
	frame []byte
}

// frameHeader is what every frame of SPDY/3.1 begins with: four bytes of kind or stream, one of flags, three of length
// (draft-mbelshe-httpbis-spdy-00, 2.2).
const frameHeader = 8

// maxKept bounds what a large frame leaves behind.
const maxKept = 256 << 10

func (f *framed) Write(p []byte) (int, error) {
	f.frame = append(f.frame, p...)
	for len(f.frame) >= frameHeader {
		whole := frameHeader + int(binary.BigEndian.Uint32(f.frame[4:8])&0xffffff)
		if len(f.frame) < whole {
			break
		}
		if _, err := f.Conn.Write(f.frame[:whole]); err != nil {
			return 0, err
		}
		f.frame = append(f.frame[:0], f.frame[whole:]...)
		if cap(f.frame) > maxKept && len(f.frame) == 0 {
			f.frame = nil
		}
	}
	return len(p), nil
}
