package whole

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/adapter/dap/talk"
	"github.com/stepin-dev/stepin/pkg/podlet"
)

// scriptLaunch makes a configuration for a service in Python or Node.
type scriptLaunch func(t *testing.T, p *podlet.Pod, more map[string]any) map[string]any

// editor is what an editor does for an adapter: child sessions and terminals.
type editor struct {
	t         *testing.T
	children  chan map[string]any // configurations of child sessions
	terminal  talk.Buffer         // what was printed in the terminals
	terminals chan inTerminal     // what was started in them
}

// inTerminal is a program in a terminal.
type inTerminal struct {
	args []string
	env  map[string]*string
	cmd  *exec.Cmd
}

// attend makes an editor of the test; it must come before the first request.
func attend(t *testing.T, a *adapter) *editor {
	e := &editor{t: t, children: make(chan map[string]any, 16), terminals: make(chan inTerminal, 16)}
	a.Reverse = func(command string, arguments json.RawMessage) (any, error) {
		switch command {
		case "startDebugging":
			var wish struct {
				Request       string
				Configuration map[string]any
			}
			if err := json.Unmarshal(arguments, &wish); err != nil {
				return nil, err
			}
			wish.Configuration["request"] = wish.Request
			e.children <- wish.Configuration
			return nil, nil
		case "runInTerminal":
			return e.run(arguments)
		}
		return nil, errors.New("not supported")
	}
	return e
}

// run starts a command in what stands for a terminal: with the editor's own environment.
func (e *editor) run(arguments json.RawMessage) (any, error) {
	var wish struct {
		Cwd  string
		Args []string
		Env  map[string]*string
	}
	if err := json.Unmarshal(arguments, &wish); err != nil {
		return nil, err
	}
	cmd := exec.Command(wish.Args[0], wish.Args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = wish.Cwd, &e.terminal, &e.terminal
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); wish.Env[name] == nil {
			if _, unset := wish.Env[name]; !unset {
				cmd.Env = append(cmd.Env, v)
			}
		}
	}
	for name, v := range wish.Env {
		if v != nil {
			cmd.Env = append(cmd.Env, name+"="+*v)
		}
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	e.t.Cleanup(func() { _ = cmd.Wait() })
	e.terminals <- inTerminal{wish.Args, wish.Env, cmd}
	return map[string]int{"processId": cmd.Process.Pid}, nil
}

// begin is launch for a session of its own configuration, a child's among them: request is in it.
func (a *adapter) begin(configuration map[string]any, file string, lines ...int) {
	a.t.Helper()
	a.must("initialize", map[string]any{"adapterID": "stepin", "supportsRunInTerminalRequest": true, "supportsStartDebuggingRequest": true}, nil)
	request := "launch"
	if r, ok := configuration["request"].(string); ok {
		request = r
	}
	_, answered, err := a.Send(request, configuration)
	if err != nil {
		a.t.Fatal(err)
	}
	refused := make(chan string, 1)
	go func() {
		if m := <-answered; m != nil && m.Err() != nil {
			refused <- m.Err().Error()
		}
	}()
	ready := make(chan error, 1)
	go func() {
		_, err := a.Event(limit(a.t), "initialized")
		ready <- err
	}()
	select {
	case err := <-ready:
		if err != nil {
			a.t.Fatalf("%v\nstderr: %s", err, a.stderr.String())
		}
	case why := <-refused:
		a.t.Fatalf("%s: %s\nstderr: %s\nconsole: %s", request, why, a.stderr.String(), a.Output("console"))
	}
	if len(lines) > 0 {
		var points []map[string]any
		for _, l := range lines {
			points = append(points, map[string]any{"line": l})
		}
		a.must("setBreakpoints", map[string]any{"source": map[string]any{"path": file}, "breakpoints": points}, nil)
	}
	a.must("configurationDone", nil, nil)
}

// testChild has the debuggee start a process, whose session comes back through a stepin of its own and stands at a
// breakpoint.
func testChild(t *testing.T, launch scriptLaunch, file, childFile, variable string) {
	p := scriptPod(t)
	a := dap(t)
	e := attend(t, a)
	a.begin(launch(t, p, nil), file)
	a.takesPort()
	answer := request(t, p, "/child/7")
	configuration := <-e.children
	if configuration["type"] != "stepin" {
		t.Errorf("the child's configuration: %v", configuration)
	}
	if text, _ := json.Marshal(configuration); strings.Contains(string(text), "a-value-of-the-pod") {
		t.Errorf("the child's configuration has the pod's variables: %s", text)
	}
	child := dap(t)
	child.begin(configuration, childFile, lineOf(t, childFile, "the child's breakpoint"))
	thread, frame, line := child.stopped()
	if want := lineOf(t, childFile, "the child's breakpoint"); line != want {
		t.Errorf("the child stands at line %d, not %d", line, want)
	}
	if got := child.evaluate(frame, variable); !strings.Contains(got, "/child/7 on orders-7d9f") {
		t.Errorf("%s = %s", variable, got)
	}
	child.goOn(thread)
	if s := <-answer; s.Child != "/child/7 on orders-7d9f" {
		t.Errorf("%+v", s)
	}
	child.until("terminated")
	a.disconnect()
	answers(t, p, "pod", time.Second)
}

