package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// scope lends the hands of package e2e, which are a test's, to something that is no test: what fails there becomes an
// error here, and what is to be cleaned up is, when the scope ends. The embedded interface is nil: it is there for its
// unexported method, and whatever of it is not written below panics.
type scope struct {
	testing.TB
	ctx  context.Context
	name string
	log  io.Writer

	mu       sync.Mutex
	errs     []error
	cleanups []func()
}

// within runs work in a scope of its own. Its error is all that has failed, a skip included: a row that cannot be
// measured here has not been measured.
func within(ctx context.Context, name string, log io.Writer, work func(*scope)) error {
	s := &scope{ctx: ctx, name: name, log: log}
	s.run(func() { work(s) })
	for {
		s.mu.Lock()
		n := len(s.cleanups)
		if n == 0 {
			break
		}
		last := s.cleanups[n-1]
		s.cleanups = s.cleanups[:n-1]
		s.mu.Unlock()
		s.run(last)
	}
	defer s.mu.Unlock()
	return errors.Join(s.errs...)
}

// run runs f in a goroutine that FailNow can end, and waits.
func (s *scope) run(f func()) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f()
	}()
	<-ended
}

func (s *scope) note(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errs = append(s.errs, errors.New(strings.TrimSpace(text)))
}

func (s *scope) Helper()                  {}
func (s *scope) Name() string             { return s.name }
func (s *scope) Context() context.Context { return s.ctx }
func (s *scope) FailNow()                 { runtime.Goexit() }
func (s *scope) Log(args ...any)          { fmt.Fprintln(s.log, args...) }
func (s *scope) Logf(f string, a ...any)  { s.Log(fmt.Sprintf(f, a...)) }
func (s *scope) Error(args ...any)        { s.note(fmt.Sprintln(args...)) }
func (s *scope) Errorf(f string, a ...any) {
	s.note(fmt.Sprintf(f, a...))
}

func (s *scope) Fatal(args ...any) {
	s.Error(args...)
	s.FailNow()
}

func (s *scope) Fatalf(f string, a ...any) {
	s.Errorf(f, a...)
	s.FailNow()
}

func (s *scope) Skip(args ...any)         { s.Fatal(args...) }
func (s *scope) Skipf(f string, a ...any) { s.Fatalf(f, a...) }

func (s *scope) Failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.errs) > 0
}

func (s *scope) Cleanup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cleanups = append(s.cleanups, f)
}

func (s *scope) TempDir() string {
	dir, err := os.MkdirTemp("", "stepin-bench-")
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
