package delve

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/adapter/dap"
	"github.com/stepin-dev/stepin/adapter/shell"
	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
)

func TestGoArguments(t *testing.T) {
	for _, c := range []struct {
		flags, want string
		test        bool
	}{
		{`null`, "build -o OUT -gcflags all=-N -l .", false},
		{`""`, "build -o OUT -gcflags all=-N -l .", false},
		{`"-tags=a,b -ldflags='-X main.a=b c'"`, "build -o OUT -gcflags all=-N -l -tags=a,b -ldflags=-X main.a=b c .", false},
		{`["-tags=a", "-ldflags=-X main.a=b c"]`, "build -tags=a -ldflags=-X main.a=b c -o OUT -gcflags all=-N -l .", false},
		{`"-C sub -race"`, "test -C sub -c -o OUT -gcflags all=-N -l -race .", true},
		{`["-C=sub", "-race"]`, "test -C=sub -c -race -o OUT -gcflags all=-N -l .", true},
	} {
		var f buildFlags
		if err := json.Unmarshal([]byte(c.flags), &f); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(goArguments(c.test, "OUT", ".", f), " "); got != c.want {
			t.Errorf("%s: %s, want %s", c.flags, got, c.want)
		}
	}
}

func TestSplitQuoted(t *testing.T) {
	for in, want := range map[string][]string{
		"":               nil,
		" a  b\t":        {"a", "b"},
		"'a b' c":        {"a b", "c"},
		`-x='a \'b\' c'`: {"-x=a 'b' c"},
		"''":             {""},
		`"a b"`:          {`"a`, `b"`},
		"'open":          {"open"},
	} {
		if got := splitQuoted(in); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestScrub(t *testing.T) {
	secret, part, own := "line one\nsecond \"line\"", "secret-value", "my-own-value"
	s := newScrubber()
	s.learn(map[string]*string{"A": &secret, "B": &part, "C": &own, "D": nil}, map[string]*string{"C": &own})
	got := s.scrub(`{"A":"line one\nsecond \"line\"","B":"secret-value","C":"my-own-value"}`)
	for _, leak := range []string{"line one", "second", "secret"} {
		if strings.Contains(got, leak) {
			t.Errorf("%s shows %q", got, leak)
		}
	}
	if !strings.Contains(got, own) {
		t.Errorf("%s hides what the user wrote himself", got)
	}
}

// make prepares a debugger in dir with a dlv that is only looked for.
func prepare(t *testing.T, dir string, keys map[string]any) (*Debugger, error) {
	t.Helper()
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "dlv"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	c := config.Default()
	c.Debugger.Keys = map[string]json.RawMessage{}
	for k, v := range keys {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		c.Debugger.Keys[k] = b
	}
	env := append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "GOWORK=", "GOFLAGS=")
	d, err := New(c, false, dap.Place{Dir: dir, Environ: env})
	if err != nil {
		return nil, err
	}
	return d.(*Debugger), nil
}

// TestElsewhere builds a module from a folder outside of it, where Delve alone would fail.
func TestElsewhere(t *testing.T) {
	module := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module example.com/m\n\ngo 1.26\n", "cmd/x/main.go": "package main\n\nfunc main() {}\n"} {
		path := filepath.Join(module, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(module, "cmd", "x")
	outside := t.TempDir()
	d, err := prepare(t, outside, map[string]any{"program": program})
	if err != nil {
		t.Fatal(err)
	}
	var said string
	out, err := d.Build(context.Background(), t.TempDir(), func(_, text string) { said += text })
	if err != nil || !shell.Executable(out) {
		t.Fatalf("%v: %s", err, said)
	}
	if d.cwd() != program {
		t.Errorf("the debuggee's folder is %s, want %s", d.cwd(), program)
	}
	d, err = prepare(t, outside, map[string]any{"program": program, "dlvCwd": outside})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Build(context.Background(), t.TempDir(), func(string, string) {}); fail.CodeOf(err) != fail.BuildFailed {
		t.Errorf("dlvCwd is not obeyed: %v", err)
	}
}

// TestBuildCancelled ends the go command and what it has started.
func TestBuildCancelled(t *testing.T) {
	d, err := prepare(t, t.TempDir(), map[string]any{"program": "."})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	_, err = d.Build(ctx, t.TempDir(), func(string, string) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestBuildOrphaned kills a process in the middle of a build: the go command hears of it.
func TestBuildOrphaned(t *testing.T) {
	const key = "STEPIN_TEST_ORPHAN"
	if dir := os.Getenv(key); dir != "" { // the process that is killed
		d, err := prepare(t, dir, map[string]any{"program": "."})
		if err != nil {
			t.Fatal(err)
		}
		d.Build(context.Background(), dir, func(string, string) {})
		return
	}
	dir := t.TempDir()
	script := "#!/bin/sh\ntrap 'kill $!; echo > \"$DIR/told\"; exit 1' INT\nsleep 60 >/dev/null 2>&1 &\necho > \"$DIR/begun\"\nwait\n"
	if err := os.WriteFile(filepath.Join(dir, "go"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestBuildOrphaned$")
	cmd.Env = append(os.Environ(), key+"="+dir, "DIR="+dir, "PATH="+dir+":"+os.Getenv("PATH"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await := func(name string) {
		t.Helper()
		for range 6000 {
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("the go command has not %s", name)
	}
	await("begun")
	cmd.Process.Kill()
	cmd.Wait()
	await("told")
}

// TestLogsLeakNothing checks that dlv logs only where its log is read for the pod's values.
func TestLogsLeakNothing(t *testing.T) {
	for _, c := range []struct {
		console, flag string
		refused       bool
	}{
		{"internalConsole", "--log", false},
		{"internalConsole", "--log-dest=/tmp/x", true},
		{"internalConsole", "--log-dest", true},
		{"integratedTerminal", "--log", true},
		{"externalTerminal", "--log=true", true},
		{"integratedTerminal", "--check-go-version=false", false},
	} {
		d, err := prepare(t, t.TempDir(), map[string]any{"program": ".", "console": c.console, "dlvFlags": []string{c.flag},
			"showLog": true, "logOutput": "dap"})
		if c.refused != (err != nil) || err != nil && fail.Hint(err) == "" {
			t.Errorf("%s %s: %v", c.console, c.flag, err)
		}
		if d != nil && c.console != "internalConsole" && slices.Contains(d.Command("/s").Argv, "--log") {
			t.Errorf("%s: dlv logs to the terminal", c.console)
		}
	}
}

// TestArguments checks what Delve gets: unknown keys and nulls pass, stepin's own do not.
func TestArguments(t *testing.T) {
	dir := t.TempDir()
	d, err := prepare(t, dir, map[string]any{"program": ".", "env": map[string]any{"A": nil}, "later": map[string]any{"x": nil},
		"substitutePath": []any{}, "console": "internalConsole", "buildFlags": "-v", "noDebug": true})
	if err != nil {
		t.Fatal(err)
	}
	pod := "pod"
	raw, err := d.Arguments(dap.Launching{Program: "/d/bin", Stdout: "/d/o", Stderr: "/d/e",
		Environ: func(launch map[string]*string) map[string]*string {
			return map[string]*string{"A": launch["A"], "B": &pod, "DEBUGINFOD_URLS": &pod}
		}})
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"request": "launch", "mode": "exec", "program": "/d/bin", "cwd": dir, "noDebug": true,
		"env": map[string]any{"A": nil, "B": "pod"}, "later": map[string]any{"x": nil}, "substitutePath": []any{},
		"stdoutTo": "/d/o", "stderrTo": "/d/e"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v\nwant %v", got, want)
	}
	cmd := d.Command("/d/s")
	if i := slices.IndexFunc(cmd.Env, func(e string) bool { return strings.HasPrefix(e, "DEBUGINFOD") }); i >= 0 || cmd.Argv[2] != "--client-addr=unix:/d/s" {
		t.Errorf("%q %d", cmd.Argv, i)
	}
}

func TestFind(t *testing.T) {
	bin := t.TempDir()
	dlv := filepath.Join(bin, "dlv")
	if err := os.WriteFile(dlv, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	inHome := filepath.Join(home, "go", "bin", "dlv")
	if err := os.MkdirAll(filepath.Dir(inHome), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(inHome, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		tool string
		env  []string
		want string
	}{
		{"", []string{"PATH=/nowhere:" + bin}, dlv},
		{"", []string{"PATH=/nowhere", "GOBIN=" + bin}, dlv},
		{"", []string{"GOPATH=/nowhere:" + filepath.Join(home, "go"), "HOME=/nowhere"}, inHome},
		{"", []string{"HOME=" + home}, inHome},
		{dlv, nil, dlv},
		{bin, nil, dlv},
		{"", []string{"PATH=" + home}, ""},
		{"/nowhere", []string{"PATH=" + bin}, ""},
	} {
		got, err := find(c.tool, "/", c.env)
		if got != c.want || err != nil && (fail.CodeOf(err) != fail.DebuggerMissing || !strings.Contains(fail.Hint(err), "go install")) {
			t.Errorf("%q %q: %q %v", c.tool, c.env, got, err)
		}
	}
}
