package jsdebug

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/stepin-dev/stepin/adapter/dap"
	"github.com/stepin-dev/stepin/adapter/shell"
	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
)

// bench is a project, a js-debug that is only looked for, and a folder of programs to be PATH.
type bench struct {
	dir     string
	carried string // the editor's js-debug, "" for none
}

func newBench(t *testing.T) bench {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := bench{dir: dir}
	for _, path := range []string{"package.json", "src/main.js", ".local/share/js-debug/src/dapDebugServer.js"} {
		b.write(t, path, "", 0o644)
	}
	b.write(t, "bin/node", "#!/bin/sh\necho v20.1.2\n", 0o755)
	b.write(t, "bin/npm", "#!/bin/sh\n", 0o755)
	b.write(t, "old/node", "#!/bin/sh\necho v16.0.0\n", 0o755)
	b.write(t, "ill/node", "#!/bin/sh\nexit 1\n", 0o755)
	b.write(t, "node_modules/.bin/nodemon", "#!/bin/sh\n", 0o755)
	return b
}

func (b bench) at(path string) string { return filepath.Join(b.dir, path) }

func (b bench) write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(b.at(path)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.at(path), []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func (b bench) prepare(keys map[string]any, environ ...string) (*Debugger, error) {
	c := config.Default()
	c.Debugger.Keys = map[string]json.RawMessage{}
	c.Editor = map[string]json.RawMessage{"name": json.RawMessage(`"mine"`)}
	for k, v := range keys {
		raw, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		c.Debugger.Keys[k] = raw
	}
	d, err := New(c, false, dap.Place{Dir: b.dir, Environ: append([]string{"HOME=" + b.dir, "PATH=" + b.at("bin") + ":/bin"}, environ...), Carried: map[string]string{Name: b.carried}})
	if err != nil {
		return nil, err
	}
	return d.(*Debugger), nil
}

// TestArguments checks what js-debug gets: whatever it does not know passes unread, stepin's own keys do not.
func TestArguments(t *testing.T) {
	b := newBench(t)
	b.write(t, "x.env", "C=file\n", 0o644)
	secret := "of the pod"
	list := func(words ...string) (out []any) {
		for _, w := range words {
			out = append(out, w)
		}
		return out
	}
	for name, c := range map[string]struct{ keys, want map[string]any }{
		"program": {
			map[string]any{"program": "src/main.js", "args": list("a b"), "outFiles": list("x"), "skipFiles": []any{}, "later": map[string]any{"x": nil}},
			map[string]any{"program": b.at("src/main.js"), "args": list("a b"), "outFiles": list("x"), "skipFiles": []any{}, "later": map[string]any{"x": nil},
				"runtimeArgs": list("7", b.at("bin/node")), "nodeVersionHint": 20.0},
		},
		"its arguments": {
			map[string]any{"program": "src/main", "runtimeArgs": list("--enable-source-maps"), "noDebug": true, "cwd": "src/.."},
			map[string]any{"program": b.at("src/main"), "runtimeArgs": list("7", b.at("bin/node"), "--enable-source-maps"), "noDebug": true, "nodeVersionHint": 20.0},
		},
		"npm": {
			map[string]any{"runtimeExecutable": "npm", "runtimeArgs": list("run", "dev")},
			map[string]any{"runtimeArgs": list("7", b.at("bin/npm"), "run", "dev")},
		},
		"of the project": {
			map[string]any{"runtimeExecutable": "nodemon", "program": "src/main.js"},
			map[string]any{"runtimeArgs": list("7", b.at("node_modules/.bin/nodemon")), "program": b.at("src/main.js")},
		},
		"by version": {
			map[string]any{"program": "src/main.js", "runtimeVersion": "18"},
			map[string]any{"program": b.at("src/main.js"), "runtimeVersion": "18", "runtimeArgs": list("7", "node")},
		},
		"by no version": {
			map[string]any{"program": "src/main.js", "runtimeVersion": "default"},
			map[string]any{"program": b.at("src/main.js"), "runtimeVersion": "default", "runtimeArgs": list("7", b.at("bin/node")), "nodeVersionHint": 20.0},
		},
		"arguments for the shell": {
			map[string]any{"program": "src/main.js", "args": "$A *", "console": "integratedTerminal"},
			map[string]any{"program": b.at("src/main.js"), "console": "integratedTerminal", "nodeVersionHint": 20.0,
				"runtimeArgs": list("7", "/bin/sh", "-c", `exec "$@" $A *`, "sh", b.at("bin/node"))},
		},
	} {
		c.keys["envFile"], c.keys["env"] = "x.env", map[string]any{"A": nil, "B": "own"}
		d, err := b.prepare(c.keys, "NODE_OPTIONS=--max-old-space-size=100")
		if err != nil {
			t.Fatal(name, err)
		}
		raw, err := d.Arguments(dap.Launching{
			Children: true,
			Wrap:     func(argv []string) []string { return append([]string{"/stub", "7"}, argv...) },
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
		maps.Copy(c.want, map[string]any{"type": "pwa-node", "request": "launch", "name": "mine", "runtimeExecutable": "/stub", "__workspaceFolder": b.dir, "cwd": b.dir,
			"env": map[string]any{"A": nil, "B": "own", "C": "file", "SECRET": secret, "NODE_OPTIONS": "--max-old-space-size=100"}})
		if _, set := c.want["console"]; !set {
			c.want["console"] = "internalConsole"
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v\nwant %v", name, got, c.want)
		}
	}
}

// TestCommand starts js-debug with nothing of the pod's, and without options that are the debuggee's.
func TestCommand(t *testing.T) {
	b := newBench(t)
	d, err := b.prepare(map[string]any{"program": "src/main.js"}, "NODE_OPTIONS=--inspect", "MINE=1", "DEBUGINFOD_URLS=x")
	if err != nil {
		t.Fatal(err)
	}
	c := d.Command("/s")
	if shell.Lookup(c.Env, "NODE_OPTIONS") != "" || shell.Lookup(c.Env, "MINE") != "1" || !reflect.DeepEqual(c.Drop, []string{"DEBUGINFOD_URLS"}) ||
		c.Way != dap.Serves || !reflect.DeepEqual(c.Argv, []string{b.at("bin/node"), b.at(".local/share/js-debug/src/dapDebugServer.js"), "/s"}) {
		t.Errorf("%+v", c)
	}
}

func TestFindServer(t *testing.T) {
	b := newBench(t)
	b.write(t, "unpacked/js-debug/src/dapDebugServer.js", "", 0o644)
	b.write(t, "npm/vsDebugServer.cjs", "", 0o644)
	for _, c := range []struct {
		key, env, carried, want string
	}{
		{"", "", "", ".local/share/js-debug/src/dapDebugServer.js"},
		{"", "", "npm", "npm/vsDebugServer.cjs"},
		{"", "", "nowhere", ".local/share/js-debug/src/dapDebugServer.js"},
		{"unpacked", "", "npm", "unpacked/js-debug/src/dapDebugServer.js"},
		{"unpacked/js-debug", "npm", "", "unpacked/js-debug/src/dapDebugServer.js"},
		{"", b.at("npm"), "unpacked", "npm/vsDebugServer.cjs"},
		{"npm/vsDebugServer.cjs", "", "", "npm/vsDebugServer.cjs"},
	} {
		keys := map[string]any{"program": "src/main.js"}
		if c.key != "" {
			keys["debugAdapterPath"] = c.key
		}
		b.carried = b.at(c.carried)
		d, err := b.prepare(keys, serverEnv+"="+c.env)
		if err != nil || d.server != b.at(c.want) {
			t.Errorf("%+v: %v %+v", c, err, d)
		}
	}
}

// TestBadInput: each fault is one sentence with what mends it.
func TestBadInput(t *testing.T) {
	b := newBench(t)
	good := "src/main.js"
	for _, c := range []struct {
		keys       map[string]any
		environ    string
		code       fail.Code
		what, hint string
	}{
		{map[string]any{}, "", fail.ProgramMissing, "neither program nor runtimeExecutable", "npm"},
		{map[string]any{"program": "src/man.js"}, "", fail.ProgramMissing, "src/man.js: no such file", "relative to " + b.dir},
		{map[string]any{"program": good}, "PATH=/nowhere", fail.DebuggerMissing, "no node on PATH", "Node.js"},
		{map[string]any{"program": good}, "PATH=" + b.at("old"), fail.DebuggerMissing, "Node 16", "18 or later"},
		{map[string]any{"program": good}, "PATH=" + b.at("ill") + ":/bin", fail.DebuggerMissing, "does not say its version", "Node.js"},
		{map[string]any{"program": good}, "HOME=/nowhere", fail.DebuggerMissing, "js-debug, the debugger of Node programs, is not installed", "dapDebugServer.js"},
		{map[string]any{"program": good, "debugAdapterPath": "src"}, "", fail.DebuggerMissing, "debugAdapterPath src", "dapDebugServer.js"},
		{map[string]any{"runtimeExecutable": "gone"}, "", fail.ProgramMissing, "neither on PATH nor in node_modules", "PATH"},
		{map[string]any{"runtimeExecutable": "./gone"}, "", fail.ProgramMissing, "gone: no such program", "path"},
		{map[string]any{"program": good, "console": "x"}, "", fail.ConfigValue, `console "x"`, "internalConsole"},
		{map[string]any{"program": good, "cwd": "gone"}, "", fail.ConfigValue, "no such folder", b.dir},
		{map[string]any{"program": 1}, "", fail.ConfigValue, "debugger.program", ""},
	} {
		_, err := b.prepare(c.keys, c.environ)
		if fail.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.what) || !strings.Contains(fail.Hint(err), c.hint) {
			t.Errorf("%v %s: %d %v\nhint: %s", c.keys, c.environ, fail.CodeOf(err), err, fail.Hint(err))
		}
	}
}
