package talk

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/stepin-dev/stepin/adapter/dap/client"
)

// Configuration is a launch configuration, in Delve's keys, and where the program should stop.
type Configuration struct {
	Name string

	program string // folder of adapter/dap/testdata
	dir     string // the adapter's working directory, below it
	keys    map[string]any
	bare    map[string]any // keys that Delve alone does not know, in its own words; nil deletes
	stop    string         // file below the program's folder; its line is the one marked "stop here"
	entry   bool           // it stops on entry first
	prepare func(t testing.TB, root string)
}

// here stands for the program's folder in keys.
const here = "DIR"

// Configurations are launch configurations that between them have every key of Delve's that stepin reads itself.
func Configurations() []Configuration {
	return []Configuration{
		{Name: "folder", program: "hello", keys: map[string]any{"program": "."}, stop: "main.go"},
		{Name: "file in a workspace", program: "work", dir: "app", keys: map[string]any{"mode": "debug", "program": "main.go"}, stop: "app/main.go"},
		{Name: "package by import path", program: "work", keys: map[string]any{"program": "example.com/app"}, stop: "app/main.go"},
		{Name: "test", program: "unit", keys: map[string]any{"mode": "test", "program": ".", "args": []string{"-test.v"}}, stop: "unit_test.go"},
		{Name: "auto, test by file", program: "unit", keys: map[string]any{"mode": "auto", "program": "unit_test.go", "args": []string{"-test.v"}},
			bare: map[string]any{"mode": "test", "program": "."}, stop: "unit_test.go"},
		{Name: "exec", program: "hello", keys: map[string]any{"mode": "exec", "program": "./built"}, stop: "main.go", prepare: build},
		{Name: "without debugging", program: "hello", keys: map[string]any{"program": ".", "noDebug": true, "args": []string{"a b", "c"}}},
		{Name: "flags as a string, arguments, environment", program: "hello", keys: map[string]any{"program": ".", "cwd": "sub",
			"buildFlags": "-ldflags='-X main.build=from_flags'", "args": []string{"one", "two words", ""},
			"env": map[string]any{"GREETING": "grüß \"dich\"", "UNSET_ME": nil}}, stop: "main.go",
			prepare: func(t testing.TB, root string) {
				if err := os.Mkdir(filepath.Join(root, "sub"), 0o755); err != nil {
					t.Fatal(err)
				}
			}},
		{Name: "flags as a list, output, other folder", program: "hello", dir: "..", keys: map[string]any{"program": ".", "dlvCwd": here,
			"buildFlags": []string{"-ldflags=-X main.build=from_list"}, "output": "mine", "stackTraceDepth": 3}, stop: "main.go"},
		{Name: "envFile, stop on entry", program: "hello", keys: map[string]any{"program": ".", "stopOnEntry": true,
			"envFile": "my.env", "env": map[string]any{"UNSET_ME": nil}},
			bare: map[string]any{"envFile": nil, "env": map[string]any{"UNSET_ME": nil, "GREETING": "from\nfile x"}}, stop: "main.go", entry: true,
			prepare: func(t testing.TB, root string) {
				text := "# comment\nexport X_Y=x\nGREETING = \"from\\nfile ${X_Y}\"\nUNSET_ME=2\n"
				if err := os.WriteFile(filepath.Join(root, "my.env"), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}},
		{Name: "output by Delve", program: "hello", keys: map[string]any{"program": ".", "outputMode": "remote"}, stop: "main.go"},
		{Name: "output to a file", program: "hello", keys: map[string]any{"program": ".", "stdoutTo": "out.txt"}, stop: "main.go"},
	}
}

// build is the compiler's part of mode exec.
func build(t testing.TB, root string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-gcflags=all=-N -l", "-o", "built", ".")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// Result is what a user sees of a run.
type Result struct {
	Stop           string
	Locals         []string
	Code           int
	Stdout, Stderr string
}

// Case is a configuration with its program, copied and prepared.
type Case struct {
	Configuration
	Dir  string // where the adapter is to run
	root string
}

// Lay prepares a configuration; testdata is the folder of the programs.
func (c Configuration) Lay(t testing.TB, testdata string) Case {
	t.Helper()
	root := Copy(t, filepath.Join(testdata, c.program))
	if c.prepare != nil {
		c.prepare(t, root)
	}
	if c.keys["dlvCwd"] == here {
		c.keys["dlvCwd"] = root
	}
	return Case{c, filepath.Join(root, c.dir), root}
}

// Args are the launch arguments as a user of stepin writes them, for a target.
func (c Case) Args(target string) map[string]any { return Args(target, c.keys) }

// Args wraps Delve's keys as a user of stepin writes them.
func Args(target string, keys map[string]any) map[string]any {
	keys = maps.Clone(keys)
	noDebug, _ := keys["noDebug"].(bool)
	delete(keys, "noDebug")
	keys["type"] = "go"
	return map[string]any{"target": target, "debugger": keys, "noDebug": noDebug, "incoming": map[string]any{"mode": "off"}}
}

// HoldBare holds the conversation with Delve alone. It fails the test where that itself does not do what the
// configuration says.
func (c Case) HoldBare(t testing.TB) Result {
	t.Helper()
	keys := maps.Clone(c.keys)
	for k, v := range c.bare {
		if keys[k] = v; v == nil {
			delete(keys, k)
		}
	}
	if keys["mode"] == nil {
		keys["mode"] = "debug"
	}
	b, stdout, stderr := Bare(t, c.Dir)
	r := c.Hold(t, b, keys)
	Must(t, b, "disconnect", nil)
	r.Stdout = times.ReplaceAllString(r.Stdout+stdout.String(), "0s")
	r.Stderr += stderr.String()
	if r.Code < 0 || c.stop != "" && r.Stop != Mark(t, filepath.Join(c.root, c.stop), "stop here") {
		t.Errorf("the bare run itself went wrong: %+v", r)
	}
	return r
}

// times are durations in a test's output.
var times = regexp.MustCompile(`\d+\.\d+s`)

// Hold holds the conversation with whatever is behind c, up to the debuggee's end.
func (c Case) Hold(t testing.TB, cl *client.Client, args map[string]any) Result {
	t.Helper()
	var r Result
	if c.stop == "" {
		Begin(t, cl, args)
	} else {
		Begin(t, cl, args, Mark(t, filepath.Join(c.root, c.stop), "stop here"))
		if c.entry {
			s := Event(t, cl, "stopped")
			if !strings.Contains(string(s.Body), `"entry"`) {
				t.Errorf("stopped on entry: %s", s.Body)
			}
			Must(t, cl, "continue", map[string]int{"threadId": 1})
		}
		s := Event(t, cl, "stopped")
		r.Stop, r.Locals = At(t, cl, s)
		for i, l := range r.Locals { // pointers differ from run to run
			if strings.Contains(l, "*testing.") {
				r.Locals[i] = regexp.MustCompile(`=.*`).ReplaceAllString(l, "=pointer")
			}
		}
		Must(t, cl, "continue", map[string]int{"threadId": 1})
	}
	r.Code = Exit(t, cl)
	r.Stdout = times.ReplaceAllString(cl.Output("stdout"), "0s")
	r.Stderr = cl.Output("stderr")
	return r
}

// Compare fails the test unless both runs looked the same to the user, and left nothing in his folders.
func (c Case) Compare(t testing.TB, got, want Result) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("through stepin:\n%+v\nbare:\n%+v", got, want)
	}
	if left, _ := filepath.Glob(filepath.Join(c.root, "__debug*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := os.Stat(filepath.Join(c.root, "mine")); err == nil {
		t.Error("output is left behind")
	}
}
