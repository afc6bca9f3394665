package whole

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stepin-dev/stepin/pkg/podlet"
)

// strictPod has something of each kind that can be reached.
func strictPod() podlet.Spec {
	s := namesPod()
	s.Volumes = []podlet.Volume{
		{Path: "/etc/config", Files: map[string]string{"small": "a small file"}},
		{Path: "/data", Plain: true, Files: map[string]string{"dir/file": "a plain file", "other": "another one"}},
	}
	s.Sidecars = []podlet.Sidecar{{Network: "tcp", Addr: netip.MustParseAddrPort("127.0.0.1:7001"), Serve: func(net.Conn) {}}}
	return s
}

// service is at the pod's gateway: one that takes connections, and one that echoes datagrams.
const service = "10.244.1.1:7000"

func serveOutside(t *testing.T, p *podlet.Pod) {
	t.Helper()
	l, err := p.Outside.Listen(limit(t), "tcp", netip.MustParseAddrPort(service))
	if err != nil {
		t.Fatal(err)
	}
	packets, err := p.Outside.ListenPacket(limit(t), "udp", netip.MustParseAddrPort(service))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Close()
		packets.Close()
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	go func() {
		b := make([]byte, 64)
		for {
			n, from, err := packets.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = packets.WriteTo(b[:n], from)
		}
	}()
}

// expected is what a debuggee is known to do, as the agent sees it. Dials and opens are counted; a name counts once,
// since its two families and the rest of its search list may or may not be one round trip.
type expected struct{ dials, lookups, opens []string }

// differences compares the agent's complete list with what is expected. What the session did by itself is left out. The
// status of a path may have been asked for or remembered, so it only has to lie on the way to a file that is expected.
func (e expected) differences(list []act) (out []string) {
	got := map[string][]string{}
	for _, a := range list {
		switch what := a.What; {
		case a.Own:
		case a.Op == "lookup":
			name, _, _ := strings.Cut(what, " ")
			if !slices.Contains(got["lookup"], name) {
				got["lookup"] = append(got["lookup"], name)
			}
		case a.Op == "dial" || a.Op == "open":
			got[a.Op] = append(got[a.Op], what)
		case !slices.ContainsFunc(e.opens, func(p string) bool { return p == what || strings.HasPrefix(p, strings.TrimSuffix(what, "/")+"/") }):
			out = append(out, "not expected: "+a.String())
		}
	}
	for op, want := range map[string][]string{"dial": e.dials, "lookup": e.lookups, "open": e.opens} {
		left := slices.Clone(want)
		for _, what := range got[op] {
			if i := slices.Index(left, what); i >= 0 {
				left = slices.Delete(left, i, i+1)
			} else {
				out = append(out, "not expected: "+op+" "+what)
			}
		}
		for _, what := range left {
			out = append(out, "missing: "+op+" "+what)
		}
	}
	slices.Sort(out)
	return out
}

// TestOnlyTheDebuggee holds that what reaches the pod is what the debuggee does, and nothing else: not the compiler,
// not the debugger, not what they ask, not a program of the developer's that the debuggee starts.
func TestOnlyTheDebuggee(t *testing.T) {
	does := []string{"dial=" + service, "udp=" + service, "lookup=api.example.com", "cat=/data/dir/file", "cat=/etc/config/small"}
	want := expected{
		dials:   []string{"tcp " + service, "udp " + service},
		lookups: []string{"api.example.com.shop.svc.cluster.local."}, // the first of the search list; the rest is the session's
		opens:   []string{"/data/dir/file", "/etc/resolv.conf", "/etc/hosts"},
	}
	t.Run("exact", func(t *testing.T) {
		for _, d := range want.differences(underDelve(t, does)) {
			t.Error(d)
		}
	})
	for name, more := range map[string]struct{ step, difference string }{
		"one more dial":   {"dial=" + service, "not expected: dial tcp " + service},
		"one more lookup": {"lookup=stock.other", "not expected: lookup stock.other.shop.svc.cluster.local."},
		"one more open":   {"cat=/data/other", "not expected: open /data/other"},
	} {
		t.Run(name, func(t *testing.T) {
			got := want.differences(underDelve(t, append(slices.Clone(does), more.step)))
			if !slices.Contains(got, more.difference) {
				t.Errorf("a debuggee that does %s is not told from one that does not: %q", more.step, got)
			}
		})
	}
	t.Run("host programs", testHostPrograms)
}

