// Package wire is the format of the channel between a session and an agent: the header that opens every stream, the
// reply that answers it, the messages of the control stream, and the chunks of datagram and mirrored flows. It
// knows bytes and nothing else: it must never open, dial or log anything.
//
// Every message is a frame:
//
//	0  2  magic "SI"
//	2  1  version, Version
//	3  1  kind, a Kind
//	4  4  length of the body, big-endian, at most MaxBody
//	8  .  body, one JSON object (Credit: binary, see there)
//
// # What keeps the wire compatible
//
// Adding a kind (the peer answers EOPNOTSUPP to an unknown stream and skips an unknown control message), adding an
// optional field to a body (unknown fields are skipped), adding a feature name to Hello.
//
// # What breaks it, and so needs a new Version
//
// Changing the frame, giving a kind or a field another meaning, making a field required, removing one. A peer of
// another Version is refused in words: the frame's first three bytes never change their place.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
)

// Version is the wire's major version.
const Version = 1

// MaxBody bounds one frame's body: a header is a few hundred bytes, a batch of DNS questions a few thousand.
// Whatever is larger (an environment, a directory) follows as the stream's bytes.
const MaxBody = 64 << 10

const headerLen = 8

// Kind says what a frame is.
type Kind uint8

// Kinds that open a stream. The session opens them unless said otherwise.
const (
	KindReply      Kind = 0  // answers every kind of this block, before any byte flows
	KindHello      Kind = 1  // the control stream: Hello, answered by Welcome
	KindDescribe   Kind = 2  // Describe: what the pod is; the reply is followed by one JSON Pod until the end of the stream
	KindDial       Kind = 3  // an outgoing TCP flow: Dial, answered by Dialed, then bytes
	KindAssociate  Kind = 4  // an outgoing UDP flow: Dial, answered by Dialed, then chunks
	KindLookup     Kind = 5  // DNS questions: Lookup, then one chunk an answer
	KindSteal      Kind = 6  // Steal; the stream's life is the steal's life
	KindMirror     Kind = 7  // Steal's fields, for a copy; the stream's life is the mirror's life. The agent writes Mirrored values to it
	KindIncoming   Kind = 8  // by the agent: a stolen TCP flow: Incoming, then bytes
	KindIncomingDG Kind = 9  // by the agent: a stolen UDP flow: Incoming, then chunks
	KindCopy       Kind = 10 // by the agent: a mirrored flow: Incoming, then chunks until the client's end or a gap; nothing comes back
	KindWatch      Kind = 11 // small volumes: Watch, then Snapshots for as long as the stream lives
	KindLstat      Kind = 12 // Path, answered by Attr
	KindReadlink   Kind = 13 // Path, answered by Link
	KindReaddir    Kind = 14 // Path; the reply is followed by JSON DirEntry values until the end of the stream
	KindOpen       Kind = 15 // Path, answered by Opened, its first bytes, then ReadRequest and answer in turn
	KindAttach     Kind = 16 // a debugger on the process in the pod: Attach, then DAP
	KindSessions   Kind = 17 // who uses this agent; the reply is followed by one JSON []SessionInfo until the end of the stream
	KindStop       Kind = 18 // Stop: ends a session of the same token
)

// Kinds of the control stream after Welcome.
const (
	KindHeartbeat Kind = 64 // {}; both ways
	KindCredit    Kind = 65 // Credit
	KindReset     Kind = 66 // Reset
	KindState     Kind = 67 // State, by the session
	KindNotice    Kind = 68 // Notice, by the agent
	KindBye       Kind = 69 // Bye: the sender ends on purpose
	KindTarget    Kind = 70 // Target, by the session: which container took the ended one's place
)

// Errors of reading a frame. None of them can be recovered from on the same stream.
var (
	ErrMagic   = errors.New("wire: not a stepin channel")
	ErrTooLong = errors.New("wire: frame longer than allowed")
)

// VersionError is a frame of another major version.
type VersionError struct{ Theirs uint8 }

func (e VersionError) Error() string {
	return fmt.Sprintf("wire: the other side speaks version %d, this one %d", e.Theirs, Version)
}

// Append appends a frame to b. It fails with ErrTooLong, or where body cannot be JSON.
func Append(b []byte, kind Kind, body any) ([]byte, error) {
	var raw []byte
	switch v := body.(type) {
	case nil:
		raw = []byte("{}")
	case Credit:
		raw = v.append(nil)
	default:
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return b, fmt.Errorf("wire: encoding kind %d: %v", kind, err)
		}
	}
	if len(raw) > MaxBody {
		return b, ErrTooLong
	}
	b = append(b, 'S', 'I', Version, byte(kind))
	b = binary.BigEndian.AppendUint32(b, uint32(len(raw)))
	return append(b, raw...), nil
}

// Write writes one frame with a single call of w.Write.
func Write(w io.Writer, kind Kind, body any) error {
	b, err := Append(nil, kind, body)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// Read reads one frame and not a byte more. A clean end before the frame is io.EOF, one within it io.ErrUnexpectedEOF.
func Read(r io.Reader) (Kind, []byte, error) {
	var h [headerLen]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, err
	}
	if h[0] != 'S' || h[1] != 'I' {
		return 0, nil, ErrMagic
	}
	if h[2] != Version {
		return 0, nil, VersionError{h[2]}
	}
	n := binary.BigEndian.Uint32(h[4:])
	if n > MaxBody {
		return 0, nil, ErrTooLong
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, noEOF(err)
	}
	return Kind(h[3]), body, nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Decode reads a JSON body. Unknown fields are skipped: they are how the wire grows.
func Decode(body []byte, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("wire: decoding %T: %v", v, err)
	}
	return nil
}

// Reply answers the header of a stream. Errno 0 means accepted. Message is for people and may be empty.
type Reply struct {
	Errno   uint16          `json:"errno,omitempty"`
	Message string          `json:"message,omitempty"`
	Body    json.RawMessage `json:"body,omitempty"`
}

// Refusal is a Reply with an errno, as an error. errors.Is matches it with its syscall.Errno.
type Refusal struct {
	Errno   syscall.Errno
	Message string
}

func (e *Refusal) Error() string {
	if e.Message != "" {
		return e.Message
	}
	return e.Errno.Error()
}

// Unwrap returns the errno.
func (e *Refusal) Unwrap() error { return e.Errno }

// maxErrno is the largest errno Linux knows (MAX_ERRNO in its include/linux/err.h).
const maxErrno = 4095

// Errno makes an errno that came by the wire safe to use: one that Linux does not know becomes EIO.
func Errno(n uint16) syscall.Errno {
	if n > maxErrno {
		return syscall.EIO
	}
	return syscall.Errno(n)
}

// ErrnoOf finds the errno in err's chain; what has none, time-outs apart, is otherwise.
func ErrnoOf(err error, otherwise syscall.Errno) syscall.Errno {
	var no syscall.Errno
	if errors.As(err, &no) {
		return no
	}
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return syscall.ETIMEDOUT
	}
	return otherwise
}

// Refuse makes the Reply of an error: its errno, or EIO, and its text without line breaks, so that it stays one line
// wherever it is shown.
func Refuse(err error) Reply {
	text := strings.Join(strings.Fields(err.Error()), " ")
	const longest = 1000 // a sentence, not a log
	if len(text) > longest {
		text = strings.ToValidUTF8(text[:longest], "")
	}
	return Reply{Errno: uint16(ErrnoOf(err, syscall.EIO)), Message: text}
}
