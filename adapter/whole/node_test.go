package whole

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/adapter/dap/client"
	"github.com/stepin-dev/stepin/pkg/podlet"
)

// nodeLaunch is a configuration for the service in JavaScript.
func nodeLaunch(t *testing.T, p *podlet.Pod, more map[string]any) map[string]any {
	t.Helper()
	return merge(map[string]any{
		"type":     "stepin",
		"target":   fmt.Sprintf("local/%d", p.MainPID()),
		"debugger": map[string]any{"type": "node", "program": filepath.Join(source(t, "node"), "service.js"), "env": map[string]any{"WHO": "debuggee", "UNSET": nil}},
		"incoming": map[string]any{"mode": "steal"},
	}, more)
}

// TestNode is F5 on a program in JavaScript: js-debug outside, the debuggee in the pod's place, its session a child's.
func TestNode(t *testing.T) {
	at := func(name string) string { return filepath.Join(source(t, "node"), name) }
	testScript(t, language{service: at("service.js"), child: at("child.js"), variable: "answer", isChild: true, launch: nodeLaunch})
	t.Run("npm", testNPM)
	t.Run("source map", testSourceMap)
}

// testNPM runs a script of package.json, in one stepin that listens: npm's own session, and in that the script's. Node's
// inspector on all addresses is nobody's to call from outside.
func testNPM(t *testing.T) {
	p := scriptPod(t)
	dir := source(t, "node")
	file := filepath.Join(dir, "service.js")
	line := lineOf(t, file, "the breakpoint of the tests")
	e := newEditor(t)
	e.again = listening(t)
	root := e.again()
	e.attend(root)
	configuration := nodeLaunch(t, p, map[string]any{"debugger": map[string]any{"cwd": dir, "runtimeExecutable": "npm", "runtimeArgs": []string{"run", "serve"}}})
	delete(configuration["debugger"].(map[string]any), "program")
	root.begin(configuration, "")
	e.child(file, line)
	a := e.child(file, line)
	root.takesPort()
	answer := request(t, p, "/orders/7")
	thread, _, _ := a.stopped()
	var state, parents struct {
		Mode, Session string
		Paused        bool
	}
	a.must("stepin.state", nil, &state) // a child's child answers for the session
	root.must("stepin.state", nil, &parents)
	if state != parents || state.Mode != "steal" || state.Session == "" || !state.Paused {
		t.Errorf("the child says %+v, the parent %+v", state, parents)
	}
	a.goOn(thread)
	if s := <-answer; s.Who != "debuggee" || s.Hostname != "orders-7d9f" {
		t.Errorf("%+v", s)
	}
	if n := strings.Count(root.Output("console"), "of the pod now sends"); n != 1 {
		t.Errorf("%d ports were taken from the pod: %s", n, root.Output("console"))
	}
	root.disconnect()
	answers(t, p, "pod", time.Second)
}

// listening starts a stepin that listens, and returns what begins a conversation with it.
func listening(t *testing.T) func() *adapter {
	t.Helper()
	dir, err := os.MkdirTemp("", "s") // short: it holds a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "d", "sock")
	server := &adapter{t: t, cmd: exec.Command(stepin(t), "dap", "--listen", "unix:"+path)}
	server.cmd.Stderr = &server.stderr
	if err := server.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.cmd.Process.Signal(os.Interrupt)
		_ = server.cmd.Wait()
	})
	return func() *adapter {
		var conn net.Conn
		eventually(t, patience, "stepin listens", func() bool {
			conn, err = net.Dial("unix", path)
			return err == nil
		})
		t.Cleanup(func() { conn.Close() })
		return &adapter{Client: client.New(conn), t: t, cmd: server.cmd}
	}
}

// testSourceMap stops at a line of a source that only the map knows.
func testSourceMap(t *testing.T) {
	p := scriptPod(t)
	dir := t.TempDir()
	text := "const os = require('os');\nfunction f(name) {\n  console.log('in', name);\n}\nf(os.hostname());\n"
	for name, content := range map[string]string{
		"src/main.ts":      strings.Replace(text, "name)", "name: string)", 1),
		"dist/main.js":     text + "//# sourceMappingURL=main.js.map\n",
		"dist/main.js.map": `{"version":3,"file":"main.js","sources":["../src/main.ts"],"names":[],"mappings":"AAAA;AACA;AACA;AACA;AACA"}`,
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "src", "main.ts")
	root, e := dap(t), newEditor(t)
	e.attend(root)
	root.begin(nodeLaunch(t, p, map[string]any{"debugger": map[string]any{"program": filepath.Join(dir, "dist", "main.js"), "outFiles": []string{filepath.Join(dir, "dist", "*.js")}}}), file)
	a := e.child(file, 3)
	thread, frame, line := a.stopped()
	if got := a.evaluate(frame, "name"); line != 3 || !strings.Contains(got, "orders-7d9f") {
		t.Errorf("line %d, name = %s", line, got)
	}
	a.goOn(thread)
	root.until("terminated")
	root.disconnect()
}
