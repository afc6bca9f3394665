// Package jsdebug prepares js-debug for one launch configuration of a Node program: it finds js-debug's DAP server and the
// program's runtime, and writes the launch arguments. Every key means what it means to js-debug (src/configuration.ts of
// 1.105 to 1.117), or, where js-debug leaves it to the editor (debugAdapterPath, the workspace), what users expect.
//
// js-debug runs outside of the pod's place, with the developer's own environment: the runtime in the launch arguments is
// wrapped, so that only the debuggee enters; it calls js-debug back by a unix socket in the temporary directory. So this
// package must never let a variable of the pod reach js-debug's start; they go into the launch arguments, last step.
package jsdebug

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

// Debugger is js-debug for one launch configuration. Nothing in it changes after New.
type Debugger struct {
	keys    keys
	raw     map[string]json.RawMessage // the configuration's keys as they came
	name    json.RawMessage            // of the editor's configuration
	place   dap.Place
	env     map[string]*string // envFile, and over it env
	node    string             // absolute path of the node that runs js-debug
	server  string             // absolute path of js-debug's DAP server
	runtime string             // the debuggee's: an absolute path, or a name where js-debug chooses the version
	cwd     string             // the debuggee's, absolute
	major   int                // the version of runtime where that is node, 0 if unknown
	noDebug bool
}

// keys are those that stepin reads itself.
type keys struct {
	Program           string             `json:"program"`
	RuntimeExecutable *string            `json:"runtimeExecutable"`
	RuntimeArgs       shell.List         `json:"runtimeArgs"`
	RuntimeVersion    string             `json:"runtimeVersion"`
	NodeVersionHint   int                `json:"nodeVersionHint"`
	Cwd               string             `json:"cwd"`
	Console           string             `json:"console"`
	Env               map[string]*string `json:"env"`
	EnvFile           shell.List         `json:"envFile"`
	NoDebug           bool               `json:"noDebug"`
	DebugAdapterPath  string             `json:"debugAdapterPath"`
	Workspace         string             `json:"__workspaceFolder"`
}

// ownKeys are stepin's, not js-debug's; envFile is read here because js-debug would read it over the pod's variables.
var ownKeys = []string{"envFile", "debugAdapterPath"}

// New checks the configuration and finds runtime and js-debug. It implements dap.NewDebugger.
func New(c *config.Launch, noDebug bool, p dap.Place) (dap.Debugger, error) {
	d := &Debugger{raw: c.Debugger.Keys, place: p, name: c.Editor["name"]}
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
	return d, d.find()
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
	if k.RuntimeVersion == "default" { // js-debug's word for none, which VS Code's own copy writes out
		k.RuntimeVersion = ""
	}
	if k.Program == "" && (k.RuntimeExecutable == nil || *k.RuntimeExecutable == "") && len(k.RuntimeArgs) == 0 {
		return fail.New(fail.ProgramMissing, `write "program": the script; or for a script of package.json "runtimeExecutable": "npm", "runtimeArgs": ["run", "dev"]`,
			"the debugger has neither program nor runtimeExecutable")
	}
	d.cwd = shell.Absolute(d.place.Dir, k.Cwd)
	if !shell.IsDir(d.cwd) && k.Cwd != "" && strings.HasPrefix(d.cwd, d.place.Dir+"/") {
		return fail.New(fail.ConfigValue, "cwd is relative to "+d.place.Dir, "cwd %s: no such folder", d.cwd)
	}
	if k.Program == "" {
		return nil
	}
	k.Program = shell.Absolute(d.cwd, k.Program)
	if !shell.IsDir(filepath.Dir(k.Program)) {
		return nil // a script that only the pod has is none of this machine's folders
	}
	for _, ending := range []string{"", ".js", ".mjs", ".cjs", ".json", ".node"} { // as require has it
		if _, err := os.Stat(k.Program + ending); err == nil {
			return nil
		}
	}
	return fail.New(fail.ProgramMissing, "program is relative to "+d.cwd, "program %s: no such file", k.Program)
}

// Name is this real debugger's, also in dap.Place.Carried.
const Name = "js-debug"

