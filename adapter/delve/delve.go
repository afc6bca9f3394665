// Package delve prepares Delve for one launch configuration: it finds dlv, builds the Go program as `dlv dap` would,
// and writes the launch arguments. Every key means what it means to Delve (service/dap/types.go of 1.27), or, where
// Delve leaves it to the editor (mode auto, envFile, console, dlvToolPath, showLog), what it means to VS Code's Go
// extension.
//
// stepin builds, not Delve, because Delve puts the launch's env into its own process first: the compiler would run in
// the pod's place. So this package must never let a variable of the pod reach go or dlv's own start; they go into the
// launch arguments, last step.
package delve

import (
	"bytes"
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

// Debugger is Delve for one launch configuration. Nothing in it changes after New but what Build finds out.
type Debugger struct {
	keys    keys
	raw     map[string]json.RawMessage // the configuration's keys as they came
	place   dap.Place
	dlv     string             // absolute path
	env     map[string]*string // envFile, and over it env
	mode    string             // auto resolved
	base    string             // Delve's working directory, absolute: relative paths start here
	builds  int
	output  string // what Build leaves outside of its dir
	folder  string // in test mode the package's, once built
	secrets *scrubber
}

// keys are those that stepin reads itself.
type keys struct {
	Mode        string             `json:"mode"`
	Program     string             `json:"program"`
	Cwd         string             `json:"cwd"`
	DlvCwd      string             `json:"dlvCwd"`
	BuildFlags  buildFlags         `json:"buildFlags"`
	Output      string             `json:"output"`
	Env         map[string]*string `json:"env"`
	EnvFile     shell.List         `json:"envFile"`
	NoDebug     bool               `json:"noDebug"`
	OutputMode  string             `json:"outputMode"`
	StdoutTo    string             `json:"stdoutTo"`
	StderrTo    string             `json:"stderrTo"`
	Console     string             `json:"console"`
	DlvToolPath string             `json:"dlvToolPath"`
	DlvFlags    []string           `json:"dlvFlags"`
	ShowLog     bool               `json:"showLog"`
	LogOutput   string             `json:"logOutput"`
}

// New checks the configuration and finds dlv. It implements dap.NewDebugger.
func New(c *config.Launch, noDebug bool, p dap.Place) (dap.Debugger, error) {
	d := &Debugger{raw: c.Debugger.Keys, place: p, secrets: newScrubber()}
	if err := d.decode(); err != nil {
		return nil, err
	}
	d.keys.NoDebug = d.keys.NoDebug || noDebug
	d.base = shell.Absolute(p.Dir, d.keys.DlvCwd)
	if d.keys.DlvCwd != "" && !shell.IsDir(d.base) {
		return nil, fail.New(fail.ConfigValue, "dlvCwd is an existing folder", "dlvCwd %s: no such folder", d.base)
	}
	if err := d.checkFlags(); err != nil {
		return nil, err
	}
	if err := d.checkMode(); err != nil {
		return nil, err
	}
	var err error
	if d.env, err = shell.Environ(d.keys.EnvFile, d.keys.Env, d.base, p.Environ); err != nil {
		return nil, err
	}
	d.dlv, err = find(d.keys.DlvToolPath, d.base, p.Environ)
	return d, err
}

// decode reads the keys; errors are worded as Delve's.
func (d *Debugger) decode() error {
	all, err := json.Marshal(d.raw)
	if err != nil {
		return fail.Wrap(fail.ConfigSyntax, err, "", "the debugger's keys")
	}
	dec := json.NewDecoder(bytes.NewReader(all))
	err = dec.Decode(&d.keys)
	if t, ok := err.(*json.UnmarshalTypeError); ok {
		return fail.New(fail.ConfigValue, "", "invalid debug configuration - cannot unmarshal %s into %q of type %v",
			t.Value, t.Field, t.Type)
	}
	if err != nil {
		return fail.New(fail.ConfigValue, "", "invalid debug configuration - %v", err)
	}
	return nil
}

func (d *Debugger) checkMode() error {
	k := d.keys
	switch dap.Console(k.Console) {
	case "", dap.InternalConsole, dap.IntegratedTerminal, dap.ExternalTerminal:
	default:
		return fail.New(fail.ConfigValue, "internalConsole, integratedTerminal or externalTerminal",
			"console %q does not exist", k.Console)
	}
	switch k.Mode {
	case "", "debug", "test", "exec", "auto":
	case "replay", "core", "remote", "local":
		return fail.New(fail.ConfigLater, "auto, debug, test or exec", "mode %q does not run a program in a pod's place", k.Mode)
	default:
		return fail.New(fail.ConfigValue, "auto, debug, test or exec",
			"invalid debug configuration - unsupported 'mode' attribute %q", k.Mode)
	}
	if k.Program == "" {
		return fail.New(fail.ProgramMissing, `write "program": the package's folder, a Go file of it, or an executable`,
			"The program attribute is missing in debug configuration.")
	}
	d.mode = k.Mode
	if d.mode == "" {
		d.mode = "debug"
	}
	path := shell.Absolute(d.base, k.Program)
	info, err := os.Stat(path)
	if d.mode == "auto" {
		switch {
		case strings.HasSuffix(k.Program, "_test.go"):
			d.mode, d.keys.Program = "test", filepath.Dir(k.Program)
			if !strings.HasPrefix(d.keys.Program, "/") && !strings.HasPrefix(d.keys.Program, ".") {
				d.keys.Program = "./" + d.keys.Program // to go, a bare name is an import path
			}
		case err == nil && info.Mode().IsRegular() && filepath.Ext(path) != ".go":
			d.mode = "exec"
		default:
			d.mode = "debug"
		}
	}
	// An import path is no path here, and an executable may be a file of the pod.
	if err != nil && d.mode != "exec" && (filepath.IsAbs(k.Program) || strings.HasPrefix(k.Program, ".") ||
		strings.HasSuffix(k.Program, ".go")) {
		return fail.New(fail.ProgramMissing, "program is relative to "+d.base, "program %s: no such file or folder", path)
	}
	if err != nil && d.mode == "exec" && shell.IsDir(filepath.Dir(path)) && strings.HasPrefix(path, d.base+"/") {
		return fail.New(fail.ProgramMissing, "build it first, or use mode debug", "program %s: no such file", path)
	}
	return nil
}

// Name is dlv.
func (d *Debugger) Name() string { return "dlv" }

// Hints are the program if it is a file or folder of this machine, the debuggee's working directory and the workspace, all
// absolute.
func (d *Debugger) Hints() dap.Hints {
	program := shell.Absolute(d.base, d.keys.Program)
	folder := program
	if !shell.IsDir(folder) {
		folder = filepath.Dir(program)
	}
	if !shell.IsDir(folder) { // an import path
		folder = d.base
	}
	if _, err := os.Stat(program); err != nil {
		program = "" // an import path, or an executable of the pod
	}
	return dap.Hints{Program: program, Debugger: d.dlv, Cwd: shell.Absolute(d.base, d.keys.Cwd), Workspace: shell.Workspace(folder, "go.work", ".git", "go.mod")}
}

// Console is where the debuggee's standard streams are.
func (d *Debugger) Console() dap.Console {
	if d.keys.Console == "" {
		return dap.InternalConsole
	}
	return dap.Console(d.keys.Console)
}

// logs says whether dlv may log: the launch request with the pod's values is in its log, and only what it prints to us
// passes Log.
func (d *Debugger) logs() bool { return d.Console() == dap.InternalConsole }

// checkFlags refuses flags of dlv that would bring the pod's values where nobody blots them out.
func (d *Debugger) checkFlags() error {
	for _, flag := range d.keys.DlvFlags {
		switch name, _, _ := strings.Cut(flag, "="); {
		case name == "--log-dest":
			return fail.New(fail.ConfigValue, "use showLog, which shows the log without the pod's values",
				"dlvFlags: --log-dest would write the pod's values to a file")
		case name == "--log" && !d.logs():
			return fail.New(fail.ConfigValue, `use "console": "internalConsole" and showLog`,
				"dlvFlags: --log would print the pod's values in the terminal")
		}
	}
	return nil
}

// drop are variables that no debuggee gets through dlv, since dlv would obey them itself when it loads symbols: from
// the pod's place it would ask the developer's debuginfod servers through the pod's network.
var drop = []string{"DEBUGINFOD_URLS"}

// Command starts dlv such that it dials the socket; it then says nothing on its standard output.
func (d *Debugger) Command(socket string) dap.Command {
	argv := []string{d.dlv, "dap", "--client-addr=unix:" + socket}
	if d.keys.ShowLog && d.logs() {
		argv = append(argv, "--log")
		if d.keys.LogOutput != "" {
			argv = append(argv, "--log-output="+d.keys.LogOutput)
		}
	}
	argv = append(argv, d.keys.DlvFlags...)
	env := policy.DebuggerEnviron(d.place.Environ)
	out := slices.Clone(drop)
	for _, e := range d.place.Environ {
		if !slices.Contains(env, e) {
			name, _, _ := strings.Cut(e, "=")
			out = append(out, name)
		}
	}
	return dap.Command{Argv: argv, Env: env, Dir: d.base, Drop: out}
}

// Arguments are the configuration's own, with what stepin decides put over them.
func (d *Debugger) Arguments(l dap.Launching) (json.RawMessage, error) {
	args := make(map[string]json.RawMessage, len(d.raw)+8)
	for k, v := range d.raw {
		args[k] = v
	}
	for _, k := range []string{"dlvCwd", "envFile", "console", "dlvToolPath", "dlvFlags", "showLog", "logOutput", "logDest", "output", "buildFlags"} {
		delete(args, k)
	}
	set := func(name string, v any) error {
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("delve: writing %s: %w", name, err)
		}
		args[name] = b
		return nil
	}
	env := l.Environ(d.env)
	for _, name := range drop {
		if _, own := d.env[name]; !own {
			delete(env, name)
		}
	}
	d.secrets.learn(env, d.env)
	values := map[string]any{"request": "launch", "mode": "exec", "env": env, "cwd": d.cwd()}
	if d.keys.NoDebug {
		values["noDebug"] = true
	}
	if d.mode != "exec" {
		values["program"] = l.Program
	}
	if l.Stdout != "" && (d.keys.OutputMode == "" || d.keys.OutputMode == "local" || d.keys.OutputMode == "remote") {
		if d.keys.OutputMode == "remote" && (d.keys.StdoutTo != "" || d.keys.StderrTo != "") {
			return nil, fail.New(fail.ConfigValue, "leave outputMode out",
				`output == "remote" can not be used together with stdoutTo or stderrTo`)
		}
		delete(args, "outputMode")
		if d.keys.StdoutTo == "" {
			values["stdoutTo"] = l.Stdout
		}
		if d.keys.StderrTo == "" {
			values["stderrTo"] = l.Stderr
		}
	}
	for name, v := range values {
		if err := set(name, v); err != nil {
			return nil, err
		}
	}
	return json.Marshal(args)
}

// cwd is the debuggee's working directory, by Delve's rule: cwd from Delve's own directory, and in test mode the
// package's folder by default.
func (d *Debugger) cwd() string {
	if d.folder != "" {
		return d.folder
	}
	return shell.Absolute(d.base, d.keys.Cwd)
}

// Log shows dlv's own lines if the user asked for its log. The launch request with the pod's values is among them:
// they are blotted out.
func (d *Debugger) Log(line string) (string, bool) { return d.secrets.scrub(line), d.keys.ShowLog }

// Close removes the output file, as Delve does.
func (d *Debugger) Close() error {
	if d.output == "" {
		return nil
	}
	if err := os.Remove(d.output); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("delve: removing the built program: %w", err)
	}
	return nil
}

var _ interface {
	Build(context.Context, string, func(string, string)) (string, error)
} = (*Debugger)(nil)
