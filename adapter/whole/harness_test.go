package whole

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/adapter/dap/client"
	"github.com/stepin-dev/stepin/adapter/dap/talk"
	"github.com/stepin-dev/stepin/pkg/podlet"
)

// patience bounds every wait: a cold build on a busy machine takes tens of seconds.
const patience = 2 * time.Minute

func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// stepin is the binary under test, as `./just build` leaves it.
func stepin(t *testing.T) string {
	t.Helper()
	path := os.Getenv("STEPIN_BINARY")
	if path == "" {
		path = filepath.Join("..", "..", "bin", "stepin")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no stepin to test: %v (run ./just build)", err)
	}
	return path
}

// built keeps what was compiled, for all tests of this process.
var built sync.Map

// program compiles one of programs/, statically, once.
func program(t *testing.T, name string) string {
	t.Helper()
	once, _ := built.LoadOrStore(name, sync.OnceValues(func() (string, error) {
		dir, err := os.MkdirTemp("", "stepin-whole-")
		if err != nil {
			return "", err
		}
		out := filepath.Join(dir, name)
		cmd := exec.Command("go", "build", "-gcflags=all=-N -l", "-o", out, "./programs/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w\n%s", err, text)
		}
		return out, os.Chmod(dir, 0o755)
	}))
	path, err := once.(func() (string, error))()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// source is the absolute folder of one of programs/.
func source(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("programs", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// pod starts a pod whose end is the test's.
func pod(t *testing.T, spec podlet.Spec) *podlet.Pod {
	t.Helper()
	p, err := podlet.Start(limit(t), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error("the pod:", err)
		}
	})
	return p
}

// adapter is one `stepin dap` on standard input and output, and the editor that talks to it.
type adapter struct {
	*client.Client
	t      *testing.T
	cmd    *exec.Cmd
	stderr talk.Buffer
	ended  chan struct{}
}

type pipes struct {
	io.Reader
	io.WriteCloser
}

// dap starts `stepin dap`; env is added to the environment.
func dap(t *testing.T, env ...string) *adapter {
	t.Helper()
	return dapIn(t, "", append(os.Environ(), env...))
}

// dapIn starts `stepin dap` in a folder, "" being the test's own, with a whole environment.
func dapIn(t *testing.T, dir string, environ []string) *adapter {
	t.Helper()
	a := &adapter{t: t, cmd: exec.Command(stepin(t), "dap"), ended: make(chan struct{})}
	a.cmd.Dir, a.cmd.Env = dir, environ
	a.cmd.Stderr = &a.stderr
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := a.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	a.Client = client.New(pipes{out, in})
	t.Cleanup(func() {
		in.Close()
		select {
		case <-a.ended:
		case <-time.After(15 * time.Second):
			t.Error("stepin dap did not end with its input")
			_ = a.cmd.Process.Kill()
		}
		if t.Failed() {
			t.Logf("stepin dap on stderr:\n%s\nconsole:\n%s", a.stderr.String(), a.Output("console"))
		}
	})
	go func() {
		_ = a.cmd.Wait()
		close(a.ended)
	}()
	return a
}

// must fails the test unless a request succeeds, and reads its body into v, which may be nil.
func (a *adapter) must(command string, arguments, v any) {
	a.t.Helper()
	m, err := a.Do(limit(a.t), command, arguments)
	if err == nil {
		err = m.Err()
	}
	if err == nil && v != nil {
		err = m.Decode(v)
	}
	if err != nil {
		a.t.Fatalf("%s: %v\nstderr: %s\nconsole: %s", command, err, a.stderr.String(), a.Output("console"))
	}
}

// until waits for one of the events.
func (a *adapter) until(events ...string) *client.Message {
	a.t.Helper()
	m, err := a.Event(limit(a.t), events...)
	if err != nil {
		a.t.Fatalf("waiting for %v: %v\nstderr: %s\nconsole: %s", events, err, a.stderr.String(), a.Output("console"))
	}
	return m
}

// debugging is a launch configuration for one of programs/ in the pod's place; more is laid over it, key by key.
func debugging(t *testing.T, p *podlet.Pod, name string, more map[string]any) map[string]any {
	t.Helper()
	return merge(map[string]any{
		"target":   fmt.Sprintf("local/%d", p.MainPID()),
		"debugger": map[string]any{"type": "go", "program": source(t, name)},
		"incoming": map[string]any{"mode": "steal"},
	}, more)
}

