package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const (
	// loadEnv is how long TestLoad asks, as Go writes durations; loadTime is what the row is about.
	loadEnv  = "STEPIN_E2E_LOAD"
	loadTime = 5 * time.Minute
	// loadEvery makes 200 requests a second of two clients, of which one keeps its connections.
	loadEvery = 10 * time.Millisecond
	// loadCut is longer than what the two sides wait for each other.
	loadCut = 8 * time.Second
)

// disturbance is what is done to the service under load. It returns when it was done.
type disturbance struct {
	name string
	do   func(l *load) time.Time
}

// load is a session under load.
type load struct {
	*life
	round int
}

// one is one of the pods, each time another.
func (l *load) one() corev1.Pod {
	l.round++
	pods := l.pods()
	return pods[l.round%len(pods)]
}

var disturbances = []disturbance{
	{"agent kill", func(l *load) time.Time {
		parent, _ := agents(l.one())
		return l.kill(parent)
	}},
	{"container restart", func(l *load) time.Time {
		p := l.one()
		at := l.restart(p)
		Eventually(l.t, backTime, "the container runs again", func() bool {
			now := l.pods()
			i := slices.IndexFunc(now, func(o corev1.Pod) bool { return o.UID == p.UID })
			return i >= 0 && now[i].Status.ContainerStatuses[0].RestartCount > p.Status.ContainerStatuses[0].RestartCount
		})
		return at
	}},
	{"rollout", func(l *load) time.Time {
		l.rollout()
		return time.Now()
	}},
	{"scale to four", func(l *load) time.Time {
		at := time.Now()
		l.scale(4)
		l.all(4)
		return at
	}},
	{"and back", func(l *load) time.Time { return time.Now() }}, // see TestLoad
	{"pod delete", func(l *load) time.Time { return l.delete(l.one().Name) }},
	{"network cut", func(l *load) time.Time {
		at := time.Now()
		l.c.Cut(l.t, loadCut)
		return at
	}},
}

// TestLoad: 200 requests a second to a Service of two replicas while everything happens to them. Each is answered rightly
// by the debuggee or by a pod; what is lost is listed, with the pod that its connection led to, and was under way on what was
// killed or ended.
func TestLoad(t *testing.T) {
	Up(t).NeedsNode(t, "killing and cutting")
	last := loadTime
	if text := os.Getenv(loadEnv); text != "" {
		var err error
		if last, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	l := &load{life: living(t, 2, "deployment/web")}
	l.asks.stop()
	url := l.url()
	pods, node, service := l.count(t), l.c.Node(t), l.c.service(t, l.ns, "web")
	client := l.c.address(t, l.ns, "client")
	trace := func(port int) string {
		address, state := node.leads(client, service, port)
		if address == "" {
			return ", a connection that is " + state
		}
		return fmt.Sprintf(", %s, to %s", state, pods.who(address))
	}
	begun := time.Now()
	keeping := l.from.ask(t, url, loadEvery, 10*time.Second, false)
	fresh := l.from.ask(t, url, loadEvery, 10*time.Second, true)
	keeping.traces(trace)
	fresh.traces(trace)
	var killed, cut []time.Time
	for i := 0; time.Since(begun) < last || i < len(disturbances); i++ {
		d := disturbances[i%len(disturbances)]
		at := d.do(l)
		if d.name == "network cut" {
			cut = append(cut, at)
		} else {
			killed = append(killed, at)
		}
		if d.name == "scale to four" {
			t.Logf("%3.0f s: %s, all in place %.1f s later", at.Sub(begun).Seconds(), d.name, time.Since(at).Seconds())
			continue
		}
		l.scale(2)
		l.all(2)
		t.Logf("%3.0f s: %s, all as before %.1f s later", at.Sub(begun).Seconds(), d.name, time.Since(at).Seconds())
	}
	replies := slices.Concat(keeping.stop(), fresh.stop())
	slices.SortFunc(replies, func(a, b reply) int { return a.asked.Compare(b.asked) })
	took := time.Since(begun)
	t.Logf("%d requests in %.0f s", len(replies), took.Seconds())
	if rate := float64(len(replies)) / took.Seconds(); rate < 180 {
		t.Errorf("only %.0f requests a second", rate)
	}
	for _, r := range replies {
		if r.err == nil && r.who != "web" && r.who != "debuggee" {
			t.Errorf("answered by a stranger: %v", r)
		}
	}
	// A pod that has gone takes with it what was under way there; the developer reads of it a moment later.
	for _, at := range l.read("the pod has gone") {
		killed = append(killed, at.Add(-time.Second))
	}
	l.classify(replies, killed, cut)
	for _, line := range l.lines(0) {
		if strings.HasPrefix(line, "stepin: ") {
			t.Log(line)
		}
	}
}

// classify lists what was lost by what it was lost with.
func (l *load) classify(replies []reply, killed, cut []time.Time) {
	l.t.Helper()
	underWay, ended, rest := l.lost(replies, quickTime, killed...)
	inCut, _, others := l.lost(rest, silentTime, cut...)
	by, slowest := map[string]int{}, time.Duration(0)
	for _, r := range replies {
		if r.err == nil {
			by[r.who]++
			slowest = max(slowest, r.answered.Sub(r.asked))
		}
	}
	l.t.Logf("answered %v, the slowest after %v", by, slowest.Round(time.Millisecond))
	for _, kind := range []struct {
		what string
		lost []reply
	}{{"under way on what was killed", underWay}, {"under way when the network was cut", inCut}, {"on connections that ended because a steal began", ended}} {
		l.t.Logf("lost %s: %d", kind.what, len(kind.lost))
		for _, r := range kind.lost {
			l.t.Log(r)
		}
	}
	for _, r := range others {
		l.t.Errorf("lost: %v", r)
	}
}
