package whole

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/adapter/dap/client"
	"github.com/stepin-dev/stepin/pkg/podlet"
)

// canaries are the pod's values, by where they are. None may be anywhere but in the debuggee, and where the developer
// looks at it.
type canaries map[string]string

func newCanaries() canaries {
	c := canaries{}
	for _, place := range []string{"variable", "lines", "secret", "plain", "loader"} {
		c[place] = "canary" + rand.Text()
	}
	return c
}

// in names the canaries that a text holds.
func (c canaries) in(text []byte) (found []string) {
	for place, value := range c {
		if bytes.Contains(text, []byte(value)) {
			found = append(found, place)
		}
	}
	return found
}

// lines is a value that a log would break into lines and escape.
func (c canaries) lines() string {
	return "-----BEGIN \"KEY\"-----\n" + c["lines"] + "\n-----END-----\n"
}

func (c canaries) pod() podlet.Spec {
	return podlet.Spec{
		Main: podlet.Main{Env: []string{"CANARY=" + c["variable"], "CANARY_PEM=" + c.lines(), "LD_AUDIT=/" + c["loader"]}},
		Volumes: []podlet.Volume{
			{Path: "/secret", Files: map[string]string{"token": c["secret"]}, Mode: 0o440},
			{Path: "/data", Plain: true, Files: map[string]string{"token": c["plain"]}},
		},
	}
}

// TestSecrets holds that no value of the pod's is in a log, a file, a command line, an environment of ours, a message
// or the text of a crash, at debug level; and that it is in the debuggee all the same.
func TestSecrets(t *testing.T) {
	c := newCanaries()
	p, run := pod(t, c.pod()), shortDir(t)
	t.Run("debug", func(t *testing.T) { testSecretsDebug(t, p, c, run) })
	t.Run("crash", func(t *testing.T) { testSecretsCrash(t, pod(t, c.pod()), c, run) }) // with an agent of its own, whose log it reads
	t.Run("exec", func(t *testing.T) { testSecretsExec(t, p, c, run) })
	t.Run("errors", func(t *testing.T) { testSecretsErrors(t, p, c, run) })
}

func testSecretsDebug(t *testing.T, p *podlet.Pod, c canaries, run string) {
	w := watch(t, c, run)
	hidden := []string{"envsum=CANARY", "envsum=CANARY_PEM", "sum=/secret/token", "sum=/data/token"}
	shown := []string{"env=CANARY", "cat=/secret/token", "cat=/data/token"}
	file := filepath.Join(source(t, "steps"), "main.go")
	w.launch(debugging(t, p, "steps", map[string]any{"debugger": map[string]any{
		"args": append(append([]string{}, hidden...), shown...), "showLog": true, "logOutput": "debugger,dap,rpc"}}),
		file, lineOf(t, file, "the breakpoint of the tests"))
	for range hidden {
		thread, _, _ := w.stopped()
		w.goOn(thread)
	}
	thread, frame, _ := w.stopped()
	for i, value := range []string{c["variable"], c.lines(), c["secret"], c["plain"]} {
		if err := w.WaitOutput(limit(t), "stdout", fmt.Sprintf("%s: %x", hidden[i], sha256.Sum256([]byte(value)))); err != nil {
			t.Fatalf("the debuggee lacks a value of the pod's: %v", err)
		}
	}
	w.clean("while the debuggee holds them", true)
	// Where the developer looks, they are: so the search would have found them.
	if got := w.evaluate(frame, "what"); !strings.Contains(got, "CANARY") {
		t.Errorf("what = %s", got)
	}
	for range shown {
		w.goOn(thread)
		if shown = shown[1:]; len(shown) > 0 {
			thread, _, _ = w.stopped()
		}
	}
	for _, value := range []string{c["variable"], c["secret"], c["plain"]} {
		if err := w.WaitOutput(limit(t), "stdout", value); err != nil {
			t.Error(err)
		}
	}
	if got := c.in(w.messages.Bytes()); len(got) < 3 {
		t.Errorf("the search finds only %q in the messages", got)
	}
	w.clean("while the debuggee shows them", false)
	w.disconnect()
	w.clean("after the debuggee", false)
}

