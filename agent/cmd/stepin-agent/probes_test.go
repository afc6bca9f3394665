package main

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// stealWithProbes steals ports of a pod whose kubelet is at clientIP.
func (s *testSession) stealWithProbes(probes []wire.Probe, ports ...wire.Port) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	nodes := []netip.Addr{netip.MustParseAddr(clientIP), netip.MustParseAddr(clientIP6)}
	if _, err := s.Open(ctx, wire.KindSteal, wire.Steal{Ports: ports, Probes: probes, Nodes: nodes}, nil); err != nil {
		s.t.Fatal(err)
	}
}

// say connects, sends text as it is, and returns what comes first.
func (p *testPod) say(addr, text string, client bool) string {
	p.t.Helper()
	if r := p.try(command{Do: "connect", ID: "say", Network: "tcp", Addr: addr, Client: client}); r.Err != "" {
		return r.Err
	}
	defer p.try(command{Do: "close", ID: "say"})
	r := p.try(command{Do: "ask", ID: "say", Text: text, Milliseconds: 5000})
	if r.Err != "" {
		return r.Err
	}
	return r.Text
}

// TestProbes: kubelet's probes are answered by the pod, and nothing else is.
func TestProbes(t *testing.T) {
	p := servePod(t)
	s := startAgent(t, p.pid).join("one", "")
	s.stealWithProbes([]wire.Probe{{Kind: "http", Port: 8080, Path: "/healthz"}}, tcp(8080))
	const kubelet, user = "\r\nUser-Agent: kube-probe/1.34\r\n\r", "\r\nUser-Agent: curl/8\r\n\r"
	for _, c := range []struct {
		name, addr, text, want string
		client                 bool
	}{
		{"kubelet", podIP + ":8080", "GET /healthz HTTP/1.1" + kubelet, "pod GET /healthz", true},
		{"kubelet, IPv6", "[" + podIP6 + "]:8080", "GET /healthz HTTP/1.1" + kubelet, "pod GET /healthz", true},
		{"kubelet's, another path", podIP + ":8080", "GET /orders HTTP/1.1" + kubelet, "session ", true},
		{"a user by the node", podIP + ":8080", "GET /healthz HTTP/1.1" + user, "session ", true},
		{"a mesh", "127.0.0.1:8080", "GET /healthz HTTP/1.1" + kubelet, "pod GET /healthz", false},
		{"not HTTP", podIP + ":8080", "hello", "session ", true},
	} {
		if got := p.say(c.addr, c.text, c.client); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestProbesElsewhere: who is not the node may say what he likes.
func TestProbesElsewhere(t *testing.T) {
	p := servePod(t)
	s := startAgent(t, p.pid).join("one", "")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	steal := wire.Steal{Ports: []wire.Port{tcp(8080)}, Probes: []wire.Probe{{Kind: "http", Port: 8080, Path: "/healthz"}, {Kind: "tcp", Port: 8080}, {Kind: "exec"}},
		Nodes: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
	if _, err := s.Open(ctx, wire.KindSteal, steal, nil); err != nil {
		t.Fatal(err)
	}
	if got := p.say(podIP+":8080", "GET /healthz HTTP/1.1\r\nUser-Agent: kube-probe/1.34\r\n\r", true); !strings.HasPrefix(got, "session ") {
		t.Errorf("%q", got)
	}
	if got := p.ask("tcp", "127.0.0.1:8080", false); !strings.HasPrefix(got, "session ") {
		t.Errorf("a caller in the pod, while the debuggee runs: %q", got)
	}
	if err := s.Send(wire.KindState, wire.State{Paused: true}); err != nil {
		t.Fatal(err)
	}
	until(t, time.Second, "exec probes are the pod's while the debuggee stands", func() bool { return p.ask("tcp", "127.0.0.1:8080", false) == "pod hi" })
	if got := p.ask("tcp", podIP+":8080", true); !strings.HasPrefix(got, "session ") {
		t.Errorf("a user, while the debuggee stands: %q", got)
	}
	if err := s.Send(wire.KindState, wire.State{}); err != nil {
		t.Fatal(err)
	}
	until(t, time.Second, "they are the debuggee's again", func() bool { return strings.HasPrefix(p.ask("tcp", "127.0.0.1:8080", false), "session ") })
}

// TestBareProbe: a connection from the node that closes without a byte never reaches the session; one that waits does.
func TestBareProbe(t *testing.T) {
	p := servePod(t)
	a := startAgent(t, p.pid)
	s := a.join("one", "")
	s.stealWithProbes([]wire.Probe{{Kind: "tcp", Port: 8080}}, tcp(8080))
	for range 3 {
		p.do(command{Do: "connect", ID: "bare", Network: "tcp", Addr: podIP + ":8080", Client: true})
		p.do(command{Do: "close", ID: "bare"})
	}
	until(t, 2*time.Second, "the probes go to the pod", func() bool {
		return strings.Count(a.err.String(), `msg=original part=child what="tcp `+podIP+`:8080"`) == 3
	})
	if got := p.ask("tcp", podIP+":8080", true); !strings.HasPrefix(got, "session ") {
		t.Errorf("a user by the node: %q", got)
	}
	p.do(command{Do: "connect", ID: "slow", Network: "tcp", Addr: podIP + ":8080", Client: true})
	time.Sleep(400 * time.Millisecond)
	if r := p.do(command{Do: "ask", ID: "slow", Text: "hi"}); !strings.HasPrefix(r.Text, "session ") {
		t.Errorf("who waits: %q", r.Text)
	}
}

// TestProbesBounded: a steal names no more than a pod can have.
func TestProbesBounded(t *testing.T) {
	p := newPod(t)
	s := startAgent(t, p.pid).join("one", "")
	if _, err := s.open(wire.KindSteal, wire.Steal{Ports: []wire.Port{tcp(1)}, Probes: make([]wire.Probe, wire.MaxProbes+1)}, nil); err == nil {
		t.Error("more probes than a pod can have")
	}
}
