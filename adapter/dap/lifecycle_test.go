package dap_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/adapter/dap"
	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
)

func body(t *testing.T, raw json.RawMessage, v any) {
	t.Helper()
	if err := json.Unmarshal(raw, v); err != nil {
		t.Fatalf("%v in %s", err, raw)
	}
}

// get asks the service that the debuggee printed the address of, in the background.
func get(t *testing.T, a *adapter, nth int) <-chan string {
	t.Helper()
	answer := make(chan string, 1)
	ctx := limit(t)
	for strings.Count(a.Output("stdout"), "listening ") < nth || !strings.HasSuffix(a.Output("stdout"), "\n") {
		if ctx.Err() != nil {
			t.Fatal("the service does not listen")
		}
		time.Sleep(10 * time.Millisecond)
	}
	lines := strings.Split(a.Output("stdout"), "listening ")
	address, _, _ := strings.Cut(lines[nth], "\n")
	go func() {
		r, err := http.Get("http://" + address)
		if err != nil {
			answer <- err.Error()
			return
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		answer <- string(b)
	}()
	return answer
}

// TestRestart edits the program twice: the first edit is broken and the old run goes on, the second is what runs then,
// with the old breakpoints under their old numbers.
func TestRestart(t *testing.T) {
	dir := program(t, "service")
	file := filepath.Join(dir, "main.go")
	a := startAdapter(t, dir)
	c := a.Client
	begin(t, c, launchArgs(map[string]any{"program": "."}), mark(t, file, "stop here"))
	first := get(t, a, 1)
	var hit struct {
		Reason           string
		HitBreakpointIds []int
		ThreadID         int
	}
	body(t, event(t, c, "stopped").Body, &hit)

	edit(t, file, `answer := "version 1"`, `answer := version 2`)
	m := refused(t, c, "restart", nil)
	if !strings.Contains(m.Err().Error(), "Build error") || !strings.Contains(c.Output("stderr"), "syntax error") {
		t.Errorf("a broken edit: %v, console %q", m.Err(), c.Output("stderr"))
	}
	must(t, c, "continue", map[string]int{"threadId": hit.ThreadID})
	if got := <-first; got != "version 1\n" {
		t.Errorf("the old run answers %q", got)
	}
	second := get(t, a, 1)
	event(t, c, "stopped")

	edit(t, file, `answer := version 2`, `answer := "version 2"`)
	must(t, c, "restart", map[string]any{})
	if got := <-second; strings.Contains(got, "version") {
		t.Errorf("the old run still answers %q", got)
	}
	third := get(t, a, 2)
	was := hit.HitBreakpointIds
	body(t, event(t, c, "stopped").Body, &hit)
	if hit.Reason != "breakpoint" || !slices.Equal(hit.HitBreakpointIds, was) {
		t.Errorf("after the restart: %+v, want the same breakpoint %v", hit, was)
	}
	must(t, c, "continue", map[string]int{"threadId": hit.ThreadID})
	if got := <-third; got != "version 2\n" {
		t.Errorf("the new run answers %q", got)
	}
	counts := map[string]int{}
	for _, e := range c.Events() {
		counts[e.Event]++
	}
	if counts["initialized"] != 1 || counts["terminated"] != 0 || counts["exited"] != 0 || counts["continued"] != 1 {
		t.Errorf("events of one session: %v", counts)
	}
	if left, _ := filepath.Glob(filepath.Join(a.place.dir, "__debug_bin*")); len(left) != 1 {
		t.Errorf("built programs kept: %v", left)
	}
	must(t, c, "disconnect", nil)
	<-a.ended
	a.place.mu.Lock()
	defer a.place.mu.Unlock()
	if want := []bool{true, false, true, false, true, false}; !slices.Equal(a.place.paused, want) || a.place.closed != 1 {
		t.Errorf("paused %v, want %v; closed %d times", a.place.paused, want, a.place.closed)
	}
}

// TestRestartThenExit restarts into a program that ends at once: the editor hears of the end, after the answer. How the
// end falls in with the restart's own is chance: hence the loop.
func TestRestartThenExit(t *testing.T) {
	bin := t.TempDir()
	for _, name := range []string{"service", "hello"} {
		build := exec.CommandContext(limit(t), "go", "build", "-o", filepath.Join(bin, name), ".")
		build.Dir, build.Env = program(t, name), environ(t)
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	config := func(name string, noDebug bool) map[string]any {
		args := launchArgs(map[string]any{"mode": "exec", "program": filepath.Join(bin, name)})
		args["noDebug"] = noDebug
		return args
	}
	for _, noDebug := range []bool{false, true} {
		t.Run(fmt.Sprintf("noDebug=%v", noDebug), func(t *testing.T) {
			for range 5 {
				a := startAdapter(t, bin)
				begin(t, a.Client, config("service", noDebug))
				a.WaitOutput(limit(t), "stdout", "listening")
				must(t, a.Client, "restart", map[string]any{"arguments": config("hello", noDebug)})
				event(t, a.Client, "terminated")
				must(t, a.Client, "disconnect", nil)
				<-a.ended
				ends := 0
				for _, e := range a.Events() {
					if e.Event == "terminated" {
						ends++
					}
				}
				if ends != 1 {
					t.Errorf("terminated came %d times", ends)
				}
			}
		})
	}
}

// TestDisconnectAnytime ends the conversation at each point of a launch; it is answered in time and leaves no process.
func TestDisconnectAnytime(t *testing.T) {
	dir := program(t, "service")
	steps := map[string]func(t *testing.T, a *adapter){
		"at once":           func(*testing.T, *adapter) {},
		"after initialize":  func(t *testing.T, a *adapter) { must(t, a.Client, "initialize", initialize) },
		"during the build":  func(t *testing.T, a *adapter) { launch(t, a); a.WaitOutput(limit(t), "stdout", "Building") },
		"before the launch": func(t *testing.T, a *adapter) { launch(t, a); event(t, a.Client, "progressStart") },
		"initialized":       func(t *testing.T, a *adapter) { launch(t, a); event(t, a.Client, "initialized") },
		"running": func(t *testing.T, a *adapter) {
			begin(t, a.Client, launchArgs(map[string]any{"program": "."}))
			a.WaitOutput(limit(t), "stdout", "listening")
		},
		"without debugging": func(t *testing.T, a *adapter) {
			begin(t, a.Client, launchArgs(map[string]any{"program": ".", "noDebug": true}))
			a.WaitOutput(limit(t), "stdout", "listening")
		},
		"stopped": func(t *testing.T, a *adapter) {
			begin(t, a.Client, launchArgs(map[string]any{"program": "."}), mark(t, filepath.Join(dir, "main.go"), "stop here"))
			get(t, a, 1)
			event(t, a.Client, "stopped")
		},
	}
	for name, step := range steps {
		t.Run(name, func(t *testing.T) {
			a := startAdapter(t, dir)
			step(t, a)
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second) // what VS Code gives it
			defer cancel()
			m, err := a.Do(ctx, "disconnect", map[string]any{"restart": false})
			if err != nil || m.Err() != nil {
				t.Errorf("disconnect: %v %v", err, m)
			}
			<-a.ended
			for _, pid := range debuggees(a) {
				if alive(pid) {
					t.Errorf("process %d is left", pid)
				}
			}
		})
	}
}

func launch(t *testing.T, a *adapter) {
	t.Helper()
	must(t, a.Client, "initialize", initialize)
	if _, _, err := a.Send("launch", launchArgs(map[string]any{"program": "."})); err != nil {
		t.Fatal(err)
	}
}

// debuggees are the pids of the process events.
func debuggees(a *adapter) (pids []int) {
	for _, e := range a.Events() {
		var b struct{ SystemProcessID int }
		if e.Event == "process" && json.Unmarshal(e.Body, &b) == nil {
			pids = append(pids, b.SystemProcessID)
		}
	}
	return pids
}

// TestCancel cancels a launch by its progress and by its request while the session starts, and by the progress that our own
// extension shows.
func TestCancel(t *testing.T) {
	hang := func(o *dap.Options) {
		o.Start = func(ctx context.Context, _ *config.Launch, _ dap.Hints, k dap.Hooks) (dap.Runner, error) {
			k.Progress("looking for the pod", 1, 4)
			<-ctx.Done()
			return nil, ctx.Err()
		}
	}
	for _, how := range []struct{ by, prefix string }{{"progressId", ""}, {"requestId", ""}, {"progressId", "stepin."}} {
		by := how.by
		a := startAdapter(t, program(t, "hello"), hang)
		must(t, a.Client, "initialize", initialize)
		launch := launchArgs(map[string]any{"program": "."})
		launch["__showsProgress"] = how.prefix != ""
		seq, answer, err := a.Send("launch", launch)
		if err != nil {
			t.Fatal(err)
		}
		var p struct{ ProgressID, Message string }
		body(t, event(t, a.Client, how.prefix+"progressUpdate").Body, &p)
		args := map[string]any{by: seq}
		if by == "progressId" {
			args[by] = p.ProgressID
		}
		must(t, a.Client, "cancel", args)
		if m := <-answer; m == nil || m.Success || m.Text != "cancelled" {
			t.Errorf("%s: launch is answered %+v", by, m)
		}
		event(t, a.Client, how.prefix+"progressEnd")
		refused(t, a.Client, "cancel", map[string]any{"requestId": seq})
	}
}

// TestLost kills the real debugger, and ends the session, under a stopped debuggee, and kills that.
func TestLost(t *testing.T) {
	for _, what := range []string{"dlv", "session", "debuggee"} {
		t.Run(what, func(t *testing.T) {
			dir := program(t, "service")
			a := startAdapter(t, dir)
			begin(t, a.Client, launchArgs(map[string]any{"program": "."}), mark(t, filepath.Join(dir, "main.go"), "stop here"))
			get(t, a, 1)
			event(t, a.Client, "stopped")
			pid := debuggees(a)[0]
			switch what {
			case "dlv":
				syscall.Kill(parent(t, pid), syscall.SIGKILL)
			case "debuggee":
				syscall.Kill(pid, syscall.SIGKILL)
				if e := event(t, a.Client, "exited"); !strings.Contains(string(e.Body), "-9") {
					t.Errorf("exited: %s", e.Body)
				}
			default:
				a.place.err = fail.New(fail.AgentLost, "start it again", "the pod has gone")
				close(a.place.done)
			}
			event(t, a.Client, "terminated")
			want := map[string]string{"dlv": "dlv ended unexpectedly (signal: killed)", "session": "the pod has gone\nhint: start it again",
				"debuggee": "the debuggee has ended while it stood (signal: killed)"}[what]
			if got := a.Output("stderr"); !strings.Contains(got, want) {
				t.Errorf("the user reads %q", got)
			}
			refused(t, a.Client, "threads", nil)
			must(t, a.Client, "disconnect", nil)
			<-a.ended
			if alive(pid) {
				t.Error("the debuggee lives on")
			}
		})
	}
}

// TestAstray: a debuggee that is not where it should be is ended, and that is said before the editor hears that it is over.
func TestAstray(t *testing.T) {
	for what, waits := range map[string]bool{"runs": false, "has ended": true} {
		t.Run(what, func(t *testing.T) {
			dir, asked := program(t, map[bool]string{true: "hello", false: "service"}[waits]), make(chan struct{})
			begun := make(chan struct{})
			a := startAdapter(t, dir)
			a.place.astray = func(ctx context.Context) error {
				close(asked) // a second question would panic
				if waits {
					<-ctx.Done()
				} else {
					<-begun
				}
				return fail.New(fail.PreloadForbidden, "another way", "it is not there")
			}
			begin(t, a.Client, launchArgs(map[string]any{"program": "."}))
			close(begun)
			<-asked
			event(t, a.Client, "terminated")
			if got := a.Output("stderr"); !strings.Contains(got, "stepin: it is not there\nhint: another way\n") {
				t.Errorf("the user reads %q", got)
			}
			must(t, a.Client, "disconnect", nil)
			<-a.ended
			for _, pid := range debuggees(a) {
				if alive(pid) {
					t.Error("the debuggee lives on")
				}
			}
		})
	}
}

// alive is false for a process that has ended, reaped or not: nobody need be there to reap an orphan.
// One that was killed gets a second to be gone.
func alive(pid int) bool {
	for range 100 {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		_, rest, _ := strings.Cut(string(b), ") ")
		if err != nil || strings.HasPrefix(rest, "Z") || strings.HasPrefix(rest, "X") {
			return false
		}
		time.Sleep(10 * time.Millisecond)
	}
	return true
}

func parent(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "PPid:")
	line, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestBadEnds runs debuggees that end badly, or do not keep their hands off their descriptors.
func TestBadEnds(t *testing.T) {
	dir := program(t, "crash")
	for how, want := range map[string]int{"panic": 2, "signal": -9, "close": 9, "daemon": 7} {
		t.Run(how, func(t *testing.T) {
			a := startAdapter(t, dir)
			begin(t, a.Client, launchArgs(map[string]any{"program": ".", "args": []string{how}}))
			if how == "panic" { // Delve stops there by itself
				event(t, a.Client, "stopped")
				must(t, a.Client, "continue", map[string]int{"threadId": 1})
			}
			if got := exit(t, a.Client); got != want {
				t.Errorf("exit code %d, want %d", got, want)
			}
			if how == "daemon" {
				var pid int
				if _, err := fmt.Sscanf(a.Output("stdout"), "Building .\nchild %d", &pid); err != nil {
					t.Errorf("%v in %q", err, a.Output("stdout"))
				} else if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Errorf("the child: %v", err)
				}
			}
			must(t, a.Client, "disconnect", nil)
		})
	}
}

