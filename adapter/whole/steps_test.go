package whole

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stepin-dev/stepin/pkg/podlet"
)

// stepper is a program under `stepin exec` that takes steps on its standard input: programs/steps, or one of c/.
type stepper struct {
	t      *testing.T
	cmd    *exec.Cmd
	in     *os.File
	out    *bufio.Scanner
	stderr string // a file: read while it is written
	trace  string
}

// steps starts a debuggee that takes steps; env is added to stepin's environment. Without argv it is programs/steps.
func steps(t *testing.T, p *podlet.Pod, configuration map[string]any, env []string, argv ...string) *stepper {
	t.Helper()
	if len(argv) == 0 {
		argv = []string{program(t, "steps")}
	}
	// An agent that is just ending may still be joined, and would go on with its own trace and log.
	eventually(t, patience, "the former session's agent has ended", func() bool { return agentParent(t, p) == 0 })
	cmd := command(t, p, configuration, argv...)
	cmd.Env = append(os.Environ(), env...)
	return started(t, cmd)
}

// started starts a command that takes steps.
func started(t *testing.T, cmd *exec.Cmd) *stepper {
	t.Helper()
	dir := t.TempDir()
	s := &stepper{t: t, cmd: cmd, stderr: filepath.Join(dir, "stderr"), trace: filepath.Join(dir, "trace")}
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, traceEnv+"="+s.trace)
	errs, err := os.Create(s.stderr)
	if err != nil {
		t.Fatal(err)
	}
	defer errs.Close()
	in, ours, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	s.cmd.Stdin, s.in, s.cmd.Stderr = in, ours, errs
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.out = bufio.NewScanner(out)
	s.out.Buffer(nil, 1<<20)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.end()
		if t.Failed() {
			t.Logf("stepin exec on stderr:\n%s", s.said())
		}
	})
	return s
}

// do takes one step and returns its result.
func (s *stepper) do(step string) string {
	s.t.Helper()
	if _, err := fmt.Fprintln(s.in, step); err != nil {
		s.t.Fatalf("%s: %v\n%s", step, err, s.said())
	}
	if !s.out.Scan() {
		s.t.Fatalf("%s: the program has gone\n%s", step, s.said())
	}
	return strings.TrimPrefix(s.out.Text(), step+": ")
}

// expect takes one step that has one right result.
func (s *stepper) expect(step, want string) {
	s.t.Helper()
	if got := s.do(step); got != want {
		s.t.Errorf("%s: got %q, want %q", step, got, want)
	}
}

// end lets the program end, and stepin with it.
func (s *stepper) end() {
	s.in.Close()
	for s.out.Scan() {
	}
	_ = s.cmd.Wait()
}

// said is what stepin wrote to its standard error so far.
func (s *stepper) said() string {
	b, err := os.ReadFile(s.stderr)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

// traceEnv names the file for the agent's list of what it did in the pod.
const traceEnv = "STEPIN_TRACE"

// act is one line of that list. Own marks what the session did by itself.
type act struct {
	Op, What string
	Own      bool
}

func (a act) String() string { return a.Op + " " + a.What }

// acts reads the agent's list from a line on.
func acts(t *testing.T, trace string, from int) []act {
	t.Helper()
	b, err := os.ReadFile(trace)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the session has not begun
	}
	if err != nil {
		t.Fatal(err)
	}
	var list []act
	for line := range strings.Lines(string(b)) {
		var a act
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			t.Fatalf("the agent's list: %v: %s", err, line)
		}
		list = append(list, a)
	}
	return list[from:]
}

// asked are those that the session did not do by itself, as text.
func asked(list []act) (out []string) {
	for _, a := range list {
		if !a.Own {
			out = append(out, a.String())
		}
	}
	return out
}

// only keeps those of some operations.
func only(list []act, ops ...string) []act {
	return slices.DeleteFunc(slices.Clone(list), func(a act) bool { return !slices.Contains(ops, a.Op) })
}
