package whole

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/adapter/dap/talk"
	"github.com/stepin-dev/stepin/pkg/podlet"
)

// preloadPod has what the probe asks for.
func preloadPod(t *testing.T) *podlet.Pod {
	t.Helper()
	spec := namesPod()
	spec.Outside = []netip.Addr{netip.MustParseAddr(errnoServer[0]), netip.MustParseAddr(errnoServer[1])}
	spec.Routes = errnoRoutes()
	spec.Volumes = []podlet.Volume{{Path: "/etc/config", Files: map[string]string{"colour": "green"}}}
	p := servicePod(t, spec)
	at := netip.AddrPortFrom(netip.MustParseAddr(errnoServer[0]), 7000)
	l, err := p.Outside.Listen(limit(t), "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	go acceptAll(l, func(c net.Conn) {
		defer c.Close()
		fmt.Fprintf(c, "hello %s", c.RemoteAddr().(*net.TCPAddr).IP)
	})
	u, err := p.Outside.ListenPacket(limit(t), "udp", netip.AddrPortFrom(at.Addr(), 7001))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = u.WriteTo([]byte(string(buf[:n])+" "+from.(*net.UDPAddr).IP.String()), from)
		}
	}()
	return p
}

// python is this machine's own.
func python(t *testing.T) string {
	t.Helper()
	const path = "/usr/bin/python3"
	if _, err := os.Stat(path); err != nil {
		t.Skip("no Python: ", err)
	}
	return path
}

var preloading = map[string]any{"frontEnd": "preload"}

// TestPreload runs Python programs under frontEnd preload: they see the pod as the namespaces show it, and nothing is left.
func TestPreload(t *testing.T) {
	p := preloadPod(t)
	t.Run("sees the pod", func(t *testing.T) { preloadSees(t, p) })
	t.Run("is called", func(t *testing.T) { preloadCalled(t, p) })
	t.Run("is refused", func(t *testing.T) { preloadRefused(t, p) })
	t.Run("a port that is taken", func(t *testing.T) { preloadMoved(t, p) })
	t.Run("a static child", func(t *testing.T) { preloadStatic(t, p) })
	t.Run("its own executable", func(t *testing.T) { preloadAgain(t, p) })
	t.Run("without namespaces", func(t *testing.T) { preloadFallback(t, p) })
	t.Run("killed", func(t *testing.T) { preloadKilled(t, p) })
	t.Run("killed with its keeper", func(t *testing.T) { preloadOrphaned(t, p) })
}

func preloadSees(t *testing.T, p *podlet.Pod) {
	script := filepath.Join(source(t, "preload"), "probe.py")
	got := run(t, p, preloading, python(t), script, errnoServer[0])
	if got.status != 0 {
		t.Fatalf("status %d: %s%s", got.status, got.stdout, got.stderr)
	}
	said := map[string]string{}
	for line := range strings.Lines(got.stdout) {
		var pair [2]json.RawMessage
		var step string
		if json.Unmarshal([]byte(line), &pair) == nil && json.Unmarshal(pair[0], &step) == nil {
			said[step] = string(pair[1])
		}
	}
	own := p.Addr(false).String()
	for step, want := range map[string]string{
		"file":               `"green"`,
		"list":               `["colour"]`,
		"stat":               `5`,
		"write":              `"EROFS"`,
		"child":              `"orders-7d9f"`,
		"env":                `"pod"`,
		"hostname":           `["orders-7d9f", "orders-7d9f"]`,
		"name":               `"10.96.7.7"`,
		"missing name":       `"gaierror -2"`,
		"connect":            fmt.Sprintf(`["hello %s", "%s", 7000, "%s"]`, own, errnoServer[0], own),
		"refused":            `"ECONNREFUSED"`,
		"unreachable":        `"EHOSTUNREACH"`,
		"asyncio":            fmt.Sprintf(`"hello %s"`, own),
		"datagram":           fmt.Sprintf(`["hello %s", ["%s", 7001]]`, own, errnoServer[0]),
		"connected datagram": fmt.Sprintf(`["hello %s", ["%s", 7001], ["%s", 7001]]`, own, errnoServer[0], errnoServer[0]),
	} {
		if said[step] != want {
			t.Errorf("%s: %s, not %s", step, said[step], want)
		}
	}
	if !strings.Contains(said["resolv"], "nameserver 10.96.0.10") {
		t.Errorf("resolv.conf: %s", said["resolv"])
	}
	if t.Failed() {
		t.Logf("stderr:\n%s", got.stderr)
	}
}

// serving starts the server in the pod's place and waits until it has the pod's port.
func serving(t *testing.T, p *podlet.Pod, port uint16, env ...string) *exec.Cmd {
	t.Helper()
	cmd := command(t, p, merge(map[string]any{"incoming": map[string]any{"map": map[string]any{fmt.Sprint(port): 8080}}}, preloading),
		python(t), filepath.Join(source(t, "preload"), "serve.py"), fmt.Sprint(port))
	cmd.Stderr, cmd.Env = &talk.Buffer{}, append(os.Environ(), env...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("stderr:\n%s", cmd.Stderr)
		}
	})
	return cmd
}

