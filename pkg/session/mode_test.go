package session

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// portAgent is an agent on the wire that takes and copies ports, and notes in which order.
type portAgent struct {
	session *Session

	mu      sync.Mutex
	changed sync.Cond
	noted   []string
	refuse  map[uint16]error // steals
	hold    chan struct{}    // nil, or what a steal waits for
	conn    *mux.Conn
	raw     net.Conn
}

func (a *portAgent) note(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.noted = append(a.noted, fmt.Sprintf(format, args...))
	a.changed.Broadcast()
}

// notes waits for the next notes and takes them.
func (a *portAgent) notes(t *testing.T, want ...string) {
	t.Helper()
	stop := time.AfterFunc(10*time.Second, func() { a.note("nothing more comes") })
	defer stop.Stop()
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.noted) < len(want) {
		a.changed.Wait()
	}
	got := a.noted[:len(want)]
	a.noted = a.noted[len(want):]
	if !slices.Equal(got, want) {
		t.Fatalf("the agent noted %q, want %q", got, want)
	}
}

func (a *portAgent) dial(ctx context.Context, _ string) (*mux.Conn, wire.Welcome, error) {
	near, far := net.Pipe()
	go func() {
		c, err := mux.Serve(context.Background(), far, func(wire.Hello) (wire.Welcome, error) { return wire.Welcome{}, nil }, mux.Config{})
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
			go a.serve(r)
		}
	}()
	return mux.Dial(ctx, near, wire.Hello{}, mux.Config{})
}

func (a *portAgent) serve(r *mux.Request) {
	what := map[wire.Kind]string{wire.KindSteal: "steal", wire.KindMirror: "mirror"}[r.Kind]
	var ask wire.Steal
	if what == "" || wire.Decode(r.Body, &ask) != nil {
		r.Refuse(syscall.EOPNOTSUPP)
		return
	}
	port := ask.Ports[0].Port
	a.mu.Lock()
	hold, refusal := a.hold, a.refuse[port]
	a.mu.Unlock()
	if what == "steal" && hold != nil {
		a.note("steal %d asked", port)
		<-hold
	}
	if what == "steal" && refusal != nil {
		r.Refuse(refusal)
		return
	}
	a.note("%s %d", what, port)
	stream, err := r.Accept(nil)
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, stream)
	a.note("%s %d ended", what, port)
	stream.Close()
}

// offer hands a connection to the session, as stolen or as a copy.
func (a *portAgent) offer(t *testing.T, kind wire.Kind, client string) (*mux.Stream, error) {
	t.Helper()
	a.mu.Lock()
	conn := a.conn
	a.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return conn.Open(ctx, kind, wire.Incoming{Network: "tcp", Client: netip.MustParseAddrPort(client), Local: netip.MustParseAddrPort("10.1.0.7:80")}, nil)
}

// loneReach and loneFront are as much of a session's surroundings as requests need.
type loneReach struct{ reach }

func (loneReach) steal(*link, *wire.Steal) (string, bool) { return "pod a", true }
func (loneReach) pods() (string, string, []StatePod) {
	return "shop", "dev", []StatePod{{Name: "a", Home: true}}
}

type loneFront struct {
	frontEnd
	listener net.Listener
}

func (f loneFront) Deliver(ctx context.Context, _, _ netip.AddrPort) (*net.TCPConn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", f.listener.Addr().String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// switching is a session whose debuggee listens on ports of one pod's.
func switching(t *testing.T, mode string, numbers ...uint16) (*portAgent, net.Listener) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Session{config: config.Default(), log: slog.New(slog.DiscardHandler), done: make(chan struct{}), reach: loneReach{}, front: loneFront{listener: listener},
		pod: wire.Pod{Rights: []string{rightSteal, rightMirror}}, links: links{all: map[*link]bool{}, changed: make(chan struct{})}}
	s.config.Incoming.Mode, s.options.Notice = mode, func(line string) { t.Log(line) }
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.ports = newPorts(s)
	a := &portAgent{session: s, refuse: map[uint16]error{}}
	a.changed.L = &a.mu
	if s.link, err = newLink(t.Context(), linkOptions{dial: a.dial, try: redialTry, final: func(mux.ByeError) bool { return true }, serve: s.serve,
		notice: s.notice, news: func() <-chan struct{} { return nil }, ring: s.changed.ring, log: s.log}); err != nil {
		t.Fatal(err)
	}
	s.join(s.link)
	var taking sync.WaitGroup
	for _, n := range numbers {
		p := &port{network: "tcp", number: n, addrs: []netip.Addr{netip.IPv4Unspecified()}, pod: n, given: make(chan struct{}), stop: func() {}}
		s.ports.open[portKey{"tcp", n}] = p
		taking.Go(func() { s.ports.take(s.ctx, portKey{"tcp", n}, n, false) })
		if mode != modeOff {
			a.notes(t, fmt.Sprintf("%s %d", mode, n))
		}
	}
	t.Cleanup(func() {
		s.cancel()
		listener.Close()
		taking.Wait()
		<-s.leave()
		if len(s.ports.stands) > 0 || s.ports.turning != nil {
			t.Errorf("%d ports stand after the end", len(s.ports.stands))
		}
	})
	return a, listener
}

