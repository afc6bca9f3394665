// Package pair is the socketpair between the agent's two processes: the parent, which may open everything, and the
// child, which is in the pod. A message is one SEQPACKET packet of JSON with the descriptors that belong to it
// (SCM_RIGHTS, unix(7)). It must never know what a message means, and the parent must never trust one: the child reads
// bytes from outside.
package pair

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// Message is one packet. ID is chosen by the asker and comes back in the answer; 0 needs no answer.
type Message struct {
	ID    uint32          `json:"id,omitempty"`
	Op    string          `json:"op,omitempty"` // empty in an answer
	Errno uint16          `json:"errno,omitempty"`
	Text  string          `json:"text,omitempty"` // for people, with Errno
	Body  json.RawMessage `json:"body,omitempty"`
}

const (
	// maxMessage bounds a packet: the largest is a steal of 64 ports. Whatever is larger goes as a descriptor.
	maxMessage = 64 << 10
	// maxFiles is the kernel's own limit for one packet (SCM_MAX_FD in its include/net/scm.h).
	maxFiles = 253
)

// ErrClosed is the other process's end.
var ErrClosed = errors.New("pair: the other process has gone")

// Conn is one end. Any goroutine may Send; one may Recv. It owns its descriptor.
type Conn struct {
	// SendTimeout is how long a Send may wait for a receiver that does not read; 0 is for ever. Set before the first.
	SendTimeout time.Duration

	uc     *net.UnixConn
	sendMu sync.Mutex
	buf    []byte
	oob    []byte
}

// New makes a pair: an end for this process and the file to start the other process with, which the caller closes.
func New() (*Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("pair: socketpair: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "pair")
	mine, err := Open(os.NewFile(uintptr(fds[0]), "pair"))
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return mine, theirs, nil
}

// Open takes f over as an end.
func Open(f *os.File) (*Conn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("pair: not a socket: %w", err)
	}
	uc, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("pair: not a unix socket")
	}
	return &Conn{uc: uc, buf: make([]byte, maxMessage), oob: make([]byte, unix.CmsgSpace(4*maxFiles))}, nil
}

// Close closes this end; the other's Recv returns ErrClosed.
func (c *Conn) Close() error { return c.uc.Close() }

// Send sends m with files, which stay the caller's. A receiver that does not read makes it wait, no
// longer than SendTimeout.
func (c *Conn) Send(m Message, files ...*os.File) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("pair: encoding %q: %v", m.Op, err)
	}
	if len(raw) > maxMessage || len(files) > maxFiles {
		return fmt.Errorf("pair: message %q is too large", m.Op)
	}
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	if c.SendTimeout > 0 {
		_ = c.uc.SetWriteDeadline(time.Now().Add(c.SendTimeout))
	}
	if _, _, err := c.uc.WriteMsgUnix(raw, oob, nil); err != nil {
		return fmt.Errorf("%w (%v)", ErrClosed, err)
	}
	return nil
}

// Recv waits for the next message. Its files belong to the caller. The end of the other process is ErrClosed.
func (c *Conn) Recv() (Message, []*os.File, error) {
	n, oobn, flags, _, err := c.uc.ReadMsgUnix(c.buf, c.oob)
	if err != nil || n == 0 {
		if err == nil {
			err = io.EOF
		}
		return Message{}, nil, fmt.Errorf("%w (%v)", ErrClosed, err)
	}
	files, err := rights(c.oob[:oobn])
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("pair: message cut short")
	}
	var m Message
	if err == nil {
		if err = json.Unmarshal(c.buf[:n], &m); err != nil {
			err = fmt.Errorf("pair: decoding a message: %v", err)
		}
	}
	if err != nil {
		CloseAll(files)
		return Message{}, nil, err
	}
	return m, files, nil
}

func rights(oob []byte) (files []*os.File, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("pair: control message: %v", err)
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "passed"))
		}
	}
	return files, nil
}

// CloseAll closes files; nil ones are skipped.
func CloseAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// Answer makes the answer to m: body, or err's errno and text.
func Answer(m Message, body any, err error) Message {
	a := Message{ID: m.ID}
	if err != nil {
		refusal := wire.Refuse(err)
		a.Errno, a.Text = refusal.Errno, refusal.Message
		return a
	}
	if body != nil {
		if a.Body, err = json.Marshal(body); err != nil {
			a.Errno, a.Text = uint16(syscall.EIO), err.Error()
		}
	}
	return a
}
