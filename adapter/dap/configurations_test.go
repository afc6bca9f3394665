package dap_test

import (
	"io"
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

// configuration is a launch configuration, in Delve's keys, and where the program should stop.
type configuration struct {
	name    string
	program string // folder of testdata
	dir     string // the adapter's working directory, below it
	keys    map[string]any
	bare    map[string]any // keys that Delve alone does not know, in its own words; nil deletes
	stop    string         // file below the program's folder; its line is the one marked "stop here"
	entry   bool           // it stops on entry first
	prepare func(t *testing.T, dir string)
}

var configurations = []configuration{
	{name: "folder", program: "hello", keys: map[string]any{"program": "."}, stop: "main.go"},
	{name: "file in a workspace", program: "work", dir: "app", keys: map[string]any{"mode": "debug", "program": "main.go"}, stop: "app/main.go"},
	{name: "package by import path", program: "work", keys: map[string]any{"program": "example.com/app"}, stop: "app/main.go"},
	{name: "test", program: "unit", keys: map[string]any{"mode": "test", "program": ".", "args": []string{"-test.v"}}, stop: "unit_test.go"},
	{name: "auto, test by file", program: "unit", keys: map[string]any{"mode": "auto", "program": "unit_test.go", "args": []string{"-test.v"}},
		bare: map[string]any{"mode": "test", "program": "."}, stop: "unit_test.go"},
	{name: "exec", program: "hello", keys: map[string]any{"mode": "exec", "program": "./built"}, stop: "main.go",
		prepare: func(t *testing.T, dir string) {
			cmd := exec.Command("go", "build", "-gcflags=all=-N -l", "-o", "built", ".")
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}},
	{name: "without debugging", program: "hello", keys: map[string]any{"program": ".", "noDebug": true, "args": []string{"a b", "c"}}},
	{name: "flags as a string, arguments, environment", program: "hello", keys: map[string]any{"program": ".", "cwd": "sub",
		"buildFlags": "-ldflags='-X main.build=from_flags'", "args": []string{"one", "two words", ""},
		"env": map[string]any{"GREETING": "grüß \"dich\"", "UNSET_ME": nil}}, stop: "main.go",
		prepare: func(t *testing.T, dir string) {
			if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
				t.Fatal(err)
			}
		}},
	{name: "flags as a list, output, other folder", program: "hello", dir: "..", keys: map[string]any{"program": ".", "dlvCwd": "DIR",
		"buildFlags": []string{"-ldflags=-X main.build=from_list"}, "output": "mine", "stackTraceDepth": 3}, stop: "main.go"},
	{name: "envFile, stop on entry", program: "hello", keys: map[string]any{"program": ".", "stopOnEntry": true,
		"envFile": "my.env", "env": map[string]any{"UNSET_ME": nil}},
		bare: map[string]any{"envFile": nil, "env": map[string]any{"UNSET_ME": nil, "GREETING": "from\nfile x"}}, stop: "main.go", entry: true,
		prepare: func(t *testing.T, dir string) {
			text := "# comment\nexport X_Y=x\nGREETING = \"from\\nfile ${X_Y}\"\nUNSET_ME=2\n"
			if err := os.WriteFile(filepath.Join(dir, "my.env"), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}},
	{name: "output by Delve", program: "hello", keys: map[string]any{"program": ".", "outputMode": "remote"}, stop: "main.go"},
	{name: "output to a file", program: "hello", keys: map[string]any{"program": ".", "stdoutTo": "out.txt"}, stop: "main.go"},
}

// result is what a user sees of a run.
type result struct {
	Stop           string
	Locals         []string
	Code           int
	Stdout, Stderr string
}

// TestTenConfigurations holds the same conversation with Delve alone and through the adapter.
func TestTenConfigurations(t *testing.T) {
	for _, c := range configurations {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			root := program(t, c.program)
			dir := filepath.Join(root, c.dir)
			if c.prepare != nil {
				c.prepare(t, root)
			}
			if c.keys["dlvCwd"] == "DIR" {
				c.keys["dlvCwd"] = root
			}
			keys := maps.Clone(c.keys)
			for k, v := range c.bare {
				if keys[k] = v; v == nil {
					delete(keys, k)
				}
			}
			if keys["mode"] == nil {
				keys["mode"] = "debug"
			}
			b, stdout, stderr := startBare(t, dir)
			want := converse(t, b, keys, c, root)
			must(t, b, "disconnect", nil)
			want.Stdout += stdout.String()
			want.Stderr += stderr.String()
			want.Stdout = times.ReplaceAllString(want.Stdout, "0s")
			a := startAdapter(t, dir)
			got := converse(t, a.Client, launchArgs(c.keys), c, root)
			must(t, a.Client, "disconnect", nil)
			<-a.ended
			if !reflect.DeepEqual(got, want) {
				t.Errorf("through stepin:\n%+v\nbare:\n%+v", got, want)
			}
			if bin := os.Getenv(binEnv); bin != "" {
				args := launchArgs(c.keys)
				args["target"], args["incoming"] = os.Getenv(targetEnv), map[string]string{"mode": "off"}
				shipped := startShipped(t, bin, dir)
				got := converse(t, shipped, args, c, root)
				must(t, shipped, "disconnect", nil)
				if !reflect.DeepEqual(got, want) {
					t.Errorf("through %s:\n%+v\nbare:\n%+v", bin, got, want)
				}
			}
			if want.Code < 0 || c.stop != "" && !strings.HasSuffix(want.Stop, ":"+strings.Split(mark(t, filepath.Join(root, c.stop), "stop here"), ":")[1]) {
				t.Errorf("the bare run itself went wrong: %+v", want)
			}
			if left, _ := filepath.Glob(filepath.Join(root, "__debug*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			if _, err := os.Stat(filepath.Join(root, "mine")); err == nil {
				t.Error("output is left behind")
			}
		})
	}
}

