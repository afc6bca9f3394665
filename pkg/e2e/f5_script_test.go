package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stepin-dev/stepin/adapter/dap/client"
	"github.com/stepin-dev/stepin/adapter/dap/talk"
)

// wanted is what the scripts are told to look at, seen what they saw.
type wanted struct{ Env, Files, URLs []string }

type seen struct {
	Host                string
	Env, Files, Fetched map[string]string
}

const (
	tokenFile     = "/var/run/secrets/kubernetes.io/serviceaccount/token"
	namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
	stockURL      = "http://stock/shelf"
)

// TestF5Python and TestF5Node are TestF5 for a program in Python and in JavaScript, stolen and mirrored, with each front
// end. What the program sees of the pod is read at a breakpoint, since what it answers to a copy goes nowhere.
func TestF5Python(t *testing.T) {
	f5Script(t, map[string]any{"type": "python", "python": "/usr/bin/python3", "program": scriptFile(t, "orders.py")}, false)
}

func TestF5Node(t *testing.T) {
	f5Script(t, map[string]any{"type": "node", "program": scriptFile(t, "orders.js")}, true)
}

func scriptFile(t *testing.T, name string) string {
	t.Helper()
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, "pkg", "e2e", "scripts", name)
}

// f5Script goes through both modes with both front ends. With children the program's session is a child's.
func f5Script(t *testing.T, debugger map[string]any, children bool) {
	f := &script{f5: &f5{c: Up(t), t: t}}
	f.ns = f.c.Namespace(t, "")
	f.c.Apply(t, f.ns, orders+Web("stock", 1)+"---"+Client("client"))
	f.c.Ready(t, f.ns, "deployment/orders", "deployment/stock", "pod/client")
	f.c.Serving(t, f.ns, "client", "http://orders/")
	f.c.Serving(t, f.ns, "client", "http://stock/")
	f.client = f.pod("client")
	// Nobody listens on port 81 of a pod, its own and loopback among them, and Service nobody has no endpoints.
	f.nobody = []string{"http://nobody/", "http://127.0.0.1:81/"}
	for _, p := range append(f.c.Pods(t, f.ns, "app=stock"), f.c.Pods(t, f.ns, "app=orders")...) {
		f.nobody = append(f.nobody, "http://"+p.Status.PodIP+":81/")
	}
	want, err := json.Marshal(wanted{Env: []string{"PLAIN", "REGION", "PASSWORD", "POD_NAME", "KUBERNETES_SERVICE_HOST"},
		Files: []string{"/etc/orders/config/limits.yaml", "/etc/orders/secret/password", tokenFile, namespaceFile, "/etc/hostname"},
		URLs:  append([]string{stockURL}, f.nobody...)})
	if err != nil {
		t.Fatal(err)
	}
	debugger["args"] = []string{string(want)}
	for _, frontEnd := range []string{"namespaces", "preload"} {
		for _, mode := range []string{"steal", "mirror"} {
			t.Run(frontEnd+", "+mode, func(t *testing.T) {
				f.t = t
				f.play(debugger, frontEnd, mode, children)
			})
		}
	}
}

// script is a program in Python or JavaScript, and one session with it after the other.
type script struct {
	*f5
	nobody   []string // URLs that nobody answers
	mode     string
	line     string         // where requests stop
	debuggee *client.Client // whoever tells of the program: with children a child session
}