// TestRefusals are launches that cannot be: each is one sentence and a hint.
func TestRefusals(t *testing.T) {
	dir := program(t, "hello")
	for _, c := range []struct {
		keys map[string]any
		want string
		code fail.Code
	}{
		{map[string]any{}, "The program attribute is missing", fail.ProgramMissing},
		{map[string]any{"program": "./nowhere"}, "no such file or folder\nhint: ", fail.ProgramMissing},
		{map[string]any{"program": ".", "mode": "tset"}, `unsupported 'mode' attribute "tset"`, fail.ConfigValue},
		{map[string]any{"program": ".", "mode": "core"}, "hint: ", fail.ConfigLater},
		{map[string]any{"program": 7}, `cannot unmarshal number into "program" of type string`, fail.ConfigValue},
		{map[string]any{"program": ".", "buildFlags": 7}, `cannot unmarshal number into "buildFlags" of type []string or string`, fail.ConfigValue},
		{map[string]any{"program": ".", "dlvToolPath": "/nowhere/dlv"}, "go install github.com/go-delve/delve", fail.DebuggerMissing},
		{map[string]any{"program": ".", "envFile": "nowhere.env"}, "envFile cannot be read", fail.ConfigValue},
		{map[string]any{"program": ".", "console": "tv"}, "hint: internalConsole", fail.ConfigValue},
		{map[string]any{"program": ".", "outputMode": "elsewhere"}, `unsupported 'outputMode' attribute "elsewhere"`, 3000},
		{map[string]any{"program": ".", "buildFlags": "-nonsense"}, "Build error: Check the debug console", fail.BuildFailed},
	} {
		a := startAdapter(t, dir)
		must(t, a.Client, "initialize", initialize)
		m := refused(t, a.Client, "launch", launchArgs(c.keys))
		var b struct{ Error struct{ ID int } }
		body(t, m.Body, &b)
		if !strings.Contains(m.Err().Error(), c.want) || b.Error.ID != int(c.code) {
			t.Errorf("%v: %d %v, want %d %q", c.keys, b.Error.ID, m.Err(), c.code, c.want)
		}
		must(t, a.Client, "disconnect", nil)
	}
}

