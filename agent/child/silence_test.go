package child

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/agent/pair"
	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// cuttable is a connection on which nothing comes and goes once it is cut: what is written is swallowed, as by a kernel that
// has room for it, or waits until the connection is closed, as where that is full.
type cuttable struct {
	net.Conn
	cut  *atomic.Bool
	full bool
	end  chan struct{}
}

func (c cuttable) Write(p []byte) (int, error) {
	switch {
	case !c.cut.Load():
		return c.Conn.Write(p)
	case c.full:
		<-c.end
		return 0, net.ErrClosed
	}
	return len(p), nil
}

func (c cuttable) Close() error {
	defer close(c.end) // mux closes it once
	return c.Conn.Close()
}

// grants has a parent that grants everything but a way to the pod's own process: each question for that is counted.
func grants(t *testing.T) (caller *pair.Caller, originals *atomic.Int64) {
	t.Helper()
	parent, file, err := pair.New()
	if err != nil {
		t.Fatal(err)
	}
	own, err := pair.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { parent.Close() })
	originals = &atomic.Int64{}
	go func() {
		for {
			m, _, err := parent.Recv()
			if err != nil {
				return
			}
			a := pair.Answer(m, struct{}{}, nil)
			if m.Op == pair.OpOriginal {
				originals.Add(1)
				a = pair.Answer(m, nil, syscall.ECONNREFUSED)
			}
			if m.ID != 0 && parent.Send(a) != nil {
				return
			}
		}
	}()
	return pair.NewCaller(own, func(pair.Message, []*os.File) {}), originals
}

// TestSilence: when a session falls silent no stolen connection is left with it, however far it had come: what the session
// had taken is reset; what it had not is offered to the pod's own process, of which there is none here, and so reset, too.
func TestSilence(t *testing.T) {
	for name, full := range map[string]bool{"what is sent is swallowed": false, "nothing can be sent": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			silence(t, full)
		})
	}
}

func silence(t *testing.T, full bool) {
	log := slog.New(slog.DiscardHandler)
	c := &Child{log: log, trace: &trace{log: log}, relays: &mux.Relays{}, sessions: map[string]*session{}, channels: make(chan struct{}, maxChannels)}
	caller, originals := grants(t)
	c.caller = caller
	near, far := net.Pipe()
	cut := &atomic.Bool{}
	served := cuttable{far, cut, full, make(chan struct{})}
	c.waiting.enter(served)
	over := make(chan struct{})
	go func() {
		defer close(over)
		c.serve(context.Background(), served)
	}()
	theirs, _, err := mux.Dial(t.Context(), cuttable{near, cut, full, make(chan struct{})}, wire.Hello{Session: "silent"}, mux.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close("")

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := addrOf(l.Addr()).Port()
	if _, err := theirs.Open(t.Context(), wire.KindSteal, wire.Steal{Ports: []wire.Port{{Network: "tcp", Port: port}}}, nil); err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go c.incoming(conn.(*net.TCPConn), 0)
		}
	}()
	clients := map[string]net.Conn{}
	connect := func(name string) {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err == nil {
			_, err = conn.Write([]byte("a line\n"))
		}
		if err != nil {
			t.Fatal(err)
		}
		clients[name] = conn
		t.Cleanup(func() { conn.Close() })
	}
	asked := func() *mux.Request {
		r, err := theirs.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	connect("under way")
	taken, err := asked().Accept(nil)
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(taken).ReadString('\n'); err != nil {
		t.Fatal(line, err)
	}
	connect("offered, and not answered yet")
	asked()
	cut.Store(true)
	connect("come in the silence")

	for name, conn := range clients {
		_ = conn.SetReadDeadline(time.Now().Add(time.Minute)) // a test that fails must not hang
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %v", name, err)
		}
	}
	<-over
	if n := originals.Load(); n != 2 {
		t.Errorf("%d connections were offered to the pod's own process, want those two that nobody had taken", n)
	}
	connect("come when it is over")
	if _, err := clients["come when it is over"].Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Error(err)
	}
	if n := originals.Load(); n != 3 {
		t.Errorf("%d", n)
	}
}