// binEnv and targetEnv name a built stepin and a target: TestTenConfigurations then holds its conversations with that,
// too, in the target's place.
const (
	binEnv    = "STEPIN_TEST_BIN"
	targetEnv = "STEPIN_TEST_TARGET"
)

// startShipped is a conversation with a built stepin on its standard streams.
func startShipped(t *testing.T, bin, dir string) *client.Client {
	t.Helper()
	cmd := exec.Command(bin, "dap")
	cmd.Dir, cmd.Env, cmd.Stderr = dir, environ(t), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := client.New(struct {
		io.Reader
		io.WriteCloser
	}{out, in})
	t.Cleanup(func() {
		c.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", bin, err)
		}
	})
	return c
}

// times are durations in a test's output.
var times = regexp.MustCompile(`\d+\.\d+s`)

func converse(t *testing.T, c *client.Client, args map[string]any, conf configuration, root string) result {
	t.Helper()
	var r result
	if conf.stop == "" {
		begin(t, c, args)
	} else {
		begin(t, c, args, mark(t, filepath.Join(root, conf.stop), "stop here"))
		if conf.entry {
			s := event(t, c, "stopped")
			if !strings.Contains(string(s.Body), `"entry"`) {
				t.Errorf("stopped on entry: %s", s.Body)
			}
			must(t, c, "continue", map[string]int{"threadId": 1})
		}
		s := event(t, c, "stopped")
		r.Stop, r.Locals = at(t, c, s)
		for i, l := range r.Locals { // pointers differ from run to run
			if strings.Contains(l, "*testing.") {
				r.Locals[i] = regexp.MustCompile(`=.*`).ReplaceAllString(l, "=pointer")
			}
		}
		must(t, c, "continue", map[string]int{"threadId": 1})
	}
	r.Code = exit(t, c)
	r.Stdout = times.ReplaceAllString(c.Output("stdout"), "0s")
	r.Stderr = c.Output("stderr")
	return r
}
