package lease

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/pkg/wire"
)

var t0 = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func port(n uint16) wire.Port { return wire.Port{Network: "tcp", Port: n} }

func hello(t *testing.T, table *Table, id, resume string, at time.Duration) Info {
	t.Helper()
	i, err := table.Hello(id, resume, id+"@host", tokenOf(id), t0.Add(at))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// tokenOf is the hash of a session's token: those whose ids begin alike share one.
func tokenOf(id string) (hash [32]byte) {
	copy(hash[:], id[:min(1, len(id))])
	return hash
}

func steal(t *testing.T, table *Table, id string, i Info, stream uint32, at time.Duration, ports ...wire.Port) {
	t.Helper()
	if err := table.Steal(id, i.Generation, stream, ports, t0.Add(at)); err != nil {
		t.Fatal(err)
	}
}

func numbers(ports []wire.Port) string {
	var all []string
	for _, p := range ports {
		all = append(all, fmt.Sprint(p.Port))
	}
	return strings.Join(all, " ")
}

func TestConflict(t *testing.T) {
	table := New()
	a, b := hello(t, table, "a", "", 0), hello(t, table, "b", "", 0)
	steal(t, table, "a", a, 1, time.Second, port(80), wire.Port{Network: "udp", Port: 53})
	err := table.Steal("b", b.Generation, 1, []wire.Port{port(81), port(80)}, t0)
	if !errors.Is(err, syscall.EADDRINUSE) || err.Error() != "port 80 is held by a@host since 12:00:01 UTC" {
		t.Error(err)
	}
	steal(t, table, "b", b, 3, 0, port(81), port(53)) // all or nothing, and TCP is not UDP
	if err := table.Steal("a", a.Generation, 2, []wire.Port{port(80)}, t0); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("twice by one session: %v", err)
	}
	if got := numbers(table.Unsteal("a", a.Generation, 9)); got != "" {
		t.Errorf("a stream that stole nothing: %q", got)
	}
	table.Unsteal("a", a.Generation, 1)
	steal(t, table, "b", b, 5, 0, port(80))
}

func TestRefused(t *testing.T) {
	table := New()
	a := hello(t, table, "a", "", 0)
	for _, ports := range [][]wire.Port{nil, {port(0)}, {{Network: "sctp", Port: 1}}, {port(1), port(1)}, make([]wire.Port, MaxPorts+1)} {
		if err := table.Steal("a", a.Generation, 1, ports, t0); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%v: %v", ports, err)
		}
	}
	if err := table.Steal("a", a.Generation+1, 1, []wire.Port{port(1)}, t0); !errors.Is(err, syscall.ESTALE) {
		t.Error(err)
	}
	for _, id := range []string{"", strings.Repeat("x", maxText+1)} {
		if _, err := table.Hello(id, "", "", tokenOf(id), t0); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%q: %v", id, err)
		}
	}
	for i := range MaxSessions - 1 {
		hello(t, table, fmt.Sprint(i), "", 0)
	}
	if _, err := table.Hello("more", "", "", tokenOf("more"), t0); !errors.Is(err, syscall.EUSERS) {
		t.Error(err)
	}
	other := New()
	if _, err := other.Hello("x", "", "evil\x1b[31m\n\xff", tokenOf("x"), t0); err != nil || other.sessions["x"].who != "evil[31m" {
		t.Errorf("%q", other.sessions["x"].who)
	}
}

func TestGrace(t *testing.T) {
	table := New()
	a, b := hello(t, table, "a", "", 0), hello(t, table, "b", "", 0)
	steal(t, table, "a", a, 1, 0, port(80))
	if got := numbers(table.Gone("a", a.Generation, t0)); got != "80" {
		t.Errorf("detach %q", got)
	}
	err := table.Steal("b", b.Generation, 1, []wire.Port{port(80)}, t0.Add(Grace-1))
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "(reserved while it reconnects)") {
		t.Error(err)
	}
	if next, ok := table.Next(); !ok || !next.Equal(t0.Add(Grace)) {
		t.Errorf("next %v %v", next, ok)
	}
	if _, err := table.Hello("a", "guess", "x", tokenOf("x"), t0); !errors.Is(err, syscall.EBUSY) {
		t.Error(err)
	}
	if got := table.Expire(t0.Add(Grace)); len(got) != 0 {
		t.Errorf("detached twice: %v", got)
	}
	steal(t, table, "b", b, 1, Grace, port(80))
	if i := hello(t, table, "a", a.Resume, Grace); i.Resumed || i.Resume == a.Resume {
		t.Errorf("resumed what is over: %+v", i)
	}
}

func TestResume(t *testing.T) {
	table := New()
	a := hello(t, table, "a", "", 0)
	steal(t, table, "a", a, 1, 0, port(80), port(81))
	table.Gone("a", a.Generation, t0)
	again := hello(t, table, "a", a.Resume, time.Second)
	if !again.Resumed || again.Resume != a.Resume || !again.Since.Equal(t0) || again.Generation == a.Generation {
		t.Errorf("%+v", again)
	}
	if got := table.Gone("a", a.Generation, t0); got != nil {
		t.Errorf("the old channel's end took %v", got)
	}
	steal(t, table, "a", again, 1, time.Second, port(80))
	if got := numbers(table.Expire(t0.Add(time.Second + Grace))); got != "" { // 81 was not taken again: its reservation is over
		t.Errorf("detach %q", got)
	}
	b := hello(t, table, "b", "", 20*time.Second)
	steal(t, table, "b", b, 1, 20*time.Second, port(81))
	if got := numbers(table.Bye("a", again.Generation)); got != "80" {
		t.Errorf("detach %q", got)
	}
	table.Bye("b", b.Generation)
	if !table.Idle() {
		t.Error("not idle")
	}
}

