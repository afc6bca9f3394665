package podlet

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// The control socket joins Pod and warden: SEQPACKET, one JSON message each, descriptors beside it. The pod asks, the warden
// answers, one at a time. What may be long (a plan, a volume) travels in a memfd. The end of the socket is the end of
// the warden, and with it of the whole pod.
const (
	opBuild  = "build"  // files: plan. Answered when network and files are there
	opRun    = "run"    // files: command, stdin, stdout, stderr, status. Answered with a pidfd when it has been executed
	opSocket = "socket" // answered with one socket
	opUpdate = "update" // files: Volume
)

// message is either way's; which fields count depends on Op.
type message struct {
	Op     string   `json:"op"`
	Socket socket   `json:"socket,omitzero"`
	Failed *Failure `json:"failed,omitempty"` // in an answer: it did not work
	Notes  []string `json:"notes,omitempty"`  // in an answer: what could not be done, and is no failure
}

// socket describes one to make.
type socket struct {
	Inside  bool           `json:"inside"` // in the pod, else outside
	Network string         `json:"network"`
	Six     bool           `json:"six"`
	Bind    netip.AddrPort `json:"bind,omitzero"` // invalid: not bound
	Listen  bool           `json:"listen"`
}

// Failure says which call failed, with which errno.
type Failure struct {
	Call  string        `json:"call,omitempty"` // as a man page would name it, with its main argument; "" where it was no step of ours
	Errno syscall.Errno `json:"errno,omitempty"`
	Text  string        `json:"text,omitempty"` // the whole text where Call is "", the cause where Errno is 0
}

func (f *Failure) Error() string {
	switch {
	case f.Call == "":
		return f.Text
	case f.Errno == 0:
		return f.Call + ": " + f.Text
	}
	return f.Call + ": " + f.Errno.Error()
}

// Unwrap returns the errno, so that errors.Is(err, unix.EPERM) holds.
func (f *Failure) Unwrap() error {
	if f.Errno == 0 {
		return nil
	}
	return f.Errno
}

// failed makes a Failure of err; nil stays nil, a Failure stays what it is.
func failed(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	var f *Failure
	if errors.As(err, &f) {
		return f
	}
	f = &Failure{Call: fmt.Sprintf(format, args...)}
	if !errors.As(err, &f.Errno) {
		f.Text = err.Error()
	}
	return f
}

// asFailure is failed for an error that names itself what was done.
func asFailure(err error) *Failure {
	var f *Failure
	if !errors.As(err, &f) {
		f = &Failure{Text: err.Error()}
		errors.As(err, &f.Errno)
	}
	return f
}

// maxMessage bounds one message, far below the kernel's default send buffer (208 KiB).
const maxMessage = 32 << 10

// maxFiles bounds the descriptors of one message.
const maxFiles = 8

// maxData bounds what a memfd carries: a plan with a thousand files of a few KiB each.
const maxData = 256 << 20

// control is one end of the control socket. One goroutine at a time may use it.
type control struct{ *net.UnixConn }

// newControl takes over f.
func newControl(f *os.File) (control, error) {
	defer f.Close() // FileConn duplicates it
	c, err := net.FileConn(f)
	if err != nil {
		return control{}, fmt.Errorf("podlet: taking the control socket: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return control{}, fmt.Errorf("podlet: taking the control socket: it is a %T", c)
	}
	return control{u}, nil
}

// send writes one message; the files stay the caller's.
func (c control) send(m message, files ...*os.File) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("podlet: writing %s: %w", m.Op, err)
	}
	if len(b) > maxMessage || len(files) > maxFiles {
		return fmt.Errorf("podlet: writing %s: %d bytes, %d files", m.Op, len(b), len(files))
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := c.WriteMsgUnix(b, oob, nil); err != nil {
		return fmt.Errorf("podlet: writing %s: %w", m.Op, err)
	}
	return nil
}

// receive reads one message. The files are the caller's from here on. The other side's end is io.EOF.
func (c control) receive() (m message, files []*os.File, err error) {
	b := make([]byte, maxMessage)
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, flags, _, err := c.ReadMsgUnix(b, oob)
	if err == nil && n == 0 && oobn == 0 || errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
		return m, nil, io.EOF // SEQPACKET has no other sign of the end, and nobody sends an empty message
	}
	if err != nil {
		return m, nil, fmt.Errorf("podlet: reading the control socket: %w", err)
	}
	parts, err := unix.ParseSocketControlMessage(oob[:oobn])
	for i := range parts {
		fds, _ := unix.ParseUnixRights(&parts[i])
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("message or descriptors cut off")
	}
	if err == nil {
		err = json.Unmarshal(b[:n], &m)
	}
	if err != nil {
		closeFiles(files)
		return m, nil, fmt.Errorf("podlet: reading the control socket: %w", err)
	}
	return m, files, nil
}

// pack puts v into memory that can be passed on as a descriptor; as gob, which leaves bytes that are no text as they are.
func pack(v any) (*os.File, error) {
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(v); err != nil {
		return nil, fmt.Errorf("podlet: packing: %w", err)
	}
	fd, err := unix.MemfdCreate("podlet", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("podlet: packing: memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "podlet")
	if _, err := f.Write(b.Bytes()); err != nil {
		f.Close()
		return nil, fmt.Errorf("podlet: packing: %w", err)
	}
	return f, nil
}

// unpack reads what pack has written.
func unpack(f *os.File, v any) error {
	if err := gob.NewDecoder(io.NewSectionReader(f, 0, maxData)).Decode(v); err != nil {
		return fmt.Errorf("podlet: unpacking: %w", err)
	}
	return nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