// TestTerminal lets the editor start the debugger, which then has the terminal (here: pipes) as its streams.
func TestTerminal(t *testing.T) {
	dir := program(t, "hello")
	value := "canary-in-the-pod"
	a := startAdapter(t, dir, func(o *dap.Options) { o.Place.Environ = append(o.Place.Environ, "DEBUGINFOD_URLS=http://127.0.0.1:1") })
	a.place.pod = map[string]*string{"GREETING": &value}
	var asked struct {
		Kind, Cwd string
		Args      []string
		Env       map[string]*string
	}
	var stdout lockedBuffer
	a.Reverse = func(command string, arguments json.RawMessage) (any, error) {
		if command != "runInTerminal" {
			return nil, errors.New(command)
		}
		body(t, arguments, &asked)
		if strings.Contains(string(arguments), value) {
			t.Error("a variable of the pod goes through the editor")
		}
		cmd := exec.Command(asked.Args[0], asked.Args[1:]...)
		cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = asked.Cwd, strings.NewReader("typed\n"), &stdout, &stdout
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		go cmd.Wait()
		return map[string]int{"processId": cmd.Process.Pid}, nil
	}
	begin(t, a.Client, launchArgs(map[string]any{"program": ".", "console": "integratedTerminal"}))
	if code := exit(t, a.Client); code != 4 {
		t.Errorf("exit code %d", code)
	}
	must(t, a.Client, "disconnect", nil)
	if url, ok := asked.Env["DEBUGINFOD_URLS"]; asked.Kind != "integrated" || asked.Cwd != dir || !ok || url != nil {
		t.Errorf("asked for %+v", asked)
	}
	if got := stdout.String(); !strings.Contains(got, `stdin "typed\n"`) || !strings.Contains(got, "env "+value+" true") {
		t.Errorf("the terminal shows %q", got)
	}
	if strings.Contains(a.log.String(), value) {
		t.Error("a value of the pod is in the log")
	}

	a = startAdapter(t, dir)
	a.Reverse = func(string, json.RawMessage) (any, error) { return nil, errors.New("no window") }
	must(t, a.Client, "initialize", initialize)
	m := refused(t, a.Client, "launch", launchArgs(map[string]any{"program": ".", "console": "externalTerminal"}))
	if !strings.Contains(m.Err().Error(), "no window") {
		t.Error(m.Err())
	}
	a = startAdapter(t, dir)
	must(t, a.Client, "initialize", map[string]any{})
	m = refused(t, a.Client, "launch", launchArgs(map[string]any{"program": ".", "console": "externalTerminal"}))
	if !strings.Contains(m.Err().Error(), "internalConsole") {
		t.Error(m.Err())
	}
}

