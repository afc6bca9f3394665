package session

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stepin-dev/stepin/pkg/kube"
)

// gate counts the agents that are being started, and lets them on one by one.
type gate struct {
	mu           sync.Mutex
	now, highest int
	started      map[string]bool
	open         chan struct{}
}

func (g *gate) pass(ctx context.Context, pod string) {
	g.mu.Lock()
	g.now++
	g.highest = max(g.highest, g.now)
	g.started[pod] = true
	g.mu.Unlock()
	select {
	case <-g.open:
	case <-ctx.Done():
	}
	g.mu.Lock()
	g.now--
	g.mu.Unlock()
}

func (g *gate) counts() (now, highest, all int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now, g.highest, len(g.started)
}

// TestLimits: of a target with more pods than a session takes the first ones are joined, a few at a time, and the rest is
// named in one line; when pods go, others take their places.
func TestLimits(t *testing.T) {
	r := startAround(t, &fakePods{}, "home")
	g := &gate{started: map[string]bool{}, open: make(chan struct{})}
	agents := r.c.begin
	r.c.begin = func(ctx context.Context, pod kube.Pod) (podAgent, error) {
		g.pass(ctx, pod.Name)
		return agents(ctx, pod)
	}
	names := []string{"home"}
	for i := range maxMembers + 10 {
		names = append(names, fmt.Sprint("pod", i))
	}
	r.pods.set(t, names...)
	eventually(t, "as many start as may", func() bool { now, _, _ := g.counts(); return now == maxStarts })
	for range maxMembers {
		g.open <- struct{}{}
	}
	eventually(t, "all that may are joined", func() bool { return r.count() == 1+maxMembers })
	if now, highest, all := g.counts(); now != 0 || highest != maxStarts || all != maxMembers {
		t.Errorf("%d start, %d did at once, %d in all", now, highest, all)
	}
	const line = "deployment/web has more than 65 pods: the others keep their requests"
	r.pods.set(t, append(names, "one more")...)
	if n := strings.Count(r.said(), line); n != 1 {
		t.Errorf("said %d times: %s", n, r.said())
	}
	close(g.open)
	r.pods.set(t, append([]string{"home"}, names[11:]...)...)
	for i := range 10 {
		eventually(t, "a pod that goes is told", r.agent(fmt.Sprint("pod", i)).told)
		r.agent(fmt.Sprint("pod", i)).bye()
	}
	eventually(t, "others take the places of those that went", func() bool { _, _, all := g.counts(); return all == maxMembers+10 })
}
