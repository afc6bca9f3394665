package kube

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// TestPace: tries come fast while a start may come about any moment, then ever more seldom, and seldom at once in an overload.
func TestPace(t *testing.T) {
	grows := func(p *pace, err error, max time.Duration) {
		t.Helper()
		last := p.next(err)
		for range 12 {
			if d := p.next(err); d < last || d > max {
				t.Errorf("%v after %v", d, last)
			} else {
				last = d
			}
		}
		if last != max {
			t.Errorf("ends with %v", last)
		}
	}
	grows(newPace(time.Hour), nil, pollEvery)
	grows(newPace(0), nil, pollMax)
	p := newPace(time.Hour)
	grows(p, overload{errors.New("x")}, backoffMax)
	if d := p.next(nil); d != pollEvery || p.next(overload{errors.New("x")}) != overloadMin {
		t.Errorf("after the overload: %v", d)
	}
}

// TestOverload: a server that has too much to do has not said that nothing serves there, and is not asked the other way.
func TestOverload(t *testing.T) {
	for _, code := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		h := refusing(code, "x", "too much")
		s := newServer(t, map[string]http.HandlerFunc{bySocket: h, bySPDY: h, "GET " + execPath: h, "POST " + execPath: h})
		c := open(t, s)
		_, err := c.Forward(within(t, 10*time.Second), "shop", "orders", 7071)
		if !errors.Is(err, errOverload) || errors.Is(err, ErrNotYet) || fail.Hint(err) == "" || s.count(bySPDY) != 0 {
			t.Errorf("%d: %v, SPDY tried %d times", code, err, s.count(bySPDY))
		}
		_, err = c.Exec(within(t, 10*time.Second), "shop", "orders", "app", []string{"x"})
		if !errors.Is(err, errOverload) || errors.Is(err, ErrNotYet) || fail.Hint(err) == "" || s.count("POST "+execPath) != 0 {
			t.Errorf("%d: %v, POST tried %d times", code, err, s.count("POST "+execPath))
		}
	}
}

// TestWatchShort: watches that end at once are not begun again at once.
func TestWatchShort(t *testing.T) {
	pod := readyPod("orders", "5", time.Hour, nil)
	s := newServer(t, map[string]http.HandlerFunc{
		"GET " + shopPods + "/orders": answer(pod),
		"GET " + shopPods: func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("watch") == "" {
				podLists(*pod)(w, r)
			} // a watch ends
		},
	})
	w, err := open(t, s).Resolve(within(t, 10*time.Second), parse(t, "pod/orders"))
	if err != nil {
		t.Fatal(err)
	}
	before := s.count("GET " + shopPods)
	ctx, cancel := context.WithTimeout(t.Context(), 5*backoffMin)
	defer cancel()
	_ = w.Watch(ctx, func([]Pod) {})
	if n := s.count("GET "+shopPods) - before; n < 2 || n > 7 {
		t.Errorf("asked %d times in %v", n, 5*backoffMin)
	}
}
