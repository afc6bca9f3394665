package whole

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/adapter/dap/talk"
	"github.com/stepin-dev/stepin/pkg/podlet"
)

// testdata are the programs of adapter/dap's tests.
const testdata = "../dap/testdata"

// TestTenConfigurations holds the same conversations with Delve alone and with `stepin dap` in a pod's place: a user
// sees the same. Then what Delve alone has not.
func TestTenConfigurations(t *testing.T) {
	p := servicePod(t, podlet.Spec{Hostname: "orders-7d9f"})
	target := fmt.Sprintf("local/%d", p.MainPID())
	t.Run("equal", func(t *testing.T) {
		for _, c := range talk.Configurations() {
			t.Run(c.Name, func(t *testing.T) {
				t.Parallel()
				c := c.Lay(t, testdata)
				want := c.HoldBare(t)
				a := dapIn(t, c.Dir, talk.Environ(t))
				got := c.Hold(t, a.Client, c.Args(target))
				a.disconnect()
				c.Compare(t, got, want)
			})
		}
	})
	t.Run("a test in the pod's place", func(t *testing.T) { testInThePod(t, target) })
	t.Run("noDebug serves", func(t *testing.T) { noDebugServes(t, p) })
	t.Run("restart", func(t *testing.T) { restartAfterEdits(t, p) })
	t.Run("terminal", func(t *testing.T) { inTheTerminal(t, p) })
}

// testInThePod debugs a test that looks for the pod's host name and variable.
func testInThePod(t *testing.T, target string) {
	dir := talk.Copy(t, filepath.Join(testdata, "unit"))
	file := filepath.Join(dir, "unit_test.go")
	talk.Edit(t, file, `dir, _ := os.Getwd()`, `dir, _ := os.Hostname(); dir += os.Getenv("WHO")`)
	a := dapIn(t, dir, talk.Environ(t))
	talk.Begin(t, a.Client, talk.Args(target, map[string]any{"mode": "test", "program": ".", "args": []string{"-test.v"}}), talk.Mark(t, file, "stop here"))
	if _, locals := talk.At(t, a.Client, a.until("stopped")); !strings.Contains(strings.Join(locals, " "), `dir="orders-7d9fpod"`) {
		t.Errorf("the test sees %v", locals)
	}
	a.must("continue", map[string]int{"threadId": 1}, nil)
	if code := talk.Exit(t, a.Client); code != 0 || !strings.Contains(a.Output("stdout"), "--- PASS: TestDouble") {
		t.Errorf("status %d, output %q", code, a.Output("stdout"))
	}
	a.disconnect()
}

// serviceSource is a copy of programs/service that a test may edit.
func serviceSource(t *testing.T) (dir, file string) {
	t.Helper()
	dir = talk.Copy(t, source(t, "service"))
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module example.com/service\n\ngo 1.26.0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, filepath.Join(dir, "main.go")
}

// replacing is a launch configuration for the service in dir, which then answers in p's place.
func replacing(p *podlet.Pod, dir string, more map[string]any) map[string]any {
	return merge(map[string]any{
		"target":   fmt.Sprintf("local/%d", p.MainPID()),
		"debugger": map[string]any{"type": "go", "program": dir},
		"incoming": map[string]any{"mode": "steal"},
		"env":      map[string]any{"override": map[string]any{"WHO": "debuggee"}},
	}, more)
}

// noDebugServes runs without debugging: the pod's request is answered by that run.
func noDebugServes(t *testing.T, p *podlet.Pod) {
	dir, _ := serviceSource(t)
	a := dap(t)
	talk.Begin(t, a.Client, replacing(p, dir, map[string]any{"noDebug": true}))
	if err := a.WaitOutput(limit(t), "console", "tcp port 8080"); err != nil {
		t.Fatal(err)
	}
	answers(t, p, "debuggee", time.Second)
	a.disconnect()
	answers(t, p, "pod", time.Second)
}

