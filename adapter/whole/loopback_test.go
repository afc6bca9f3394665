package whole

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/pkg/podlet"
)

// The loopback's addresses; one that a mesh's sidecar calls from, too.
var loopbacks = []string{"127.0.0.1", "127.0.0.6", "::1"}

// hostService listens on this machine's 127.0.0.1 and ::1, TCP and UDP, all on one port that was free, and answers
// "host". Port 0 takes any.
func hostService(t *testing.T, port uint16) uint16 {
	t.Helper()
	for range 100 {
		var open []io.Closer
		at := port
		var err error
		for _, host := range []string{"127.0.0.1", "::1"} {
			if err == nil {
				var l net.Listener
				if l, err = net.Listen("tcp", net.JoinHostPort(host, fmt.Sprint(at))); err == nil {
					open = append(open, l)
					at = l.Addr().(*net.TCPAddr).AddrPort().Port()
					go acceptAll(l, func(c net.Conn) {
						fmt.Fprintln(c, "host")
						c.Close()
					})
				}
			}
			if err == nil {
				var c net.PacketConn
				if c, err = net.ListenPacket("udp", net.JoinHostPort(host, fmt.Sprint(at))); err == nil {
					open = append(open, c)
					go answerPackets(c, "host\n")
				}
			}
		}
		if err == nil {
			t.Cleanup(func() { closeAll(open) })
			return at
		}
		closeAll(open)
		if port != 0 {
			t.Fatal(err)
		}
	}
	t.Fatal("no port is free on 127.0.0.1 and ::1")
	return 0
}

func closeAll(open []io.Closer) {
	for _, c := range open {
		_ = c.Close()
	}
}

func answerPackets(c net.PacketConn, answer string) {
	b := make([]byte, 500)
	for {
		_, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		_, _ = c.WriteTo([]byte(answer), from)
	}
}