func merge(base, more map[string]any) map[string]any {
	for k, v := range more {
		if below, ok := v.(map[string]any); ok {
			if old, ok := base[k].(map[string]any); ok {
				base[k] = merge(old, below)
				continue
			}
		}
		base[k] = v
	}
	return base
}

// launch goes through the usual conversation up to configurationDone, with breakpoints at lines of a file. It returns
// when the program runs.
func (a *adapter) launch(configuration map[string]any, file string, lines ...int) {
	a.t.Helper()
	a.must("initialize", map[string]any{"adapterID": "stepin", "supportsRunInTerminalRequest": true, "supportsProgressReporting": true}, nil)
	_, answered, err := a.Send("launch", configuration)
	if err != nil {
		a.t.Fatal(err)
	}
	ready := make(chan error, 1)
	go func() {
		_, err := a.Event(limit(a.t), "initialized")
		ready <- err
	}()
	select {
	case err = <-ready:
		if err != nil {
			a.t.Fatal(err)
		}
	case m := <-answered:
		if m == nil {
			a.t.Fatalf("launch: the adapter has gone\nstderr: %s", a.stderr.String())
		}
		if err := m.Err(); err != nil {
			a.t.Fatalf("%v\nstderr: %s\nconsole: %s", err, a.stderr.String(), a.Output("console"))
		}
		if err := <-ready; err != nil {
			a.t.Fatal(err)
		}
	}
	if len(lines) > 0 {
		var points []map[string]any
		for _, l := range lines {
			points = append(points, map[string]any{"line": l})
		}
		var got struct {
			Breakpoints []struct {
				Verified bool
				Message  string
			}
		}
		a.must("setBreakpoints", map[string]any{"source": map[string]any{"path": file}, "breakpoints": points}, &got)
		for i, b := range got.Breakpoints {
			if !b.Verified {
				a.t.Fatalf("%s:%d: %s", file, lines[i], b.Message)
			}
		}
	}
	a.must("configurationDone", nil, nil)
}

// stopped waits for a stop and returns thread and line.
func (a *adapter) stopped() (thread, frame, line int) {
	a.t.Helper()
	var at struct{ ThreadID int }
	if err := a.until("stopped").Decode(&at); err != nil {
		a.t.Fatal(err)
	}
	var stack struct{ StackFrames []struct{ ID, Line int } }
	a.must("stackTrace", map[string]any{"threadId": at.ThreadID, "levels": 1}, &stack)
	if len(stack.StackFrames) == 0 {
		a.t.Fatal("stopped nowhere")
	}
	return at.ThreadID, stack.StackFrames[0].ID, stack.StackFrames[0].Line
}

// evaluate reads an expression where the program stands.
func (a *adapter) evaluate(frame int, expression string) string {
	a.t.Helper()
	var got struct{ Result string }
	a.must("evaluate", map[string]any{"expression": expression, "frameId": frame, "context": "repl"}, &got)
	return got.Result
}

// goOn lets a stopped thread run.
func (a *adapter) goOn(thread int) {
	a.t.Helper()
	a.must("continue", map[string]any{"threadId": thread}, nil)
}

// disconnect ends the session as an editor's stop button does.
func (a *adapter) disconnect() {
	a.t.Helper()
	a.must("disconnect", map[string]any{"terminateDebuggee": true}, nil)
}

// result is what `stepin exec` left.
type result struct {
	stdout, stderr string
	status         int
}

// run runs a command in the pod's place and waits for its end.
func run(t *testing.T, p *podlet.Pod, configuration map[string]any, argv ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := command(t, p, configuration, argv...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// command is `stepin exec`, not yet started. The configuration goes by a file, as a user's would.
func command(t *testing.T, p *podlet.Pod, configuration map[string]any, argv ...string) *exec.Cmd {
	t.Helper()
	c := merge(map[string]any{"target": fmt.Sprintf("local/%d", p.MainPID()), "incoming": map[string]any{"mode": "steal"}}, configuration)
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "stepin.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return exec.CommandContext(limit(t), stepin(t), append([]string{"exec", "--config", file, "--"}, argv...)...)
}

// eventually polls for what another process brings about.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// lineOf finds a line of a source by a text in it, so that tests need no numbers.
func lineOf(t *testing.T, file, text string) int {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range strings.Split(string(data), "\n") {
		if strings.Contains(l, text) {
			return i + 1
		}
	}
	t.Fatalf("%s: no line has %q", file, text)
	return 0
}