// play is one session.
func (f *script) play(debugger map[string]any, frontEnd, mode string, children bool) {
	t := f.t
	f.mode, f.line = mode, talk.Mark(t, debugger["program"].(string), "a breakpoint's line")
	stepin := Stepin{Kubeconfig: f.c.Kubeconfig, Env: jsDebug(t)}
	again := func() *client.Client { return stepin.DAP(t).Client }
	if children {
		again = listeningStepin(t, stepin)
	}
	root := again()
	configurations := make(chan map[string]any, 1)
	root.Reverse = func(command string, arguments json.RawMessage) (any, error) {
		var wish struct{ Configuration map[string]any }
		if err := json.Unmarshal(arguments, &wish); err != nil || command != "startDebugging" {
			return nil, errors.Join(err, errors.New("not supported"))
		}
		configurations <- wish.Configuration
		return nil, nil
	}
	talk.Begin(t, root, lay(Configuration(f.ns, "deployment/orders", "", map[string]any{"agent": map[string]any{"ttl": "2s"}}),
		map[string]any{"debugger": debugger, "incoming": map[string]any{"mode": mode}, "frontEnd": frontEnd}), f.line)
	f.debuggee = root
	if children {
		f.debuggee = again()
		talk.Begin(t, f.debuggee, <-configurations, f.line)
	}
	pods := f.c.Pods(t, f.ns, "app=orders")
	for _, p := range pods {
		if err := root.WaitOutput(Limit(t), "console", "tcp port 8080 of pod "+p.Name+" now sends"); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range pods {
		f.breakpoint("http://"+p.Status.PodIP+":8080/by/"+p.Name, "/by/"+p.Name, nil)
	}
	f.breakpoint("http://orders/look", "/look", f.saw)
	talk.Must(t, root, "disconnect", map[string]any{"terminateDebuggee": true})
	f.handedBack(pods)
}

// breakpoint has the client pod ask, looks at where that request stops, and has it answered by whom the mode says. look is
// given what reads the values of variables there.
func (f *script) breakpoint(url, path string, look func(value func(string) string)) {
	t := f.t
	t.Helper()
	answered := f.c.asking(t, f.ns, "client", url)
	stopped := talk.Event(t, f.debuggee, "stopped")
	if at, _ := talk.At(t, f.debuggee, stopped); at != f.line {
		t.Errorf("%s stopped at %s, not at %s", url, at, f.line)
	}
	value := f.top(stopped)
	if got, caller := value("path"), value("caller"); got != path || !strings.HasPrefix(caller, f.client.Status.PodIP+":") {
		t.Errorf("stopped for %s from %s; %s asked for %s", got, caller, f.client.Status.PodIP, path)
	}
	if look != nil {
		look(value)
	}
	if f.mode == "mirror" { // nobody waits for the debuggee
		if a := <-answered; a.err != nil || a.Who != "orders" {
			t.Errorf("the caller was answered %+v while the debuggee stands, not by the pod", a)
		}
		goOn(t, f.debuggee, stopped)
		return
	}
	select {
	case a := <-answered:
		t.Errorf("%s was answered at the breakpoint: %+v", url, a)
	default:
	}
	goOn(t, f.debuggee, stopped)
	if a := <-answered; a.err != nil {
		t.Error(a.err)
	} else if f.fromDebuggee(a.Answer); a.Path != path {
		t.Errorf("%s was answered %+v", url, a)
	}
}

// top reads variables, all of them texts, where the debuggee stands.
func (f *script) top(stopped *client.Message) func(string) string {
	t := f.t
	t.Helper()
	var at struct{ ThreadID int }
	if err := stopped.Decode(&at); err != nil {
		t.Fatal(err)
	}
	var stack struct{ StackFrames []struct{ ID int } }
	if err := talk.Must(t, f.debuggee, "stackTrace", map[string]any{"threadId": at.ThreadID}).Decode(&stack); err != nil {
		t.Fatal(err)
	}
	return func(name string) string {
		t.Helper()
		var said struct{ Result string }
		arguments := map[string]any{"expression": name, "frameId": stack.StackFrames[0].ID, "context": "clipboard"} // which cuts nothing off
		if err := talk.Must(t, f.debuggee, "evaluate", arguments).Decode(&said); err != nil {
			t.Fatal(err)
		}
		return strings.Trim(said.Result, `'"`)
	}
}

// saw compares what the debuggee saw of the pod with the pod.
func (f *script) saw(value func(string) string) {
	t := f.t
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(value("said"))
	if err != nil {
		t.Fatal(err)
	}
	var s seen
	if err := json.Unmarshal(raw, &s); err != nil {
		t.Fatal(err)
	}
	f.home = f.pod(s.Host)
	for name, want := range map[string]string{"PLAIN": "of the pod", "REGION": "north", "PASSWORD": "open sesame", "POD_NAME": f.home.Name,
		"KUBERNETES_SERVICE_HOST": f.service(t, "kubernetes", "default").Spec.ClusterIP} {
		if s.Env[name] != want {
			t.Errorf("variable %s is %q, not %q", name, s.Env[name], want)
		}
	}
	for path, want := range map[string]string{"/etc/orders/config/limits.yaml": "most: 12", "/etc/orders/secret/password": "open sesame",
		"/etc/hostname": f.home.Name, namespaceFile: f.ns, tokenFile: strings.TrimSpace(f.c.Exec(t, f.ns, f.home.Name, "/workload", "cat", tokenFile))} {
		if s.Files[path] != want {
			t.Errorf("%s has %d bytes that are not the pod's %d", path, len(s.Files[path]), len(want))
		}
	}
	var a Answer
	if err := json.Unmarshal([]byte(s.Fetched[stockURL]), &a); err != nil || a.Who != "stock" || a.Path != "/shelf" || a.Asked != "stock" ||
		!strings.HasPrefix(a.Caller, f.home.Status.PodIP+":") {
		t.Errorf("%s answers %s (%v); the pod is %s", stockURL, s.Fetched[stockURL], err, f.home.Status.PodIP)
	}
	for _, url := range f.nobody {
		inPod := f.inPod(t, url)
		if !sameError(inPod, s.Fetched[url]) {
			t.Errorf("%s: the debuggee gets %q, the pod %q", url, s.Fetched[url], inPod)
		}
		if !strings.Contains(url, "//nobody") && !strings.HasSuffix(inPod, ": connection refused") {
			t.Errorf("%s: the pod gets %q", url, inPod)
		}
	}
}

// sameError says whether an error in Go's words is the one that a script has met, in Python's or Node's.
func sameError(inGo, inScript string) bool {
	for _, words := range [][]string{{"connection refused", "Connection refused", "ECONNREFUSED"}, {"no route to host", "No route to host", "EHOSTUNREACH"}} {
		if strings.HasSuffix(inGo, ": "+words[0]) {
			return strings.Contains(inScript, words[1]) || strings.Contains(inScript, words[2])
		}
	}
	return false // a cluster has none but these for where nobody is
}

// jsDebug is the environment of somebody who has js-debug: that of ./just.
func jsDebug(t testing.TB) []string {
	t.Helper()
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	return []string{"STEPIN_JS_DEBUG=" + filepath.Join(root, ".tools", "js-debug")}
}

// listeningStepin starts a stepin that listens, and returns what begins a conversation with it.
func listeningStepin(t *testing.T, s Stepin) func() *client.Client {
	t.Helper()
	dir, err := os.MkdirTemp("", "s") // short: it holds a socket
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "d", "sock")
	cmd := s.Command(context.Background(), t, "dap", "--listen", "unix:"+path)
	var stderr talk.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		os.RemoveAll(dir)
		if t.Failed() {
			t.Logf("stepin dap on stderr:\n%s", stderr.String())
		}
	})
	return func() *client.Client {
		var conn net.Conn
		Eventually(t, ending, "stepin listens", func() (ok bool) {
			conn, err = net.Dial("unix", path)
			return err == nil
		})
		c := client.New(conn)
		t.Cleanup(func() {
			c.Close()
			if t.Failed() {
				t.Logf("console:\n%s", c.Output("console"))
			}
		})
		return c
	}
}