// TestTakenOver: a channel that lives is taken over; its UDP ports have no receiver from then on.
func TestTakenOver(t *testing.T) {
	table := New()
	a := hello(t, table, "a", "", 0)
	steal(t, table, "a", a, 1, 0, port(80), wire.Port{Network: "udp", Port: 53})
	again := hello(t, table, "a", a.Resume, time.Second)
	if got := numbers(again.Detach); got != "53" {
		t.Errorf("detach %q", got)
	}
	if third := hello(t, table, "a", a.Resume, time.Second); len(third.Detach) != 0 {
		t.Errorf("detached twice: %v", third.Detach)
	} else {
		steal(t, table, "a", third, 1, time.Second, wire.Port{Network: "udp", Port: 53})
	}
	if got := numbers(table.Expire(t0.Add(time.Second + Grace))); got != "80" {
		t.Errorf("detach %q", got)
	}
}

// TestPause: while a child is replaced the ports stay attached, and go when their session does not come back, or does
// not want them any more.
func TestPause(t *testing.T) {
	table := New()
	a, b := hello(t, table, "a", "", 0), hello(t, table, "b", "", 0)
	steal(t, table, "a", a, 1, 0, port(80), port(81))
	steal(t, table, "b", b, 1, 0, port(90))
	table.Pause(t0)
	again := hello(t, table, "a", a.Resume, time.Second)
	steal(t, table, "a", again, 1, time.Second, port(80))
	if got := numbers(table.Expire(t0.Add(Grace))); got != "90" {
		t.Errorf("detach %q, want b's", got)
	}
	if got := numbers(table.Expire(t0.Add(Grace + time.Second))); got != "81" {
		t.Errorf("detach %q, want what a did not take again", got)
	}
	if got := numbers(table.Gone("a", again.Generation, t0)); got != "80" {
		t.Errorf("detach %q", got)
	}
}

// TestFull: the table has an end, and a session that comes back with ports of its own does not meet it.
func TestFull(t *testing.T) {
	table := New()
	a := hello(t, table, "a", "", 0)
	ports := func(from uint16, n int) (ps []wire.Port) {
		for i := range n {
			ps = append(ps, port(from+uint16(i)))
		}
		return ps
	}
	for i := range maxHeld / MaxPorts {
		steal(t, table, "a", a, uint32(i), 0, ports(uint16(1+i*MaxPorts), MaxPorts)...)
	}
	if err := table.Steal("a", a.Generation, 99, ports(9000, 1), t0); !errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EINVAL) {
		t.Errorf("one more: %v", err)
	}
	a = hello(t, table, "a", a.Resume, time.Second)
	steal(t, table, "a", a, 1, time.Second, ports(1, MaxPorts)...)
	if err := table.Steal("a", a.Generation, 99, append(ports(65, 1), port(9000)), t0); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("one more among its own: %v", err)
	}
}

// TestSessions: everybody sees all, and stops only those of the own token.
func TestSessions(t *testing.T) {
	table := New()
	a1, a2, b := hello(t, table, "a1", "", 0), hello(t, table, "a2", "", time.Second), hello(t, table, "b", "", 2*time.Second)
	steal(t, table, "a1", a1, 1, 0, port(81), port(80), wire.Port{Network: "udp", Port: 80})
	steal(t, table, "b", b, 1, 0, port(90))
	table.Gone("a1", a1.Generation, t0)
	all := table.Sessions("a2", a2.Generation)
	if len(all) != 3 || all[0].ID != "a1" || !all[0].Mine || !all[0].Lost || fmt.Sprint(all[0].Ports) != "[{tcp 80 false} {udp 80 false} {tcp 81 false}]" ||
		!all[1].Mine || all[1].Lost || all[1].Mode != "" || all[2].Mine || all[2].Who != "b@host" || all[2].Mode != "steal" {
		t.Errorf("%+v", all)
	}
	if _, err := table.Stop("a2", a2.Generation, "b"); !errors.Is(err, syscall.EPERM) || !strings.Contains(err.Error(), "is b@host's, since 12:00:02 UTC; only they") {
		t.Error(err)
	}
	if _, err := table.Stop("a2", a2.Generation, "nobody"); !errors.Is(err, syscall.ENOENT) {
		t.Error(err)
	}
	if _, err := table.Stop("a2", a1.Generation, "b"); !errors.Is(err, syscall.ESTALE) {
		t.Error(err)
	}
	if detach, err := table.Stop("b", b.Generation, "b"); numbers(detach) != "90" || err != nil {
		t.Error(detach, err)
	}
	if _, err := table.Stop("a2", a2.Generation, "a1"); err != nil || table.Uses(tokenOf("b")) || !table.Uses(tokenOf("a")) {
		t.Error(err)
	}
	steal(t, table, "a2", a2, 1, 3*time.Second, port(80)) // no reservation is left
	if _, err := table.Hello("a1", a1.Resume, "a1@host", tokenOf("a"), t0.Add(time.Hour)); !errors.Is(err, syscall.ECANCELED) {
		t.Errorf("a session that was stopped while its channel was lost comes back: %v", err)
	}
}
