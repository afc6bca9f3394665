package main

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// The bound of issue and design: 1,000 flows whose reader stands still, each direction.
const (
	stalledFlows = 1000
	stalledLimit = 64 << 20
)

// TestBudget: however many flows stand still, the child's memory stays within its budget, and another flow is
// unharmed.
func TestBudget(t *testing.T) {
	for _, c := range []struct {
		name  string
		setup func(t *testing.T, p *testPod, s *testSession)
	}{
		{"the pod does not read what the session sends", func(t *testing.T, p *testPod, s *testSession) {
			p.do(command{Do: "serve", Network: "tcp", Addr: "127.0.0.1:9001"})
			for range stalledFlows {
				go dialStalled(s, "127.0.0.1:9001", true)
			}
		}},
		{"the session does not read what the pod sends", func(t *testing.T, p *testPod, s *testSession) {
			p.do(command{Do: "serve", Network: "tcp", Addr: "127.0.0.1:9002", Text: "flood", Size: 1})
			for range stalledFlows {
				go dialStalled(s, "127.0.0.1:9002", false)
			}
		}},
		{"the debuggee does not read what clients send", func(t *testing.T, p *testPod, s *testSession) {
			s.setIncoming(func(r *mux.Request, in wire.Incoming) {
				if strings.HasPrefix(in.Client.String(), clientIP) {
					_, _ = r.Accept(nil) // and never reads
					return
				}
				stream, err := r.Accept(nil)
				if err == nil {
					echo(stream, "session")
				}
			})
			p.do(command{Do: "stall", Network: "tcp", Addr: podIP + ":8080", Client: true, N: stalledFlows, Size: 1 << 20})
		}},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			p := servePod(t)
			a := startAgent(t, p.pid)
			s := a.join("one", "")
			s.mustSteal(tcp(8080))
			child := a.childPid()
			rest := anonymous(t, child)
			c.setup(t, p, s)
			until(t, 30*time.Second, "all flows are there", func() bool { return connections(t, p.pid) >= stalledFlows })
			most := steady(t, child)
			t.Logf("RssAnon at rest %d KiB, with %d stalled flows %d KiB more", rest>>10, stalledFlows, (most-rest)>>10)
			if most-rest > stalledLimit {
				t.Errorf("%d MiB above rest", (most-rest)>>20)
			}
			if got := p.ask("tcp", "127.0.0.1:8080", false); !strings.HasPrefix(got, "session") {
				t.Errorf("another flow: %q", got)
			}
		})
	}
}

// dialStalled opens a flow and writes without end, or reads nothing.
func dialStalled(s *testSession, addr string, write bool) {
	stream, err := s.open(wire.KindDial, wire.Dial{Network: "tcp", Addr: netip.MustParseAddrPort(addr)}, nil)
	if err != nil {
		return
	}
	b := make([]byte, 64<<10)
	for write {
		if _, err := stream.Write(b); err != nil {
			return
		}
	}
}

// steady watches a process's memory until it no longer grows, and returns the most it was.
func steady(t *testing.T, pid int) (most int) {
	t.Helper()
	still := 0
	for end := time.Now().Add(60 * time.Second); still < 15 && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		now := anonymous(t, pid)
		if now > most+most/50 {
			still = 0
		} else {
			still++
		}
		most = max(most, now)
	}
	return most
}
