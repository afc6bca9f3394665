package whole

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stepin-dev/stepin/pkg/podlet"
)

// TestMode switches what becomes of the pod's requests while they flow and while the debuggee stands.
func TestMode(t *testing.T) {
	p := servicePod(t, podlet.Spec{})
	at := netip.AddrPortFrom(p.Addr(false), 8080)
	url := "http://" + at.String() + "/"
	file := filepath.Join(source(t, "service"), "main.go")
	a := dap(t)
	early, err := a.Do(limit(t), "stepin.state", nil)
	if err != nil || early.Success || !strings.Contains(early.Err().Error(), "there is no session") {
		t.Errorf("before launch: %v, %v", early, err)
	}
	a.launch(mirroring(t, p, nil), file)
	if err := a.WaitOutput(limit(t), "console", "tcp port 8080 of the pod now sends copies"); err != nil {
		t.Fatal(err)
	}
	var state struct {
		Target, Mode, Who, Session, Since string
		Pods                              []struct {
			Name            string
			Home, Connected bool
		}
		Ports []struct {
			Port, Pod int
			Network   string
		}
	}
	a.must("stepin.state", nil, &state)
	if state.Mode != "mirror" || state.Target != fmt.Sprintf("local/%d", p.MainPID()) || !strings.Contains(state.Who, "@") || len(state.Session) != 32 || state.Since == "" ||
		len(state.Pods) != 1 || !state.Pods[0].Home || !state.Pods[0].Connected || len(state.Ports) != 1 || state.Ports[0].Port != 8080 || state.Ports[0].Pod != 8080 || state.Ports[0].Network != "tcp" {
		t.Errorf("%+v", state)
	}
	set := func(mode string) {
		t.Helper()
		a.must("stepin.setMode", map[string]any{"mode": mode}, &state)
		if state.Mode != mode {
			t.Errorf("%+v, want %s", state, mode)
		}
	}
	answers := func(who string) {
		t.Helper()
		c := p.Outside.HTTP(netip.Addr{})
		defer c.CloseIdleConnections()
		if r, err := get(limit(t), c, url); err != nil || r.Who != who {
			t.Errorf("%+v, %v, want %s", r, err, who)
		}
	}

	// Requests flow, on connections that their clients keep and renew when they have ended: each has one answer, but for those on
	// a connection that began at the moment when a steal did (incoming.existing).
	ctx, stop := context.WithCancel(limit(t))
	defer stop()
	var flowing sync.WaitGroup
	var by sync.Map // who: *atomic.Int64
	count := func(who string) *atomic.Int64 {
		n, _ := by.LoadOrStore(who, &atomic.Int64{})
		return n.(*atomic.Int64)
	}
	const clients, steals = 4, 2
	var cut atomic.Int64
	for range clients {
		flowing.Go(func() {
			c := p.Outside.HTTP(netip.Addr{})
			defer c.CloseIdleConnections()
			for ctx.Err() == nil {
				r, err := get(ctx, c, url)
				if ctx.Err() != nil {
					return
				}
				if errors.Is(err, syscall.ECONNRESET) && cut.Add(1) <= clients*steals {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				count(r.Who).Add(1)
			}
		})
	}
	more := func(who string) {
		t.Helper()
		before := count(who).Load()
		eventually(t, patience, who+" answers", func() bool { return count(who).Load() > before+20 || t.Failed() })
	}
	more("pod")
	for _, mode := range []string{"steal", "mirror", "steal", "off", "mirror"} {
		set(mode)
		who := map[bool]string{true: "debuggee", false: "pod"}[mode == "steal"]
		answers(who)
		more(who)
	}
	stop()
	flowing.Wait()
	t.Logf("%d requests were the pod's, %d the debuggee's, %d connections were cut", count("pod").Load(), count("debuggee").Load(), cut.Load())
}

// TestModeStanding switches while the debuggee is at a breakpoint: who waits for it has its answer, and nobody else waits.
func TestModeStanding(t *testing.T) {
	p := servicePod(t, podlet.Spec{})
	at := netip.AddrPortFrom(p.Addr(false), 8080)
	url := "http://" + at.String() + "/"
	file := filepath.Join(source(t, "service"), "main.go")
	a := dap(t)
	a.launch(mirroring(t, p, map[string]any{"incoming": map[string]any{"mode": "steal"}}), file, lineOf(t, file, "the breakpoint of the tests"))
	if err := a.WaitOutput(limit(t), "console", "tcp port 8080 of the pod now sends its new connections"); err != nil {
		t.Fatal(err)
	}
	asks := func() <-chan reply {
		got := make(chan reply, 1)
		go func() {
			c := p.Outside.HTTP(netip.Addr{})
			defer c.CloseIdleConnections()
			r, err := get(limit(t), c, url)
			if err != nil {
				t.Error(err)
			}
			got <- r
		}()
		return got
	}
	first := asks()
	thread, _, _ := a.stopped()
	a.must("stepin.setMode", map[string]any{"mode": "mirror"}, nil)
	if r := <-asks(); r.Who != "pod" {
		t.Errorf("while it stands: %+v", r)
	}
	select {
	case r := <-first:
		t.Errorf("answered while the debuggee stands: %+v", r)
	default:
	}
	a.goOn(thread)
	thread, _, _ = a.stopped() // for the copy of the second, perhaps before the first's answer has been written
	a.must("stepin.setMode", map[string]any{"mode": "steal"}, nil)
	third := asks()
	a.goOn(thread)
	thread, _, _ = a.stopped()
	a.goOn(thread)
	if r := <-first; r.Who != "debuggee" {
		t.Errorf("the answer in progress: %+v", r)
	}
	if r := <-third; r.Who != "debuggee" {
		t.Errorf("stolen again: %+v", r)
	}
	a.disconnect()
}

// TestModeConflict: what is somebody else's stays so, and the mode with it.
func TestModeConflict(t *testing.T) {
	p := servicePod(t, podlet.Spec{})
	url := "http://" + netip.AddrPortFrom(p.Addr(false), 8080).String() + "/"
	file := filepath.Join(source(t, "service"), "main.go")
	owner, other := dap(t), dap(t)
	owner.launch(mirroring(t, p, map[string]any{"incoming": map[string]any{"mode": "steal"}}), file)
	if err := owner.WaitOutput(limit(t), "console", "now sends its new connections"); err != nil {
		t.Fatal(err)
	}
	other.launch(mirroring(t, p, nil), file)
	if err := other.WaitOutput(limit(t), "console", "now sends copies"); err != nil {
		t.Fatal(err)
	}
	m, err := other.Do(limit(t), "stepin.setMode", map[string]any{"mode": "steal"})
	if err != nil || m.Success || !strings.Contains(m.Err().Error(), "port 8080 is held by ") || !strings.Contains(m.Err().Error(), "hint: ") {
		t.Errorf("%v, %v", m, err)
	}
	var state struct{ Mode, Session string }
	other.must("stepin.state", nil, &state)
	if state.Mode != "mirror" {
		t.Errorf("%+v", state)
	}
	c := p.Outside.HTTP(netip.Addr{})
	defer c.CloseIdleConnections()
	if r, err := get(limit(t), c, url); err != nil || r.Who != "debuggee" {
		t.Errorf("%+v, %v", r, err)
	}
	var list struct {
		Sessions []struct {
			ID, Pod, Who, Mode string
			Ports              []struct{ Port int }
			Mine, Own          bool
		}
	}
	other.must("stepin.sessions", nil, &list)
	owners := ""
	for _, u := range list.Sessions {
		if mode := map[bool]string{true: "mirror", false: "steal"}[u.Own]; !u.Mine || u.Mode != mode || len(u.Ports) != 1 || u.Ports[0].Port != 8080 || u.Who == "" || u.Pod == "" {
			t.Errorf("%+v", u)
		}
		if !u.Own {
			owners = u.ID
		}
	}
	if len(list.Sessions) != 2 || owners == "" {
		t.Fatalf("%+v", list)
	}
	owner.must("stepin.setMode", map[string]any{"mode": "off"}, nil)
	other.must("stepin.setMode", map[string]any{"mode": "steal"}, &state)
	if state.Mode != "steal" {
		t.Errorf("%+v", state)
	}
	other.must("stepin.stopSession", map[string]any{"id": owners}, nil)
	owner.until("terminated")
	if err := owner.WaitOutput(limit(t), "stderr", "this session was stopped by its owner"); err != nil {
		t.Error(err)
	}
	owner.disconnect()
	other.must("stepin.stopSession", map[string]any{"id": state.Session}, nil)
	other.until("terminated")
	other.disconnect()
}
