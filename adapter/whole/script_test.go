package whole

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
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

// said is what the services in Python and Node answer.
type said struct {
	reply
	File, Caller, Child, Error, Secret string
	Unset                              *string
}

// scriptPod is a pod of the same service as the debuggee's, in Go, with what the debuggee is to see.
func scriptPod(t *testing.T) *podlet.Pod {
	t.Helper()
	return servicePod(t, podlet.Spec{
		Hostname: "orders-7d9f",
		Volumes:  []podlet.Volume{{Path: "/etc/config", Files: map[string]string{"small": "a small file"}}},
		Main:     podlet.Main{Env: []string{"UNSET=of the pod", "SECRET=a-value-of-the-pod"}},
	})
}

// serveCallers has a server at the pod's gateway tell each caller his address.
func serveCallers(t *testing.T, p *podlet.Pod) {
	t.Helper()
	l, err := p.Outside.Listen(limit(t), "tcp", netip.MustParseAddrPort(service))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			_, _ = io.WriteString(c, host+"\n")
			c.Close()
		}
	}()
}

// request sends the pod a request, which may stand at a breakpoint for a while.
func request(t *testing.T, p *podlet.Pod, path string) <-chan said {
	t.Helper()
	answer := make(chan said, 1)
	ctx, c := limit(t), p.Outside.HTTP(netip.Addr{})
	go func() {
		defer close(answer)
		resp, err := c.Get("http://" + netip.AddrPortFrom(p.Addr(false), 8080).String() + path)
		if err != nil {
			answer <- said{Error: err.Error()}
			return
		}
		defer resp.Body.Close()
		var s said
		if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
			s.Error = err.Error()
		}
		select {
		case answer <- s:
		case <-ctx.Done():
		}
	}()
	return answer
}

// takesPort waits until the pod's port leads to the debuggee.
func (a *adapter) takesPort() {
	a.t.Helper()
	if err := a.WaitOutput(limit(a.t), "console", "tcp port 8080"); err != nil {
		a.t.Fatal(err)
	}
}

// language is Python or Node, with a service of its own in programs/.
type language struct {
	service, child string // absolute paths of their sources
	variable       string // of the child's breakpoint
	isChild        bool   // the debuggee's session is a child's already
	launch         func(t *testing.T, p *podlet.Pod, more map[string]any) map[string]any
}

// debug begins a session, with breakpoints in the service, and returns the adapter that has the debuggee.
func (l language) debug(e *editor, root *adapter, configuration map[string]any, file string, lines ...int) *adapter {
	e.t.Helper()
	e.attend(root)
	if !l.isChild {
		root.begin(configuration, file, lines...)
		return root
	}
	root.begin(configuration, file)
	return e.child(file, lines...)
}

// child begins the next child session, in a stepin of its own.
func (e *editor) child(file string, lines ...int) *adapter {
	e.t.Helper()
	var configuration map[string]any
	select {
	case configuration = <-e.children:
	case <-limit(e.t).Done():
		e.t.Fatal("no child session came")
	}
	if configuration["type"] != "stepin" {
		e.t.Errorf("the child's configuration: %v", configuration)
	}
	if text, _ := json.Marshal(configuration); strings.Contains(string(text), "a-value-of-the-pod") {
		e.t.Errorf("the child's configuration has the pod's variables: %s", text)
	}
	a := e.again()
	e.attend(a)
	a.begin(configuration, file, lines...)
	return a
}

// testScript goes through what a program in that language is debugged for.
func testScript(t *testing.T, l language) {
	t.Run("breakpoint", func(t *testing.T) { testScriptBreakpoint(t, l) })
	t.Run("child", func(t *testing.T) { testChild(t, l) })
	t.Run("terminal", func(t *testing.T) { testTerminal(t, l) })
	t.Run("restart", func(t *testing.T) { testScriptRestart(t, l) })
	t.Run("killed", func(t *testing.T) { testScriptKilled(t, l) })
	t.Run("preload", func(t *testing.T) {
		launch := l.launch
		l.launch = func(t *testing.T, p *podlet.Pod, more map[string]any) map[string]any {
			return merge(launch(t, p, more), map[string]any{"frontEnd": "preload"})
		}
		testScriptBreakpoint(t, l)
	})
}

// editor is what an editor does for an adapter: child sessions and terminals.
type editor struct {
	t         *testing.T
	children  chan map[string]any // configurations of child sessions
	terminal  talk.Buffer         // what was printed in the terminals
	terminals chan inTerminal     // what was started in them
	again     func() *adapter     // another conversation with stepin
}

// inTerminal is a program in a terminal.
type inTerminal struct {
	args []string
	env  map[string]*string
	cmd  *exec.Cmd
}

// newEditor makes an editor of the test.
func newEditor(t *testing.T) *editor {
	return &editor{t: t, children: make(chan map[string]any, 16), terminals: make(chan inTerminal, 16), again: func() *adapter { return dap(t) }}
}

