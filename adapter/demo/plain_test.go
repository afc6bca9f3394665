package demo

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/config"
)

// pythonWithout writes an interpreter that finds none of what is installed for Python, debugpy among it.
func (p *place) pythonWithout(t *testing.T) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(p.dir, "python3"), []byte("#!/bin/sh\nexec /usr/bin/python3 -S \"$@\"\n"), 0o755))
}

// TestPlain: without namespaces the demo goes on with a process in the pod's place, with a breakpoint and without; root
// mirrors, and whoever may not reads why. What is not shown is named.
func TestPlain(t *testing.T) {
	if _, err := os.Stat("/usr/bin/python3"); err != nil {
		t.Skip("no Python: ", err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0)
	unix.Close(fd)
	for _, uid := range users() {
		for _, point := range []bool{true, false} {
			t.Run(fmt.Sprintf("uid %d, breakpoint %v", uid, point), func(t *testing.T) {
				p := newPlace(t, uid)
				p.env = append(p.env, noTun...)
				want := []string{"A customer asks it", "(the pod, to 127.0.0.1:", "(the program on your desk, to 127.0.0.1:",
					"address    the pod has this machine's, not one of its own: open(/dev/none): no such file or directory",
					"host name  likewise: open(/dev/none): no such file or directory", "steal      "}
				if point {
					want = append(want, "do_GET, orders.py:", "only the pod's directory has", "a variable of the pod", "called by the agent")
				} else {
					p.pythonWithout(t)
					want = append(want, "stepin exec: ", "breakpoint the interpreter", "has no debugpy")
				}
				if mirrors := uid == uint32(os.Geteuid()) && err == nil; mirrors {
					want = append(want, "now sends copies", "prints     Good morning!")
				} else {
					want = append(want, "mirror     socket(AF_PACKET): operation not permitted", "answer     Good morning! Order 42: 7 in stock, 12.50 EUR each. (the program")
				}
				trace := filepath.Join(p.dir, "trace")
				must(t, os.WriteFile(trace, nil, 0o600), os.Chown(trace, int(uid), int(uid)))
				p.env = append(p.env, "STEPIN_TRACE="+trace)
				got := p.demo(t)
				if got.status != 0 || got.err != "" {
					t.Fatalf("status %d\n%s\n%s", got.status, got.out, got.err)
				}
				for _, w := range want {
					if !strings.Contains(got.out, w) {
						t.Errorf("no %q in\n%s", w, got.out)
					}
				}
				at := regexp.MustCompile(`a service at (\S+),`).FindStringSubmatch(got.out)
				done, err := os.ReadFile(trace)
				if must(t, err); at == nil || !strings.Contains(string(done), fmt.Sprintf(`{"op":"dial","what":"tcp %s","own":false}`, at[1])) {
					t.Errorf("the agent has called nobody:\n%s", done)
				}
				p.clean(t)
			})
		}
	}
}

// TestOwnPort: in a network that debuggee and pod share, what is delivered to a port must not be taken from it again.
func TestOwnPort(t *testing.T) {
	p := newPlace(t, uint32(os.Geteuid()))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	must(t, l.Close())
	configuration, err := json.Marshal(map[string]any{"target": fmt.Sprintf("local/%d", os.Getpid()), "frontEnd": "preload",
		"agent": map[string]any{"hostNetwork": true}, "incoming": map[string]any{"mode": "steal"}})
	must(t, err)
	file := filepath.Join(p.tmp, "launch.json")
	must(t, os.WriteFile(file, configuration, 0o644))
	const listen = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); time.sleep(60)"
	b, err := startBeside(p.command(t.Context(), filepath.Join(p.dir, "stepin"), "exec", "--config", file, "--",
		"/usr/bin/python3", "-c", listen, fmt.Sprint(port)), unix.SIGTERM)
	must(t, err)
	defer b.end(unix.SIGTERM)
	want := fmt.Sprintf("tcp port %d is this program's own in the network that it shares with the pod", port)
	end := time.After(patience)
	for {
		text, changed := b.err.now()
		if strings.Contains(text, want) && !strings.Contains(text, "now sends") {
			return
		}
		select {
		case <-changed:
		case <-b.ended:
			t.Fatal(text)
		case <-end:
			t.Fatal(text)
		}
	}
}

// TestPlainConfiguration: what people are told to write is what stepin reads.
func TestPlainConfiguration(t *testing.T) {
	p := &plain{demo: &demo{dir: "/tmp/d"}, port: 8080, orders: &beside{cmd: &exec.Cmd{Process: &os.Process{Pid: 4711}}}}
	for _, unheard := range []error{nil, unix.EPERM} {
		p.unheard = unheard
		l, err := config.Parse([]byte(p.configuration(true)))
		if err != nil {
			t.Fatal(err)
		}
		if mode := map[bool]string{true: "mirror", false: "off"}[unheard == nil]; l.Incoming.Mode != mode || !l.Agent.HostNetwork ||
			l.Debugger.Type != "python" || l.Files.Map[folder] != "/tmp/d/pod" || l.Outgoing.Loopback != "pod" {
			t.Errorf("%+v", l)
		}
	}
}