// testSecretsCrash has agent and adapter dump all their goroutines while they hold the values.
func testSecretsCrash(t *testing.T, p *podlet.Pod, c canaries, run string) {
	w := watch(t, c, run)
	file := filepath.Join(source(t, "steps"), "main.go")
	w.launch(debugging(t, p, "steps", map[string]any{"debugger": map[string]any{"args": []string{"sum=/secret/token", "sum=/data/token", "sum=/data/token"}}}),
		file, lineOf(t, file, "the breakpoint of the tests"))
	for range 2 {
		thread, _, _ := w.stopped()
		w.goOn(thread)
	}
	w.stopped()
	if err := syscall.Kill(agentChild(t, p), syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the agent's dump", func() bool { return strings.Contains(w.log(), "SIGQUIT: quit") })
	if err := w.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-w.ended:
	case <-time.After(10 * time.Second):
		t.Fatal("SIGQUIT did not end the adapter")
	}
	if n := strings.Count(w.log(), "SIGQUIT: quit"); n < 2 || !strings.Contains(w.log(), "goroutine ") {
		t.Fatalf("%d dumps:\n%s", n, w.log())
	}
	w.clean("after a crash", true)
}

func testSecretsExec(t *testing.T, p *podlet.Pod, c canaries, run string) {
	s := steps(t, p, nil, append([]string{"XDG_RUNTIME_DIR=" + run}, debugLog...))
	s.expect("envsum=CANARY", fmt.Sprintf("%x", sha256.Sum256([]byte(c["variable"]))))
	s.expect("sum=/secret/token", fmt.Sprintf("%x", sha256.Sum256([]byte(c["secret"]))))
	s.expect("create=/secret/token", "errno: read-only file system")
	if found := c.inCommandLines(t); len(found) > 0 {
		t.Errorf("command lines: %q", found)
	}
	s.end()
	if found := c.in([]byte(s.said())); len(found) > 0 {
		t.Errorf("the log of stepin exec holds %q", found)
	}
	if !strings.Contains(s.said(), "level=DEBUG") {
		t.Error("there was no debug log to look at")
	}
}

// testSecretsErrors: launches that fail, early and late, say nothing of the pod.
func testSecretsErrors(t *testing.T, p *podlet.Pod, c canaries, run string) {
	notProgram := filepath.Join(t.TempDir(), "no-program")
	if err := os.WriteFile(notProgram, []byte("not a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, debugger := range map[string]map[string]any{
		"build":   {"buildFlags": "-tags=x -nonsense"},
		"program": {"mode": "exec", "program": notProgram, "showLog": true, "logOutput": "debugger,dap"},
		"folder":  {"cwd": "/nowhere/at/all"},
	} {
		t.Run(name, func(t *testing.T) {
			w := watch(t, c, run)
			w.must("initialize", map[string]any{"adapterID": "stepin", "supportsProgressReporting": true}, nil)
			m, err := w.Do(limit(t), "launch", debugging(t, p, "steps", map[string]any{"debugger": debugger}))
			if err != nil {
				t.Fatal(err)
			}
			if m.Err() == nil {
				t.Fatal("the launch did not fail")
			}
			t.Log(m.Err())
			w.clean("after a launch that failed", true)
		})
	}
}

// watched is an adapter of which everything is kept that it says and writes.
type watched struct {
	*adapter
	canaries canaries
	messages recorder // all that it sends to the editor
	errors   recorder // its standard error
	dirs     []string
}

// recorder is a buffer that is read while it is written.
type recorder struct {
	mu sync.Mutex
	b  []byte
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.b = append(r.b, p...)
	return len(p), nil
}

// Bytes is a copy of all that was written so far.
func (r *recorder) Bytes() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Clone(r.b)
}

func (w *watched) log() string { return string(w.errors.Bytes()) }