// free is a port that nobody uses on this machine.
func free(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// do gives programs/loopback a line and returns its answer.
func (r *running) do(format string, args ...any) string {
	r.t.Helper()
	line := fmt.Sprintf(format, args...)
	if _, err := fmt.Fprintln(r.stdin, line); err != nil {
		r.t.Fatal(err)
	}
	return strings.TrimPrefix(r.line(), line+": ")
}

// sidecars are neighbours in the pod, on its loopback and on its addresses, that answer "sidecar".
func sidecars(port uint16) (all []podlet.Sidecar) {
	serve := func(c net.Conn) { fmt.Fprintln(c, "sidecar") }
	hosts := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	for _, a := range podlet.DefaultAddrs {
		hosts = append(hosts, a.Addr())
	}
	for _, host := range hosts {
		at := netip.AddrPortFrom(host, port)
		all = append(all, podlet.Sidecar{Network: "tcp", Addr: at, Serve: serve}, podlet.Sidecar{Network: "udp", Addr: at})
	}
	return all
}

// TestLoopback is about the three steps of the loopback: the debuggee's own ports, the developer's localhost, the pod's.
func TestLoopback(t *testing.T) {
	exe := program(t, "loopback")
	shared := free(t) // the pod's sidecar has it, and in one part of the test this machine as well
	p := pod(t, podlet.Spec{Sidecars: sidecars(shared), Files: []podlet.File{{Path: "/loopback", Host: exe, Mode: 0o755}}})
	database := hostService(t, 0)
	r := begin(t, p, map[string]any{"env": map[string]any{"override": map[string]any{"WHO": "debuggee"}}}, nil, exe)

	t.Run("own port", func(t *testing.T) { ownLoopback(t, p, exe) })
	t.Run("the developer's localhost", func(t *testing.T) {
		for _, host := range []string{"127.0.0.1", "::1"} {
			for _, network := range []string{"tcp", "udp"} {
				if got := r.do("dial %s %s", network, net.JoinHostPort(host, fmt.Sprint(database))); got != "host" {
					t.Errorf("%s %s: %s", network, host, got)
				}
			}
		}
	})
	sidecar := map[string]string{"tcp": "sidecar", "udp": "who"} // the latter is an echo
	t.Run("the pod's sidecar", func(t *testing.T) {
		for range 2 {
			for _, host := range []string{"127.0.0.1", "::1", p.Addr(false).String(), p.Addr(true).String()} {
				for network, want := range sidecar {
					if got := r.do("dial %s %s", network, net.JoinHostPort(host, fmt.Sprint(shared))); got != want {
						t.Errorf("%s %s: %s", network, host, got)
					}
				}
			}
		}
		if n := strings.Count(r.stderr.String(), fmt.Sprintf("port %d of 127.0.0.1: nobody listens on this machine", shared)); n != 1 {
			t.Errorf("said %d times", n)
		}
	})
	t.Run("nobody", func(t *testing.T) {
		for _, host := range append(loopbacks, p.Addr(false).String(), p.Addr(true).String()) {
			for _, network := range []string{"tcp", "udp"} {
				if got := r.do("dial %s %s", network, net.JoinHostPort(host, fmt.Sprint(free(t)))); got != "connection refused" {
					t.Errorf("%s %s: %s", network, host, got)
				}
			}
		}
	})
	t.Run("a browser", func(t *testing.T) { browser(t, r) })
	t.Run("bound to 127.0.0.1", func(t *testing.T) { boundToLoopback(t, p, r) })
	t.Run("no loops", func(t *testing.T) { noLoops(t, p, r) })

	// The same port on both sides, and each of the ways to say which one is meant.
	hostService(t, shared)
	if got := r.do("dial tcp 127.0.0.1:%d", shared); got != "host" {
		t.Errorf("auto, both listen: %s", got)
	}
	r.end()
	for _, c := range []struct{ loopback, shared, database string }{
		{"host", "host", "host"},
		{"pod", "sidecar", "connection refused"},
	} {
		t.Run("outgoing.loopback "+c.loopback, func(t *testing.T) {
			r := begin(t, p, map[string]any{"outgoing": map[string]any{"loopback": c.loopback}}, nil, exe)
			defer r.end()
			for _, host := range []string{"127.0.0.1", "::1"} {
				for _, network := range []string{"tcp", "udp"} {
					want := c.shared
					if network == "udp" && want == "sidecar" {
						want = sidecar[network]
					}
					if got := r.do("dial %s %s", network, net.JoinHostPort(host, fmt.Sprint(shared))); got != want {
						t.Errorf("%s %s, both listen: %s", network, host, got)
					}
					if got := r.do("dial %s %s", network, net.JoinHostPort(host, fmt.Sprint(database))); got != c.database {
						t.Errorf("%s %s, this machine listens: %s", network, host, got)
					}
				}
			}
		})
	}
}

// ownLoopback has one program talk to itself in every way, in the pod and in its place, at once after it listens, so
// that nobody can have noticed, and compares word for word.
func ownLoopback(t *testing.T, p *podlet.Pod, exe string) {
	var script []string
	add := func(format string, args ...any) { script = append(script, fmt.Sprintf(format, args...)) }
	callers := append([]string{p.Addr(false).String(), p.Addr(true).String()}, loopbacks...)
	port := free(t)
	for _, listener := range []string{"", "127.0.0.1", "::1", p.Addr(false).String(), p.Addr(true).String()} {
		for _, network := range []string{"tcp", "udp"} {
			at := net.JoinHostPort(listener, fmt.Sprint(port))
			add("listen %s %s", network, at)
			for range 2 {
				for _, host := range callers {
					if network == "udp" && host == "127.0.0.6" {
						continue // the answer comes from 127.0.0.1, in the pod as well: a socket bound to no address sends so
					}
					if listener == "" || listener == host {
						add("dial %s %s", network, net.JoinHostPort(host, fmt.Sprint(port)))
					}
				}
			}
			add("close %s %s", network, at)
			port++
		}
	}
	for _, host := range callers {
		if host != "127.0.0.6" {
			add("begin tcp %s", net.JoinHostPort(host, "0"))
			add("begin udp %s", net.JoinHostPort(host, "0"))
		}
	}
	inPod, err := p.Output(limit(t), podlet.Command{Argv: append([]string{"/loopback"}, script...), Env: []string{"WHO=own"}})
	if err != nil {
		t.Fatalf("in the pod: %v\n%s", err, inPod)
	}
	r := run(t, p, map[string]any{"env": map[string]any{"override": map[string]any{"WHO": "own"}}}, append([]string{exe}, script...)...)
	theirs, ours := strings.Split(inPod, "\n"), strings.Split(strings.TrimSpace(r.stdout), "\n")
	if len(theirs) != len(script) || len(ours) != len(theirs) {
		t.Fatalf("%d lines in the pod, %d in its place, want %d\n%s", len(theirs), len(ours), len(script), r.stderr)
	}
	for i, line := range theirs {
		verb, _, _ := strings.Cut(line, " ")
		want := map[string]string{"listen": ": ok", "close": ": ok", "dial": ": own sees ", "begin": ": "}[verb]
		if !strings.Contains(line, want) || strings.Contains(line, "refused") {
			t.Errorf("the pod itself: %s", line)
		}
		// The first call of ::1 after listen left by the TUN device, whose packets cannot have that source (see
		// openLoopback6 in pkg/namespaces): it comes from the pod's own address.
		if first := strings.Replace(line, "sees ::1", "sees "+p.Addr(true).String(), 1); ours[i] != line && ours[i] != first {
			t.Errorf("in the pod:   %s\nin its place: %s", line, ours[i])
		}
	}
	t.Logf("%d lines compared", len(theirs))
}

// browser calls the debuggee by the developer's loopback.
func browser(t *testing.T, r *running) {
	port := free(t)
	at := fmt.Sprintf("127.0.0.1:%d", port)
	for _, listener := range []string{"", "127.0.0.1", "::1"} {
		addr := net.JoinHostPort(listener, fmt.Sprint(port))
		if got := r.do("listen tcp %s", addr); got != "ok" {
			t.Fatal(got)
		}
		eventually(t, 2*time.Second, "this machine's "+at+" leads to a listener on "+addr, func() bool {
			return strings.HasPrefix(readAll(at), "debuggee sees ")
		})
		if got := r.do("close tcp %s", addr); got != "ok" {
			t.Fatal(got)
		}
		eventually(t, 2*time.Second, "nobody answers at this machine's "+at, func() bool { return strings.Contains(readAll(at), "refused") })
	}
}

// readAll calls and returns what it gets, or the error.
func readAll(at string) string {
	c, err := net.DialTimeout("tcp", at, time.Second)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	b, err := io.ReadAll(c)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// boundToLoopback: such a listener gets the pod's loopback callers, and nobody else.
func boundToLoopback(t *testing.T, p *podlet.Pod, r *running) {
	port := free(t)
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	if got := r.do("listen tcp %s", at); got != "ok" {
		t.Fatal(got)
	}
	eventually(t, 5*time.Second, "stepin has the port", func() bool {
		return strings.Contains(r.stderr.String(), fmt.Sprintf("tcp port %d of the pod now", port))
	})
	c, err := p.Inside.Dial(limit(t), "tcp", netip.AddrPort{}, at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if b, err := io.ReadAll(c); string(b) != "debuggee sees 127.0.0.1 at 127.0.0.1\n" {
		t.Errorf("the pod's loopback caller gets %q, %v", b, err)
	}
	outside := netip.AddrPortFrom(p.Addr(false), port)
	if c, err := p.Outside.Dial(limit(t), "tcp", netip.AddrPort{}, outside); err == nil {
		t.Errorf("a client of the pod's reaches %v", outside)
		c.Close()
	}
	for _, host := range []string{"127.0.0.6", "::1"} {
		if got := r.do("dial tcp %s", net.JoinHostPort(host, fmt.Sprint(port))); got != "connection refused" {
			t.Errorf("%s: %s", host, got)
		}
	}
}

// noLoops: the debuggee calls a port that it has just ceased to listen on. Nobody else has it, on this machine or in the
// pod, but stepin may still hold it on both: it must not take itself for somebody.
func noLoops(t *testing.T, p *podlet.Pod, r *running) {
	port := free(t)
	at := fmt.Sprintf("127.0.0.1:%d", port)
	for range 3 {
		if got := r.do("listen tcp 0.0.0.0:%d", port); got != "ok" {
			t.Fatal(got)
		}
		eventually(t, 5*time.Second, "the pod's port leads here", func() bool {
			c, err := p.Outside.Dial(limit(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(p.Addr(false), port))
			if err != nil {
				return false
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			b, _ := io.ReadAll(c)
			return strings.HasPrefix(string(b), "debuggee sees ")
		})
		if got := r.do("close tcp 0.0.0.0:%d", port); got != "ok" {
			t.Fatal(got)
		}
		for range 10 {
			for _, host := range []string{"127.0.0.1", "::1", p.Addr(false).String()} {
				if got := r.do("dial tcp %s", net.JoinHostPort(host, fmt.Sprint(port))); got != "connection refused" {
					t.Errorf("%s after it has ceased to listen: %s", host, got)
				}
			}
			if got := readAll(at); !strings.Contains(got, "refused") && !strings.Contains(got, "reset") {
				t.Errorf("this machine's %s: %s", at, got)
			}
		}
	}
}
