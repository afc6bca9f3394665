package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/adapter/dap/client"
	"github.com/stepin-dev/stepin/adapter/dap/talk"
)

// Stepin is the product as a user has it: the built binary, a kubeconfig, a folder.
type Stepin struct {
	Kubeconfig string
	Dir        string   // "" is the test's own
	Env        []string // added to the environment
}

// Binary is the binary under test: STEPIN_BINARY, else what ./just build leaves.
func Binary(t testing.TB) string {
	t.Helper()
	path := os.Getenv("STEPIN_BINARY")
	if path == "" {
		root, err := Root()
		if err != nil {
			t.Fatal(err)
		}
		path = filepath.Join(root, "bin", "stepin")
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no stepin to test: %v (run ./just build)", err)
	}
	return path
}

// Command is a stepin that is not started yet.
func (s Stepin) Command(ctx context.Context, t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(ctx, Binary(t), args...)
	cmd.Dir = s.Dir
	cmd.Env = append(append(os.Environ(), "KUBECONFIG="+s.Kubeconfig), s.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// WithDelve is the environment of somebody who has Delve installed: the tools of ./just come first on PATH.
func WithDelve(t testing.TB) []string {
	t.Helper()
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	return []string{"PATH=" + filepath.Join(root, ".tools", "bin") + ":" + os.Getenv("PATH")}
}

// Result is what a command has left.
type Result struct {
	Stdout, Stderr string
	Status         int
}

// Run runs a command of stepin's to its end.
func (s Stepin) Run(t testing.TB, args ...string) Result {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := s.Command(Limit(t), t, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return Result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// Exec is `stepin exec`, not started yet; the configuration goes by a file, as a user's would.
func (s Stepin) Exec(ctx context.Context, t testing.TB, configuration map[string]any, argv ...string) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(configuration)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "stepin.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return s.Command(ctx, t, append([]string{"exec", "--config", file, "--"}, argv...)...)
}

// Adapter is one `stepin dap` on standard input and output, and the editor that talks to it. Package talk has what an
// editor says.
type Adapter struct {
	*client.Client
	Cmd    *exec.Cmd
	Stderr talk.Buffer
	Ended  <-chan struct{} // closed when the process has been waited for
}

// ending bounds how long stepin may take to clean up when its editor is gone.
const ending = 15 * time.Second

// DAP starts `stepin dap`. It has to end with its input, when the test ends.
func (s Stepin) DAP(t testing.TB) *Adapter {
	t.Helper()
	ended := make(chan struct{})
	a := &Adapter{Cmd: s.Command(context.Background(), t, "dap"), Ended: ended}
	a.Cmd.Stderr = &a.Stderr
	in, err := a.Cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := a.Cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	a.Client = client.New(struct {
		io.Reader
		io.WriteCloser
	}{out, in})
	go func() {
		_ = a.Cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		in.Close()
		select {
		case <-ended:
		case <-time.After(ending):
			t.Error("stepin dap did not end with its input")
			_ = a.Cmd.Process.Kill()
		}
		if t.Failed() {
			t.Logf("stepin dap on stderr:\n%s\nconsole:\n%s", a.Stderr.String(), a.Output("console"))
		}
	})
	return a
}

// Configuration is a launch configuration for a Go program in the place of a target; more is laid over it, key by key.
func Configuration(namespace, target, program string, more map[string]any) map[string]any {
	return lay(map[string]any{
		"target": target, "namespace": namespace,
		"debugger": map[string]any{"type": "go", "program": program},
		"incoming": map[string]any{"mode": "steal"},
	}, more)
}

func lay(under, over map[string]any) map[string]any {
	result := maps.Clone(under)
	for key, value := range over {
		above, ok1 := value.(map[string]any)
		below, ok2 := result[key].(map[string]any)
		if ok1 && ok2 {
			value = lay(below, above)
		}
		result[key] = value
	}
	return result
}

// LeavesNothing fails the test if a session has left something in a namespace or on the node: it waits for a time, the
// agent's TTL, and then tells what is still there.
func (c *Cluster) LeavesNothing(t testing.TB, namespace string, within time.Duration) {
	t.Helper()
	var left []string
	for end := time.Now().Add(within); ; time.Sleep(pace) {
		if left = c.leavings(t, namespace); len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Errorf("left after %v:\n%s", within, strings.Join(left, "\n"))
			return
		}
	}
}

var lossLine = regexp.MustCompile(`of pod (\S+): (\d+) of \d+ connections were not copied.*?(?:dropped (\d+) frames.*)?\n`)

// Losses is how many copies were lost, and how many frames dropped, as stepin has said last of each pod.
func Losses(said string) (copies, frames int) {
	last := map[string][2]int{}
	for _, m := range lossLine.FindAllStringSubmatch(said, -1) {
		flows, _ := strconv.Atoi(m[2])
		dropped, _ := strconv.Atoi(m[3]) // none are not mentioned
		last[m[1]] = [2]int{flows, dropped}
	}
	for _, k := range last {
		copies, frames = copies+k[0], frames+k[1]
	}
	return copies, frames
}
