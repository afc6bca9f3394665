package whole

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/podlet"
)

// bench is a pod and the directories of the stepins that are given bad input.
type bench struct {
	pod    *podlet.Pod
	dir    string // all of stepin's, "tmp" and "run" in it
	exe    string // programs/ending
	before snapshot
}

// echoes is where a sidecar on the pod's own loopback says everything twice.
var echoes = netip.MustParseAddrPort("127.0.0.1:7007")

// ofThePod is programs/ending in the pod's image, in a folder that this machine does not have.
const ofThePod = "/stepin-ending/ending"

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{exe: program(t, "ending")}
	var err error
	if b.dir, err = os.MkdirTemp("/tmp", "b"); err != nil { // with longer paths stepin would go elsewhere
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(b.dir) })
	for _, d := range []string{"tmp", "run"} {
		if err := os.Mkdir(filepath.Join(b.dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	b.pod = pod(t, podlet.Spec{Sidecars: []podlet.Sidecar{{Network: "tcp", Addr: echoes}},
		Files: []podlet.File{{Path: ofThePod, Host: b.exe, Mode: 0o755}}})
	local := b.pod.Addr(true).String()
	eventually(t, patience, "the kernel has entered the pod's addresses", func() bool {
		b.before = take(t, b.pod, b.dir)
		return strings.Contains(strings.Join(b.before.Network, "\n"), "Dst: "+local+"/")
	})
	return b
}

// environ is what stepin gets; more is laid over it.
func (b *bench) environ(more ...string) []string {
	return append(append(os.Environ(), "TMPDIR="+filepath.Join(b.dir, "tmp"), "XDG_RUNTIME_DIR="+filepath.Join(b.dir, "run")), more...)
}

func (b *bench) target() string { return fmt.Sprintf("local/%d", b.pod.MainPID()) }

// clean fails the test unless everything is soon as it was before.
func (b *bench) clean(t *testing.T) {
	t.Helper()
	var left []string
	for end := time.Now().Add(tidyTime); ; time.Sleep(50 * time.Millisecond) {
		now, err := look(t, b.pod, b.dir)
		if left = now.differences(b.before); err == nil && len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("left behind: %v\n%s", err, strings.Join(left, "\n"))
		}
	}
}

// refusal is what a developer reads.
type refusal struct {
	id         int // DAP only
	what, hint string
}

// launch sends a launch that is to be refused, through `stepin dap` in dir.
func (b *bench) launch(t *testing.T, dir string, environ []string, arguments map[string]any) (refusal, *adapter) {
	t.Helper()
	a := dapIn(t, dir, environ)
	a.must("initialize", map[string]any{"adapterID": "stepin", "supportsStartDebuggingRequest": true}, nil)
	m, err := a.Do(limit(t), "launch", arguments)
	if err != nil {
		t.Fatalf("%v\n%s", err, a.stderr.String())
	}
	var body struct {
		Error struct {
			ID       int
			Format   string
			ShowUser bool
		}
	}
	if m.Success || json.Unmarshal(m.Body, &body) != nil || body.Error.Format == "" {
		t.Fatalf("the launch got %v %s", m.Success, m.Body)
	}
	what, hint, _ := strings.Cut(body.Error.Format, "\nhint: ")
	if id := body.Error.ID; body.Error.ShowUser != (id != int(fail.BuildFailed)) {
		t.Errorf("id %d, showUser %v", id, body.Error.ShowUser)
	}
	if strings.Contains(what, "\n") {
		t.Errorf("more than a sentence: %s", what)
	}
	if text := a.stderr.String(); text != "" {
		t.Errorf("on stderr: %s", text)
	}
	a.disconnect()
	return refusal{body.Error.ID, what, hint}, a
}

// exec runs `stepin exec` in dir, which is to fail by itself: with status 125, one sentence and a hint.
func (b *bench) exec(t *testing.T, dir string, environ []string, args ...string) refusal {
	t.Helper()
	return refused(t, b.command(t, dir, environ, args...))
}

func (b *bench) command(t *testing.T, dir string, environ []string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(limit(t), stepin(t), append([]string{"exec"}, args...)...)
	cmd.Dir, cmd.Env = dir, environ
	return cmd
}

func refused(t *testing.T, cmd *exec.Cmd) refusal {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 125 || out.Len() > 0 {
		t.Errorf("%v, %q\n%s", err, out.String(), errs.String())
	}
	var r refusal
	for line := range strings.Lines(errs.String()) {
		line = strings.TrimSpace(line)
		switch what, ok := strings.CutPrefix(line, "stepin: "); {
		case ok && !strings.HasPrefix(what, "in the place of "): // then it started, and said so
			r.what += what
		case strings.HasPrefix(line, "hint: "):
			r.hint += strings.TrimPrefix(line, "hint: ")
		case !ok:
			t.Errorf("neither sentence nor hint: %s", line)
		}
	}
	return r
}

func (r refusal) check(t *testing.T, id fail.Code, what, hint string) {
	t.Helper()
	if r.id != 0 && r.id != int(id) {
		t.Errorf("number %d, not %d", r.id, id)
	}
	if !strings.Contains(r.what, what) || !strings.Contains(r.hint, hint) || r.hint == "" {
		t.Errorf("%q, hint %q; want %q, %q", r.what, r.hint, what, hint)
	}
}

// TestBadInput: what cannot be is said in one sentence with a hint, as a DAP error or with status 125, and leaves
// nothing behind; a program that ends badly ends with its own status; one that behaves oddly simply works.
func TestBadInput(t *testing.T) {
	b := newBench(t)
	for _, part := range []struct {
		name string
		test func(*testing.T, *bench)
	}{
		{"debugger and program", badProgram}, {"configuration", badConfiguration}, {"target", badTarget}, {"not yet", notYet},
		{"devices", badDevices}, {"no user namespaces", noUserNamespaces}, {"editor's keys", editorsKeys},
		{"ends", ends}, {"odd", odd}, {"scripts", badScripts}, {"preload", badPreload},
	} {
		t.Run(part.name, func(t *testing.T) {
			part.test(t, b)
			b.clean(t)
		})
	}
}

// module writes a Go module and returns its folder.
func module(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	files["go.mod"] = "module bad\n\ngo 1.22\n"
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func badProgram(t *testing.T, b *bench) {
	good := module(t, map[string]string{"main.go": "package main\n\nfunc main() {}\n"})
	broken := module(t, map[string]string{"main.go": "package main\n\nfunc main() {\n\tthere()\n}\n"})
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("text\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	arguments := func(program, mode string) map[string]any {
		return map[string]any{"target": b.target(), "debugger": map[string]any{"type": "go", "program": program, "mode": mode}}
	}
	empty := t.TempDir()
	r, _ := b.launch(t, good, b.environ("PATH=/usr/bin:/bin", "HOME="+empty, "GOPATH="+empty, "GOBIN="), arguments(good, "debug"))
	r.check(t, fail.DebuggerMissing, "dlv, the Go debugger, is neither on PATH nor in ", "go install ")
	r, a := b.launch(t, broken, b.environ(), arguments(broken, "debug"))
	if want := "Failed to launch: Build error: Check the debug console for details."; r.id != int(fail.BuildFailed) || r.what != want { // as Delve
		t.Errorf("a program that does not build: %+v", r)
	}
	if said := a.Output("stderr"); !strings.Contains(said, "main.go:4:2: undefined: there") {
		t.Errorf("the compiler's text is not in the console: %s", said)
	}
	r, _ = b.launch(t, good, b.environ(), arguments(filepath.Join(good, "cmd", "orders"), "debug"))
	r.check(t, fail.ProgramMissing, "cmd/orders: no such file or folder", "relative to")
	r, _ = b.launch(t, good, b.environ(), arguments("orders", "exec"))
	r.check(t, fail.ProgramMissing, "orders: no such file", "build it first")
	for _, program := range []string{"/nowhere/at-all", ofThePod + "s"} { // in Delve's words, since it looks in the pod's place
		a := dapIn(t, good, b.environ())
		a.must("initialize", map[string]any{"adapterID": "stepin"}, nil)
		m, err := a.Do(limit(t), "launch", arguments(program, "exec"))
		if err != nil || m.Success || !strings.Contains(string(m.Body), "no such file") && !strings.Contains(string(m.Body), "does not exist") {
			t.Errorf("%s: %v %s", program, err, m.Body)
		}
		a.disconnect()
	}
	r, _ = b.launch(t, good, b.environ(), arguments("", "debug"))
	r.check(t, fail.ProgramMissing, "program", `"program"`)
	for _, c := range []struct{ program, what string }{
		{"no-such-program", "no-such-program is not on PATH"},
		{"./nowhere", "nowhere: no such program"},
		{"/nowhere/at-all", "/nowhere/at-all: no such program in the pod's place"},
		{ofThePod + "s", ofThePod + "s: no such program in the pod's place"},
		{plain, "plain is not a program"},
	} {
		b.exec(t, good, b.environ(), "--target", b.target(), "--", c.program).check(t, 0, c.what, "")
	}
}

func badConfiguration(t *testing.T, b *bench) {
	good := module(t, map[string]string{"main.go": "package main\n\nfunc main() {}\n"})
	for _, c := range []struct {
		name       string
		id         fail.Code
		yaml       string
		what, hint string
	}{
		{"unknown key", fail.ConfigUnknownKey, `{"incomming": {"mode": "steal"}}`, `did you mean "incoming"?`, "incoming"},
		{"unknown key below", fail.ConfigUnknownKey, `{"incoming": {"port": [80]}}`, `did you mean "ports"?`, "ports"},
		{"port too large", fail.ConfigValue, `{"incoming": {"ports": [65536]}}`, "65536 is no port", "65535"},
		{"port 0", fail.ConfigValue, `{"incoming": {"ports": [0]}}`, "0 is no port", "65535"},
		{"port in a map", fail.ConfigValue, `{"incoming": {"map": {"8080": 70000}}}`, "70000 is no port", "65535"},
		{"wrong type", fail.ConfigValue, `{"dns": "yes"}`, "dns", "true"},
		{"misspelt", fail.ConfigValue, `{"incoming": {"mode": "stael"}}`, `did you mean "steal"?`, "steal"},
	} {
		t.Run(c.name, func(t *testing.T) {
			arguments := map[string]any{}
			if err := json.Unmarshal([]byte(c.yaml), &arguments); err != nil {
				t.Fatal(err)
			}
			arguments["target"], arguments["debugger"] = b.target(), map[string]any{"type": "go", "program": good}
			r, _ := b.launch(t, good, b.environ(), arguments)
			r.check(t, c.id, c.what, c.hint)
			file := filepath.Join(t.TempDir(), "stepin.yaml")
			if err := os.WriteFile(file, []byte(c.yaml), 0o600); err != nil {
				t.Fatal(err)
			}
			b.exec(t, good, b.environ(), "--config", file, "--target", b.target(), "--", "true").check(t, 0, c.what, c.hint)
		})
	}
	t.Run("broken stepin.yaml", func(t *testing.T) {
		dir := module(t, map[string]string{"main.go": "package main\n\nfunc main() {}\n", "stepin.yaml": "incoming:\n  mode: [steal\n"})
		r, _ := b.launch(t, "/", b.environ(), map[string]any{"target": b.target(), "debugger": map[string]any{"type": "go", "program": dir}})
		r.check(t, fail.ConfigSyntax, "stepin.yaml:2: ", "whole file")
		b.exec(t, dir, b.environ(), "--target", b.target(), "--", "true").check(t, 0, "stepin.yaml:2: ", "whole file")
	})
}

func badTarget(t *testing.T, b *bench) {
	good := module(t, map[string]string{"main.go": "package main\n\nfunc main() {}\n"})
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	type bad struct {
		target     string
		id         fail.Code
		what, hint string
	}
	all := []bad{
		{fmt.Sprintf("local/%d", ended.Process.Pid), fail.TargetMissing, "there is no process ", "ps -e"},
		{"local/first", fail.TargetSyntax, "does not name a process", "local/4711"},
		{fmt.Sprintf("local/%d", os.Getpid()), fail.TargetForeign, "shares this machine's own network", "namespaces of its own"},
	}
	if os.Getuid() != 0 { // root may be allowed to
		all = append(all, bad{"local/1", fail.TargetForeign, "process 1 is not yours to enter", "run stepin as root"})
	}
	for _, c := range all {
		r, _ := b.launch(t, good, b.environ(), map[string]any{"target": c.target, "debugger": map[string]any{"type": "go", "program": good}})
		r.check(t, c.id, c.what, c.hint)
		b.exec(t, good, b.environ(), "--target", c.target, "--", "true").check(t, 0, c.what, c.hint)
	}
}

// notYet: what a later version will have is refused in words, and is not in the schema.
func notYet(t *testing.T, b *bench) {
	good := module(t, map[string]string{"main.go": "package main\n\nfunc main() {}\n"})
	for _, later := range []string{
		`{"incoming": {"filter": {"header": "x-user: me"}}}`, `{"incoming": {"whilePaused": "pod"}}`,
		`{"request": "attach"}`, `{"files": {"mode": "write"}}`,
		`{"debugger": {"type": "lldb"}}`, `{"debugger": {"type": "none"}}`,
		`{"target": "rollout/orders"}`, `{"target": "none"}`,
	} {
		arguments := map[string]any{"target": b.target(), "debugger": map[string]any{"type": "go", "program": good}}
		var change map[string]any
		if err := json.Unmarshal([]byte(later), &change); err != nil {
			t.Fatal(err)
		}
		maps.Copy(arguments, change)
		r, _ := b.launch(t, good, b.environ(), arguments)
		if r.id != int(fail.ConfigLater) || !strings.Contains(r.what, "does not exist in this version") || r.hint == "" {
			t.Errorf("%s: %+v", later, r)
		}
	}
	out, err := exec.Command(stepin(t), "config", "schema").Output()
	if err != nil {
		t.Fatal(err)
	}
	var schema any
	if err := json.Unmarshal(out, &schema); err != nil {
		t.Fatal(err)
	}
	known := names(schema)
	for _, word := range []string{"steal", "mirror", "ports", "go", "python", "node"} {
		if !slices.Contains(known, word) {
			t.Errorf("the schema lacks %q", word)
		}
	}
	for _, word := range []string{"filter", "attach", "lldb", "none"} {
		if slices.Contains(known, word) {
			t.Errorf("the schema has %q", word)
		}
	}
	a := dapIn(t, good, b.environ())
	a.must("initialize", map[string]any{"adapterID": "stepin"}, nil)
	m, err := a.Do(limit(t), "attach", map[string]any{"target": b.target()})
	if err != nil || m.Success || !strings.Contains(string(m.Body), "hint: ") {
		t.Errorf("attach: %v %s", err, m.Body)
	}
	a.disconnect()
}

// names are the properties of a schema and the values that it allows.
func names(schema any) (all []string) {
	switch v := schema.(type) {
	case map[string]any:
		for key, below := range v {
			switch below := below.(type) {
			case map[string]any:
				if key == "properties" {
					all = slices.AppendSeq(all, maps.Keys(below))
				}
			case []any:
				for _, e := range below {
					if s, ok := e.(string); ok && key == "enum" {
						all = append(all, s)
					}
				}
			case string:
				if key == "const" {
					all = append(all, below)
				}
			}
			all = append(all, names(below)...)
		}
	case []any:
		for _, e := range v {
			all = append(all, names(e)...)
		}
	}
	return all
}

func badDevices(t *testing.T, b *bench) {
	closed := filepath.Join(t.TempDir(), "closed")
	if err := os.WriteFile(closed, nil, 0o000); err != nil {
		t.Fatal(err)
	}
	type bad struct {
		env        string
		id         fail.Code
		what, hint string
	}
	all := []bad{
		{"STEPIN_TUN=/no/tun", fail.NoTun, "no TUN device to be had: open(/no/tun): no such file or directory", "STEPIN_TUN"},
		{"STEPIN_FUSE=/no/fuse", fail.NoFuse, "no FUSE device to be had: open(/no/fuse): no such file or directory", "STEPIN_FUSE"},
	}
	if os.Getuid() != 0 { // root may open everything
		all = append(all, bad{"STEPIN_TUN=" + closed, fail.NoTun, "permission denied", "chmod 0666 " + closed},
			bad{"STEPIN_FUSE=" + closed, fail.NoFuse, "permission denied", "chmod 0666 " + closed})
	}
	for _, c := range all {
		r, _ := b.launch(t, "/", b.environ(c.env), b.ending("exit", "0"))
		r.check(t, c.id, c.what, c.hint)
		b.exec(t, "/", b.environ(c.env), "--target", b.target(), "--", b.exe, "exit", "0").check(t, 0, c.what, c.hint)
		cmd := exec.Command(stepin(t), "doctor", "-o", "json")
		cmd.Env = b.environ(c.env)
		out, err := cmd.Output()
		var exit *exec.ExitError
		var checks []struct{ Name, Call, Errno, Error, Cure string }
		if !errors.As(err, &exit) || exit.ExitCode() != 1 || json.Unmarshal(out, &checks) != nil {
			t.Fatalf("doctor: %v %s", err, out)
		}
		i := slices.IndexFunc(checks, func(c struct{ Name, Call, Errno, Error, Cure string }) bool { return c.Errno != "" })
		if i < 0 || !strings.HasPrefix(checks[i].Call, "open(") || !strings.HasPrefix(checks[i].Errno, "E") || !strings.Contains(checks[i].Cure, c.hint) {
			t.Errorf("doctor: %s", out)
		}
	}
}

// noUserNamespaces runs stepin where the kernel allows none. Root does without, which pkg/namespaces tests. A process in
// a network of its own is the pod: a podlet would be in a user namespace that this one cannot see into.
func noUserNamespaces(t *testing.T, b *bench) {
	if os.Getuid() == 0 {
		return
	}
	in := func(command string) *exec.Cmd {
		cmd := exec.CommandContext(limit(t), "/bin/sh", "-c", "unshare -n sleep 60 & echo 0 >/proc/sys/user/max_user_namespaces || exit 1\n"+
			"until [ \"$(readlink /proc/$!/ns/net)\" != \"$(readlink /proc/$$/ns/net)\" ]; do sleep 0.01; done\n"+
			"trap 'kill $!' EXIT\n"+stepin(t)+" "+command)
		cmd.Env, cmd.Dir = b.environ(), "/"
		id := []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}
		group := []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: id, GidMappings: group,
			AmbientCaps: []uintptr{unix.CAP_SYS_RESOURCE, unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_SYS_PTRACE, unix.CAP_SYS_CHROOT}}
		return cmd
	}
	r := refused(t, in("exec --target local/$! -- "+b.exe+" exit 0")) // static: the other front end cannot serve it
	r.check(t, 0, "this machine does not let stepin make namespaces (namespaces of its own): clone(CLONE_NEWUSER): no space left on device",
		"sysctl -w user.max_user_namespaces=")
	out, err := in("doctor").Output()
	if err == nil || !strings.Contains(string(out), "clone(CLONE_NEWUSER): ENOSPC (no space left on device)") || !strings.Contains(string(out), "sysctl -w ") {
		t.Errorf("doctor: %v\n%s", err, out)
	}
}

