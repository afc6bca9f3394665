// Package debugpy prepares debugpy for one launch configuration: it finds the program's interpreter and the debugpy to go
// with it, and writes the launch arguments. Every key means what it means to debugpy (debugpy/adapter/clients.py and
// launcher/handlers.py of 1.6 to 1.8), or, where debugpy leaves it to the editor (envFile, the choice of the interpreter,
// debugAdapterPath, debugAdapterPython), what it means to VS Code's Python extensions.
//
// debugpy's adapter and its launcher run outside of the pod's place, with the developer's own environment: the
// interpreter in the launch arguments is wrapped, so that only the debuggee enters, and it calls the adapter back on this
// machine's loopback. So this package must never let a variable of the pod reach the adapter's start; they go into the
// launch arguments, last step.
package debugpy

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stepin-dev/stepin/adapter/dap"
	"github.com/stepin-dev/stepin/adapter/shell"
	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/policy"
)

// Debugger is debugpy for one launch configuration. Nothing in it changes after New.
type Debugger struct {
	keys    keys
	raw     map[string]json.RawMessage // the configuration's keys as they came
	place   dap.Place
	env     map[string]*string // envFile, and over it env
	python  python             // the debuggee's
	adapter string             // absolute path of the folder debugpy/adapter
	runs    string             // absolute path of the interpreter that runs the adapter and the launcher
	cwd     string             // the debuggee's, absolute
	noDebug bool
	apart   bool // the pod's loopback is the debuggee's: debugpy has an address of its own
}

// keys are those that stepin reads itself.
type keys struct {
	Program             string             `json:"program"`
	Module              string             `json:"module"`
	Code                shell.List         `json:"code"`
	Python              shell.List         `json:"python"`
	PythonPath          shell.List         `json:"pythonPath"`
	Cwd                 string             `json:"cwd"`
	Console             string             `json:"console"`
	Env                 map[string]*string `json:"env"`
	EnvFile             shell.List         `json:"envFile"`
	NoDebug             bool               `json:"noDebug"`
	Sudo                bool               `json:"sudo"`
	DebugAdapterPath    string             `json:"debugAdapterPath"`
	DebugAdapterPython  string             `json:"debugAdapterPython"`
	DebugLauncherPython string             `json:"debugLauncherPython"`
	DebugAdapterHost    string             `json:"debugAdapterHost"`
}

// ownKeys are stepin's, not debugpy's.
var ownKeys = []string{"envFile", "pythonPath", "debugAdapterPath", "debugAdapterPython"}

// New checks the configuration and finds interpreter and debugpy. It implements dap.NewDebugger.
func New(c *config.Launch, noDebug bool, p dap.Place) (dap.Debugger, error) {
	d := &Debugger{raw: c.Debugger.Keys, place: p}
	err := shell.Keys(d.raw, &d.keys)
	if err != nil {
		return nil, err
	}
	d.noDebug = d.keys.NoDebug || noDebug
	if err := d.check(); err != nil {
		return nil, err
	}
	if d.env, err = shell.Environ(d.keys.EnvFile, d.keys.Env, p.Dir, p.Environ); err != nil {
		return nil, err
	}
	if err := d.find(); err != nil {
		return nil, err
	}
	d.setApart(c)
	return d, nil
}

func (d *Debugger) check() error {
	k := &d.keys
	switch dap.Console(k.Console) {
	case "":
		k.Console = string(dap.InternalConsole)
	case dap.InternalConsole, dap.IntegratedTerminal, dap.ExternalTerminal:
	default:
		return fail.New(fail.ConfigValue, "internalConsole, integratedTerminal or externalTerminal",
			"console %q does not exist", k.Console)
	}
	given := 0
	for _, some := range []bool{k.Program != "", k.Module != "", len(k.Code) > 0} {
		if some {
			given++
		}
	}
	if given != 1 {
		return fail.New(fail.ProgramMissing, `write "program": the script, or "module": what python -m takes, or "code"`,
			"the debugger needs one of program, module and code, and has %d", given)
	}
	if k.Sudo {
		return fail.New(fail.ConfigValue, `leave "sudo" out`, "sudo has no effect in the pod's place, where nobody can become another user")
	}
	d.cwd = shell.Absolute(d.place.Dir, k.Cwd)
	if k.Program == "" {
		return nil
	}
	k.Program = shell.Absolute(d.cwd, k.Program)
	folder := filepath.Dir(k.Program)
	if k.Cwd == "" {
		d.cwd = folder // as debugpy has it
	}
	// A script that only the pod has is none of this machine's folders.
	if _, err := os.Stat(k.Program); err != nil && shell.IsDir(folder) {
		return fail.New(fail.ProgramMissing, "program is relative to "+d.cwd, "program %s: no such file", k.Program)
	}
	return nil
}