// TestOnlyTheDebuggee puts a variable into the pod that would break the compiler, and one that dlv would obey at its
// start: only the debuggee gets them. With showLog, dlv's log does not show them.
func TestOnlyTheDebuggee(t *testing.T) {
	dir := program(t, "hello")
	value, flags := "canary-in-the-pod", "-mod=nonsense"
	a := startAdapter(t, dir)
	a.place.pod = map[string]*string{"GREETING": &value, "GOFLAGS": &flags, "UNSET_ME": nil}
	begin(t, a.Client, launchArgs(map[string]any{"program": ".", "showLog": true, "logOutput": "dap"}), mark(t, filepath.Join(dir, "main.go"), "stop here"))
	event(t, a.Client, "stopped")
	pid := debuggees(a)[0]
	started, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", parent(t, pid)))
	if err != nil || strings.Contains(string(started), value) || strings.Contains(string(started), flags) {
		t.Errorf("dlv was started with a variable of the pod (%v)", err)
	}
	must(t, a.Client, "continue", map[string]int{"threadId": 1})
	exit(t, a.Client)
	if got := a.Output("stdout"); !strings.Contains(got, "env "+value+" true false\n") {
		t.Errorf("the debuggee prints %q", got)
	}
	if got := a.Output("console"); !strings.Contains(got, "launch") || strings.Contains(got, value) || strings.Contains(got, flags) {
		t.Errorf("dlv's log: %q", got)
	}
	must(t, a.Client, "disconnect", nil)
	if strings.Contains(a.log.String(), value) {
		t.Error("a value of the pod is in the log")
	}
}

