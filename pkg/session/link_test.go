package session

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// wireAgent is the other side of a link on the wire: it accepts every stream and can be cut off.
type wireAgent struct {
	mu     sync.Mutex
	conn   *mux.Conn
	raw    net.Conn
	dials  atomic.Int32
	resume []string
	gone   error
	states chan wire.State // nil: not listened for
	mux    mux.Config
	near   func(net.Conn) net.Conn // nil: as it is
}

func (a *wireAgent) dial(ctx context.Context, resume string) (*mux.Conn, wire.Welcome, error) {
	a.dials.Add(1)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gone != nil {
		return nil, wire.Welcome{}, a.gone
	}
	near, far := net.Pipe()
	go func() {
		c, err := mux.Serve(context.Background(), far, func(h wire.Hello) (wire.Welcome, error) {
			return wire.Welcome{Resume: "again"}, nil
		}, mux.Config{OnMessage: func(kind wire.Kind, body []byte) {
			var state wire.State
			if a.states != nil && kind == wire.KindState && wire.Decode(body, &state) == nil {
				a.states <- state
			}
		}})
		if err != nil {
			return
		}
		a.mu.Lock()
		a.conn, a.raw = c, far
		a.mu.Unlock()
		for {
			r, err := c.Accept()
			if err != nil {
				return
			}
			r.Accept(nil)
		}
	}()
	a.resume = append(a.resume, resume)
	if a.near != nil {
		near = a.near(near)
	}
	return mux.Dial(ctx, near, wire.Hello{}, a.mux)
}

func (a *wireAgent) cut() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.raw.Close()
}

func startLink(t *testing.T, a *wireAgent) (*link, chan string) {
	t.Helper()
	said := make(chan string, 100)
	l, err := newLink(t.Context(), linkOptions{dial: a.dial, try: redialTry, final: func(mux.ByeError) bool { return true },
		serve: func(_ *link, r *mux.Request) { r.Refuse(syscall.EOPNOTSUPP) }, notice: func(line string) { said <- line }, news: func() <-chan struct{} { return nil }, log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return l, said
}

// until polls for what other goroutines bring about.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("never: " + what)
}

func TestLinkComesBack(t *testing.T) {
	a := &wireAgent{}
	l, _ := startLink(t, a)
	defer l.close()
	until(t, "served", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return a.conn != nil })
	held := make(chan bool, 10)
	go l.keep(t.Context(), time.Hour, func(c *mux.Conn) error {
		s, err := c.Open(t.Context(), wire.KindSteal, wire.Steal{}, nil)
		if err != nil {
			return err
		}
		defer s.Close()
		held <- true
		return s.Readable()
	}, func(error) {})
	<-held
	a.cut()
	<-held // the steal is held again on the new channel
	if a.dials.Load() != 2 || a.resume[1] != "again" {
		t.Errorf("%d dials, resumed with %q", a.dials.Load(), a.resume)
	}
}

// deaf is a connection over which nothing comes any more once it is told, as in a network that was cut.
type deaf struct {
	net.Conn
	cut <-chan struct{}
}

func (d deaf) Read(b []byte) (int, error) {
	n, err := d.Conn.Read(b)
	select {
	case <-d.cut:
		select {} // the peer's beats vanish; the test's end is the end of this
	default:
		return n, err
	}
}

// TestLinkCountsFromTheLoss: what the agent was away for is counted from its last sign of life, not from when that was
// taken for a loss.
func TestLinkCountsFromTheLoss(t *testing.T) {
	const beat = 200 * time.Millisecond
	cut := make(chan struct{})
	a := &wireAgent{mux: mux.Config{Heartbeat: beat}}
	a.near = func(c net.Conn) net.Conn {
		if a.dials.Load() > 1 {
			return c
		}
		return deaf{c, cut}
	}
	l, said := startLink(t, a)
	defer l.close()
	close(cut)
	line := <-said
	took, err := time.ParseDuration(strings.TrimPrefix(line, "the agent is back after "))
	if err != nil || took < (mux.Misses-1)*beat {
		t.Errorf("%q, %v", line, err)
	}
}

// TestLinkRepeatsState: an agent that comes back learns that the debuggee stands at a breakpoint.
func TestLinkRepeatsState(t *testing.T) {
	a := &wireAgent{states: make(chan wire.State, 10)}
	l, _ := startLink(t, a)
	defer l.close()
	until(t, "served", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return a.conn != nil })
	l.tell(wire.State{Paused: true})
	if state := <-a.states; !state.Paused {
		t.Error("not told")
	}
	a.cut()
	select {
	case state := <-a.states:
		if !state.Paused {
			t.Error("told the wrong state")
		}
	case <-time.After(5 * time.Second):
		t.Error("not repeated")
	}
}

// TestPauseIsToldToAll: to those agents, too, that come later; and not by one that is no part of the session any more.
func TestPauseIsToldToAll(t *testing.T) {
	s := &Session{ctx: t.Context(), links: links{all: map[*link]bool{}, changed: make(chan struct{})}}
	var agents [3]*wireAgent
	add := func(i int) *link {
		agents[i] = &wireAgent{states: make(chan wire.State, 10)}
		l, _ := startLink(t, agents[i])
		t.Cleanup(l.close)
		s.join(l)
		return l
	}
	told := func(i int, paused bool) {
		t.Helper()
		select {
		case state := <-agents[i].states:
			if state.Paused != paused {
				t.Errorf("agent %d was told %+v", i, state)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("agent %d was not told", i)
		}
	}
	add(0)
	other := add(1)
	s.SetPaused(true)
	add(2)
	for i := range agents {
		told(i, true)
	}
	s.part(other)
	s.SetPaused(false)
	told(0, false)
	told(2, false)
	if len(agents[1].states) > 0 {
		t.Error("an agent that left was told")
	}
}

func TestLinkEndsWithItsAgent(t *testing.T) {
	a := &wireAgent{}
	l, _ := startLink(t, a)
	until(t, "served", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return a.conn != nil })
	a.mu.Lock()
	a.gone = errGone
	a.mu.Unlock()
	a.cut()
	<-l.ended
	if !errors.Is(l.err, errGone) {
		t.Error(l.err)
	}
	if _, err := l.open(t.Context(), wire.KindDial, nil, nil); !errors.Is(err, mux.ErrLost) {
		t.Error(err)
	}
}

func TestLinkHearsGoodbye(t *testing.T) {
	a := &wireAgent{}
	l, _ := startLink(t, a)
	until(t, "served", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return a.conn != nil })
	a.conn.Close("the pod has ended")
	<-l.ended
	if l.err == nil || l.err.Error() != "the pod has ended" {
		t.Error(l.err)
	}
}
