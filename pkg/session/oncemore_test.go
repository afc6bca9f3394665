package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"testing"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/kube"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// TestStartsOnceMore: an agent that ends in the very second in which it is joined is replaced; one that ends again and again
// is not, and too many in one pod are the end of trying that pod.
func TestStartsOnceMore(t *testing.T) {
	leaving := leftAgent{&fakeAgent{}}
	for name, test := range map[string]struct {
		agents []podAgent // those that are found, one after the other
		err    error
	}{
		"once":     {[]podAgent{leaving, &fakeAgent{pod: "a"}}, nil},
		"twice":    {[]podAgent{leaving, leaving}, errLeft},
		"too many": {[]podAgent{leaving, nil}, errGone},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Session{config: &config.Launch{Target: "deployment/web"}, log: slog.New(slog.DiscardHandler)}
			begun := 0
			c := makeCluster(s, wire.Hello{Session: "session"}, &fakePods{pods: podsOf("a")}, func(context.Context, kube.Pod) (podAgent, error) {
				begun++
				if a := test.agents[begun-1]; a != nil {
					return a, nil
				}
				return nil, fmt.Errorf("%w", kube.ErrTooMany)
			})
			conn, _, err := c.first.dial(t.Context(), podsOf("a")[0], "")
			if !errors.Is(err, test.err) || (err == nil) != (test.err == nil) || begun != len(test.agents) {
				t.Errorf("%v, after %d agents", err, begun)
			}
			if conn != nil {
				_ = conn.Close("")
			}
		})
	}
}

// errLeft is what kube says of an agent that was there a moment ago.
var errLeft = fmt.Errorf("%w", kube.ErrOnceMore)

type leftAgent struct{ *fakeAgent }

func (leftAgent) Dial(context.Context) (net.Conn, error) { return nil, errLeft }
