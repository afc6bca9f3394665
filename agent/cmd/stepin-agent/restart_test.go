package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// TestSuccessor: another process of the same executable takes the target's place. Where it is the same user's nothing
// breaks but the files' root changes; else (the actor's spare is root's) the child is replaced.
func TestSuccessor(t *testing.T) {
	p := servePod(t, spareEnv+"=1")
	a := startAgent(t, p.pid)
	s := a.join("one", "")
	s.mustSteal(tcp(8080))
	next := p.do(command{Do: "successor"}).N
	t.Cleanup(func() { _ = syscall.Kill(next, syscall.SIGKILL) })
	old := a.childPid()
	_ = p.in.Encode(command{Do: "exit"})
	if ordinary() {
		until(t, 5*time.Second, "the agent follows", func() bool { return strings.Contains(a.err.String(), "took the target's place") })
		var attr wire.Attr
		if _, err := s.open(wire.KindLstat, wire.Path{Path: "/app/file"}, &attr); err != nil || attr.Size != 5 {
			t.Errorf("a file: %+v, %v", attr, err)
		}
		if a.childPid() != old || s.Err() != nil || !strings.HasSuffix(s.describe().Target, "("+filepath.Base(os.Args[0])+")") {
			t.Errorf("child %d, was %d; session %v, %q", a.childPid(), old, s.Err(), s.describe().Target)
		}
	} else {
		<-s.Done()
		if errors.As(s.Err(), &mux.ByeError{}) {
			t.Fatalf("the session was told to go: %v", s.Err())
		}
		resume := s.welcome.Resume
		until(t, 5*time.Second, "the session is back", func() (ok bool) {
			again, err := a.hello("one", resume)
			if err == nil {
				s = again
			}
			return err == nil
		})
		if !s.welcome.Resumed || a.childPid() == old {
			t.Errorf("resumed %v, child %d", s.welcome.Resumed, a.childPid())
		}
		s.mustSteal(tcp(8080))
	}
	if err := syscall.Kill(next, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, 20*time.Second, "the agent's end", func() bool {
		select {
		case <-a.done:
			return true
		default:
			return false
		}
	})
	var bye mux.ByeError
	if !errors.As(s.Err(), &bye) || !strings.Contains(bye.Reason, "has ended and no other took its place") {
		t.Errorf("goodbye: %v", s.Err())
	}
	if a.cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("%v", a.cmd.ProcessState)
	}
}
