package whole

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/pkg/podlet"
)

// said is what the services in Python and Node answer.
type said struct {
	reply
	File, Caller, Child, Error, Secret string
	Unset                              *string
}

// scriptPod is a pod of the same service as the debuggee's, in Go, with what the debuggee is to see.
func scriptPod(t *testing.T) *podlet.Pod {
	t.Helper()
	return servicePod(t, podlet.Spec{
		Hostname: "orders-7d9f",
		Volumes:  []podlet.Volume{{Path: "/etc/config", Files: map[string]string{"small": "a small file"}}},
		Main:     podlet.Main{Env: []string{"UNSET=of the pod", "SECRET=a-value-of-the-pod"}},
	})
}

// serveCallers has a server at the pod's gateway tell each caller his address.
func serveCallers(t *testing.T, p *podlet.Pod) {
	t.Helper()
	l, err := p.Outside.Listen(limit(t), "tcp", netip.MustParseAddrPort(service))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			_, _ = io.WriteString(c, host+"\n")
			c.Close()
		}
	}()
}

// request sends the pod a request, which may stand at a breakpoint for a while.
func request(t *testing.T, p *podlet.Pod, path string) <-chan said {
	t.Helper()
	answer := make(chan said, 1)
	ctx, c := limit(t), p.Outside.HTTP(netip.Addr{})
	go func() {
		defer close(answer)
		resp, err := c.Get("http://" + netip.AddrPortFrom(p.Addr(false), 8080).String() + path)
		if err != nil {
			answer <- said{Error: err.Error()}
			return
		}
		defer resp.Body.Close()
		var s said
		if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
			s.Error = err.Error()
		}
		select {
		case answer <- s:
		case <-ctx.Done():
		}
	}()
	return answer
}

// systemPython has debugpy.
const systemPython = "/usr/bin/python3"

// pythonLaunch is a configuration for the service in Python.
func pythonLaunch(t *testing.T, p *podlet.Pod, more map[string]any) map[string]any {
	t.Helper()
	return merge(map[string]any{
		"type":     "stepin",
		"target":   fmt.Sprintf("local/%d", p.MainPID()),
		"debugger": map[string]any{"type": "python", "python": systemPython, "program": filepath.Join(source(t, "python"), "service.py"), "env": map[string]any{"WHO": "debuggee", "UNSET": nil}},
		"incoming": map[string]any{"mode": "steal"},
	}, more)
}

// takesPort waits until the pod's port leads to the debuggee.
func (a *adapter) takesPort() {
	a.t.Helper()
	if err := a.WaitOutput(limit(a.t), "console", "tcp port 8080"); err != nil {
		a.t.Fatal(err)
	}
}

// TestPython is F5 on a program in Python: debugpy outside, the debuggee in the pod's place.
func TestPython(t *testing.T) {
	file := filepath.Join(source(t, "python"), "service.py")
	t.Run("breakpoint", func(t *testing.T) {
		p := scriptPod(t)
		serveCallers(t, p)
		a := dap(t)
		a.launch(pythonLaunch(t, p, nil), file, lineOf(t, file, "the breakpoint of the tests"))
		a.takesPort()
		answer := request(t, p, "/call/"+service)
		thread, frame, _ := a.stopped()
		if path := a.evaluate(frame, "path"); !strings.Contains(path, "/call/") {
			t.Errorf("path = %s", path)
		}
		a.goOn(thread)
		s := <-answer
		if s.Who != "debuggee" || s.Hostname != "orders-7d9f" || s.File != "a small file" || s.Caller != p.Addr(false).String() || s.Unset != nil || s.Error != "" {
			t.Errorf("%+v", s)
		}
		if gateway := podlet.Gateway(podlet.DefaultAddrs[0]).String(); !strings.HasPrefix(s.Client, gateway+":") {
			t.Errorf("the debuggee saw %s calling", s.Client)
		}
		if err := a.WaitOutput(limit(t), "stdout", "listening on"); err != nil {
			t.Error(err)
		}
		a.disconnect()
		answers(t, p, "pod", time.Second)
	})
	t.Run("subprocess", func(t *testing.T) {
		testChild(t, pythonLaunch, file, filepath.Join(source(t, "python"), "child.py"), "answer")
	})
	t.Run("terminal", func(t *testing.T) {
		testTerminal(t, func(t *testing.T, p *podlet.Pod, more map[string]any) map[string]any {
			return merge(pythonLaunch(t, p, more), map[string]any{"outgoing": map[string]any{"loopback": "pod"}}) // debugpy's way back is not the pod's
		}, file)
	})
	t.Run("restart", func(t *testing.T) { testScriptRestart(t, pythonLaunch, file) })
	t.Run("killed", func(t *testing.T) { testScriptKilled(t, pythonLaunch, file) })
}
