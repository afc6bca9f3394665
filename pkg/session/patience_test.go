package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

func TestPatience(t *testing.T) {
	refused, forbidden := fail.New(fail.AgentStart, "", "quota"), fail.New(fail.ClusterForbidden, "", "no")
	broken := errors.New("connection refused")
	for _, c := range []struct {
		errs     []error
		from, to time.Duration // of the last wait
	}{
		{[]error{refused}, redialEvery, redialEvery},
		{[]error{refused, refused, refused}, 4 * redialEvery, 4 * redialEvery},
		{repeat(refused, 100), redialRefused / 2, redialRefused},
		{repeat(broken, 100), redialBroken, redialBroken},
		{append(repeat(refused, 100), forbidden), redialEvery, redialEvery}, // something has changed
		{append(repeat(refused, 100), broken, refused), redialEvery, redialEvery},
	} {
		p, got := patience{}, time.Duration(0)
		for _, err := range c.errs {
			got = p.after(fmt.Errorf("starting an agent: %w", err))
		}
		if got < c.from || got > c.to {
			t.Errorf("%d times, at last %v: %v", len(c.errs), c.errs[len(c.errs)-1], got)
		}
	}
}

func repeat(err error, n int) (errs []error) {
	for range n {
		errs = append(errs, err)
	}
	return errs
}

// TestRedialsSeldom: a cluster that refuses an agent is not asked ten times a second for ever, but at once when a pod has
// changed.
func TestRedialsSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var news atomic.Value
		news.Store(make(chan struct{}))
		dials := 0
		l := &link{linkOptions: linkOptions{try: redialTry, notice: func(string) {}, log: slog.New(slog.DiscardHandler),
			news: func() <-chan struct{} { return news.Load().(chan struct{}) },
			dial: func(context.Context, string) (*mux.Conn, wire.Welcome, error) {
				dials++
				return nil, wire.Welcome{}, fail.New(fail.ClusterForbidden, "", "forbidden")
			}}}
		l.ctx, l.cancel = context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := l.redial(false)
			ended <- err
		}()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if dials < 60 || dials > 140 {
			t.Errorf("%d dials in 10 minutes", dials)
		}
		before := dials
		close(news.Swap(make(chan struct{})).(chan struct{}))
		time.Sleep(redialEvery + time.Millisecond)
		synctest.Wait()
		if dials != before+1 {
			t.Errorf("%d dials after the news", dials-before)
		}
		l.cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
