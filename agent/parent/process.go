package parent

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/agent/pair"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// childProcess is one child. It owns its end of the pair.
//
// Goroutines: wait and watch (end with the process), receive (ends with the pair or the process).
type childProcess struct {
	cmd      *exec.Cmd
	conn     *pair.Conn
	messages chan message  // what it asks; closed when it has gone
	done     chan struct{} // closed when it has ended
	log      *slog.Logger
	handing  atomic.Bool  // receive has a message that the loop has not taken yet
	silent   atomic.Int32 // pings since the last sign of life
	words    *lastWords
}

// lastWords passes on what the child says on its standard error, and keeps the end of it: why it could not become what
// it was to be.
type lastWords struct {
	mu  sync.Mutex
	end []byte
}

const maxWords = 1 << 10

func (w *lastWords) Write(b []byte) (int, error) {
	w.mu.Lock()
	w.end = append(w.end, b...)
	w.end = w.end[max(0, len(w.end)-maxWords):]
	w.mu.Unlock()
	return os.Stderr.Write(b)
}

// String is the last line, without the program's name.
func (w *lastWords) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := strings.TrimSpace(string(w.end))
	line := strings.TrimSpace(text[strings.LastIndexByte(text, '\n')+1:])
	return printable(strings.TrimPrefix(line, "stepin-agent: "))
}

const (
	// sendWait is what a child gets to take a message. One that lives takes it at once.
	sendWait = 5 * time.Second
	// pingEvery and maxSilent bound how long a child that hangs keeps the pod's ports: somewhat longer than its sessions
	// wait for a sign of life. Pings are counted, not seconds: after this machine's sleep a child gets its time again.
	pingEvery = time.Second
	maxSilent = 4
)

type message struct {
	from *childProcess
	pair.Message
}

// ChildArg is the agent's only argument when it is the child, which finds its end of the pair as descriptor 3.
const ChildArg = "child"

// startChild starts a child in the pod's namespaces; it waits for its start message.
func startChild(in *inside, log *slog.Logger) (*childProcess, []string, error) {
	var limits []string
	if in.uts != nil {
		limits = append(limits, fmt.Sprintf("the host name is this machine's, not the pod's: setns: %v", in.uts))
	}
	p, err := runChild(in, log, unix.CLONE_NEWPID)
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) {
		limits = append(limits, fmt.Sprintf("the agent has no process numbers of its own, so other processes of the pod's user can end it: CLONE_NEWPID: %v", wire.ErrnoOf(err, syscall.EPERM)))
		p, err = runChild(in, log, 0)
	}
	return p, limits, err
}

func runChild(in *inside, log *slog.Logger, flags uintptr) (*childProcess, error) {
	conn, theirs, err := pair.New()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	words := &lastWords{}
	// This program itself, whatever has happened to its file since.
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{"stepin-agent", ChildArg}, Dir: "/",
		Env: []string{"STEPIN_LOG=" + os.Getenv("STEPIN_LOG")}, Stderr: words, ExtraFiles: []*os.File{theirs},
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL, Setsid: true}}
	if err := in.do(cmd.Start); err != nil {
		conn.Close()
		return nil, fmt.Errorf("starting the child: %w", err)
	}
	p := newChildProcess(cmd, conn, log)
	p.words = words
	return p, nil
}

// newChildProcess takes over a process that has been started and its end of the pair.
func newChildProcess(cmd *exec.Cmd, conn *pair.Conn, log *slog.Logger) *childProcess {
	conn.SendTimeout = sendWait
	p := &childProcess{cmd: cmd, conn: conn, log: log, messages: make(chan message), done: make(chan struct{}), words: &lastWords{}}
	go func() {
		_ = cmd.Wait()
		close(p.done)
	}()
	return p
}

// begin tells the child what it is. From then on its questions arrive in messages.
func (p *childProcess) begin(s pair.Start, files []*os.File) error {
	raw, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := p.send(pair.Message{Op: pair.OpStart, Body: raw}, files...); err != nil {
		return err
	}
	go p.receive()
	go p.watch()
	return nil
}

// send kills a child that does not take its messages: what it was asked or told would be lost.
func (p *childProcess) send(m pair.Message, files ...*os.File) error {
	err := p.conn.Send(m, files...)
	if err != nil {
		p.kill(err)
	}
	return err
}

// kill has the loop see the child's end.
func (p *childProcess) kill(why error) {
	select {
	case <-p.done: // it has ended by itself
		return
	default:
	}
	p.log.Warn("ending the child", "why", why)
	_ = p.cmd.Process.Kill()
}

// watch kills a child that gives no sign of life: stopped or hanging it would keep the pod's ports from everybody.
func (p *childProcess) watch() {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-tick.C:
		}
		if p.handing.Load() {
			p.silent.Store(0)
		}
		if p.silent.Add(1) > maxSilent {
			p.kill(fmt.Errorf("no sign of life for %v", maxSilent*pingEvery))
			return
		}
		if p.send(pair.Message{Op: pair.OpPing}) != nil {
			return
		}
	}
}

func (p *childProcess) receive() {
	defer close(p.messages)
	for {
		m, files, err := p.conn.Recv()
		if err != nil {
			p.log.Debug("the child's end of the pair", "err", err)
			return
		}
		pair.CloseAll(files)
		p.silent.Store(0)
		if m.Op == pair.OpPong {
			continue
		}
		p.handing.Store(true)
		select {
		case p.messages <- message{p, m}:
		case <-p.done:
			return
		}
		p.handing.Store(false)
	}
}

// end kills the child and waits until it is gone.
func (p *childProcess) end() {
	_ = p.cmd.Process.Kill()
	<-p.done
	p.conn.Close()
}

// retire has it say goodbye to its sessions and end by itself.
func (p *childProcess) retire(r pair.Retire) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return p.send(pair.Message{Op: pair.OpRetire, Body: raw})
}
