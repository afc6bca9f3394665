package whole

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stepin-dev/stepin/adapter/dap/talk"
	"github.com/stepin-dev/stepin/pkg/podlet"
)

// TestMirror is the default mode: F5 without a word about incoming, and the pod answers every caller while the debuggee
// gets the same requests, at its breakpoint, from the callers' own addresses.
func TestMirror(t *testing.T) {
	for _, six := range []bool{false, true} {
		t.Run(map[bool]string{false: "IPv4", true: "IPv6"}[six], func(t *testing.T) { mirrored(t, six) })
	}
	t.Run("paused", mirrorPaused)
	t.Run("off and map", mirrorMapped)
}

// mirroring is debugging without incoming: what nobody wrote is a mirror.
func mirroring(t *testing.T, p *podlet.Pod, more map[string]any) map[string]any {
	c := merge(debugging(t, p, "service", map[string]any{"env": map[string]any{"override": map[string]any{"WHO": "debuggee"}}}), more)
	if more["incoming"] == nil {
		delete(c, "incoming")
	}
	return c
}

func mirrored(t *testing.T, six bool) {
	p := servicePod(t, podlet.Spec{})
	at := netip.AddrPortFrom(p.Addr(six), 8080)
	dial := func() (net.Conn, error) { return p.Outside.Dial(limit(t), "tcp", netip.AddrPort{}, at) }
	old := keep(t, dial)
	asks := func(path string) {
		t.Helper()
		if err := old.ask(path); err != nil {
			t.Fatal(err)
		}
		if r, err := old.answer(); err != nil || r.Who != "pod" || r.Path != path {
			t.Fatalf("%s: %+v, %v", path, r, err)
		}
	}
	asks("/before")
	file := filepath.Join(source(t, "service"), "main.go")
	a := dap(t)
	a.launch(mirroring(t, p, nil), file, lineOf(t, file, "the breakpoint of the tests"))
	for _, line := range []string{"tcp port 8080 of the pod now sends copies", "its outgoing calls still happen"} {
		if err := a.WaitOutput(limit(t), "console", line); err != nil {
			t.Fatal(err)
		}
	}
	stopsFor := func(path, client string) {
		t.Helper()
		thread, frame, _ := a.stopped()
		if got := a.evaluate(frame, "r.URL.Path"); !strings.Contains(got, path) {
			t.Errorf("stopped for %s, want %s", got, path)
		}
		if got := a.evaluate(frame, "r.RemoteAddr"); !strings.Contains(got, client) {
			t.Errorf("%s: from %s, want %s", path, got, client)
		}
		a.goOn(thread)
	}

	// A connection that is older than F5 is joined at its next request. The pod answers at once: nobody waits for the debuggee.
	asks("/older")
	stopsFor("/older", old.LocalAddr().String())
	c := p.Outside.HTTP(netip.Addr{})
	r, err := get(limit(t), c, "http://"+at.String()+"/new")
	if err != nil || r.Who != "pod" {
		t.Fatalf("%+v, %v", r, err)
	}
	stopsFor("/new", r.Client)

	// The same bytes: more than TCP's buffers hold.
	body := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(body)
	resp, err := c.Post("http://"+at.String()+"/upload", "application/octet-stream", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	sum := fmt.Sprintf("%x", sha256.Sum256(body))
	if answer, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(answer), sum) {
		t.Errorf("the pod got something else: %s, %v", answer, err)
	}
	thread, frame, _ := a.stopped()
	if got := a.evaluate(frame, "a.Sum"); !strings.Contains(got, sum) {
		t.Errorf("the debuggee got something else: %s", got)
	}
	a.goOn(thread)
	c.CloseIdleConnections()

	// The agent is killed: callers notice nothing.
	if err := old.ask("/slow"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(agentParent(t, p), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if r, err := old.answer(); err != nil || r.Who != "pod" {
		t.Errorf("while the agent was killed: %+v, %v", r, err)
	}
	asks("/after")
	a.disconnect()
	asks("/over")
}

// mirrorPaused has callers send more than can be kept while the debuggee stands at a breakpoint: they are served as ever,
// the agent stays small, and what is lost is said.
func mirrorPaused(t *testing.T) {
	p := servicePod(t, podlet.Spec{})
	at := netip.AddrPortFrom(p.Addr(false), 8080)
	file := filepath.Join(source(t, "service"), "main.go")
	a := dap(t)
	a.launch(mirroring(t, p, nil), file, lineOf(t, file, "the breakpoint of the tests"))
	if err := a.WaitOutput(limit(t), "console", "now sends copies"); err != nil {
		t.Fatal(err)
	}
	rest := agentRSS(t, p)
	c := p.Outside.HTTP(netip.Addr{})
	defer c.CloseIdleConnections()
	body := bytes.Repeat([]byte("0123456789abcdef"), 1<<18>>4)
	const posts = 400 // of 256 KiB, all on one connection: more than agent, session and the kernel's buffers keep of one
	first := true
	for i := range posts {
		resp, err := c.Post(fmt.Sprintf("http://%s/%d", at, i), "text/plain", bytes.NewReader(body))
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(answer), `"Who":"pod"`) {
			t.Fatalf("request %d: %s, %v", i, answer, err)
		}
		if first {
			first = false
			a.stopped()
		}
	}
	if grown := agentRSS(t, p) - rest; grown > budget {
		t.Errorf("the agent has grown by %d MiB, at most %d", grown>>20, budget>>20)
	} else {
		t.Logf("the agent has grown by %d MiB", grown>>20)
	}
	if err := a.WaitOutput(limit(t), "console", "does not keep up"); err != nil {
		t.Fatal(err)
	}
	a.disconnect()
}

// mirrorMapped: what is written counts.
func mirrorMapped(t *testing.T) {
	p := servicePod(t, podlet.Spec{})
	url := "http://" + netip.AddrPortFrom(p.Addr(false), 8080).String() + "/"
	cmd := command(t, p, map[string]any{"incoming": map[string]any{"mode": "mirror", "ports": []int{9090}, "map": map[string]any{"9090": 8080}}},
		program(t, "service"))
	cmd.Env = append(os.Environ(), "LISTEN=:9090")
	var said talk.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, "the mirror is on", func() bool {
		return strings.Contains(said.String(), "tcp port 8080 (here 9090) of the pod now sends copies")
	})
	if r, err := get(limit(t), p.Outside.HTTP(netip.Addr{}), url); err != nil || r.Who != "pod" {
		t.Errorf("%+v, %v", r, err)
	}
	_ = cmd.Process.Signal(os.Interrupt)
	_ = cmd.Wait()
}
