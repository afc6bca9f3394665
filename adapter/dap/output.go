package dap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// outputs are the debuggee's standard output and error as named pipes that the real debugger opens for it. So they
// hold nothing of the real debugger's own, and a grandchild that keeps them open holds nobody up: Delve's own way
// (outputMode remote) waits for their end before it says terminated.
//
// Goroutines: one reader per pipe, started by newOutputs, waiting on the pipe, ended by close.
type outputs struct {
	streams [2]*stream
	wg      sync.WaitGroup
}

// stream is one pipe. Only its reader uses buf.
type stream struct {
	path string
	file *os.File // open for writing, too, so that it never ends while we read
	emit func(text string)
	buf  []byte
	kept int // bytes at the start of buf: the beginning of a character whose rest has not come

	mu    sync.Mutex
	wants []chan struct{} // drains that wait
}

// outputChunk is the most one output event carries, in bytes.
const outputChunk = 32 << 10

// drainReads bounds one drain: twice what a pipe holds at most (fs.pipe-max-size, 1 MiB), so that a grandchild that
// never stops printing does not hold up the end.
const drainReads = 64

// newOutputs makes the two pipes in dir, with n in their names, and passes on what comes with its DAP category.
func newOutputs(dir string, n int, emit func(category, text string)) (*outputs, error) {
	o := &outputs{}
	for i, category := range []string{"stdout", "stderr"} {
		path := filepath.Join(dir, fmt.Sprintf("%s%d", category, n))
		if err := unix.Mkfifo(path, 0o600); err != nil {
			o.close()
			return nil, fmt.Errorf("dap: making a pipe for the debuggee's %s: %w", category, err)
		}
		f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
		if err != nil {
			o.close()
			return nil, fmt.Errorf("dap: opening the pipe for the debuggee's %s: %w", category, err)
		}
		s := &stream{path: path, file: f, buf: make([]byte, outputChunk), emit: func(text string) { emit(category, text) }}
		o.streams[i] = s
		o.wg.Go(s.read)
	}
	return o, nil
}

// paths are what the debuggee's standard output and error are opened from.
func (o *outputs) paths() (stdout, stderr string) { return o.streams[0].path, o.streams[1].path }

// drain returns when all that the debuggee had written before the call has been passed on. A nil outputs has nothing.
func (o *outputs) drain() {
	if o == nil {
		return
	}
	for _, s := range o.streams {
		s.drain()
	}
}

// close ends the readers. What writes to the pipes from now on gets EPIPE.
func (o *outputs) close() {
	if o == nil {
		return
	}
	for _, s := range o.streams {
		if s != nil {
			s.file.Close()
			os.Remove(s.path)
		}
	}
	o.wg.Wait()
}

func (s *stream) drain() {
	done := make(chan struct{})
	s.mu.Lock()
	s.wants = append(s.wants, done)
	s.mu.Unlock()
	if err := s.file.SetReadDeadline(time.Now()); err != nil {
		return // closed: the reader has ended or will
	}
	<-done
}

// read passes on until the pipe is closed. A passed deadline means that somebody wants it empty.
func (s *stream) read() {
	defer s.release()
	for {
		n, err := s.file.Read(s.buf[s.kept:])
		s.pass(n, false)
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.empty()
			if s.file.SetReadDeadline(time.Time{}) != nil {
				return
			}
			s.release()
		default:
			return
		}
	}
}

// empty reads what there is without waiting for more.
func (s *stream) empty() {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return
	}
	for range drainReads {
		var n int
		if raw.Control(func(fd uintptr) { n, err = unix.Read(int(fd), s.buf[s.kept:]) }) != nil || err != nil || n <= 0 {
			break
		}
		s.pass(n, false)
	}
	s.pass(0, true)
}

func (s *stream) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.wants {
		close(w)
	}
	s.wants = nil
}

// pass sends what is in buf after n more bytes came, but for a character that is cut at the end, unless all is set.
func (s *stream) pass(n int, all bool) {
	have := s.buf[:s.kept+n]
	s.kept = 0
	if len(have) == 0 {
		return
	}
	if cut := incomplete(have); !all && cut > 0 {
		rest := have[len(have)-cut:]
		have = have[:len(have)-cut]
		defer func() { s.kept = copy(s.buf, rest) }()
	}
	if len(have) > 0 {
		s.emit(string(have))
	}
}

// incomplete is the length of the UTF-8 sequence that begins at the end of b and lacks bytes, or 0.
func incomplete(b []byte) int {
	for n := 1; n <= min(len(b), utf8.UTFMax-1); n++ {
		if c := b[len(b)-n]; utf8.RuneStart(c) {
			if !utf8.FullRune(b[len(b)-n:]) {
				return n
			}
			return 0
		}
	}
	return 0
}