// ownAddress is a loopback address of debugpy's own, for where the debuggee's 127.0.0.1 is the pod's.
const ownAddress = "127.83.84.80"

// setApart keeps the debuggee's way back to debugpy on this machine where the configuration leads its loopback to the pod.
func (d *Debugger) setApart(c *config.Launch) {
	if c.Outgoing.Loopback != "pod" || d.keys.DebugAdapterHost != "" {
		return
	}
	d.apart = true
	if !slices.Contains(c.Outgoing.Host, ownAddress) {
		c.Outgoing.Host = append(slices.Clone(c.Outgoing.Host), ownAddress)
	}
}

// Name is this real debugger's, also in dap.Place.Carried.
const Name = "debugpy"

// Name is debugpy.
func (d *Debugger) Name() string { return Name }

// Hints are the interpreter, which is what will run, debugpy, the debuggee's working directory and the workspace.
func (d *Debugger) Hints() dap.Hints {
	return dap.Hints{Program: d.python.Executable, Debugger: filepath.Dir(d.adapter), Cwd: d.cwd, Workspace: d.workspace()}
}

func (d *Debugger) workspace() string {
	folder := d.cwd
	if dir := filepath.Dir(d.keys.Program); d.keys.Program != "" && shell.IsDir(dir) {
		folder = dir
	}
	return shell.Workspace(folder, ".git", "pyproject.toml", "setup.py", "manage.py", "requirements.txt")
}

// Console is where the debuggee's standard streams are.
func (d *Debugger) Console() dap.Console { return dap.Console(d.keys.Console) }

// Build has nothing to do.
func (d *Debugger) Build(context.Context, string, func(string, string)) (string, error) {
	return d.keys.Program, nil
}

// logs are variables that make debugpy write what it is told, the pod's values among it, to files or a terminal.
var logs = []string{"DEBUGPY_LOG_DIR", "DEBUGPY_LOG_STDERR", "PYDEVD_DEBUG", "PYDEVD_DEBUG_FILE"}

// Command starts debugpy's adapter.
func (d *Debugger) Command(string) dap.Command {
	env := slices.DeleteFunc(policy.DebuggerEnviron(d.place.Environ), func(e string) bool {
		name, _, _ := strings.Cut(e, "=")
		return slices.Contains(logs, name)
	})
	drop := slices.Clone(logs)
	for _, e := range d.place.Environ {
		if name, _, _ := strings.Cut(e, "="); !slices.Contains(env, e) && !slices.Contains(drop, name) {
			drop = append(drop, name)
		}
	}
	return dap.Command{Way: dap.Streams, Argv: []string{d.runs, d.adapter}, Env: env, Dir: d.place.Dir, Drop: drop}
}

// Arguments are the configuration's own, with what stepin decides put over them.
func (d *Debugger) Arguments(l dap.Launching) (json.RawMessage, error) {
	args := make(map[string]any, len(d.raw)+8)
	for k, v := range d.raw {
		args[k] = v
	}
	for _, k := range ownKeys {
		delete(args, k)
	}
	args["request"] = "launch"
	args["console"] = d.keys.Console
	args["python"] = l.Wrap(append([]string{d.python.Executable}, d.python.args...))
	args["env"] = l.Environ(d.env)
	args["cwd"] = d.cwd
	if d.keys.DebugLauncherPython == "" {
		args["debugLauncherPython"] = d.runs
	}
	if d.keys.Program != "" {
		args["program"] = d.keys.Program
	}
	if d.noDebug {
		args["noDebug"] = true
	}
	if d.apart {
		args["debugAdapterHost"] = ownAddress
	}
	out, err := json.Marshal(args)
	if err != nil {
		return nil, fmt.Errorf("debugpy: writing the launch arguments: %w", err)
	}
	return out, nil
}

// Log shows nothing of what the adapter prints itself; its last line is said if it ends.
func (d *Debugger) Log(line string) (string, bool) { return line, false }

// Close has nothing to do.
func (d *Debugger) Close() error { return nil }
