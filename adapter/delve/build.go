package delve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/stepin-dev/stepin/adapter/shell"
	"github.com/stepin-dev/stepin/pkg/fail"
)

// maxCompilerText bounds what is shown of a failed build, in bytes: the first errors matter.
const maxCompilerText = 256 << 10

// buildStop is the go command's time to remove its work folder when a build is cancelled.
const buildStop = time.Second

// Build runs go build or go test -c with the developer's environment and the launch's env, but nothing of the pod's.
func (d *Debugger) Build(ctx context.Context, dir string, report func(category, text string)) (string, error) {
	if d.keys.ShowLog && !d.logs() {
		report("console", "stepin: showLog shows nothing in a terminal console, since dlv would print the pod's values there\n")
	}
	if d.mode == "exec" {
		return d.keys.Program, nil
	}
	d.builds++
	output := filepath.Join(dir, fmt.Sprintf("__debug_bin%d", time.Now().UnixNano()))
	if d.keys.Output != "" {
		output = shell.Absolute(d.base, d.keys.Output)
		d.output = output
	}
	what := "Building " + d.keys.Program
	if d.mode == "test" {
		what = "Building tests of " + d.keys.Program
	}
	report("stdout", what+"\n")
	text, err := d.compile(ctx, output)
	if err != nil && ctx.Err() == nil && d.elsewhere() {
		text, err = d.compile(ctx, output)
	}
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return "", fail.New(fail.BuildFailed, "install Go, or put it on PATH", "the go command is not on PATH")
	case err != nil:
		report("stderr", text)
		return "", fail.Wrap(fail.BuildFailed, err, "the compiler's text is in the debug console", "the program does not build")
	}
	if d.keys.Cwd == "" && d.mode == "test" {
		d.folder = d.packageDir(ctx)
	}
	return output, nil
}

// compile runs the go command once. On failure the text is what Delve shows.
func (d *Debugger) compile(ctx context.Context, output string) (string, error) {
	args := goArguments(d.mode == "test", output, d.keys.Program, d.keys.BuildFlags)
	cmd, err := d.goCommand(ctx, args...)
	if err != nil {
		return "", err
	}
	out := &limited{}
	cmd.Stdout, cmd.Stderr = out, out
	// If we are killed, the go command removes its work folder and leaves no program behind. The signal comes when the
	// thread that started it ends (prctl(2), PR_SET_PDEATHSIG), so that has to live as long.
	cmd.SysProcAttr.Pdeathsig = syscall.SIGINT
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err = cmd.Run(); err != nil {
		return fmt.Sprintf("Build Error: go %s\n%s (%s)\n", strings.Join(args, " "), strings.TrimSpace(out.String()), err), err
	}
	return "", nil
}

// goCommand is the go command in Delve's directory with the launch's env over the developer's. It ends with ctx, its
// compilers too.
func (d *Debugger) goCommand(ctx context.Context, args ...string) (*exec.Cmd, error) {
	env := shell.Over(d.place.Environ, d.env)
	path, err := shell.LookPath("go", env)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env, cmd.Dir = append(env, "PWD="+d.base), d.base
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = buildStop
	return cmd, nil
}

// elsewhere moves Delve's directory to the program's folder, if there is a module there and none where we are: an
// editor may start its adapters anywhere, and VS Code's Go extension does the same. dlvCwd prevents it.
func (d *Debugger) elsewhere() bool {
	path := shell.Absolute(d.base, d.keys.Program)
	folder := path
	if !shell.IsDir(folder) {
		folder = filepath.Dir(folder)
	}
	if d.keys.DlvCwd != "" || !filepath.IsAbs(d.keys.Program) || folder == d.base {
		return false
	}
	module := shell.Upwards(folder, "go.mod")
	if module == "" || shell.Upwards(d.base, "go.mod") == module || shell.Upwards(d.base, "go.work") != "" {
		return false
	}
	d.base = folder
	return true
}

// packageDir is the folder of the program's package, where go test would run it; Delve's directory if go cannot tell.
func (d *Debugger) packageDir(ctx context.Context) string {
	if path := shell.Absolute(d.base, d.keys.Program); shell.IsDir(path) {
		return path
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd, err := d.goCommand(ctx, "list", "-f", "{{.Dir}}", d.keys.Program)
	if err != nil {
		return d.base
	}
	out, err := cmd.Output()
	if dir := string(bytes.TrimSpace(out)); err == nil && dir != "" {
		return dir
	}
	return d.base
}

// limited keeps the first maxCompilerText bytes.
type limited struct{ bytes.Buffer }

// Write takes everything and keeps the beginning.
func (l *limited) Write(p []byte) (int, error) {
	if room := maxCompilerText - l.Len(); room > 0 {
		l.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// find looks for dlv: dlvToolPath, PATH, and where `go install` puts it.
func find(tool, base string, environ []string) (string, error) {
	const hint = "go install github.com/go-delve/delve/cmd/dlv@latest"
	if tool != "" {
		path := shell.Absolute(base, tool)
		if shell.IsDir(path) {
			path = filepath.Join(path, "dlv")
		}
		if shell.Executable(path) {
			return path, nil
		}
		return "", fail.New(fail.DebuggerMissing, hint, "dlvToolPath %s: no such program", path)
	}
	if path, err := shell.LookPath("dlv", environ); err == nil {
		return path, nil
	}
	var folders []string
	if bin := shell.Lookup(environ, "GOBIN"); bin != "" {
		folders = append(folders, bin)
	}
	for _, p := range filepath.SplitList(shell.Lookup(environ, "GOPATH")) {
		folders = append(folders, filepath.Join(p, "bin"))
	}
	if home := shell.Lookup(environ, "HOME"); home != "" {
		folders = append(folders, filepath.Join(home, "go", "bin"))
	}
	for _, f := range folders {
		if path := filepath.Join(f, "dlv"); shell.Executable(path) {
			return path, nil
		}
	}
	return "", fail.New(fail.DebuggerMissing, hint, "dlv, the Go debugger, is neither on PATH nor in %s", strings.Join(folders, ", "))
}

// Find looks for dlv as a launch without dlvToolPath would.
func Find(environ []string) (string, error) { return find("", "/", environ) }
