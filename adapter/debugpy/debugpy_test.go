package debugpy

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/stepin-dev/stepin/adapter/dap"
	"github.com/stepin-dev/stepin/adapter/shell"
	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
)

// system is a Python with debugpy (./just installs it).
const system = "/usr/bin/python3"

// bench is a project with a script, a virtual environment that has the system's debugpy, and one that has none.
type bench struct {
	dir     string
	carried string // the editor's debugpy, "" for none
}

func newBench(t *testing.T) bench {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := bench{dir: dir}
	for _, path := range []string{"src/main.py", "pyproject.toml"} {
		if err := os.MkdirAll(filepath.Dir(b.at(path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(b.at(path), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, flag := range map[string]string{"with": "--system-site-packages", "without": "--symlinks"} {
		if out, err := exec.Command(system, "-m", "venv", "--without-pip", flag, b.at(name)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	return b
}

func (b bench) at(path string) string { return filepath.Join(b.dir, path) }

// prepare makes a debugger from keys; HOME is the bench.
func (b bench) prepare(keys map[string]any, environ ...string) (*Debugger, error) {
	c := config.Default()
	c.Debugger.Keys = map[string]json.RawMessage{}
	for k, v := range keys {
		raw, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		c.Debugger.Keys[k] = raw
	}
	d, err := New(c, false, dap.Place{Dir: b.dir, Environ: append([]string{"PATH=/usr/bin:/bin", "HOME=" + b.dir}, environ...), Carried: map[string]string{Name: b.carried}})
	if err != nil {
		return nil, err
	}
	return d.(*Debugger), nil
}

func TestInterpreter(t *testing.T) {
	b := newBench(t)
	script := "src/main.py"
	check := func(name, want string, d *Debugger, err error) {
		t.Helper()
		if err != nil || d.python.Executable != want {
			t.Errorf("%s: %v, %+v", name, err, d)
		}
	}
	d, err := b.prepare(map[string]any{"program": script})
	check("PATH's", system, d, err)
	d, err = b.prepare(map[string]any{"program": script, "python": "python3"})
	check("by name", system, d, err)
	d, err = b.prepare(map[string]any{"program": script, "python": []string{"with/bin/python", "-X", "dev"}})
	check("named", b.at("with/bin/python"), d, err)
	if d != nil && !reflect.DeepEqual(d.python.args, []string{"-X", "dev"}) {
		t.Errorf("its arguments are %q", d.python.args)
	}
	d, err = b.prepare(map[string]any{"module": "x", "pythonPath": b.at("with/bin/python")})
	check("the old key", b.at("with/bin/python"), d, err)
	d, err = b.prepare(map[string]any{"code": "pass"}, "VIRTUAL_ENV="+b.at("with"))
	check("active", b.at("with/bin/python"), d, err)
	if err := os.Rename(b.at("with"), b.at(".venv")); err != nil {
		t.Fatal(err)
	}
	d, err = b.prepare(map[string]any{"program": script})
	check("beside the workspace", b.at(".venv/bin/python"), d, err)
	if d != nil && (d.workspace() != b.dir || d.cwd != b.at("src")) {
		t.Errorf("workspace %s, folder %s", d.workspace(), d.cwd)
	}
}

// TestEditorsDebugpy finds the newest debugpy that an editor brings for an interpreter that has none.
func TestEditorsDebugpy(t *testing.T) {
	b := newBench(t)
	var newest string
	for _, version := range []string{"2026.9.0", "2026.10.0-linux-x64"} {
		newest = b.at(".vscode/extensions/ms-python.debugpy-" + version + "/bundled/libs/debugpy/adapter")
		if err := os.MkdirAll(newest, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(newest, "__main__.py"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d, err := b.prepare(map[string]any{"module": "x", "python": "without/bin/python"})
	if err != nil || d.adapter != newest {
		t.Errorf("%v %+v", err, d)
	}
	// What this editor carries comes before those, and after the interpreter's own.
	carried := b.at("carried/debugpy/adapter")
	if err := os.CopyFS(carried, os.DirFS(newest)); err != nil {
		t.Fatal(err)
	}
	b.carried = filepath.Dir(carried)
	if d, err := b.prepare(map[string]any{"module": "x", "python": "without/bin/python"}); err != nil || d.adapter != carried {
		t.Errorf("%v %+v", err, d)
	}
	if d, err := b.prepare(map[string]any{"module": "x", "python": "with/bin/python"}); err != nil || d.adapter == carried || d.adapter == newest {
		t.Errorf("%v %+v", err, d)
	}
	for _, path := range []string{newest, filepath.Dir(newest)} {
		if d, err := b.prepare(map[string]any{"module": "x", "debugAdapterPath": path}); err != nil || d.adapter != newest {
			t.Errorf("%s: %v %+v", path, err, d)
		}
	}
}

// TestBadInput: each fault is one sentence with what mends it.
func TestBadInput(t *testing.T) {
	b := newBench(t)
	for name, to := range map[string]string{"gone/bin/python": "/nowhere/python3", "hollow/bin/python": "/bin/true"} {
		if err := os.MkdirAll(filepath.Dir(b.at(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, b.at(name)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(filepath.Dir(filepath.Dir(b.at(name))), "pyvenv.cfg"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		keys       map[string]any
		code       fail.Code
		what, hint string
	}{
		{map[string]any{}, fail.ProgramMissing, "needs one of program, module and code, and has 0", `"program"`},
		{map[string]any{"program": "src/main.py", "module": "x"}, fail.ProgramMissing, "has 2", `"program"`},
		{map[string]any{"program": "src/main.p"}, fail.ProgramMissing, "src/main.p: no such file", "relative to " + b.dir},
		{map[string]any{"module": "x", "python": "nope/python"}, fail.DebuggerMissing, "nope/python: no such program", "python"},
		{map[string]any{"module": "x", "python": "/bin/false"}, fail.DebuggerMissing, "/bin/false is no Python that runs", "python"},
		{map[string]any{"module": "x", "python": "without/bin/python"}, fail.DebuggerMissing, "has no debugpy", "-m pip install debugpy"},
		{map[string]any{"module": "x", "python": "gone/bin/python"}, fail.DebuggerMissing, "gone is broken: its Python leads to /nowhere/python3", "venv --clear"},
		{map[string]any{"module": "x", "python": "hollow/bin/python"}, fail.DebuggerMissing, "hollow is broken: its Python does not run", "venv --clear"},
		{map[string]any{"module": "x", "console": "none"}, fail.ConfigValue, `console "none"`, "internalConsole"},
		{map[string]any{"module": "x", "sudo": true}, fail.ConfigValue, "sudo", "leave"},
		{map[string]any{"module": "x", "debugAdapterPath": "src"}, fail.DebuggerMissing, "debugAdapterPath src", "adapter"},
		{map[string]any{"module": "x", "env": map[string]any{"A=": "1"}}, fail.ConfigValue, "A=", ""},
		{map[string]any{"module": []int{1}}, fail.ConfigValue, "debugger.module", ""},
	} {
		_, err := b.prepare(c.keys)
		if fail.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.what) || !strings.Contains(fail.Hint(err), c.hint) {
			t.Errorf("%v: %d %v\nhint: %s", c.keys, fail.CodeOf(err), err, fail.Hint(err))
		}
	}
	if _, err := b.prepare(map[string]any{"module": "x"}, "PATH="); fail.CodeOf(err) != fail.DebuggerMissing || !strings.Contains(err.Error(), "neither python3 nor python") {
		t.Errorf("no Python at all: %v", err)
	}
}

// TestArguments checks what debugpy gets: whatever it does not know passes unread, stepin's own keys do not.
func TestArguments(t *testing.T) {
	b := newBench(t)
	if err := os.WriteFile(b.at("x.env"), []byte("C=file\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	secret := "of the pod"
	for name, c := range map[string]struct{ keys, want map[string]any }{
		"program": {
			map[string]any{"program": "src/main.py", "args": []any{"a b"}, "justMyCode": false, "subProcess": true, "pathMappings": []any{}, "later": map[string]any{"x": nil}},
			map[string]any{"program": b.at("src/main.py"), "args": []any{"a b"}, "justMyCode": false, "subProcess": true, "pathMappings": []any{}, "later": map[string]any{"x": nil}, "cwd": b.at("src")},
		},
		"module in a terminal": {
			map[string]any{"module": "flask", "args": []any{"run"}, "console": "integratedTerminal", "cwd": "src", "noDebug": true, "jinja": true},
			map[string]any{"module": "flask", "args": []any{"run"}, "console": "integratedTerminal", "cwd": b.at("src"), "noDebug": true, "jinja": true},
		},
		"code":        {map[string]any{"code": []any{"a", "b"}}, map[string]any{"code": []any{"a", "b"}, "cwd": b.dir}},
		"test runner": {map[string]any{"module": "pytest", "purpose": []any{"debug-test"}}, map[string]any{"module": "pytest", "purpose": []any{"debug-test"}, "cwd": b.dir}},
	} {
		c.keys["python"], c.keys["envFile"], c.keys["env"] = []any{system, "-u"}, "x.env", map[string]any{"A": nil, "B": "own"}
		d, err := b.prepare(c.keys)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := d.Arguments(dap.Launching{
			Wrap: func(argv []string) []string { return append([]string{"/stub", "7"}, argv...) },
			Environ: func(launch map[string]*string) map[string]*string {
				all := maps.Clone(launch)
				all["SECRET"] = &secret
				return all
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		if err := json.Unmarshal(raw, &got); err != nil {
			t.Fatal(err)
		}
		maps.Copy(c.want, map[string]any{"request": "launch", "python": []any{"/stub", "7", system, "-u"}, "debugLauncherPython": system,
			"env": map[string]any{"A": nil, "B": "own", "C": "file", "SECRET": secret}})
		if _, set := c.want["console"]; !set {
			c.want["console"] = "internalConsole"
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v\nwant %v", name, got, c.want)
		}
	}
}

// TestCommand starts the adapter with nothing of the pod's, and with nothing that makes it write down what it is told.
func TestCommand(t *testing.T) {
	b := newBench(t)
	d, err := b.prepare(map[string]any{"module": "x", "python": system}, "DEBUGPY_LOG_DIR=/tmp", "MINE=1", "DEBUGINFOD_URLS=x")
	if err != nil {
		t.Fatal(err)
	}
	c := d.Command("")
	for _, e := range c.Env {
		if name, _, _ := strings.Cut(e, "="); name == "DEBUGPY_LOG_DIR" || name == "DEBUGINFOD_URLS" {
			t.Errorf("the adapter gets %s", e)
		}
	}
	if shell.Lookup(c.Env, "MINE") != "1" || !strings.Contains(strings.Join(c.Drop, " "), "DEBUGINFOD_URLS") || c.Way != dap.Streams {
		t.Errorf("%+v", c)
	}
}

// TestApart: where the pod's loopback is the debuggee's, debugpy is on an address that stays this machine's.
func TestApart(t *testing.T) {
	c := config.Default()
	c.Outgoing.Loopback = "pod"
	c.Debugger.Keys = map[string]json.RawMessage{"module": json.RawMessage(`"x"`), "python": json.RawMessage(`"` + system + `"`)}
	for range 2 { // a restart prepares it again
		d, err := New(c, false, dap.Place{Dir: "/", Environ: []string{"HOME=/"}})
		if err != nil {
			t.Fatal(err)
		}
		raw, err := d.Arguments(dap.Launching{Wrap: func(a []string) []string { return a }, Environ: func(e map[string]*string) map[string]*string { return e }})
		if err != nil || !strings.Contains(string(raw), ownAddress) || !reflect.DeepEqual(c.Outgoing.Host, []string{ownAddress}) {
			t.Errorf("%v %s %q", err, raw, c.Outgoing.Host)
		}
	}
}