// watch starts `stepin dap` at debug level, with a temporary directory of its own and run as the user's for sockets.
func watch(t *testing.T, c canaries, run string) *watched {
	t.Helper()
	w := &watched{canaries: c, dirs: []string{shortDir(t), run}}
	w.adapter = &adapter{t: t, cmd: exec.Command(stepin(t), "dap"), ended: make(chan struct{})}
	w.cmd.Env = append(os.Environ(), "STEPIN_LOG=debug", "GOTRACEBACK=all", "TMPDIR="+w.dirs[0], "XDG_RUNTIME_DIR="+run)
	w.cmd.Stderr = &w.errors
	in, err := w.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Client = client.New(pipes{io.TeeReader(out, &w.messages), in})
	t.Cleanup(func() {
		in.Close()
		select {
		case <-w.ended:
		case <-time.After(15 * time.Second):
			t.Error("stepin dap did not end with its input")
			_ = w.cmd.Process.Kill()
		}
		if t.Failed() {
			t.Logf("stepin dap on stderr:\n%s\nconsole:\n%s", w.log(), w.Output("console"))
		}
	})
	go func() {
		_ = w.cmd.Wait()
		close(w.ended)
	}()
	return w
}

// shortDir is a temporary directory for sockets, whose paths have at most 108 bytes.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// clean looks for the canaries wherever they must not be. messages: in those to the editor, too.
func (w *watched) clean(when string, messages bool) {
	w.t.Helper()
	if found := w.canaries.in(w.errors.Bytes()); len(found) > 0 {
		w.t.Errorf("%s, the log holds %q", when, found)
	}
	if !strings.Contains(w.log(), "level=DEBUG") {
		w.t.Errorf("%s, there was no debug log to look at", when)
	}
	if found := w.canaries.in(w.messages.Bytes()); messages && len(found) > 0 {
		w.t.Errorf("%s, messages to the editor hold %q", when, found)
	}
	more, err := filepath.Glob("/tmp/stepin-*")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, dir := range append(more, w.dirs...) {
		for _, found := range w.canaries.below(dir) {
			w.t.Errorf("%s, %s", when, found)
		}
	}
	if found := w.canaries.inCommandLines(w.t); len(found) > 0 {
		w.t.Errorf("%s, command lines: %q", when, found)
	}
	if found := w.canaries.inEnvironments(w.t); len(found) > 0 {
		w.t.Errorf("%s, environments of our own: %q", when, found)
	}
}

// below searches names, links and content of all files under dir. What others keep private there is not ours.
func (c canaries) below(dir string) (found []string) {
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // gone meanwhile, or somebody else's
		}
		text := []byte(path)
		switch {
		case e.Type()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(path)
			text = append(text, target...)
		case e.Type().IsRegular():
			content, _ := os.ReadFile(path)
			text = append(text, content...)
		}
		for _, place := range c.in(text) {
			found = append(found, fmt.Sprintf("%s holds %s", path, place))
		}
		return nil
	})
	return found
}

// inCommandLines searches those of all processes.
func (c canaries) inCommandLines(t *testing.T) (found []string) {
	for _, pid := range processes(t) {
		line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		if err != nil {
			continue // ended meanwhile
		}
		for _, place := range c.in(line) {
			found = append(found, fmt.Sprintf("process %d: %s", pid, place))
		}
	}
	return found
}

// inEnvironments searches those of stepin's own processes: adapter, holder, keeper and agent. The debugger's and the debuggee's
// hold what the debuggee is to have; their executables are others.
func (c canaries) inEnvironments(t *testing.T) (found []string) {
	for _, pid := range processes(t) {
		proc := filepath.Join("/proc", strconv.Itoa(pid))
		exe, err := os.Readlink(filepath.Join(proc, "exe"))
		line, _ := os.ReadFile(filepath.Join(proc, "cmdline"))
		ours := exe == stepin(t) || strings.Contains(exe, "memfd:stepin") || bytes.HasPrefix(line, []byte("/proc/self/fd/3\x00--pod")) || strings.HasSuffix(exe, "/keeper")
		if err != nil || !ours {
			continue
		}
		environ, err := os.ReadFile(filepath.Join(proc, "environ"))
		if err != nil {
			continue // ended, or no longer this user's: the agent's child has the pod's identity
		}
		for _, place := range c.in(environ) {
			found = append(found, fmt.Sprintf("process %d (%s): %s", pid, exe, place))
		}
	}
	return found
}
