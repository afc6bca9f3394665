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
	tokenFile = "/var/run/secrets/kubernetes.io/serviceaccount/token"
	stockURL  = "http://stock/shelf"
	noURL     = "http://nobody/"
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
	f := &f5{c: Up(t), t: t}
	f.ns = f.c.Namespace(t, "")
	f.c.Apply(t, f.ns, orders+Web("stock", 1)+"---"+Client("client"))
	f.c.Ready(t, f.ns, "deployment/orders", "deployment/stock", "pod/client")
	f.c.Serving(t, f.ns, "client", "http://orders/")
	f.c.Serving(t, f.ns, "client", "http://stock/")
	f.client = f.pod("client")
	want, err := json.Marshal(wanted{Env: []string{"PLAIN", "REGION", "PASSWORD", "POD_NAME"},
		Files: []string{"/etc/orders/config/limits.yaml", "/etc/orders/secret/password", tokenFile, "/etc/hostname"}, URLs: []string{stockURL, noURL}})
	if err != nil {
		t.Fatal(err)
	}
	debugger["args"] = []string{string(want)}
	for _, frontEnd := range []string{"namespaces", "preload"} {
		for _, mode := range []string{"steal", "mirror"} {
			t.Run(frontEnd+", "+mode, func(t *testing.T) {
				f.t = t
				f.script(debugger, frontEnd, mode, children)
			})
		}
	}
}

// script is one session.
func (f *f5) script(debugger map[string]any, frontEnd, mode string, children bool) {
	t := f.t
	line := talk.Mark(t, debugger["program"].(string), "a breakpoint's line")
	again := listeningStepin(t, Stepin{Kubeconfig: f.c.Kubeconfig, Env: jsDebug(t)})
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
		map[string]any{"debugger": debugger, "incoming": map[string]any{"mode": mode}, "frontEnd": frontEnd}), line)
	debuggee := root
	if children {
		debuggee = again()
		talk.Begin(t, debuggee, <-configurations, line)
	}
	pods := f.c.Pods(t, f.ns, "app=orders")
	for _, p := range pods {
		if err := root.WaitOutput(Limit(t), "console", "tcp port 8080 of pod "+p.Name+" now sends"); err != nil {
			t.Fatal(err)
		}
	}
	answered := f.c.asking(t, f.ns, "client", "http://orders/look")
	stopped := talk.Event(t, debuggee, "stopped")
	if at, _ := talk.At(t, debuggee, stopped); at != line {
		t.Errorf("stopped at %s, not at %s", at, line)
	}
	f.saw(debuggee, stopped)
	if mode == "mirror" {
		if a := <-answered; a.err != nil || a.Who != "orders" {
			t.Errorf("the caller was answered %+v while the debuggee stands, not by the pod", a)
		}
		goOn(t, debuggee, stopped)
	} else {
		goOn(t, debuggee, stopped)
		if a := <-answered; a.err != nil {
			t.Error(a.err)
		} else {
			f.fromDebuggee(a.Answer)
		}
	}
	talk.Must(t, root, "disconnect", map[string]any{"terminateDebuggee": true})
	for _, p := range pods {
		Eventually(t, handBack, "the pod serves again", func() bool {
			return f.c.Ask(t, f.ns, "client", "http://"+p.Status.PodIP+":8080/").Who == "orders"
		})
	}
}

// saw compares what the debuggee saw of the pod with the pod.
func (f *f5) saw(debuggee *client.Client, stopped *client.Message) {
	t := f.t
	t.Helper()
	var at struct{ ThreadID int }
	var stack struct{ StackFrames []struct{ ID int } }
	var said struct{ Result string }
	for _, err := range []error{
		stopped.Decode(&at),
		talk.Must(t, debuggee, "stackTrace", map[string]any{"threadId": at.ThreadID}).Decode(&stack),
		talk.Must(t, debuggee, "evaluate", map[string]any{"expression": "said", "frameId": stack.StackFrames[0].ID, "context": "clipboard"}).Decode(&said),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	raw, err := base64.StdEncoding.DecodeString(strings.Trim(said.Result, `'"`))
	if err != nil {
		t.Fatalf("said is %s: %v", said.Result, err)
	}
	var s seen
	if err := json.Unmarshal(raw, &s); err != nil {
		t.Fatal(err)
	}
	home := f.pod(s.Host)
	for name, want := range map[string]string{"PLAIN": "of the pod", "REGION": "north", "PASSWORD": "open sesame", "POD_NAME": home.Name} {
		if s.Env[name] != want {
			t.Errorf("variable %s is %q, not %q", name, s.Env[name], want)
		}
	}
	for path, want := range map[string]string{"/etc/orders/config/limits.yaml": "most: 12", "/etc/orders/secret/password": "open sesame", "/etc/hostname": home.Name,
		tokenFile: strings.TrimSpace(f.c.Exec(t, f.ns, home.Name, "/workload", "cat", tokenFile))} {
		if s.Files[path] != want {
			t.Errorf("%s has %d bytes that are not the pod's %d", path, len(s.Files[path]), len(want))
		}
	}
	var a Answer
	if err := json.Unmarshal([]byte(s.Fetched[stockURL]), &a); err != nil || a.Who != "stock" || !strings.HasPrefix(a.Caller, home.Status.PodIP+":") {
		t.Errorf("%s answers %s (%v); the pod is %s", stockURL, s.Fetched[stockURL], err, home.Status.PodIP)
	}
	inPod := *f
	inPod.home = home
	if refused := strings.Contains(inPod.inPod(t, noURL), "refused"); refused != strings.Contains(strings.ToLower(s.Fetched[noURL]), "refused") {
		t.Errorf("%s: the debuggee gets %q, the pod %q", noURL, s.Fetched[noURL], inPod.inPod(t, noURL))
	}
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
