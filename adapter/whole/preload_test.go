package whole

import (
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
	t.Run("killed", func(t *testing.T) { preloadKilled(t, p) })
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
	if t.Failed() {
		t.Logf("stderr:\n%s", got.stderr)
	}
}

// serving starts the server in the pod's place and waits until it has the pod's port.
func serving(t *testing.T, p *podlet.Pod, port uint16) *exec.Cmd {
	t.Helper()
	cmd := command(t, p, merge(map[string]any{"incoming": map[string]any{"map": map[string]any{fmt.Sprint(port): 8080}}}, preloading),
		python(t), filepath.Join(source(t, "preload"), "serve.py"), fmt.Sprint(port))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func preloadCalled(t *testing.T, p *podlet.Pod) {
	port := free(t)
	cmd := serving(t, p, port)
	url := "http://" + netip.AddrPortFrom(p.Addr(false), 8080).String() + "/x"
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return p.Outside.Dial(ctx, network, netip.AddrPort{}, netip.MustParseAddrPort(addr))
	}}}
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

// preloadKilled kills stepin by SIGKILL: its program, the mount and the directory go.
func preloadKilled(t *testing.T, p *podlet.Pod) {
	before, err := filepath.Glob(filepath.Join(os.TempDir(), "stepin-session-*"))
	if err != nil {
		t.Fatal(err)
	}
	port := free(t)
	cmd := serving(t, p, port)
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
		now, err := filepath.Glob(filepath.Join(os.TempDir(), "stepin-session-*"))
		return err == nil && len(now) <= len(before)
	})
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), "stepin-session-") {
		t.Errorf("mounts: %v\n%s", err, mounts)
	}
}
