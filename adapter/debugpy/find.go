package debugpy

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/stepin-dev/stepin/adapter/dap"
	"github.com/stepin-dev/stepin/adapter/shell"
	"github.com/stepin-dev/stepin/pkg/fail"
)

// python is an interpreter as it describes itself.
type python struct {
	Executable string   `json:"executable"` // sys.executable: what pyenv and its like lead to, in a virtual environment its own
	Debugpy    string   `json:"debugpy"`    // the folder of its own debugpy, "" where it has none
	args       []string // its own, from the configuration
}

// find looks for the debuggee's interpreter, and for the debugpy to debug it with.
func (d *Debugger) find() error {
	path, args, err := d.interpreter()
	if err != nil {
		return err
	}
	if d.python, err = describe(path, d.place.Dir, d.place.Environ); err != nil {
		return err
	}
	d.python.args = args
	d.runs = d.python.Executable
	if d.keys.DebugAdapterPython != "" {
		if d.runs = d.program(d.keys.DebugAdapterPython); d.runs == "" {
			return fail.New(fail.DebuggerMissing, "it is the interpreter that runs debugpy's adapter; leave it out to use the program's",
				"debugAdapterPython %s: no such program", d.keys.DebugAdapterPython)
		}
	}
	if set := d.keys.DebugAdapterPath; set != "" {
		if d.adapter = adapterIn(shell.Absolute(d.place.Dir, set)); d.adapter == "" {
			return fail.New(fail.DebuggerMissing, "it is the folder adapter in debugpy's own folder", "debugAdapterPath %s: there is no debugpy", set)
		}
		return nil
	}
	d.adapter, err = adapterOf(d.python, d.place)
	return err
}

// interpreter is what the configuration names, else the active virtual environment's, else that of one beside the
// program, else PATH's.
func (d *Debugger) interpreter() (path string, args []string, err error) {
	named := d.keys.Python
	if len(named) == 0 {
		named = d.keys.PythonPath
	}
	if len(named) > 0 {
		if path = d.program(named[0]); path == "" {
			return "", nil, d.missing(shell.Absolute(d.place.Dir, named[0]))
		}
		return path, named[1:], nil
	}
	var envs []string
	if active := shell.Lookup(d.place.Environ, "VIRTUAL_ENV"); active != "" {
		envs = append(envs, active)
	}
	envs = append(envs, d.environments()...)
	if len(envs) > 0 {
		path = filepath.Join(envs[0], "bin", "python")
		if !shell.Executable(path) {
			return "", nil, d.missing(path)
		}
		return path, nil, nil
	}
	for _, name := range []string{"python3", "python"} {
		if path, err := shell.LookPath(name, d.place.Environ); err == nil {
			return path, nil, nil
		}
	}
	return "", nil, fail.New(fail.DebuggerMissing, `install Python, or name the program's interpreter: "python": "/path/to/python"`,
		"there is no Python: no virtual environment beside the program, and neither python3 nor python on PATH")
}

// program is an executable by its path, from the adapter's folder, or by its name, from PATH; "" if there is none.
func (d *Debugger) program(name string) string {
	if !strings.Contains(name, "/") {
		path, err := shell.LookPath(name, d.place.Environ)
		if err != nil {
			return ""
		}
		return path
	}
	if path := shell.Absolute(d.place.Dir, name); shell.Executable(path) {
		return path
	}
	return ""
}

// missing says why there is no interpreter at a path.
func (d *Debugger) missing(path string) error {
	if env := environmentOf(path); env != "" {
		if to, err := os.Readlink(path); err == nil {
			return fail.New(fail.DebuggerMissing, renew(env), "the virtual environment %s is broken: its Python leads to %s, which is not there", env, to)
		}
		return fail.New(fail.DebuggerMissing, renew(env), "the virtual environment %s is broken: it has no %s", env, filepath.Base(path))
	}
	return fail.New(fail.DebuggerMissing, `"python" is the path of the program's interpreter, or its name on PATH`, "python %s: no such program", path)
}

func renew(env string) string { return "make it anew: python3 -m venv --clear " + env }

// environmentOf is the virtual environment that a program is in, or "" (PEP 405).
func environmentOf(path string) string {
	env := filepath.Dir(filepath.Dir(path))
	if _, err := os.Stat(filepath.Join(env, "pyvenv.cfg")); err == nil {
		return env
	}
	return ""
}

