package dap

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/peer"
)

// maxSocketPath is the longest path of a unix socket: sun_path holds 108 bytes with its end (unix(7)).
const maxSocketPath = 107

// run is one real debugger with its debuggee: a launch makes one, and each restart.
//
// Goroutines: (1) the reader of its messages, which forwards them in order; (2) the watcher of its process (not in a
// terminal); (3) the reader of its own output (not in a terminal); (4) the watcher of a debuggee that stands
// (standing.go). All end when the process has.
type run struct {
	c       *conversation
	name    string
	link    *link
	process *os.Process   // a pidfd where the kernel has them: killing never hits a stranger
	exited  chan struct{} // the process has been reaped; nil in a terminal
	outs    *outputs
	start   starting
	session *live
	gone    chan struct{} // the reader has ended
	ids     *translation  // nil in the first run
	way     Way
	drop    []string // variables that a terminal must not bring
	entries int      // programs that terminals were asked for, with mu
	socket  string   // where it listens, if it Serves

	mu        sync.Mutex
	quiet     bool              // ended on purpose: what it still says is not for the editor
	ending    bool              // it was asked to disconnect
	finished  bool              // it said terminated
	debuggees []*os.Process     // from process events
	relays    map[string]*relay // where child sessions connect, by network
	childless bool              // no more of them
	last      []string          // the last lines it printed itself
	status    string            // how its process ended
}

// starting says what a run is started for.
type starting struct {
	first    bool
	onLaunch func(answer *Message) // its answer to the launch request; nil: it ended before
	onReady  func(r *run)          // its initialized event, in runs after the first; must not wait
}

// startRun starts the real debugger, connects and sends it initialize and launch. On an error nothing is left of it.
func (c *conversation) startRun(ctx context.Context, s *live, d Debugger, program string, st starting) (*run, error) {
	c.mu.Lock()
	c.memory.runs++
	n := c.memory.runs
	c.mu.Unlock()
	dir := s.runner.Dir()
	socket := filepath.Join(dir, fmt.Sprintf("dap%d", n))
	if len(socket) > maxSocketPath {
		return nil, fail.New(fail.DebuggerFailed, "set XDG_RUNTIME_DIR or TMPDIR to a shorter path",
			"the path of the debugger's socket, %s, is longer than the %d bytes a socket may have", socket, maxSocketPath)
	}
	command := d.Command(socket)
	r := &run{c: c, name: d.Name(), start: st, session: s, gone: make(chan struct{}), way: command.Way, drop: command.Drop, socket: socket}
	var err error
	if command.Way == Dials && d.Console() == InternalConsole {
		if r.outs, err = newOutputs(dir, n, c.print); err != nil {
			return nil, err
		}
	}
	args, err := r.arguments(d, program)
	if err == nil {
		err = r.spawn(ctx, d, command)
	}
	if err != nil {
		r.kill()
		r.outs.close()
		return nil, err
	}
	if !st.first {
		r.ids = newTranslation()
	}
	c.introduce(r, "launch", args)
	return r, nil
}

// introduce makes the real debugger the conversation's and sends it initialize and launch (or attach).
func (c *conversation) introduce(r *run, command string, args json.RawMessage) {
	c.mu.Lock()
	c.run = r
	init := c.initArgs
	c.mu.Unlock()
	r.ask("initialize", initializeArguments(init), func(m *Message) {
		if m != nil && m.Success {
			c.correct(m.Field("body"))
		}
	})
	r.ask(command, args, r.start.onLaunch)
	c.wg.Go(r.serve)
}

// initializeArguments are the editor's, with the protocol's defaults written out: Delve reads absent ones as false.
func initializeArguments(args json.RawMessage) json.RawMessage {
	for name, value := range map[string]string{"pathFormat": `"path"`, "linesStartAt1": "true", "columnsStartAt1": "true"} {
		args = withField(args, name, json.RawMessage(value))
	}
	return args
}

// correct tells the editor where the real debugger can more or less than was announced.
func (c *conversation) correct(body json.RawMessage) {
	can := map[string]json.RawMessage{}
	if decode(body, &can) != nil {
		return
	}
	c.mu.Lock()
	c.cancels = string(can["supportsCancelRequest"]) == "true"
	differ := map[string]json.RawMessage{}
	for name, v := range can {
		if (c.child || !ownCapabilities[name]) && compact(v) != compact(c.announced[name]) {
			differ[name], c.announced[name] = v, v
		}
	}
	for name, v := range c.announced {
		if _, ok := can[name]; !ok && string(v) == "true" && (c.child || !ownCapabilities[name]) {
			differ[name], c.announced[name] = json.RawMessage("false"), json.RawMessage("false")
		}
	}
	c.mu.Unlock()
	if len(differ) > 0 {
		c.toEditor(newEvent("capabilities", map[string]any{"capabilities": differ}))
	}
}