// caller is a client outside of the pod.
func caller(p *podlet.Pod) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return p.Outside.Dial(ctx, network, netip.AddrPort{}, netip.MustParseAddrPort(addr))
	}}}
}

func preloadCalled(t *testing.T, p *podlet.Pod) {
	port := free(t)
	cmd := serving(t, p, port)
	url := "http://" + netip.AddrPortFrom(p.Addr(false), 8080).String() + "/x"
	client := caller(p)
	var r struct{ Who, Client, Peer, Local, Path string }
	eventually(t, patience, "the debuggee answers", func() bool {
		resp, err := client.Get(url)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		r.Who = ""
		return json.NewDecoder(resp.Body).Decode(&r) == nil && r.Who == "debuggee"
	})
	gateway := podlet.Gateway(podlet.DefaultAddrs[0]).String()
	if r.Client != gateway || r.Peer != gateway || r.Path != "/x" {
		t.Errorf("%+v, not from %s", r, gateway)
	}
	if resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/host", port)); err != nil {
		t.Error("from this machine:", err)
	} else {
		resp.Body.Close()
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, tidyTime, "the pod serves itself", func() bool {
		r, err := get(limit(t), client, url)
		return err == nil && r.Who == "pod"
	})
}

// preloadRefused holds that what the library cannot serve is a word before it starts.
func preloadRefused(t *testing.T, p *podlet.Pod) {
	got := run(t, p, preloading, program(t, "errno"))
	if got.status != 125 || !strings.Contains(got.stderr, "it is a Go program") || !strings.Contains(got.stderr, "hint: ") {
		t.Errorf("a Go program: status %d: %s", got.status, got.stderr)
	}
}

// preloadMoved has the debuggee listen on a port that this machine does not have for it any more.
func preloadMoved(t *testing.T, p *podlet.Pod) {
	taken, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).AddrPort().Port()
	cmd := serving(t, p, port)
	said := cmd.Stderr.(*talk.Buffer)
	url := "http://" + netip.AddrPortFrom(p.Addr(false), 8080).String() + "/x"
	eventually(t, patience, "the debuggee answers", func() bool {
		r, err := get(limit(t), caller(p), url)
		return err == nil && r.Who == "debuggee" && strings.HasSuffix(r.Local, fmt.Sprint(":", port))
	})
	if want := fmt.Sprintf("tcp port %d cannot be had on this machine", port); !strings.Contains(said.String(), want) {
		t.Errorf("not said: %s: %s", want, said.String())
	}
}

// preloadStatic has a child that no library can serve run in namespaces, or refused in words where those cannot be had.
func preloadStatic(t *testing.T, p *podlet.Pod) {
	script := program(t, "steps") + " cat=/etc/config/colour env=WHO env=LD_PRELOAD; echo status $?"
	got := run(t, p, preloading, "/bin/sh", "-c", script)
	if want := "cat=/etc/config/colour: green\nenv=WHO: pod\nenv=LD_PRELOAD: \nstatus 0\n"; got.stdout != want {
		t.Errorf("%q, not %q: %s", got.stdout, want, got.stderr)
	}
	cmd := command(t, p, preloading, "/bin/sh", "-c", script)
	cmd.Env = append(os.Environ(), "STEPIN_TUN=/dev/null")
	var said talk.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil || string(out) != "status 126\n" || !strings.Contains(said.String(), "cannot be run in the pod's place: it is a Go program") {
		t.Errorf("%q, %v: %s", out, err, said.String())
	}
}

// preloadAgain has a program execute itself by /proc/self, which is not the session's.
func preloadAgain(t *testing.T, p *podlet.Pod) {
	const script = "import os, socket; os.execv('/proc/self/exe', ['python3', '-c', 'import socket; print(socket.gethostname())'])"
	got := run(t, p, preloading, python(t), "-c", script)
	if got.status != 0 || got.stdout != "orders-7d9f\n" {
		t.Errorf("status %d: %q: %s", got.status, got.stdout, got.stderr)
	}
}

// preloadFallback holds that auto takes preload where namespaces cannot be had, and says so.
func preloadFallback(t *testing.T, p *podlet.Pod) {
	cmd := command(t, p, nil, python(t), "-c", "import os, socket; print(os.environ['WHO'], socket.gethostname())")
	cmd.Env = append(os.Environ(), "STEPIN_TUN=/dev/null")
	var said talk.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil || string(out) != "pod orders-7d9f\n" || !strings.Contains(said.String(), "front end preload, because") {
		t.Errorf("%q, %v: %s", out, err, said.String())
	}
	cmd = command(t, p, nil, program(t, "steps"), "env=WHO")
	cmd.Env = append(os.Environ(), "STEPIN_TUN=/dev/null")
	cmd.Stderr = &said
	if out, err := cmd.Output(); err == nil || cmd.ProcessState.ExitCode() != 125 || len(out) > 0 || !strings.Contains(said.String(), "needs namespaces: it is a Go program") {
		t.Errorf("%q, %v: %s", out, err, said.String())
	}
}

