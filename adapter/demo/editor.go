package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/stepin-dev/stepin/adapter/dap/client"
	"github.com/stepin-dev/stepin/pkg/fail"
)

// editor is what VS Code would be: it has started `stepin dap` and talks to it. Goroutines: one that waits for the adapter's
// end, and the client's; both end with close.
type editor struct {
	*client.Client
	cmd    *exec.Cmd
	stderr said
	ended  chan struct{}
}

// pipes are the adapter's standard streams.
type pipes struct {
	io.Reader
	io.WriteCloser
}

// startEditor starts this very program as the adapter. It has a process group of its own: an interrupt at the terminal is for
// the demo, which then ends it in order.
func startEditor(environ []string, folder string) (*editor, error) {
	e := &editor{cmd: exec.Command("/proc/self/exe", "dap"), ended: make(chan struct{})}
	e.cmd.Args[0] = "stepin"
	e.cmd.Env, e.cmd.Dir = append(environ[:len(environ):len(environ)], buildEnv...), folder
	e.cmd.Stderr = &e.stderr
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := e.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("demo: starting the adapter: %w", err)
	}
	out, err := e.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("demo: starting the adapter: %w", err)
	}
	if err := e.cmd.Start(); err != nil {
		return nil, fmt.Errorf("demo: starting the adapter: %w", err)
	}
	e.Client = client.New(pipes{out, in})
	go func() {
		_ = e.cmd.Wait()
		close(e.ended)
	}()
	return e, nil
}

// closeWait is how long the adapter may take to end when its input has; it needs a fraction of a second.
const closeWait = 5 * time.Second

func (e *editor) close() {
	e.Close()
	select {
	case <-e.ended:
	case <-time.After(closeWait):
		_ = e.cmd.Process.Kill() // what it started ends without it
		<-e.ended
	}
}

// explain makes what the adapter says the demo's error: its sentence, and its hint.
func (e *editor) explain(err error) error {
	what, hint, _ := strings.Cut(err.Error(), "\nhint: ")
	if text := e.stderr.String(); text != "" {
		what += "\n" + text
	}
	if text := strings.TrimSpace(e.Output("stderr")); text != "" {
		what += "\n" + text
	}
	if hint == "" {
		hint = "`stepin doctor` says what is missing on this machine; STEPIN_LOG=debug shows more"
	}
	return fail.New(fail.DebuggerFailed, hint, "%s", what)
}

// do sends a request and reads the body of its answer into v, which may be nil.
func (e *editor) do(ctx context.Context, command string, arguments, v any) error {
	m, err := e.Do(ctx, command, arguments)
	if err == nil {
		err = m.Err()
	}
	if err == nil && v != nil {
		err = m.Decode(v)
	}
	if err != nil {
		return e.explain(err)
	}
	return nil
}

// launch is what an editor does at F5: it returns when the debuggee runs.
func (e *editor) launch(ctx context.Context, configuration json.RawMessage, file string, line int) error {
	if err := e.do(ctx, "initialize", map[string]any{"adapterID": "stepin", "clientID": "stepin demo", "linesStartAt1": true, "columnsStartAt1": true, "pathFormat": "path"}, nil); err != nil {
		return err
	}
	_, answer, err := e.Send("launch", configuration)
	if err != nil {
		return e.explain(err)
	}
	// "initialized" comes before the answer, or a refusal does.
	ready := make(chan error, 1)
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, err := e.Event(wait, "initialized")
		ready <- err
	}()
	select {
	case err = <-ready:
	case m, ok := <-answer:
		err = errors.New("launch: the adapter has gone")
		if ok {
			if err = m.Err(); err == nil {
				err = <-ready
			}
		}
	}
	if err != nil {
		return e.explain(err)
	}
	var points struct {
		Breakpoints []struct {
			Verified bool
			Message  string
		}
	}
	if err := e.do(ctx, "setBreakpoints", map[string]any{"source": map[string]any{"path": file}, "breakpoints": []any{map[string]any{"line": line}}}, &points); err != nil {
		return err
	}
	if len(points.Breakpoints) != 1 || !points.Breakpoints[0].Verified {
		return fmt.Errorf("demo: no breakpoint at %s:%d: %+v", file, line, points.Breakpoints)
	}
	return e.do(ctx, "configurationDone", nil, nil)
}

// stop is where the debuggee stands.
type stop struct {
	thread, frame, line int
	function, file      string
}

// stopped waits for a stop and says where it is.
func (e *editor) stopped(ctx context.Context) (s stop, err error) {
	m, err := e.Event(ctx, "stopped", "terminated")
	if err != nil {
		return s, e.explain(err)
	}
	if m.Event == "terminated" {
		return s, e.explain(errors.New("the debuggee has ended"))
	}
	var at struct{ ThreadID int }
	if err := m.Decode(&at); err != nil {
		return s, err
	}
	var stack struct {
		StackFrames []struct {
			ID, Line int
			Name     string
			Source   struct{ Path string }
		}
	}
	if err := e.do(ctx, "stackTrace", map[string]any{"threadId": at.ThreadID, "levels": 1}, &stack); err != nil {
		return s, err
	}
	if len(stack.StackFrames) == 0 {
		return s, errors.New("demo: the debuggee stands nowhere")
	}
	f := stack.StackFrames[0]
	return stop{thread: at.ThreadID, frame: f.ID, line: f.Line, function: f.Name, file: filepath.Base(f.Source.Path)}, nil
}

// locals are the variables there, by name.
func (e *editor) locals(ctx context.Context, frame int) (map[string]string, error) {
	var scopes struct {
		Scopes []struct {
			VariablesReference int
		}
	}
	if err := e.do(ctx, "scopes", map[string]any{"frameId": frame}, &scopes); err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, s := range scopes.Scopes {
		var got struct {
			Variables []struct{ Name, Value string }
		}
		if err := e.do(ctx, "variables", map[string]any{"variablesReference": s.VariablesReference}, &got); err != nil {
			return nil, err
		}
		for _, v := range got.Variables {
			all[v.Name] = v.Value
		}
	}
	return all, nil
}

// lines are what the adapter's console has said of the session.
func (e *editor) lines() []string {
	var lines []string
	for _, m := range e.Events() {
		var body struct{ Category, Output string }
		if m.Event == "output" && json.Unmarshal(m.Body, &body) == nil && body.Category == "console" {
			lines = append(lines, strings.Split(strings.TrimSpace(body.Output), "\n")...)
		}
	}
	return lines
}
