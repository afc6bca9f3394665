package child

import (
	"context"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/agent/pair"
	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// plugged is a connection that takes nothing while it is plugged.
type plugged struct {
	net.Conn
	plug   atomic.Pointer[chan struct{}]
	waited chan struct{}
}

func (p *plugged) Write(b []byte) (int, error) {
	if plug := p.plug.Load(); plug != nil {
		select {
		case p.waited <- struct{}{}:
		default:
		}
		<-*plug
	}
	return p.Conn.Write(b)
}

// joined has the child serve a session, whose notices go to the channel returned. Neither side's heartbeat ends it.
func joined(t *testing.T, c *Child, id string) (own *session, conn *plugged, notices chan string, theirs *mux.Conn) {
	t.Helper()
	near, far := net.Pipe()
	conn = &plugged{Conn: far, waited: make(chan struct{}, 1)}
	own = &session{Channel: pair.Channel{Session: id}}
	notices = make(chan string, 1)
	served := make(chan error, 1)
	go func() {
		var err error
		own.conn, err = mux.Serve(context.Background(), conn, func(wire.Hello) (wire.Welcome, error) { return wire.Welcome{}, nil }, mux.Config{Heartbeat: time.Hour})
		served <- err
	}()
	theirs, _, err := mux.Dial(t.Context(), near, wire.Hello{Session: id}, mux.Config{Heartbeat: time.Hour, OnMessage: func(k wire.Kind, body []byte) {
		var n wire.Notice
		if k == wire.KindNotice && wire.Decode(body, &n) == nil {
			notices <- n.Text
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	return own, conn, notices, theirs
}

// TestStalledSession: a session whose channel takes nothing holds nobody up, neither those that are told something nor
// those that come and go, nor itself when it comes back by another channel.
func TestStalledSession(t *testing.T) {
	c := &Child{log: slog.New(slog.NewTextHandler(io.Discard, nil)), sessions: map[string]*session{}}
	stalled, conn, _, _ := joined(t, c, "stalled")
	well, _, notices, theirs := joined(t, c, "well")
	c.adoptSession(stalled)
	c.adoptSession(well)
	plug := make(chan struct{})
	conn.plug.Store(&plug)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 3 {
			c.notice("the container has ended")
			if got := <-notices; got != "the container has ended" {
				t.Error(got)
			}
		}
		<-conn.waited // so it does hang
		again, _, _, _ := joined(t, c, "stalled")
		c.adoptSession(again)
		c.retire(pair.Retire{Reason: "the agent was ended"})
		<-theirs.Done()
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("the stalled session holds the others up")
	}
	close(plug)
	stalled.conn.Close("")
}