// compact makes equal JSON texts equal strings; an absent capability is false.
func compact(v json.RawMessage) string {
	if len(v) == 0 || string(v) == "null" {
		return "false"
	}
	var any any
	if json.Unmarshal(v, &any) != nil {
		return string(v)
	}
	b, err := json.Marshal(any)
	if err != nil {
		return string(v)
	}
	return string(b)
}

func (r *run) arguments(d Debugger, program string) (json.RawMessage, error) {
	l := Launching{Program: program, Wrap: r.session.runner.Wrap, Environ: r.session.runner.PodEnviron, Children: r.c.hasChildren()}
	if r.outs != nil {
		l.Stdout, l.Stderr = r.outs.paths()
	}
	return d.Arguments(l)
}

// spawn starts the process and connects to it.
func (r *run) spawn(ctx context.Context, d Debugger, command Command) (err error) {
	var conn io.ReadWriteCloser
	switch command.Way {
	case Streams:
		conn, err = r.startStreams(command, d)
	case Serves:
		conn, err = r.startServer(ctx, command, d)
	default:
		conn, err = r.startInside(ctx, command, d)
	}
	if err == nil {
		r.link = newLink(r.name, conn, r.c.log)
	}
	return err
}

// startInside starts a real debugger that dials, in the editor's terminal if the configuration says so, and accepts its
// connection.
func (r *run) startInside(ctx context.Context, command Command, d Debugger) (io.ReadWriteCloser, error) {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: r.socket, Net: "unix"})
	if err != nil {
		return nil, fail.Wrap(fail.DebuggerFailed, err, "", "no socket for the debugger")
	}
	defer listener.Close() // removes the path, too
	argv := r.session.runner.Wrap(command.Argv)
	limit := connectTime
	if d.Console() == InternalConsole {
		err = r.startProcess(argv, command, d, nil, nil)
	} else {
		limit = terminalTime
		err = r.c.runInTerminal(ctx, argv, command, d)
	}
	if err != nil {
		return nil, err
	}
	conn, pid, err := r.accept(ctx, listener, limit)
	if err != nil {
		return nil, err
	}
	if r.process == nil {
		if r.process, err = os.FindProcess(pid); err != nil {
			r.c.log.Debug("finding the debugger's process", "error", err)
		}
	}
	return conn, nil
}

// startProcess starts the real debugger. What it prints is read for Log; with stdout its standard output is another's.
func (r *run) startProcess(argv []string, command Command, d Debugger, stdin, stdout *os.File) error {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Dir = command.Env, command.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an editor's SIGINT to its own group is not for the debuggee
	if command.Way != Dials {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL // outside no holder ends it when we are killed
	}
	own, into, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("dap: making a pipe for %s: %w", r.name, err)
	}
	cmd.Stdout, cmd.Stderr = into, into
	if stdout != nil {
		cmd.Stdin, cmd.Stdout = stdin, stdout
	}
	r.exited = make(chan struct{})
	begun := make(chan error, 1)
	r.c.wg.Go(func() {
		// The signal comes when the thread that started the process ends (prctl(2), PR_SET_PDEATHSIG).
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		into.Close()
		begun <- err
		if err != nil {
			return
		}
		cmd.Wait()
		r.mu.Lock()
		r.status = cmd.ProcessState.String()
		r.mu.Unlock()
		close(r.exited)
		// Grandchildren may hold the pipe open for ever.
		time.AfterFunc(politeEnd, func() { own.Close() })
	})
	if err := <-begun; err != nil {
		r.exited = nil
		own.Close()
		return fail.Wrap(fail.DebuggerFailed, err, "stepin doctor", "%s does not start", r.name)
	}
	r.process = cmd.Process
	r.c.wg.Go(func() { r.readOwn(own, d) })
	return nil
}

// readOwn shows what the real debugger prints itself as far as it wants, and keeps the last lines for its obituary.
func (r *run) readOwn(from io.ReadCloser, d Debugger) {
	const keep, longest = 20, 4 << 10 // lines; bytes of each
	defer from.Close()
	ownLines(from, func(line string) {
		text, show := d.Log(line)
		r.mu.Lock()
		r.last = append(r.last, text[:min(len(text), longest)])
		r.last = r.last[max(0, len(r.last)-keep):]
		r.mu.Unlock()
		if show {
			r.c.print("console", text+"\n")
		}
	})
}