// askPod is a request to the pod that waits for its answer.
func askPod(t *testing.T, p *podlet.Pod) <-chan string {
	t.Helper()
	ctx, done := limit(t), make(chan string, 1)
	c := p.Outside.HTTP(netip.Addr{})
	c.Transport.(*http.Transport).DisableKeepAlives = true
	go func() {
		r, err := get(ctx, c, "http://"+netip.AddrPortFrom(p.Addr(false), 8080).String()+"/")
		if err != nil {
			r.Who = err.Error()
		}
		done <- r.Who
	}()
	return done
}

// restartAfterEdits edits the program twice: the first edit is broken and the old run lives, the second is what runs
// then. All requests come to the pod.
func restartAfterEdits(t *testing.T, p *podlet.Pod) {
	dir, file := serviceSource(t)
	line := lineOf(t, file, "the breakpoint of the tests")
	a := dap(t)
	a.launch(replacing(p, dir, nil), file, line)
	stop := func(who string) {
		t.Helper()
		if err := a.WaitOutput(limit(t), "console", "tcp port 8080"); err != nil {
			t.Fatal(err)
		}
		answer := askPod(t, p)
		thread, frame, at := a.stopped()
		if got := a.evaluate(frame, "a.Who"); at != line || !strings.Contains(got, who) {
			t.Errorf("stopped at line %d with a.Who = %s, want line %d and %s", at, got, line, who)
		}
		a.goOn(thread)
		if got := <-answer; got != who {
			t.Errorf("answered by %q, want %q", got, who)
		}
	}
	stop("debuggee")

	talk.Edit(t, file, `Who: os.Getenv("WHO")`, `Who: os.Getenv(WHO)`)
	m := talk.Refused(t, a.Client, "restart", nil)
	if !strings.Contains(m.Err().Error(), "Build error") || !strings.Contains(a.Output("stderr"), "undefined: WHO") {
		t.Errorf("a broken edit: %v, console %q", m.Err(), a.Output("stderr"))
	}
	stop("debuggee")

	talk.Edit(t, file, `Who: os.Getenv(WHO)`, `Who: "edited"`)
	before := strings.Count(a.Output("console"), "tcp port 8080")
	a.must("restart", map[string]any{}, nil)
	eventually(t, patience, "the new run has the port", func() bool { return strings.Count(a.Output("console"), "tcp port 8080") > before })
	stop("edited")
	a.disconnect()
	answers(t, p, "pod", time.Second)
}

// inTheTerminal lets the editor start the debugger in its terminal, from which the debuggee then reads.
func inTheTerminal(t *testing.T, p *podlet.Pod) {
	dir := talk.Copy(t, filepath.Join(testdata, "hello"))
	a := dapIn(t, dir, talk.Environ(t))
	var stdout talk.Buffer
	a.Reverse = func(command string, arguments json.RawMessage) (any, error) {
		var asked struct {
			Kind, Cwd string
			Args      []string
		}
		if err := json.Unmarshal(arguments, &asked); err != nil || command != "runInTerminal" || asked.Kind != "integrated" {
			return nil, fmt.Errorf("%s %s: %w", command, arguments, err)
		}
		cmd := exec.Command(asked.Args[0], asked.Args[1:]...)
		cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = asked.Cwd, strings.NewReader("typed\n"), &stdout, &stdout
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		go func() { _ = cmd.Wait() }()
		return map[string]int{"processId": cmd.Process.Pid}, nil
	}
	args := talk.Args(fmt.Sprintf("local/%d", p.MainPID()), map[string]any{"program": ".", "console": "integratedTerminal"})
	args["env"] = map[string]any{"override": map[string]any{"GREETING": "hello"}}
	talk.Begin(t, a.Client, args)
	if code := talk.Exit(t, a.Client); code != 4 {
		t.Errorf("exit code %d", code)
	}
	a.disconnect()
	if got := stdout.String(); !strings.Contains(got, `stdin "typed\n"`) || !strings.Contains(got, "env hello true") || !strings.Contains(got, "cwd "+dir+"\n") {
		t.Errorf("the terminal shows %q", got)
	}
}