// TestStubbornSession disconnects while the session's start does not listen: the editor is answered in time.
func TestStubbornSession(t *testing.T) {
	started, release := make(chan struct{}), make(chan struct{})
	a := startAdapter(t, program(t, "hello"), func(o *dap.Options) {
		o.Start = func(context.Context, *config.Launch, dap.Hints, dap.Hooks) (dap.Runner, error) {
			close(started)
			<-release
			return nil, errors.New("too late")
		}
	})
	launch(t, a)
	<-started
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if m, err := a.Do(ctx, "disconnect", nil); err != nil || m.Err() != nil {
		t.Errorf("disconnect: %v %v", err, m)
	}
	close(release)
}

// TestSecondLaunch launches again after a launch that failed, and terminates.
func TestSecondLaunch(t *testing.T) {
	dir := program(t, "service")
	a := startAdapter(t, dir)
	launchBad := launchArgs(map[string]any{"program": "./nowhere"})
	must(t, a.Client, "initialize", initialize)
	refused(t, a.Client, "threads", nil)
	refused(t, a.Client, "launch", launchBad)
	refused(t, a.Client, "restart", nil)
	refused(t, a.Client, "terminate", nil)
	refused(t, a.Client, "attach", launchBad)
	begin(t, a.Client, launchArgs(map[string]any{"program": "."}))
	refused(t, a.Client, "launch", launchBad)
	a.WaitOutput(limit(t), "stdout", "listening")
	refused(t, a.Client, "nonsense", nil)
	must(t, a.Client, "terminate", nil)
	exit(t, a.Client)
	must(t, a.Client, "disconnect", nil)
}

// TestShowsErrors: why a launch, or a request of stepin's own, failed is shown once, by the editor or by the extension that asked for it.
func TestShowsErrors(t *testing.T) {
	for _, own := range []bool{false, true} {
		a := startAdapter(t, t.TempDir())
		must(t, a.Client, "initialize", initialize)
		args := launchArgs(map[string]any{"program": "./nothing"})
		args["__showsErrors"] = own
		var failed struct{ Error struct{ ShowUser bool } }
		for _, command := range []string{"launch", "stepin.setMode"} { // launch says who shows errors
			body(t, refused(t, a.Client, command, args).Body, &failed)
			if failed.Error.ShowUser == own {
				t.Errorf("%s, __showsErrors %v: showUser %v", command, own, failed.Error.ShowUser)
			}
		}
	}
}