// preloadKilled kills stepin by SIGKILL: its program, the mount and the directory go.
func preloadKilled(t *testing.T, p *podlet.Pod) {
	dir, err := os.MkdirTemp("", "k-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	eventually(t, patience, "the former session's agent has ended", func() bool { return agentParent(t, p) == 0 }) // it has its token elsewhere
	port := free(t)
	cmd := serving(t, p, port, "TMPDIR="+dir)
	url := fmt.Sprintf("http://127.0.0.1:%d/", port)
	eventually(t, patience, "the debuggee listens", func() bool {
		resp, err := http.Get(url)
		if err == nil {
			resp.Body.Close()
		}
		return err == nil
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, 5*time.Second, "the debuggee has ended", func() bool {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	eventually(t, tidyTime, "the directory has gone", func() bool {
		now, err := filepath.Glob(filepath.Join(dir, "stepin-[os]*"))
		return err == nil && len(now) == 0
	})
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("mounts: %v\n%s", err, mounts)
	}
}

// preloadOrphaned kills stepin and its keeper at once: the program lives, and is told that its session has gone, by an errno at
// each call that would need it, or goes on from this machine where onLost says so. It never hangs.
func preloadOrphaned(t *testing.T, p *podlet.Pod) {
	const script = `
import errno, os, socket, sys
def attempt(what):
    try:
        return what()
    except OSError as e:
        return errno.errorcode.get(e.errno, e.errno)
def connect(kind):
    with socket.socket(socket.AF_INET, kind) as s:
        s.settimeout(20)
        return s.connect(("127.0.0.1", int(sys.argv[1])))
print("ready", open("/etc/config/colour").read(), flush=True)
sys.stdin.readline()
print(attempt(lambda: connect(socket.SOCK_STREAM)), attempt(lambda: connect(socket.SOCK_DGRAM)),
      attempt(lambda: open("/etc/config/colour").read()), attempt(lambda: os.listdir("/etc/config")), flush=True)
`
	here, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	for onLost, want := range map[string][2]string{ // with FUSE, whose server has gone, and without
		"fail": {"EHOSTUNREACH EHOSTUNREACH ENOTCONN ENOTCONN\n", "EHOSTUNREACH EHOSTUNREACH EIO EIO\n"},
		"host": {"None None ENOTCONN ENOTCONN\n", "None None ENOENT ENOENT\n"},
	} {
		eventually(t, patience, "the former session's agent has ended", func() bool { return agentParent(t, p) == 0 }) // it has its token elsewhere
		dir, err := os.MkdirTemp("", "k-")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		cmd := command(t, p, merge(map[string]any{"onLost": onLost}, preloading), python(t), "-c", script, fmt.Sprint(here.Addr().(*net.TCPAddr).Port))
		in, iw, err := os.Pipe() // its own: what exec makes itself ends with stepin
		if err != nil {
			t.Fatal(err)
		}
		or, out, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer iw.Close()
		defer or.Close()
		cmd.Env, cmd.Stdin, cmd.Stdout = append(os.Environ(), "TMPDIR="+dir), in, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		in.Close()
		out.Close()
		lines := bufio.NewReader(or)
		_ = or.SetReadDeadline(time.Now().Add(patience))
		if line, err := lines.ReadString('\n'); line != "ready green\n" {
			t.Fatalf("%q, %v", line, err)
		}
		var keeper process
		for _, d := range family(cmd.Process.Pid) {
			if len(d.argv) > 2 && d.argv[1] == "keep" {
				keeper = d
			}
		}
		if keeper.pid == 0 {
			t.Fatal("no keeper")
		}
		defer func() { // as it would have done
			control, other, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			other.Close()
			defer control.Close()
			tidy := exec.Command(stepin(t), keeper.argv[1:]...)
			tidy.Args[0], tidy.ExtraFiles = keeper.argv[0], []*os.File{control}
			if out, err := tidy.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		}()
		_ = syscall.Kill(keeper.pid, syscall.SIGKILL)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_, _ = iw.WriteString("\n")
		_ = or.SetReadDeadline(time.Now().Add(patience))
		way := 1
		if mounts, err := os.ReadFile("/proc/self/mountinfo"); err == nil && strings.Contains(string(mounts), dir) {
			way = 0
		}
		if line, err := lines.ReadString('\n'); line != want[way] {
			t.Errorf("onLost %s: %q, %v", onLost, line, err)
		}
	}
}
