package jsdebug

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stepin-dev/stepin/adapter/shell"
	"github.com/stepin-dev/stepin/pkg/fail"
)

// serverEnv names js-debug's DAP server, or a folder that has it.
const serverEnv = "STEPIN_JS_DEBUG"

const (
	hintNode   = "install Node.js, 18 or later, or put its node on PATH"
	hintServer = `unpack the file js-debug-dap of js-debug's releases (microsoft/vscode-js-debug) to ~/.local/share/js-debug, or name its dapDebugServer.js by "debugAdapterPath" or ` + serverEnv
)

// servers are the names of the DAP server, and folders where it is in what people install.
var (
	servers = []string{"dapDebugServer.js", "vsDebugServer.js", "vsDebugServer.cjs"}
	folders = []string{"", "src", "dist/src", "out/src", "js-debug/src"}
)

// installed is where editors keep js-debug, below the home directory. VS Code's own copy has no DAP server.
var installed = []string{
	".local/share/js-debug", ".local/share/nvim/mason/packages/js-debug-adapter", ".local/share/nvim/lazy/vscode-js-debug",
	".vscode/extensions/ms-vscode.js-debug-*", ".vscode-server/extensions/ms-vscode.js-debug-*",
	".vscode-oss/extensions/ms-vscode.js-debug-*", ".emacs.d/.extension/vscode/js-debug*",
}

// oldest is the oldest major version of Node that runs js-debug's server.
const oldest = 18

// find looks for the runtime, js-debug's server, and the node to run it.
func (d *Debugger) find() error {
	node, err := shell.LookPath("node", d.place.Environ)
	if err != nil {
		return fail.New(fail.DebuggerMissing, hintNode, "there is no node on PATH")
	}
	d.node = node
	if err := d.findRuntime(); err != nil {
		return err
	}
	own, err := major(node, d.cwd, d.place.Environ)
	if err != nil {
		return err
	}
	if own < oldest {
		return fail.New(fail.DebuggerMissing, hintNode, "%s is Node %d, which js-debug does not run on", node, own)
	}
	switch {
	case d.keys.NodeVersionHint != 0 || d.keys.RuntimeVersion != "":
	case d.runtime == node:
		d.major = own
	case isNode(d.runtime):
		if d.major, err = major(d.runtime, d.cwd, d.place.Environ); err != nil {
			return err
		}
	}
	d.server, err = d.findServer()
	return err
}

// findRuntime looks for runtimeExecutable as js-debug does: by its path, on PATH, in node_modules/.bin upwards.
func (d *Debugger) findRuntime() error {
	name := "node"
	if d.keys.RuntimeExecutable != nil && *d.keys.RuntimeExecutable != "" {
		name = *d.keys.RuntimeExecutable
	}
	if name == "node" && d.keys.RuntimeVersion != "" {
		d.runtime = name // js-debug puts that version first on the debuggee's PATH
		return nil
	}
	if strings.Contains(name, "/") {
		if d.runtime = shell.Absolute(d.cwd, name); shell.Executable(d.runtime) {
			return nil
		}
		return fail.New(fail.ProgramMissing, "it is a path, or a name on PATH or in node_modules/.bin", "runtimeExecutable %s: no such program", d.runtime)
	}
	if path, err := shell.LookPath(name, d.place.Environ); err == nil {
		d.runtime = path
		return nil
	}
	bin := filepath.Join("node_modules", ".bin", name)
	if dir := shell.Upwards(d.cwd, bin); dir != "" && shell.Executable(filepath.Join(dir, bin)) {
		d.runtime = filepath.Join(dir, bin)
		return nil
	}
	return fail.New(fail.ProgramMissing, "install it, or put it on PATH", "runtimeExecutable %s: it is neither on PATH nor in node_modules/.bin", name)
}

func isNode(path string) bool {
	base := filepath.Base(path)
	return base == "node" || base == "nodejs" || base == "node64"
}

// versionTime bounds node's answer: a cold start from a slow disk takes seconds.
const versionTime = 20 * time.Second

// major asks a node for the first number of its version.
func major(node, dir string, environ []string) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), versionTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, "--version")
	cmd.Env = slices.DeleteFunc(slices.Clone(environ), func(e string) bool { return strings.HasPrefix(e, nodeOptions+"=") })
	if shell.IsDir(dir) {
		cmd.Dir = dir // version managers go by it
	}
	out, err := cmd.Output()
	if err == nil {
		version, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(string(out)), "v"), ".")
		var n int
		if n, err = strconv.Atoi(version); err == nil {
			return n, nil
		}
	}
	return 0, fail.Wrap(fail.DebuggerMissing, err, hintNode, "%s does not say its version", node)
}

// findServer looks for js-debug's DAP server: debugAdapterPath, the environment, what this editor brings, and where others
// keep it.
func (d *Debugger) findServer() (string, error) {
	for _, named := range []struct{ what, path string }{
		{"debugAdapterPath", d.keys.DebugAdapterPath}, {serverEnv, shell.Lookup(d.place.Environ, serverEnv)},
	} {
		if named.path == "" {
			continue
		}
		if found := serverIn(shell.Absolute(d.place.Dir, named.path)); found != "" {
			return found, nil
		}
		return "", fail.New(fail.DebuggerMissing, hintServer, "%s %s: there is no DAP server of js-debug", named.what, named.path)
	}
	if carried := d.place.Carried[Name]; carried != "" {
		if found := serverIn(carried); found != "" {
			return found, nil
		}
	}
	if home := shell.Lookup(d.place.Environ, "HOME"); home != "" {
		for _, pattern := range installed {
			all, err := filepath.Glob(filepath.Join(home, pattern))
			if err != nil {
				continue
			}
			slices.SortFunc(all, shell.CompareVersions)
			for _, dir := range slices.Backward(all) {
				if found := serverIn(dir); found != "" {
					return found, nil
				}
			}
		}
	}
	return "", fail.New(fail.DebuggerMissing, hintServer, "js-debug, the debugger of Node programs, is not installed")
}

// serverIn is the server at a path or in that folder, or "".
func serverIn(path string) string {
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
		return path
	}
	for _, folder := range folders {
		for _, name := range servers {
			file := filepath.Join(path, folder, name)
			if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
				return file
			}
		}
	}
	return ""
}

// Find looks for node and js-debug as a launch without keys would, from dir.
func Find(dir string, environ []string) (string, error) {
	d := &Debugger{cwd: dir}
	d.place.Dir, d.place.Environ = dir, environ
	err := d.find()
	return d.server, err
}