func (a *portAgent) mode() string {
	state, _ := a.session.State()
	return state.Mode
}

// TestSwitch: the new mode stands before the old one ends, and whose a connection is follows it.
func TestSwitch(t *testing.T) {
	a, listener := switching(t, modeMirror, 80)
	go func() {
		for c, err := listener.Accept(); err == nil; c, err = listener.Accept() {
			_, _ = io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	is := func(copies, steals bool) {
		t.Helper()
		for kind, want := range map[wire.Kind]bool{wire.KindCopy: copies, wire.KindIncoming: steals} {
			s, err := a.offer(t, kind, "10.9.9.9:1000")
			if (err == nil) != want || err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("kind %d: %v, want %v", kind, err, want)
			}
			if err == nil {
				s.Close()
				until(t, "the flow has ended", func() bool {
					a.session.ports.mu.Lock()
					defer a.session.ports.mu.Unlock()
					return len(a.session.ports.stolen) == 0
				})
			}
		}
	}
	set := func(mode string, notes ...string) {
		t.Helper()
		_, changed := a.session.State()
		if err := a.session.SetMode(t.Context(), mode); err != nil || a.mode() != mode {
			t.Fatalf("%s: %v, the mode is %s", mode, err, a.mode())
		}
		select {
		case <-changed:
		default:
			t.Error("nobody is told")
		}
		a.notes(t, notes...)
	}
	is(true, false)
	set(modeSteal, "steal 80", "mirror 80 ended")
	is(false, true)
	set(modeMirror, "mirror 80", "steal 80 ended")
	is(true, false)
	set(modeOff, "mirror 80 ended")
	is(false, false)
	set(modeSteal, "steal 80")
	set(modeOff, "steal 80 ended")
	if err := a.session.SetMode(t.Context(), "both"); fail.CodeOf(err) != fail.ConfigValue {
		t.Error(err)
	}
	a.session.pod.Rights = []string{rightSteal}
	if err := a.session.SetMode(t.Context(), modeMirror); fail.CodeOf(err) != fail.AgentRefused || a.mode() != modeOff {
		t.Error(err)
	}
	if a.session.wished() != "" {
		t.Error("off is wished")
	}
}

// TestSwitchRefused: one port that is somebody else's leaves all as it was.
func TestSwitchRefused(t *testing.T) {
	a, _ := switching(t, modeMirror, 80, 81)
	a.refuse[81] = &wire.Refusal{Errno: syscall.EADDRINUSE, Message: "port 81 is held by bob@desk since 12:00:01 UTC"}
	err := a.session.SetMode(t.Context(), modeSteal)
	if fail.CodeOf(err) != fail.StealConflict || !strings.Contains(err.Error(), "tcp port 81 is not taken from pod a: port 81 is held by bob@desk") || fail.Hint(err) == "" {
		t.Error(err)
	}
	a.notes(t, "steal 80", "steal 80 ended")
	if a.mode() != modeMirror {
		t.Error(a.mode())
	}
	if s, err := a.offer(t, wire.KindCopy, "10.9.9.9:1000"); err != nil {
		t.Error("copies come no more:", err)
	} else {
		s.Close()
	}
	if s, err := a.offer(t, wire.KindIncoming, "10.9.9.9:1000"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Error("it still steals", s, err)
	}
	delete(a.refuse, 81)
	if err := a.session.SetMode(t.Context(), modeSteal); err != nil {
		t.Error(err)
	}
}

// TestSwitchWaits: a copy that comes during a switch is taken when it is known that the connection is the pod's, and a
// connection that the debuggee has itself is never copied to it.
func TestSwitchWaits(t *testing.T) {
	a, _ := switching(t, modeMirror, 80)
	hold := make(chan struct{})
	a.mu.Lock()
	a.hold, a.refuse[80] = hold, &wire.Refusal{Errno: syscall.EADDRINUSE, Message: "port 80 is held by bob"}
	a.mu.Unlock()
	switched := make(chan error, 1)
	go func() { switched <- a.session.SetMode(t.Context(), modeSteal) }()
	a.notes(t, "steal 80 asked")
	copied := map[string]chan error{"10.9.9.9:1000": make(chan error, 1), "10.9.9.9:1001": make(chan error, 1)}
	stolen, err := a.offer(t, wire.KindIncoming, "[::ffff:10.9.9.9]:1001")
	if err != nil {
		t.Fatal(err)
	}
	for client, got := range copied {
		go func() {
			s, err := a.offer(t, wire.KindCopy, client)
			if err == nil {
				s.Close()
			}
			got <- err
		}()
	}
	close(hold)
	if err := <-switched; fail.CodeOf(err) != fail.StealConflict {
		t.Error(err)
	}
	if err := <-copied["10.9.9.9:1000"]; err != nil {
		t.Error("the pod's own:", err)
	}
	if err := <-copied["10.9.9.9:1001"]; !errors.Is(err, syscall.ECONNREFUSED) {
		t.Error("the debuggee's own:", err)
	}
	stolen.Close()
}

// TestSwitchLost: a link that breaks during a switch is no refusal; the mode is what it asks for when it is back.
func TestSwitchLost(t *testing.T) {
	a, _ := switching(t, modeMirror, 80)
	hold := make(chan struct{})
	a.mu.Lock()
	a.hold = hold
	a.mu.Unlock()
	switched := make(chan error, 1)
	go func() { switched <- a.session.SetMode(t.Context(), modeSteal) }()
	a.notes(t, "steal 80 asked")
	a.mu.Lock()
	a.hold = nil
	a.raw.Close()
	a.mu.Unlock()
	if err := <-switched; err != nil || a.mode() != modeSteal {
		t.Error(err, a.mode())
	}
	until(t, "the port is taken on the new channel", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return slices.Contains(a.noted, "steal 80")
	})
	close(hold)
}