// underDelve runs programs/steps under the debugger, with a compiler and a debuginfod-find that try to reach the pod,
// and returns the agent's complete list.
func underDelve(t *testing.T, does []string) []act {
	p := pod(t, strictPod())
	serveOutside(t, p)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	// What both try. The shell is no host program, and what it starts neither.
	try := fmt.Sprintf("cat /data/other /etc/config/small\n%s dial=%s lookup=only.pod.example cat=/data/other\n", program(t, "steps"), service)
	for name, text := range map[string]string{
		"debuginfod-find": "#!/bin/sh\nexec >>" + at("found") + " 2>&1\n" + try + "exit 1\n",
		"toolexec":        "#!/bin/sh\n(exec >>" + at("compiled") + " 2>&1; readlink /proc/self/ns/net; cat /data/other /etc/config/small)\nexec \"$@\"\n",
	} {
		if err := os.WriteFile(at(name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// Delve asks for what this machine has no symbols of: here, of nothing.
	if err := os.MkdirAll(at("dlv"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("dlv/config.yml"), []byte("debug-info-directories: [\"/nowhere\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	trace, file := at("trace"), filepath.Join(source(t, "steps"), "main.go")
	a := dap(t, traceEnv+"="+trace, "PATH="+dir+":"+os.Getenv("PATH"), "DEBUGINFOD_URLS=http://"+service, "XDG_CONFIG_HOME="+dir, "CGO_ENABLED=1")
	a.launch(debugging(t, p, "steps", map[string]any{"debugger": map[string]any{"args": does, "buildFlags": "-toolexec=" + at("toolexec")}}),
		file, lineOf(t, file, "the first line"))
	thread, _, _ := a.stopped() // Delve loads what it knows of the C library, which is not in the binary
	a.goOn(thread)
	a.until("terminated")
	for _, s := range does {
		if out := a.Output("stdout"); !strings.Contains(out, s+": ") || strings.Contains(out, s+": err") {
			t.Errorf("the debuggee could not do %s: %s", s, out)
		}
	}
	a.disconnect()
	// The compiler ran outside, where nothing of the pod is.
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	compiled, err := os.ReadFile(at("compiled"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(compiled)) {
		if line = strings.TrimSpace(line); line != own && !strings.HasPrefix(line, "cat: ") {
			t.Fatalf("the compiler was in the pod's place: %s", line)
		}
	}
	if found, err := os.ReadFile(at("found")); err == nil {
		t.Errorf("debuginfod-find ran in the pod's place: %s", found)
	}
	return acts(t, trace, 0)
}

// testHostPrograms: a program of the developer's keeps his network and his names, whoever starts it.
func testHostPrograms(t *testing.T) {
	p := pod(t, strictPod())
	dir := t.TempDir()
	image, err := os.ReadFile(program(t, "steps"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"git", "go", "cousin"} {
		if err := os.WriteFile(filepath.Join(dir, name), image, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // something of the developer's
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "developer")
			c.Close()
		}
	}()
	s := steps(t, p, nil, nil)
	sidecar, mine := "dial=127.0.0.1:7001", "dial="+l.Addr().String()
	child := func(name, step string) string {
		return strings.TrimPrefix(s.do("run="+filepath.Join(dir, name)+","+step), step+": ")
	}
	conf, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	host := strings.ReplaceAll(strings.TrimRight(string(conf), "\n"), "\n", "|")
	podConf := s.do("cat=/etc/resolv.conf")
	if podConf == host || !strings.Contains(podConf, "10.96.0.10") {
		t.Errorf("the debuggee's resolv.conf: %s", podConf)
	}
	for _, c := range []struct{ program, step, want string }{
		{"cousin", sidecar, "connected"}, // any other child of the debuggee's is the debuggee
		{"cousin", "cat=/etc/resolv.conf", podConf},
		{"cousin", "lookup=only.pod.example", "10.1.2.9"},
		{"git", sidecar, "errno: connection refused"},
		{"go", sidecar, "errno: connection refused"},
		{"git", mine, "connected"}, {"go", mine, "connected"}, {"cousin", mine, "connected"},
		{"git", "cat=/etc/resolv.conf", host}, {"go", "cat=/etc/resolv.conf", host},
		{"cousin", "cat=/etc/resolv.conf", podConf},
	} {
		before := len(acts(t, s.trace, 0))
		if got := child(c.program, c.step); got != c.want {
			t.Errorf("%s %s: got %q, want %q", path.Base(c.program), c.step, got, c.want)
		}
		if list := asked(acts(t, s.trace, before)); c.program != "cousin" && len(list) > 0 {
			t.Errorf("%s %s reached the pod: %q", c.program, c.step, list)
		}
	}
	if os.Getuid() != 0 {
		return // an ordinary user cannot give this machine a name server that the test knows
	}
	s = stepsElsewhere(t, p, nil)
	if got := child("git", "lookup=only.pod.example"); got != "192.0.2.77" {
		t.Errorf("git asked the pod's resolver: %q", got)
	}
	s.expect("lookup=only.pod.example", "10.1.2.9")
}