// ending is a launch of programs/ending.
func (b *bench) ending(args ...string) map[string]any {
	return map[string]any{"target": b.target(), "incoming": map[string]any{"mode": "steal"},
		"debugger": map[string]any{"type": "go", "mode": "exec", "program": b.exe, "args": args}}
}

// plainly runs a command in the pod's place, and returns its output and status.
func (b *bench) plainly(t *testing.T, argv ...string) (string, int) {
	t.Helper()
	cmd := b.command(t, "/", b.environ(), append([]string{"--target", b.target(), "--"}, argv...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if cmd.ProcessState.ExitCode() != 0 {
		t.Logf("%q: %v\n%s", argv, err, errs.String())
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// debugged runs programs/ending under Delve to its end, past its exceptions, and returns its status and output.
func (b *bench) debugged(t *testing.T, more map[string]any, args ...string) (status int, output string) {
	t.Helper()
	a := dapIn(t, "/", b.environ())
	configuration := merge(b.ending(args...), more)
	if configuration["noDebug"] == true { // Delve then asks for no configuration
		a.must("initialize", map[string]any{"adapterID": "stepin"}, nil)
		a.must("launch", configuration, nil)
	} else {
		a.launch(configuration, "")
	}
	for {
		m := a.until("stopped", "exited", "terminated")
		if m.Event == "terminated" {
			var all []string
			for _, e := range a.Events() {
				all = append(all, e.Event)
			}
			t.Fatalf("%q, noDebug %v: terminated without having exited: %q", args, more["noDebug"], all)
		}
		if m.Event == "exited" {
			var body struct{ ExitCode int }
			if err := m.Decode(&body); err != nil {
				t.Fatal(err)
			}
			a.until("terminated")
			a.disconnect()
			return body.ExitCode, a.Output("stdout") + a.Output("stderr")
		}
		var at struct {
			ThreadID int
			Reason   string
		}
		if err := m.Decode(&at); err != nil || at.Reason != "exception" {
			t.Errorf("stopped for %q: %v", at.Reason, err)
		}
		a.goOn(at.ThreadID)
	}
}

// editorsKeys: what VS Code puts beside the keys of a launch configuration is its own business.
func editorsKeys(t *testing.T, b *bench) {
	more := map[string]any{"type": "stepin", "request": "launch", "name": "orders", "noDebug": true, "console": "internalConsole",
		"preLaunchTask": "build", "postDebugTask": "clean", "internalConsoleOptions": "openOnSessionStart",
		"presentation": map[string]any{"hidden": false, "group": "", "order": 1}, "debugServer": 4711,
		"serverReadyAction": map[string]any{"pattern": "listening on port ([0-9]+)"}, "suppressMultipleSessionWarning": true,
		"__configurationTarget": 6, "__sessionId": "5a1c", "__restart": map[string]any{}}
	if status, _ := b.debugged(t, more, "exit", "3"); status != 3 {
		t.Errorf("status %d", status)
	}
}

// ends: who crashes or exits at once ends with his own status.
func ends(t *testing.T, b *bench) {
	const crash = 2 // of the Go runtime
	for _, c := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"exit", "0"}, 0, ""},
		{[]string{"exit", "7"}, 7, ""},
		{[]string{"exit", "125"}, 125, ""}, // stepin's own number may be the debuggee's, too
		{[]string{"panic"}, crash, "panic: on purpose"},
		{[]string{"segv"}, crash, "SIGSEGV"},
	} {
		for _, bare := range []bool{false, true} {
			if status, said := b.debugged(t, map[string]any{"noDebug": bare}, c.args...); status != c.status || !strings.Contains(said, c.says) {
				t.Errorf("%v, noDebug %v: status %d, %q", c.args, bare, status, said)
			}
		}
		if _, status := b.plainly(t, append([]string{b.exe}, c.args...)...); status != c.status {
			t.Errorf("%v: status %d", c.args, status)
		}
	}
	for sig, want := range map[string]int{"SEGV": 128 + 11, "KILL": 128 + 9, "TERM": 128 + 15} {
		if _, status := b.plainly(t, "/bin/sh", "-c", "kill -"+sig+" $$"); status != want {
			t.Errorf("SIG%s: status %d", sig, status)
		}
	}
	if _, status := b.plainly(t, "/bin/sh", "-c", "exit 127"); status != 127 { // as the stub ends where there is no program
		t.Errorf("status %d, not 127", status)
	}
}

// odd: what programs may do simply works.
func odd(t *testing.T, b *bench) {
	addr := echoes.String()
	if status, said := b.debugged(t, nil, "closed", addr); status != 0 {
		t.Errorf("without descriptors: %d %s", status, said)
	}
	if _, status := b.plainly(t, b.exe, "closed", addr); status != 0 {
		t.Errorf("without descriptors: %d", status)
	}
	for _, debug := range []bool{false, true} {
		file := filepath.Join(t.TempDir(), "said")
		said, status := "", 0
		if debug {
			status, said = b.debugged(t, nil, "daemon", addr, file)
		} else {
			said, status = b.plainly(t, b.exe, "daemon", addr, file)
		}
		if status != 0 || said != "reached\n" {
			t.Errorf("with a daemon, under Delve %v: %d %q", debug, status, said)
		}
	}
	if _, status := b.plainly(t, ofThePod, "exit", "5"); status != 5 {
		t.Errorf("a program of the pod's: %d", status)
	}
	if status, _ := b.debugged(t, map[string]any{"debugger": map[string]any{"program": ofThePod}}, "exit", "5"); status != 5 {
		t.Errorf("a program of the pod's, debugged: %d", status)
	}
	begin := time.Now()
	if _, status := b.plainly(t, b.exe, "connect", addr, "10000"); status != 0 {
		t.Errorf("10,000 connections: %d", status)
	}
	t.Logf("10,000 connections in %v", time.Since(begin))
}
