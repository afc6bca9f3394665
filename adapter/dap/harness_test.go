package dap_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/adapter/dap"
	"github.com/stepin-dev/stepin/adapter/dap/client"
	"github.com/stepin-dev/stepin/adapter/delve"
	"github.com/stepin-dev/stepin/pkg/config"
)

// patience bounds every wait of these tests: a cold build on a busy machine takes tens of seconds.
const patience = 2 * time.Minute

func limit(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// place is a session without a pod: processes run where the test runs.
type place struct {
	dir    string
	pod    map[string]*string
	done   chan struct{}
	mu     sync.Mutex
	paused []bool
	closed int
	err    error
}

func newPlace(t *testing.T) *place {
	dir, err := os.MkdirTemp("", "s") // short: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &place{dir: dir, done: make(chan struct{})}
}

func (p *place) Wrap(argv []string) []string { return argv }
func (p *place) PodEnviron(launch map[string]*string) map[string]*string {
	env := maps.Clone(p.pod)
	if env == nil {
		env = map[string]*string{}
	}
	maps.Copy(env, launch)
	return env
}
func (p *place) Dir() string           { return p.dir }
func (p *place) Done() <-chan struct{} { return p.done }
func (p *place) Err() error            { return p.err }
func (p *place) SetPaused(paused bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = append(p.paused, paused)
}
func (p *place) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed++
	return nil
}

// adapter is one conversation with stepin.
type adapter struct {
	*client.Client
	place *place
	log   *lockedBuffer
	ended chan struct{} // Serve has returned
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// environ is the test's own, with a dlv on PATH wherever the machine has it.
func environ(t *testing.T) []string {
	dlv := findDlv(t)
	return append(os.Environ(), "PATH="+filepath.Dir(dlv)+":"+os.Getenv("PATH"), "UNSET_ME=1")
}

func findDlv(t *testing.T) string {
	home, _ := os.UserHomeDir()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), os.Getenv("GOBIN"), filepath.Join(home, "go", "bin")) {
		if path := filepath.Join(dir, "dlv"); dir != "" {
			if _, err := os.Stat(path); err == nil {
				return path
			}
		}
	}
	t.Fatal("dlv is neither on PATH nor in ~/go/bin: ./just test installs it")
	return ""
}

// parse stands for the command's configuration reader.
func parse(raw json.RawMessage) (*config.Launch, error) {
	l := config.Default()
	return l, json.Unmarshal(raw, l)
}

type option func(*dap.Options)

