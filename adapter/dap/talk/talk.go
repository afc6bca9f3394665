// Package talk is the editor's half of a conversation as the tests hold it: with Delve alone, with the adapter in the
// test's own process, with a built stepin. It asserts nothing about stepin; the tests compare what comes out. It must
// never be imported by anything but tests.
package talk

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/adapter/dap/client"
)

// Patience bounds every wait of these tests: a cold build on a busy machine takes tens of seconds.
const Patience = 2 * time.Minute

// Limit is a context that ends with Patience, and with the test.
func Limit(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	t.Cleanup(cancel)
	return ctx
}

// Buffer is one that may be read while it is written to.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Initialize is what VS Code sends.
var Initialize = map[string]any{"clientID": "test", "adapterID": "stepin", "pathFormat": "path", "linesStartAt1": true,
	"columnsStartAt1": true, "supportsProgressReporting": true,
	"supportsRunInTerminalRequest": true, "supportsStartDebuggingRequest": true}

// Must does a request that has to succeed.
func Must(t testing.TB, c *client.Client, command string, args any) *client.Message {
	t.Helper()
	m, err := c.Do(Limit(t), command, args)
	if err == nil {
		err = m.Err()
	}
	if err != nil {
		t.Fatalf("%v", err)
	}
	return m
}

// Refused does a request that has to fail and returns the answer.
func Refused(t testing.TB, c *client.Client, command string, args any) *client.Message {
	t.Helper()
	m, err := c.Do(Limit(t), command, args)
	if err != nil {
		t.Fatal(err)
	}
	if m.Success {
		t.Fatalf("%s succeeded", command)
	}
	return m
}

// Event waits for the next event of one of the names.
func Event(t testing.TB, c *client.Client, names ...string) *client.Message {
	t.Helper()
	e, err := c.Event(Limit(t), names...)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return e
}

// Begin brings a conversation to configurationDone, with a breakpoint at each "file:line".
func Begin(t testing.TB, c *client.Client, args map[string]any, breakpoints ...string) {
	t.Helper()
	Must(t, c, "initialize", Initialize)
	_, answer, err := c.Send("launch", args)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(Limit(t))
	defer cancel(nil)
	launched := make(chan struct{})
	go func() {
		defer close(launched)
		if m := <-answer; m == nil {
			cancel(fmt.Errorf("launch: no answer"))
		} else if err := m.Err(); err != nil {
			cancel(err)
		}
	}()
	if args["noDebug"] != true {
		if _, err := c.Event(ctx, "initialized"); err != nil {
			t.Fatal(err, context.Cause(ctx))
		}
		SetBreakpoints(t, c, breakpoints...)
		Must(t, c, "configurationDone", nil)
	}
	<-launched
	if err := context.Cause(ctx); err != nil {
		t.Fatal(err)
	}
}

// SetBreakpoints sets one at each "file:line".
func SetBreakpoints(t testing.TB, c *client.Client, where ...string) {
	t.Helper()
	for _, w := range where {
		file, line, _ := strings.Cut(w, ":")
		n, err := strconv.Atoi(line)
		if err != nil {
			t.Fatal(err)
		}
		Must(t, c, "setBreakpoints", map[string]any{"source": map[string]string{"path": file},
			"breakpoints": []map[string]int{{"line": n}}})
	}
}

// Mark is the "file:line" of the first line of a file that holds the text.
func Mark(t testing.TB, file, text string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(strings.Split(string(b), "\n"), func(l string) bool { return strings.Contains(l, text) })
	if i < 0 {
		t.Fatalf("%s: no line has %q", file, text)
	}
	return file + ":" + strconv.Itoa(i+1)
}

// At is the top frame's "file:line" and its local variables, "name=value" by name.
func At(t testing.TB, c *client.Client, stopped *client.Message) (string, []string) {
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
	read(Must(t, c, "stackTrace", map[string]int{"threadId": body.ThreadID}), &stack)
	if len(stack.StackFrames) == 0 {
		return "", nil
	}
	top := stack.StackFrames[0]
	read(Must(t, c, "scopes", map[string]int{"frameId": top.ID}), &scopes)
	var locals []string
	for _, s := range scopes.Scopes {
		if s.Name != "Locals" {
			continue
		}
		read(Must(t, c, "variables", map[string]int{"variablesReference": s.VariablesReference}), &vars)
		for _, v := range vars.Variables {
			locals = append(locals, v.Name+"="+v.Value)
		}
	}
	slices.Sort(locals)
	return top.Source.Path + ":" + strconv.Itoa(top.Line), locals
}

// Exit waits for the end and returns exited's code, -1 where there was no such event.
func Exit(t testing.TB, c *client.Client) int {
	t.Helper()
	code := -1
	for {
		e := Event(t, c, "exited", "terminated")
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

// Copy copies a folder of programs to a place of the test's own, so that it may edit them.
func Copy(t testing.TB, folder string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, os.DirFS(folder)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Edit replaces the first occurrence of a text in a file.
func Edit(t testing.TB, file, from, to string) {
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
