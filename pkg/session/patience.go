package session

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// Waits between two tries to reconnect. They double from redialEvery on.
const (
	redialEvery = 100 * time.Millisecond
	// redialBroken is the longest while nothing answers: a network that is back should be seen at once, and a try costs
	// nobody but us.
	redialBroken = 500 * time.Millisecond
	// redialRefused is the longest while the cluster answers and refuses: a try costs it some ten requests, and what it
	// says seldom changes by itself. The wait is between half of it and all, so that a team's sessions do not come at once.
	redialRefused = 10 * time.Second
)

// patience is how long to wait after tries that failed.
type patience struct {
	why  fail.Code
	wait time.Duration // the last one; 0 is none yet
}

// after is the wait after a try that failed for err. What fails in another way than the last is tried again soon.
func (p *patience) after(err error) time.Duration {
	most := redialRefused
	why := fail.CodeOf(err)
	switch why {
	case fail.Internal, fail.ClusterUnreachable, fail.ClusterFailed, fail.AgentLost:
		most = redialBroken
	}
	if p.wait == 0 || p.why != why {
		p.why, p.wait = why, redialEvery
		return p.wait
	}
	p.wait = min(2*p.wait, most)
	if p.wait < most || most == redialBroken {
		return p.wait
	}
	return p.wait/2 + rand.N(p.wait/2)
}

// pause waits after a try that failed, less long where news are: those may be what it waits for. False is ctx's end.
func (p *patience) pause(ctx context.Context, err error, news <-chan struct{}) bool {
	select {
	case <-time.After(p.after(err)):
		return true
	case <-news:
		p.wait = 0
	case <-ctx.Done():
		return false
	}
	select {
	case <-time.After(redialEvery): // there may be many
		return true
	case <-ctx.Done():
		return false
	}
}
