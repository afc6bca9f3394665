package demo

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// The service's source is in the binary, so that the demo needs no checkout.
//
//go:embed orders/main.go orders/orders.py
var sources embed.FS

// sourceName is the source's path in sources, and below the demo's directory.
const sourceName = "orders/main.go"

// module makes the source a module of its own. The version is the one that brought patterns of net/http.
const module = "module orders\n\ngo 1.22\n"

// buildEnv is laid over the developer's environment for both builds: static, as the pod has no libraries, and apart from a
// workspace that may be around.
var buildEnv = []string{"CGO_ENABLED=0", "GOWORK=off"}

// unpack writes the source into a new folder.
func unpack(folder string) error {
	text, err := sources.ReadFile(sourceName)
	if err != nil {
		return fmt.Errorf("demo: reading the source: %w", err)
	}
	if err := os.Mkdir(folder, 0o755); err != nil {
		return fmt.Errorf("demo: writing the source: %w", err)
	}
	for name, data := range map[string][]byte{"main.go": text, "go.mod": []byte(module)} {
		if err := os.WriteFile(filepath.Join(folder, name), data, 0o644); err != nil {
			return fmt.Errorf("demo: writing the source: %w", err)
		}
	}
	return nil
}

// breakpoint is the line of a source, from 1, at which the demo stops.
func breakpoint(name, comment string) (line int, err error) {
	text, err := sources.ReadFile(name)
	if err != nil {
		return 0, fmt.Errorf("demo: reading the source: %w", err)
	}
	before, _, ok := strings.Cut(string(text), comment+" the demo stops here")
	if !ok {
		return 0, errors.New("demo: the source does not say where to stop")
	}
	return strings.Count(before, "\n") + 1, nil
}

// goCommand finds Go on the developer's PATH.
func goCommand(environ []string) (string, error) {
	for _, e := range environ {
		path, ok := strings.CutPrefix(e, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(path) {
			name := filepath.Join(dir, "go")
			if info, err := os.Stat(name); err == nil && filepath.IsAbs(dir) && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				return name, nil
			}
		}
	}
	return "", fail.New(fail.BuildFailed, "install Go 1.22 or later; in a checkout, `./just demo` brings its own", "the go command is not on PATH")
}

// compile builds the service as the pod runs it.
func compile(ctx context.Context, environ []string, folder, program string) error {
	tool, err := goCommand(environ)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, tool, "build", "-gcflags=all=-N -l", "-ldflags=-X 'main.by=the pod'", "-o", program, ".")
	cmd.Dir, cmd.Env = folder, append(append(environ[:len(environ):len(environ)], buildEnv...), "PWD="+folder)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) } // its compilers, too
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fail.Wrap(fail.BuildFailed, err, "it takes Go 1.22 or later and a writable GOCACHE; `go version` and `go env GOCACHE` tell",
			"the demo's service does not build: %s", strings.TrimSpace(out.String()))
	}
	return nil
}