// maxOwnLine bounds a line that a real debugger prints itself, in bytes. The longest is its log of a launch request, with
// an environment in it.
const maxOwnLine = 2 << 20

// ownLines calls line with each line that is not empty, until the stream ends. A line that is too long is left out
// whole: what is to be blotted out in it could not be found in pieces.
func ownLines(from io.Reader, line func(string)) {
	in := bufio.NewReader(from)
	var whole []byte
	long := false
	for {
		b, err := in.ReadSlice('\n')
		if long = long || len(whole)+len(b) > maxOwnLine; !long {
			whole = append(whole, b...)
		}
		if err == bufio.ErrBufferFull {
			continue
		}
		text := strings.TrimRight(string(whole), "\r\n")
		if long {
			text = fmt.Sprintf("(a line of more than %d bytes is left out)", maxOwnLine)
		}
		if text != "" {
			line(text)
		}
		if err != nil {
			return
		}
		whole, long = nil, false
	}
}

// accept waits for the connection of a process of the same user, and returns it with its pid.
func (r *run) accept(ctx context.Context, listener *net.UnixListener, limit time.Duration) (net.Conn, int, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	type caller struct {
		conn *net.UnixConn
		pid  int
	}
	found := make(chan caller, 1)
	go func() { // ends with the listener, which startRun closes
		for {
			conn, err := listener.AcceptUnix()
			if err != nil {
				close(found)
				return
			}
			if pid, err := peer.SameUserPID(conn); err == nil {
				found <- caller{conn, pid}
				return
			}
			conn.Close()
		}
	}()
	select {
	case p, ok := <-found:
		if !ok {
			return nil, 0, r.death()
		}
		return p.conn, p.pid, nil
	case <-r.exited:
	case <-ctx.Done():
	}
	listener.Close()
	if p, ok := <-found; ok {
		p.conn.Close()
	}
	if ctx.Err() == context.DeadlineExceeded {
		return nil, 0, fail.New(fail.DebuggerFailed, "stepin doctor", "%s did not connect within %s", r.name, limit)
	}
	if ctx.Err() != nil {
		return nil, 0, ctx.Err()
	}
	return nil, 0, r.death()
}

// ask sends a request of ours; done gets the answer, or nil if there will be none.
func (r *run) ask(command string, args any, done func(*Message)) {
	if _, err := r.link.ask(newRequest(command, args), &pending{command: command, done: done}); err != nil && done != nil {
		done(nil)
	}
}

// death is the error of a real debugger that ended by itself.
func (r *run) death() error {
	if r.exited != nil {
		select { // its last words and status come a moment after its connection ends
		case <-r.exited:
		case <-time.After(flushEnd):
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	what := r.name + " ended unexpectedly"
	if r.status != "" {
		what += " (" + r.status + ")"
	}
	if n := len(r.last); n > 0 {
		what += "; its last line: " + r.last[n-1]
	}
	return fail.New(fail.DebuggerFailed, "start it again; if it happens again, `stepin doctor` checks the machine", "%s", what)
}

// kill ends the real debugger and the debuggee without asking. What a real debugger outside has started is ended with
// it: it may be in the middle of starting the debuggee.
func (r *run) kill() {
	r.mu.Lock()
	all := r.debuggees
	r.mu.Unlock()
	if r.process != nil {
		all = append([]*os.Process{r.process}, all...)
	}
	for _, p := range all {
		if r.way != Dials {
			killTree(p)
			continue
		}
		p.Kill() // it may have ended: nothing to do then
	}
}

// end asks the real debugger to end the debuggee and itself, then makes it. It returns when the reader has ended. Args are
// the editor's for a child session, whose debuggee may be meant to go on.
func (r *run) end(args json.RawMessage) {
	if !r.c.isChild() {
		args = json.RawMessage(`{"terminateDebuggee":true}`)
	}
	r.mu.Lock()
	r.ending = true
	r.mu.Unlock()
	answered := make(chan struct{})
	r.ask("disconnect", args, func(*Message) { close(answered) })
	limit := time.NewTimer(politeEnd)
	defer limit.Stop()
	select {
	case <-answered:
		if r.way != Serves { // others close the connection when they have sent everything
			select {
			case <-r.gone:
			case <-limit.C:
			}
		}
	case <-r.gone:
	case <-limit.C:
	}
	r.kill()
	r.link.close()
	<-r.gone
	if r.exited != nil {
		<-r.exited
	}
}