// Name is js-debug.
func (d *Debugger) Name() string { return Name }

// Hints are the Node that will run, the runtime that leads to it, js-debug's folder, whose bootloader the debuggee loads, the debuggee's
// working directory and the workspace.
func (d *Debugger) Hints() dap.Hints {
	program := d.runtime
	if !filepath.IsAbs(program) || !isNode(program) {
		program = d.node // what npm and its like start
	}
	runtime := d.runtime
	if !filepath.IsAbs(runtime) {
		runtime = "" // js-debug's to find
	}
	return dap.Hints{Program: program, Runtime: runtime, Debugger: filepath.Dir(d.server), Cwd: d.cwd, Workspace: d.workspace()}
}

func (d *Debugger) workspace() string {
	if d.keys.Workspace != "" {
		return shell.Absolute(d.place.Dir, d.keys.Workspace)
	}
	folder := d.cwd
	if dir := filepath.Dir(d.keys.Program); d.keys.Program != "" && shell.IsDir(dir) {
		folder = dir
	}
	return shell.Workspace(folder, ".git", "package.json")
}

// Console is where the debuggee's standard streams are.
func (d *Debugger) Console() dap.Console { return dap.Console(d.keys.Console) }

// Build has nothing to do: preLaunchTask is the editor's.
func (d *Debugger) Build(context.Context, string, func(string, string)) (string, error) {
	return d.keys.Program, nil
}

// nodeOptions would be the debuggee's and js-debug's at once: js-debug gets none, and the debuggee its own by the launch
// arguments, which js-debug then adds its bootloader to.
const nodeOptions = "NODE_OPTIONS"

// Command starts js-debug's DAP server at the socket.
func (d *Debugger) Command(socket string) dap.Command {
	env := slices.DeleteFunc(policy.DebuggerEnviron(d.place.Environ), func(e string) bool {
		return strings.HasPrefix(e, nodeOptions+"=")
	})
	var drop []string
	for _, e := range d.place.Environ {
		if name, _, _ := strings.Cut(e, "="); !slices.Contains(env, e) && name != nodeOptions {
			drop = append(drop, name)
		}
	}
	return dap.Command{Way: dap.Serves, Argv: []string{d.node, d.server, socket}, Env: env, Dir: d.place.Dir, Drop: drop}
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
	argv := append([]string{d.runtime}, d.keys.RuntimeArgs...)
	if line := ""; d.Console() != dap.InternalConsole && json.Unmarshal(d.raw["args"], &line) == nil && line != "" {
		// In a terminal, arguments in one piece are the shell's to read. js-debug appends the program.
		argv = append([]string{"/bin/sh", "-c", `exec "$@" ` + line, "sh"}, argv...)
		delete(args, "args")
	}
	argv = l.Wrap(argv)
	env := l.Environ(d.env)
	if _, changed := env[nodeOptions]; !changed {
		if own := shell.Lookup(d.place.Environ, nodeOptions); own != "" {
			env[nodeOptions] = &own
		}
	}
	for name, v := range map[string]any{"type": "pwa-node", "request": "launch", "console": d.keys.Console,
		"runtimeExecutable": argv[0], "runtimeArgs": argv[1:], "env": env, "cwd": d.cwd, "__workspaceFolder": d.workspace()} {
		args[name] = v
	}
	if d.keys.Program != "" {
		args["program"] = d.keys.Program
	}
	if d.name != nil {
		args["name"] = d.name
	}
	if d.major != 0 {
		args["nodeVersionHint"] = d.major
	}
	if d.noDebug {
		args["noDebug"] = true
	}
	if !l.Children {
		args["autoAttachChildProcesses"] = false
	}
	out, err := json.Marshal(args)
	if err != nil {
		return nil, fmt.Errorf("jsdebug: writing the launch arguments: %w", err)
	}
	return out, nil
}

// Log shows nothing of what the server prints itself; its last line is said if it ends.
func (d *Debugger) Log(line string) (string, bool) { return line, false }

// Close has nothing to do.
func (d *Debugger) Close() error { return nil }