// testTerminal has the debuggee in the editor's terminal; what the editor starts there shows nothing of the pod's.
func testTerminal(t *testing.T, launch scriptLaunch, file string) {
	p := scriptPod(t)
	a := dap(t)
	e := attend(t, a)
	a.begin(launch(t, p, map[string]any{"debugger": map[string]any{"console": "integratedTerminal"}}), file, lineOf(t, file, "the breakpoint of the tests"))
	there := <-e.terminals
	if text, _ := json.Marshal([]any{there.args, there.env}); strings.Contains(string(text), "a-value-of-the-pod") {
		t.Errorf("the terminal shows the pod's variables: %s", text)
	}
	a.takesPort()
	answer := request(t, p, "/orders/7")
	thread, frame, _ := a.stopped()
	if path := a.evaluate(frame, "path"); !strings.Contains(path, "/orders/7") {
		t.Errorf("path = %s", path)
	}
	a.goOn(thread)
	if s := <-answer; s.Who != "debuggee" || s.Hostname != "orders-7d9f" || s.Secret != "a-value-of-the-pod" || s.Unset != nil {
		t.Errorf("%+v", s)
	}
	eventually(t, patience, "the debuggee prints in the terminal", func() bool { return strings.Contains(e.terminal.String(), "listening on") })
	a.disconnect()
	answers(t, p, "pod", time.Second)
	eventually(t, patience, "what ran in the terminal ends", func() bool { return there.cmd.Wait() != nil || true })
}

// testScriptRestart restarts a program that was changed meanwhile: breakpoints and session stay.
func testScriptRestart(t *testing.T, launch scriptLaunch, file string) {
	p := scriptPod(t)
	dir := talk.Copy(t, filepath.Dir(file))
	file = filepath.Join(dir, filepath.Base(file))
	a := dap(t)
	attend(t, a)
	a.begin(launch(t, p, map[string]any{"debugger": map[string]any{"program": file}}), file, lineOf(t, file, "the breakpoint of the tests"))
	for i, who := range []string{"debuggee", "another"} {
		eventually(t, patience, who+" has the port", func() bool { return strings.Count(a.Output("console"), "tcp port 8080") > i })
		answer := request(t, p, "/orders/7")
		thread, _, _ := a.stopped()
		a.goOn(thread)
		if s := <-answer; s.Who != who {
			t.Errorf("%+v is not %s's", s, who)
		}
		if who == "debuggee" {
			talk.Edit(t, file, `"listening on"`, `"again listening on"`)
			a.must("restart", map[string]any{"arguments": launch(t, p, map[string]any{"debugger": map[string]any{"program": file, "env": map[string]any{"WHO": "another"}}})}, nil)
			if err := a.WaitOutput(limit(t), "stdout", "again listening on"); err != nil {
				t.Fatal(err)
			}
		}
	}
	a.disconnect()
	answers(t, p, "pod", time.Second)
}

// testScriptKilled kills stepin while the debuggee stands: nothing of it is left, and the pod serves again.
func testScriptKilled(t *testing.T, launch scriptLaunch, file string) {
	p := scriptPod(t)
	mark := fmt.Sprintf("STEPIN_TEST_MARK=%d-%d", os.Getpid(), time.Now().UnixNano())
	a := dap(t, mark)
	attend(t, a)
	a.begin(launch(t, p, nil), file, lineOf(t, file, "the breakpoint of the tests"))
	a.takesPort()
	request(t, p, "/orders/7")
	a.stopped()
	if len(marked(t, mark)) < 3 {
		t.Fatalf("only these carry the mark: %v", marked(t, mark))
	}
	_ = a.cmd.Process.Kill()
	eventually(t, 10*time.Second, "everything that stepin has started is gone", func() bool { return len(marked(t, mark)) == 0 })
	answers(t, p, "pod", time.Second)
}

// marked lists the processes with a variable in their environment, without the zombies that nobody has reaped yet.
func marked(t *testing.T, mark string) (list []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil || !slices.Contains(strings.Split(string(b), "\x00"), mark) {
			continue
		}
		if cmdline, err := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline")); err == nil {
			list = append(list, strings.ReplaceAll(string(cmdline), "\x00", " "))
		}
	}
	return list
}
