package demo

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// beside is a process that runs beside the demo and ends with it, whatever ends the demo. Goroutine: one that has started it
// and waits for its end.
type beside struct {
	cmd      *exec.Cmd
	out, err said
	ended    chan struct{} // closed when it has ended
}

// startBeside starts a command; atEnd is the signal that it gets when this process has died. The kernel sends it when the
// thread that was the parent ends (PR_SET_PDEATHSIG, prctl(2)), so that thread stays with it.
func startBeside(cmd *exec.Cmd, atEnd syscall.Signal) (*beside, error) {
	b := &beside{cmd: cmd, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &b.out, &b.err
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: atEnd}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(b.ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is what it has said
		}
	}()
	return b, <-started
}

// wait waits until it has said something on one of its streams.
func (b *beside) wait(ctx context.Context, s *said, text string) error {
	for {
		now, changed := s.now()
		if strings.Contains(now, text) {
			return nil
		}
		select {
		case <-changed:
		case <-b.ended:
			if now, _ := s.now(); strings.Contains(now, text) {
				return nil
			}
			return fmt.Errorf("%s has ended: %s", b.cmd.Args[0], b.err.String())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// end sends a signal and waits for the end, which after closeWait is a kill.
func (b *beside) end(sig syscall.Signal) {
	_ = b.cmd.Process.Signal(sig)
	select {
	case <-b.ended:
	case <-time.After(closeWait):
		_ = b.cmd.Process.Kill()
		<-b.ended
	}
}

// said is what a process has written to a stream, its end where that is much.
type said struct {
	mu      sync.Mutex
	b       []byte
	changed chan struct{} // closed and replaced at each change; nil while nobody waits
}

func (s *said) Write(p []byte) (int, error) {
	const most = 64 << 10 // bytes; a telling has some 2,000
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b = append(s.b, p...)
	s.b = s.b[max(0, len(s.b)-most):]
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
	return len(p), nil
}

// now is that, and what is closed when there is more.
func (s *said) now() (string, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return string(bytes.ToValidUTF8(s.b, nil)), s.changed
}

func (s *said) String() string {
	text, _ := s.now()
	return strings.TrimSpace(text)
}