// TestStolenEnds: when the pod has its requests again, what the debuggee has in hand is answered first, and nothing more is
// asked of it.
func TestStolenEnds(t *testing.T) {
	a, listener := switching(t, modeSteal, 80)
	type flow struct {
		client *mux.Stream
		in     *bufio.Reader
		server net.Conn
	}
	open := func(client string) flow {
		t.Helper()
		s, err := a.offer(t, wire.KindIncoming, client)
		if err != nil {
			t.Fatal(err)
		}
		c, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close(); c.Close() })
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		return flow{s, bufio.NewReader(s), c}
	}
	const ask, answer = "GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"
	exchange := func(f flow) {
		t.Helper()
		buf := make([]byte, len(ask))
		fmt.Fprint(f.client, ask)
		if _, err := io.ReadFull(f.server, buf); err != nil {
			t.Fatal(err)
		}
	}
	replies := func(f flow) {
		t.Helper()
		fmt.Fprint(f.server, answer)
		buf := make([]byte, len(answer))
		if _, err := io.ReadFull(f.in, buf); err != nil {
			t.Fatal(err)
		}
	}
	busy, idle, standing := open("10.9.9.9:1"), open("10.9.9.9:2"), open("10.9.9.9:3")
	exchange(busy)
	replies(busy)
	exchange(standing)
	if err := a.session.SetMode(t.Context(), modeMirror); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(busy.client, ask) // the next request is the pod's
	for name, f := range map[string]flow{"between requests": busy, "idle": idle} {
		if _, err := f.server.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%s, at the debuggee: %v", name, err)
		}
		if _, err := f.in.ReadByte(); err != io.EOF {
			t.Errorf("%s, at the client: %v", name, err)
		}
	}
	replies(standing)
	if _, err := standing.in.ReadByte(); err != io.EOF {
		t.Error("after the answer in progress:", err)
	}
}