// startAdapter begins a conversation with an adapter whose working directory is dir.
func startAdapter(t *testing.T, dir string, opts ...option) *adapter {
	p := newPlace(t)
	a := &adapter{place: p, log: &lockedBuffer{}, ended: make(chan struct{})}
	o := dap.Options{
		Parse:     parse,
		Debuggers: map[string]dap.NewDebugger{"go": delve.New},
		Start: func(context.Context, *config.Launch, dap.Hints, dap.Hooks) (dap.Runner, error) {
			return p, nil
		},
		Place: dap.Place{Dir: dir, Environ: environ(t)},
		Log:   slog.New(slog.NewTextHandler(a.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, f := range opts {
		f(&o)
	}
	ours, theirs := net.Pipe()
	go func() {
		defer close(a.ended)
		if err := dap.Serve(context.Background(), theirs, o); err != nil {
			t.Errorf("Serve: %v", err)
		}
	}()
	a.Client = client.New(ours)
	t.Cleanup(func() {
		a.Close()
		<-a.ended
		if t.Failed() {
			t.Logf("adapter's log:\n%s", a.log)
			for _, e := range a.Events() {
				t.Logf("event %s %s", e.Event, e.Body)
			}
		}
	})
	return a
}

// bare is Delve by itself, as the adapter would start it, its standard streams captured.
func startBare(t *testing.T, dir string) (*client.Client, *lockedBuffer, *lockedBuffer) {
	p := newPlace(t)
	l, err := net.Listen("unix", filepath.Join(p.dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var stdout, stderr lockedBuffer
	cmd := exec.Command(findDlv(t), "dap", "--client-addr=unix:"+l.Addr().String())
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.Env = dir, &stdout, &stderr, environ(t)
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c := client.New(conn)
	t.Cleanup(func() { c.Close(); cmd.Wait() })
	return c, &stdout, &stderr
}

// initialize is what VS Code sends.
var initialize = map[string]any{"clientID": "test", "adapterID": "stepin", "pathFormat": "path", "linesStartAt1": true,
	"columnsStartAt1": true, "supportsProgressReporting": true, "supportsRunInTerminalRequest": true}

// must does a request that has to succeed.
func must(t *testing.T, c *client.Client, command string, args any) *client.Message {
	t.Helper()
	m, err := c.Do(limit(t), command, args)
	if err == nil {
		err = m.Err()
	}
	if err != nil {
		t.Fatalf("%v", err)
	}
	return m
}

// refused does a request that has to fail and returns the answer.
func refused(t *testing.T, c *client.Client, command string, args any) *client.Message {
	t.Helper()
	m, err := c.Do(limit(t), command, args)
	if err != nil {
		t.Fatal(err)
	}
	if m.Success {
		t.Fatalf("%s succeeded", command)
	}
	return m
}

func event(t *testing.T, c *client.Client, names ...string) *client.Message {
	t.Helper()
	e, err := c.Event(limit(t), names...)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return e
}

// launchArgs wraps Delve's keys as a user of stepin writes them.
func launchArgs(keys map[string]any) map[string]any {
	keys = maps.Clone(keys)
	noDebug, _ := keys["noDebug"].(bool)
	delete(keys, "noDebug")
	keys["type"] = "go"
	return map[string]any{"target": "local/1", "debugger": keys, "noDebug": noDebug}
}

// begin brings a conversation to configurationDone, with a breakpoint at each "file:line".
func begin(t *testing.T, c *client.Client, args map[string]any, breakpoints ...string) {
	t.Helper()
	must(t, c, "initialize", initialize)
	_, answer, err := c.Send("launch", args)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(limit(t))
	defer cancel(nil)
	launched := make(chan struct{})
	go func() {
		defer close(launched)
		if m := <-answer; m == nil || m.Err() != nil {
			cancel(fmt.Errorf("launch: %+v", m))
		}
	}()
	if args["noDebug"] != true {
		if _, err := c.Event(ctx, "initialized"); err != nil {
			t.Fatal(err, context.Cause(ctx))
		}
		setBreakpoints(t, c, breakpoints...)
		must(t, c, "configurationDone", nil)
	}
	<-launched
	if err := context.Cause(ctx); err != nil {
		t.Fatal(err)
	}
}

func setBreakpoints(t *testing.T, c *client.Client, where ...string) {
	t.Helper()
	for _, w := range where {
		file, line, _ := strings.Cut(w, ":")
		n, err := strconv.Atoi(line)
		if err != nil {
			t.Fatal(err)
		}
		must(t, c, "setBreakpoints", map[string]any{"source": map[string]string{"path": file},
			"breakpoints": []map[string]int{{"line": n}}})
	}
}

// mark is the "file:line" of the first line of a file that holds the text.
func mark(t *testing.T, file, text string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(strings.Split(string(b), "\n"), func(l string) bool { return strings.Contains(l, text) })
	return file + ":" + strconv.Itoa(i+1)
}

// at is the top frame's "file:line" and its local variables, "name=value" by name.
func at(t *testing.T, c *client.Client, stopped *client.Message) (string, []string) {
	t.Helper()
	var body struct{ ThreadID int }
	var stack struct {
		StackFrames []struct {
			ID     int
			Line   int
			Source struct{ Path string }
		}
	}
	var scopes struct {
		Scopes []struct {
			Name               string
			VariablesReference int
		}
	}
	var vars struct {
		Variables []struct{ Name, Value string }
	}
	read := func(m *client.Message, v any) {
		t.Helper()
		if err := m.Decode(v); err != nil {
			t.Fatal(err)
		}
	}
	read(stopped, &body)
	read(must(t, c, "stackTrace", map[string]int{"threadId": body.ThreadID}), &stack)
	if len(stack.StackFrames) == 0 {
		return "", nil
	}
	top := stack.StackFrames[0]
	read(must(t, c, "scopes", map[string]int{"frameId": top.ID}), &scopes)
	var locals []string
	for _, s := range scopes.Scopes {
		if s.Name != "Locals" {
			continue
		}
		read(must(t, c, "variables", map[string]int{"variablesReference": s.VariablesReference}), &vars)
		for _, v := range vars.Variables {
			locals = append(locals, v.Name+"="+v.Value)
		}
	}
	slices.Sort(locals)
	return top.Source.Path + ":" + strconv.Itoa(top.Line), locals
}

// exit waits for the end and returns exited's code.
func exit(t *testing.T, c *client.Client) int {
	t.Helper()
	code := -1
	for {
		e := event(t, c, "exited", "terminated")
		if e.Event == "terminated" {
			return code
		}
		var body struct{ ExitCode int }
		if err := e.Decode(&body); err != nil {
			t.Fatal(err)
		}
		code = body.ExitCode
	}
}

// program copies a folder of testdata, so that a test may edit it.
func program(t *testing.T, name string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", name))); err != nil {
		t.Fatal(err)
	}
	return dir
}

func edit(t *testing.T, file, from, to string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte(from)) {
		t.Fatalf("%s does not hold %q", file, from)
	}
	if err := os.WriteFile(file, bytes.Replace(b, []byte(from), []byte(to), 1), 0o644); err != nil {
		t.Fatal(err)
	}
}