// attend answers what an adapter asks for; it must come before the first request.
func (e *editor) attend(a *adapter) {
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

// testScriptBreakpoint is the main job: a request to the pod stops at the breakpoint, and what the debuggee says of the
// pod is so.
func testScriptBreakpoint(t *testing.T, l language) {
	p := scriptPod(t)
	serveCallers(t, p)
	root := dap(t)
	a := l.debug(newEditor(t), root, l.launch(t, p, nil), l.service, lineOf(t, l.service, "the breakpoint of the tests"))
	root.takesPort()
	answer := request(t, p, "/call/"+service)
	thread, frame, _ := a.stopped()
	if path := a.evaluate(frame, "path"); !strings.Contains(path, "/call/") {
		t.Errorf("path = %s", path)
	}
	a.goOn(thread)
	s := <-answer
	if s.Who != "debuggee" || s.Hostname != "orders-7d9f" || s.File != "a small file" || s.Caller != p.Addr(false).String() || s.Unset != nil || s.Error != "" {
		t.Errorf("%+v", s)
	}
	if gateway := podlet.Gateway(podlet.DefaultAddrs[0]).String(); !strings.HasPrefix(s.Client, gateway+":") {
		t.Errorf("the debuggee saw %s calling", s.Client)
	}
	if err := a.WaitOutput(limit(t), "stdout", "listening on"); err != nil {
		t.Error(err)
	}
	if n := strings.Count(root.Output("console"), "of the pod now sends"); n != 1 {
		t.Errorf("%d ports were taken from the pod: %s", n, root.Output("console"))
	}
	root.disconnect()
	answers(t, p, "pod", time.Second)
}

// testChild has the debuggee start a process, whose session comes back through a stepin of its own and stands at a
// breakpoint.
func testChild(t *testing.T, l language) {
	p := scriptPod(t)
	root, e := dap(t), newEditor(t)
	l.debug(e, root, l.launch(t, p, nil), l.service)
	root.takesPort()
	answer := request(t, p, "/child/7")
	child := e.child(l.child, lineOf(t, l.child, "the child's breakpoint"))
	thread, frame, line := child.stopped()
	if want := lineOf(t, l.child, "the child's breakpoint"); line != want {
		t.Errorf("the child stands at line %d, not %d", line, want)
	}
	if got := child.evaluate(frame, l.variable); !strings.Contains(got, "/child/7 on orders-7d9f") {
		t.Errorf("%s = %s", l.variable, got)
	}
	child.goOn(thread)
	if s := <-answer; s.Child != "/child/7 on orders-7d9f" {
		t.Errorf("%+v", s)
	}
	child.until("terminated")
	root.disconnect()
	answers(t, p, "pod", time.Second)
}

// testTerminal has the debuggee in the editor's terminal; what the editor starts there shows nothing of the pod's.
func testTerminal(t *testing.T, l language) {
	p := scriptPod(t)
	root, e := dap(t), newEditor(t)
	more := map[string]any{
		"debugger": map[string]any{"console": "integratedTerminal"},
		"outgoing": map[string]any{"loopback": "pod"}, // the debugger's way back is not the pod's
	}
	a := l.debug(e, root, l.launch(t, p, more), l.service, lineOf(t, l.service, "the breakpoint of the tests"))
	there := <-e.terminals
	if text, _ := json.Marshal([]any{there.args, there.env}); strings.Contains(string(text), "a-value-of-the-pod") {
		t.Errorf("the terminal shows the pod's variables: %s", text)
	}
	root.takesPort()
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
	root.disconnect()
	answers(t, p, "pod", time.Second)
	_ = there.cmd.Wait() // what ran in the terminal has ended
}

// testScriptRestart restarts a program that was changed meanwhile: breakpoints and session stay.
func testScriptRestart(t *testing.T, l language) {
	p := scriptPod(t)
	file := filepath.Join(talk.Copy(t, filepath.Dir(l.service)), filepath.Base(l.service))
	line := lineOf(t, file, "the breakpoint of the tests")
	root, e := dap(t), newEditor(t)
	a := l.debug(e, root, l.launch(t, p, map[string]any{"debugger": map[string]any{"program": file}}), file, line)
	for i, who := range []string{"debuggee", "another"} {
		eventually(t, patience, who+" has the port", func() bool { return strings.Count(root.Output("console"), "tcp port 8080") > i })
		answer := request(t, p, "/orders/7")
		thread, _, _ := a.stopped()
		a.goOn(thread)
		if s := <-answer; s.Who != who {
			t.Errorf("%+v is not %s's", s, who)
		}
		if who == "another" {
			break
		}
		talk.Edit(t, file, `"listening on"`, `"again listening on"`)
		root.must("restart", map[string]any{"arguments": l.launch(t, p, map[string]any{"debugger": map[string]any{"program": file, "env": map[string]any{"WHO": "another"}}})}, nil)
		if l.isChild {
			a.until("terminated")
			a = e.child(file, line)
		}
		if err := a.WaitOutput(limit(t), "stdout", "again listening on"); err != nil {
			t.Fatal(err)
		}
	}
	root.disconnect()
	answers(t, p, "pod", time.Second)
}

// testScriptKilled kills stepin while the debuggee stands: nothing of it is left, and the pod serves again.
func testScriptKilled(t *testing.T, l language) {
	p := scriptPod(t)
	mark := fmt.Sprintf("STEPIN_TEST_MARK=%d-%d", os.Getpid(), time.Now().UnixNano())
	root := dap(t, mark)
	a := l.debug(newEditor(t), root, l.launch(t, p, nil), l.service, lineOf(t, l.service, "the breakpoint of the tests"))
	root.takesPort()
	request(t, p, "/orders/7")
	a.stopped()
	if list := marked(t, mark); len(list) < 3 {
		t.Fatalf("only these carry the mark: %q", list)
	}
	_ = root.cmd.Process.Kill()
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
