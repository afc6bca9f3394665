package preload

import (
	"context"
	"errors"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// question is one message and the way back to whoever sent it. Every question ends with answer, fail or drop, once;
// what comes after does nothing.
type question struct {
	head Head
	body []byte // what follows the head
	pid  int    // by the kernel's word; the head's where it has none
	uid  int    // likewise; -1

	along int // the descriptor behind the pair, as it came; -1: none

	mu   sync.Mutex
	pair *os.File // the asker's end of the pair has the other one; nil: answered, or nobody waits
}

// parse reads a message that has come with its control data. The question is there even with an error, for the refusal.
func parse(message, oob []byte, flags int) (*question, error) {
	q := &question{uid: -1, along: -1}
	fds, err := q.rights(oob)
	for i, fd := range fds {
		switch i {
		case 0:
			_ = unix.SetNonblock(fd, true) // of this end only: the asker's is another description
			q.pair = os.NewFile(uintptr(fd), "asker")
		case 1:
			q.along = fd // untouched: the program has the same description
		default:
			unix.Close(fd)
		}
	}
	if err != nil {
		return q, err
	}
	if len(message) > MessageMax || flags&unix.MSG_TRUNC != 0 {
		return q, errors.New("preload: the message is too long")
	}
	if flags&unix.MSG_CTRUNC != 0 || len(fds) > 2 {
		return q, errors.New("preload: more descriptors than a message brings")
	}
	head, body, err := DecodeHead(message)
	if err != nil {
		return q, err
	}
	q.head, q.body = head, body
	if q.pid == 0 {
		q.pid = int(head.PID) // of another PID namespace
	}
	return q, nil
}

// rights takes the descriptors and the credentials.
func (q *question) rights(oob []byte) (fds []int, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for i := range messages {
		m := &messages[i]
		switch {
		case m.Header.Level != unix.SOL_SOCKET:
		case m.Header.Type == unix.SCM_RIGHTS:
			more, err := unix.ParseUnixRights(m)
			if err != nil {
				continue
			}
			for _, fd := range more {
				unix.CloseOnExec(fd)
			}
			fds = append(fds, more...)
		case m.Header.Type == unix.SCM_CREDENTIALS:
			if cred, err := unix.ParseUnixCredentials(m); err == nil {
				q.pid, q.uid = int(cred.Pid), int(cred.Uid)
			}
		}
	}
	return fds, nil
}

// takeAlong returns the descriptor that came along, once.
func (q *question) takeAlong() int {
	fd := q.along
	q.along = -1
	return fd
}

// closeAlong closes it, if nobody has taken it.
func (q *question) closeAlong() {
	if fd := q.takeAlong(); fd >= 0 {
		unix.Close(fd)
	}
}

// own copies the body, which lies in the connection's buffer.
func (q *question) own() { q.body = append([]byte(nil), q.body...) }

func (q *question) take() *os.File {
	q.mu.Lock()
	defer q.mu.Unlock()
	f := q.pair
	q.pair = nil
	return f
}

// answer sends body and tail, with descriptors, which stay the caller's. It says whether the asker still was there.
func (q *question) answer(body any, tail []byte, files ...*os.File) bool {
	return q.send(Head{Kind: q.head.Kind | KindAnswer}, body, tail, files...)
}

// fail answers with an errno.
func (q *question) fail(no syscall.Errno) {
	q.send(Head{Kind: q.head.Kind | KindAnswer, Error: int32(no)}, nil, nil)
}

// drop gives up the way back.
func (q *question) drop() {
	if f := q.take(); f != nil {
		f.Close()
	}
}

func (q *question) send(h Head, body any, tail []byte, files ...*os.File) bool {
	f := q.take()
	if f == nil {
		return false
	}
	defer f.Close()
	message, err := Encode(h, body, tail)
	if err != nil {
		if message, err = Encode(Head{Kind: h.Kind, Error: int32(syscall.EMSGSIZE)}, nil, nil); err != nil {
			return false
		}
		files = nil
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	var sent error
	// The one message of a fresh pair finds room; where the program has shut its end it is EPIPE.
	if err := raw.Control(func(fd uintptr) {
		sent = unix.Sendmsg(int(fd), message, rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	}); err != nil {
		return false
	}
	return sent == nil
}

// watch tells what the asker says through the pair while it waits: later, that it wants its connect to go on by itself;
// gone, that it has closed its end. It ends when either has been said, or when stop is called; stop waits for that.
func (q *question) watch() (later, gone <-chan struct{}, stop func()) {
	q.mu.Lock()
	f := q.pair
	q.mu.Unlock()
	l, g, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	if f == nil {
		close(done)
		close(g)
		return l, g, func() {}
	}
	_ = f.SetReadDeadline(noDeadline)
	go func() {
		defer close(done)
		buf := make([]byte, MessageMax)
		said := false
		for {
			n, err := f.Read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
			if err != nil || n == 0 {
				close(g)
				return
			}
			if h, _, err := DecodeHead(buf[:n]); err == nil && h.Kind == KindLater && !said {
				said = true
				close(l)
			}
		}
	}()
	return l, g, func() {
		_ = f.SetReadDeadline(longAgo)
		<-done
	}
}

// untilGone is a context that ends with the asker.
func (q *question) untilGone(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	_, gone, stop := q.watch()
	left := make(chan struct{})
	go func() {
		defer close(left)
		select {
		case <-gone:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel()
		<-left
		stop()
	}
}