// environments are the virtual environments beside the program: the nearest first, up to the workspace.
func (d *Debugger) environments() (envs []string) {
	dir, top := d.cwd, d.workspace()
	if d.keys.Program != "" && shell.IsDir(filepath.Dir(d.keys.Program)) {
		dir = filepath.Dir(d.keys.Program)
	}
	for {
		for _, name := range []string{".venv", "venv"} {
			env := filepath.Join(dir, name)
			if _, err := os.Stat(filepath.Join(env, "pyvenv.cfg")); err == nil {
				envs = append(envs, env)
			}
		}
		if parent := filepath.Dir(dir); dir != top && parent != dir {
			dir = parent
			continue
		}
		return envs
	}
}

// describeTime bounds the interpreter's answer: a cold start from a slow disk takes seconds.
const describeTime = 20 * time.Second

// question is what the interpreter is asked. The folder that -c puts on the path is not searched: what lies there is the
// developer's program.
const question = `import sys
if sys.path and sys.path[0] == "": del sys.path[0]
import importlib.util, json, os
s = importlib.util.find_spec("debugpy")
print(json.dumps({"executable": sys.executable, "debugpy": os.path.dirname(s.origin) if s and s.origin else ""}))`

// describe asks an interpreter for itself. It runs outside of the pod's place, from dir, since pyenv and its like go by that.
func describe(path, dir string, environ []string) (python, error) {
	ctx, cancel := context.WithTimeout(context.Background(), describeTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "-c", question)
	cmd.Env, cmd.Dir = environ, dir
	cmd.WaitDelay = time.Second
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	var p python
	if err == nil {
		line := bytes.TrimSpace(out)
		err = json.Unmarshal(line[bytes.LastIndexByte(line, '\n')+1:], &p)
	}
	if err == nil && filepath.IsAbs(p.Executable) {
		return p, nil
	}
	why := "it does not answer as one"
	if lines := strings.Split(strings.TrimSpace(errs.String()), "\n"); lines[len(lines)-1] != "" {
		why = lines[len(lines)-1]
	}
	if env := environmentOf(path); env != "" {
		return p, fail.New(fail.DebuggerMissing, renew(env), "the virtual environment %s is broken: its Python does not run: %s", env, why)
	}
	return p, fail.New(fail.DebuggerMissing, `"python" is the path of a Python 3 interpreter`, "%s is no Python that runs: %s", path, why)
}

// extensions is where editors of VS Code's kind keep extensions, below the home directory; Microsoft's Python debugger
// brings a debugpy.
var extensions = []string{
	".vscode/extensions", ".vscode-server/extensions", ".vscode-insiders/extensions", ".vscode-oss/extensions",
	".vscode-remote/extensions", ".cursor/extensions", ".windsurf/extensions", ".local/share/code-server/extensions",
}

// adapterOf is the debugpy for an interpreter: its own, else the one that this editor brings, else the newest of another's.
func adapterOf(p python, place dap.Place) (string, error) {
	for _, dir := range []string{p.Debugpy, place.Carried[Name]} {
		if found := adapterIn(dir); found != "" {
			return found, nil
		}
	}
	var all []string
	if home := shell.Lookup(place.Environ, "HOME"); home != "" {
		for _, dir := range extensions {
			found, err := filepath.Glob(filepath.Join(home, dir, "ms-python.debugpy-*", "bundled", "libs", "debugpy"))
			if err == nil {
				all = append(all, found...)
			}
		}
	}
	slices.SortFunc(all, shell.CompareVersions)
	for _, dir := range slices.Backward(all) {
		if found := adapterIn(dir); found != "" {
			return found, nil
		}
	}
	return "", fail.New(fail.DebuggerMissing, p.Executable+" -m pip install debugpy", "the interpreter %s has no debugpy", p.Executable)
}

// adapterIn is the folder of debugpy's adapter, given that or debugpy's own; "" if there is none.
func adapterIn(dir string) string {
	for _, folder := range []string{dir, filepath.Join(dir, "adapter")} {
		if _, err := os.Stat(filepath.Join(folder, "__main__.py")); dir != "" && err == nil && filepath.Base(folder) == "adapter" {
			return folder
		}
	}
	return ""
}

// Find looks for an interpreter with debugpy as a launch without keys would, from dir.
func Find(dir string, environ []string) (string, error) {
	d := &Debugger{cwd: dir}
	d.place.Dir, d.place.Environ = dir, environ
	err := d.find()
	return d.adapter, err
}
