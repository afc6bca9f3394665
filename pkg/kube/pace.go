package kube

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"
)

// errOverload: the API server, or what is before it, has too much to do. It is no sign of whether anything serves there.
var errOverload = errors.New("the cluster is overloaded")

// overload is errOverload with the explanation for people.
type overload struct{ error }

// Is is for errors.Is.
func (e overload) Is(target error) bool { return target == errOverload }

// Unwrap gives the explanation.
func (e overload) Unwrap() error { return e.error }

// overloaded says that a status is one of overload (API priority and fairness; RFC 6585 section 4, RFC 9110 section 15.6.4).
func overloaded(code int32) bool {
	return code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable
}

// overloadMin is the first pause after an overload; it doubles up to backoffMax.
const overloadMin = 250 * time.Millisecond

// pace is the pause between tries. It belongs to one goroutine.
type pace struct {
	soon  time.Time // until then it does not grow
	pause time.Duration
	after time.Duration // an overload
}

// newPace begins with pollEvery, which grows after a while.
func newPace(soon time.Duration) *pace {
	return &pace{soon: time.Now().Add(soon), pause: pollEvery, after: overloadMin}
}

// next is how long to wait after a try that ended so.
func (p *pace) next(err error) (d time.Duration) {
	if errors.Is(err, errOverload) {
		d, p.after = p.after, min(2*p.after, backoffMax)
		return d
	}
	d, p.after = p.pause, overloadMin
	if time.Now().After(p.soon) {
		p.pause = min(2*p.pause, pollMax)
	}
	return d
}

// patient is Forward to an agent that is known, through an overload.
func (c *Cluster) patient(ctx context.Context, t ticket) (net.Conn, error) {
	p := newPace(0)
	for {
		conn, err := c.Forward(ctx, t.Namespace, t.Pod, t.Port)
		if !errors.Is(err, errOverload) {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(p.next(err)):
		}
	}
}
