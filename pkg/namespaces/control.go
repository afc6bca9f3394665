package namespaces

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// The control socket joins session and holder: SEQPACKET, one JSON message each, descriptors beside it. The session speaks
// first (plan), the holder answers fuse, the session served, the holder ready; after that the session asks and the holder
// answers, one at a time. The end of either side is the end of the socket, and for the holder the sign to tidy up.
const (
	kindPlan    = "plan"    // session: build this
	kindFuse    = "fuse"    // holder: here is the FUSE descriptor, serve it
	kindServed  = "served"  // session: it is served
	kindReady   = "ready"   // holder: all is built; descriptors in the order of readyFiles
	kindFailed  = "failed"  // holder: this step failed; it exits
	kindSockets = "sockets" // session: make transparent sockets; holder: here they are
)

// maxMessage bounds one message, far below the kernel's default send buffer (208 KiB). A full plan has 512 paths.
const maxMessage = 96 << 10

// maxFiles is the kernel's limit of descriptors in one message (SCM_MAX_FD in unix(7)), less some.
const maxFiles = 128

// message is what the control socket carries; Kind says which of the fields count.
type message struct {
	Kind   string     `json:"kind"`
	Plan   *Plan      `json:"plan,omitempty"`
	Failed *stepError `json:"failed,omitempty"`
	Mounts int        `json:"mounts,omitempty"` // ready: how many were made
	Notes  []string   `json:"notes,omitempty"`  // ready: what could not be done, yet does not prevent the session
	Ports  *stepError `json:"ports,omitempty"`  // ready: why the debuggee cannot bind to ports below 1024
	Family int        `json:"family,omitempty"` // sockets: AF_INET or AF_INET6
	Count  int        `json:"count,omitempty"`  // sockets: how many, at most maxFiles
}

// stepError says which step of making the namespaces failed, in which call, with which errno.
type stepError struct {
	Step  string        `json:"step"` // one of the step constants
	Call  string        `json:"call"` // as a man page would name it, with its main argument
	Errno syscall.Errno `json:"errno"`
	Text  string        `json:"text,omitempty"` // where there was no errno
}

func (e *stepError) Error() string {
	if e.Errno == 0 {
		return e.Call + ": " + e.Text
	}
	return e.Call + ": " + e.Errno.Error()
}

// Unwrap returns the errno, so that errors.Is(err, unix.EPERM) holds.
func (e *stepError) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

// failedStep makes a stepError of err; nil stays nil.
func failedStep(step string, err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	e := &stepError{Step: step, Call: fmt.Sprintf(format, args...)}
	if !errors.As(err, &e.Errno) {
		e.Text = err.Error()
	}
	return e
}

// control is one end of the control socket. One goroutine at a time may use it.
type control struct{ *net.UnixConn }

// newControl takes over f.
func newControl(f *os.File) (control, error) {
	defer f.Close() // FileConn duplicates it
	c, err := net.FileConn(f)
	if err != nil {
		return control{}, fmt.Errorf("namespaces: taking the control socket: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return control{}, fmt.Errorf("namespaces: taking the control socket: it is a %T", c)
	}
	return control{u}, nil
}

// send writes one message; the descriptors stay the caller's.
func (c control) send(m message, fds ...int) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("namespaces: writing %s: %w", m.Kind, err)
	}
	if len(b) > maxMessage {
		return fmt.Errorf("namespaces: writing %s: %d bytes, at most %d", m.Kind, len(b), maxMessage)
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := c.WriteMsgUnix(b, oob, nil); err != nil {
		return fmt.Errorf("namespaces: writing %s: %w", m.Kind, err)
	}
	return nil
}

// receive reads one message. The descriptors are the caller's from here on, close-on-exec and blocking as they were made.
// The other side's end is io.EOF.
func (c control) receive() (message, []int, error) {
	b := make([]byte, maxMessage)
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, flags, _, err := c.ReadMsgUnix(b, oob)
	if err == nil && n == 0 && oobn == 0 {
		err = io.EOF // SEQPACKET has no other sign, and nobody sends an empty message
	}
	if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
		return message{}, nil, io.EOF
	}
	if err != nil {
		return message{}, nil, fmt.Errorf("namespaces: reading the control socket: %w", err)
	}
	fds := rights(oob[:oobn])
	var m message
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = fmt.Errorf("namespaces: reading the control socket: message or descriptors cut off")
	} else if err = json.Unmarshal(b[:n], &m); err != nil {
		err = fmt.Errorf("namespaces: reading the control socket: %w", err)
	}
	if err != nil {
		closeAll(fds)
		return message{}, nil, err
	}
	return m, fds, nil
}

// rights returns the descriptors in oob; what cannot be read holds none.
func rights(oob []byte) []int {
	var fds []int
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range msgs {
		if got, err := unix.ParseUnixRights(&msgs[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
