package mux

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// pipe returns the two ends of a connected unix socket: a real kernel's buffer between them.
func pipe(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func admitAll(wire.Hello) (wire.Welcome, error) { return wire.Welcome{Resume: "r"}, nil }

// pair returns both sides of a channel over a and b. Serve answers requests of the agent's side with handle.
func pair(t *testing.T, cfg Config, handle func(*Request)) (session, agent *Conn) {
	t.Helper()
	a, b := pipe(t)
	served := make(chan *Conn, 1)
	go func() {
		c, err := Serve(t.Context(), b, admitAll, cfg)
		if err != nil {
			t.Error(err)
		}
		served <- c
	}()
	session, _, err := Dial(t.Context(), a, wire.Hello{Session: "s"}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	agent = <-served
	t.Cleanup(func() { session.Close(""); agent.Close("") })
	go func() {
		for {
			r, err := agent.Accept()
			if err != nil {
				return
			}
			go handle(r)
		}
	}()
	return session, agent
}

func echo(r *Request) {
	s, err := r.Accept(wire.Dialed{})
	if err != nil {
		return
	}
	defer s.Close()
	io.Copy(s, s)
	s.CloseWrite()
	io.Copy(io.Discard, s)
}

func TestRefusalComesBeforeBytes(t *testing.T) {
	session, _ := pair(t, Config{}, func(r *Request) { r.Refuse(&wire.Refusal{Errno: syscall.ECONNREFUSED, Message: "nobody listens"}) })
	_, err := session.Open(t.Context(), wire.KindDial, wire.Dial{}, nil)
	var refusal *wire.Refusal
	if !errors.Is(err, syscall.ECONNREFUSED) || !errors.As(err, &refusal) || refusal.Message != "nobody listens" {
		t.Fatal(err)
	}
}

func TestHalfClose(t *testing.T) {
	session, _ := pair(t, Config{}, echo)
	s, err := session.Open(t.Context(), wire.KindDial, wire.Dial{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	data := bytes.Repeat([]byte("x"), 3<<20)
	go func() { s.Write(data); s.CloseWrite() }()
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatal(len(got), err)
	}
}

func TestResetCarriesItsErrno(t *testing.T) {
	session, _ := pair(t, Config{}, func(r *Request) {
		s, _ := r.Accept(nil)
		s.Write([]byte("a"))
		io.ReadFull(s, make([]byte, 1))
		s.Reset(syscall.ECONNRESET)
	})
	s, err := session.Open(t.Context(), wire.KindDial, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	s.Write([]byte("b"))
	if _, err := s.Read(make([]byte, 1)); err != syscall.ECONNRESET {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte("c")); err != syscall.ECONNRESET {
		t.Fatal(err)
	}
}

// What was written before a reset is read before it, although the reset goes by another way; a reader that never comes
// for it learns of the reset all the same.
func TestResetComesAfterBytes(t *testing.T) {
	session, _ := pair(t, Config{}, func(r *Request) {
		s, err := r.Accept(nil)
		if err != nil {
			return
		}
		for range 3 {
			_, _ = s.Write(bytes.Repeat([]byte("x"), 4<<10))
		}
		s.Reset(syscall.ECONNRESET)
	})
	for range 50 {
		s, err := session.Open(t.Context(), wire.KindDial, wire.Dial{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(s)
		if len(b) != 3*4<<10 || !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("%d bytes, then %v", len(b), err)
		}
		s.Close()
	}
	s, err := session.Open(t.Context(), wire.KindDial, wire.Dial{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	select {
	case <-s.Context().Done():
	case <-time.After(10 * resetPatience):
		t.Fatal("a reader that stands still does not learn of the reset")
	}
}

func TestWriteToAClosedReader(t *testing.T) {
	session, _ := pair(t, Config{}, func(r *Request) {
		s, _ := r.Accept(nil)
		s.Close()
	})
	s, err := session.Open(t.Context(), wire.KindDial, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Write(make([]byte, 1<<20))
	if err != syscall.EPIPE {
		t.Fatal(err)
	}
}

func TestOpenGivenUpReachesTheOtherSide(t *testing.T) {
	gone := make(chan error, 1)
	session, _ := pair(t, Config{}, func(r *Request) {
		<-r.Context().Done()
		gone <- context.Cause(r.Context())
		r.Refuse(syscall.ETIMEDOUT)
	})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := session.Open(ctx, wire.KindDial, nil, nil); err != context.Canceled {
		t.Fatal(err)
	}
	if err := <-gone; err != syscall.ECANCELED {
		t.Fatal(err)
	}
}

func TestRefusedHello(t *testing.T) {
	a, b := pipe(t)
	go Serve(t.Context(), b, func(wire.Hello) (wire.Welcome, error) {
		return wire.Welcome{}, &wire.Refusal{Errno: syscall.EACCES, Message: "wrong token"}
	}, Config{})
	_, _, err := Dial(t.Context(), a, wire.Hello{}, Config{})
	if !errors.Is(err, syscall.EACCES) || err.Error() != "wrong token" {
		t.Fatal(err)
	}
}

func TestStrangerOnTheSocket(t *testing.T) {
	a, b := pipe(t)
	go io.WriteString(a, "POST / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	if _, err := Serve(t.Context(), b, admitAll, Config{}); err == nil {
		t.Fatal("a web page was served")
	}
}

func TestByeAndLoss(t *testing.T) {
	session, agent := pair(t, Config{}, echo)
	agent.Close("the pod has ended")
	<-session.Done()
	var bye ByeError
	if !errors.As(session.Err(), &bye) || bye.Reason != "the pod has ended" {
		t.Fatal(session.Err())
	}
	a, b := pipe(t)
	go Serve(t.Context(), b, admitAll, Config{})
	session, _, err := Dial(t.Context(), a, wire.Hello{}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	<-session.Done()
	if !errors.Is(session.Err(), ErrLost) {
		t.Fatal(session.Err())
	}
	if _, err := session.Open(t.Context(), wire.KindDial, nil, nil); !errors.Is(err, ErrLost) {
		t.Fatal(err)
	}
}

// deaf reads nothing while it is plugged. It says when a read waits for that, and when a write has failed.
type deaf struct {
	net.Conn
	plug            *sync.Mutex
	waiting, failed chan struct{}
}

func (d deaf) Read(p []byte) (int, error) {
	if !d.plug.TryLock() {
		d.waiting <- struct{}{}
		d.plug.Lock()
	}
	d.plug.Unlock()
	return d.Conn.Read(p)
}

func (d deaf) Write(p []byte) (int, error) {
	n, err := d.Conn.Write(p)
	if err != nil {
		close(d.failed)
	}
	return n, err
}

// TestByeUnread: a goodbye counts where a write to the peer, who has gone, fails before it is read.
func TestByeUnread(t *testing.T) {
	a, b := pipe(t)
	d := deaf{b, new(sync.Mutex), make(chan struct{}), make(chan struct{})}
	served := make(chan *Conn, 1)
	go func() {
		c, err := Serve(t.Context(), d, admitAll, Config{})
		if err != nil {
			t.Error(err)
		}
		served <- c
	}()
	session, _, err := Dial(t.Context(), a, wire.Hello{}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	agent := <-served
	d.plug.Lock()
	if err := session.Send(wire.KindHeartbeat, nil); err != nil { // wakes the read that is under way
		t.Fatal(err)
	}
	<-d.waiting
	session.Close("done")
	go agent.Send(wire.KindHeartbeat, nil)
	<-d.failed
	d.plug.Unlock()
	<-agent.Done()
	if !errors.As(agent.Err(), &ByeError{}) {
		t.Error(agent.Err())
	}
}

// silent stops delivering what is written to it once cut.
type silent struct {
	net.Conn
	cut chan struct{}
}

func (s silent) Write(p []byte) (int, error) {
	select {
	case <-s.cut:
		return len(p), nil
	default:
		return s.Conn.Write(p)
	}
}

func TestSilenceIsLoss(t *testing.T) {
	a, b := pipe(t)
	cut := make(chan struct{})
	go Serve(t.Context(), silent{b, cut}, admitAll, Config{Heartbeat: 20 * time.Millisecond})
	session, _, err := Dial(t.Context(), a, wire.Hello{}, Config{Heartbeat: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-session.Done():
		t.Fatal("lost with heartbeats coming:", session.Err())
	case <-time.After(300 * time.Millisecond):
	}
	close(cut)
	<-session.Done()
	if !errors.Is(session.Err(), ErrLost) {
		t.Fatal(session.Err())
	}
}

// TestStalledReaders opens 1,000 streams that nobody reads: what is under way stays within budget, and another
// stream moves its bytes unharmed.
func TestStalledReaders(t *testing.T) {
	var mu sync.Mutex
	var first []*Stream
	stall := func(r *Request) {
		s, err := r.Accept(nil)
		if err != nil {
			return
		}
		if r.Kind == wire.KindDial {
			mu.Lock()
			first = append(first, s)
			mu.Unlock()
			return
		}
		defer s.Close()
		io.Copy(s, s)
	}
	session, _ := pair(t, Config{}, stall)
	var writers sync.WaitGroup
	for range 1000 {
		s, err := session.Open(t.Context(), wire.KindDial, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		writers.Go(func() { s.Write(make([]byte, 1<<20)) })
	}
	s, err := session.Open(t.Context(), wire.KindAssociate, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("y"), 4<<20)
	go func() { s.Write(data); s.CloseWrite() }()
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatal(len(got), err)
	}
	session.flow.mu.Lock()
	total, n := session.flow.total, len(session.flow.windows)
	session.flow.mu.Unlock()
	if total > Budget+n*minWindow {
		t.Errorf("%d bytes under way, the budget is %d", total, Budget)
	}
	t.Logf("%d streams hold %d KiB", n, total>>10)
	session.Close("")
	writers.Wait()
}

func TestNothingIsLeft(t *testing.T) {
	before := runtime.NumGoroutine()
	func() {
		session, agent := pair(t, Config{}, echo)
		for range 200 {
			s, err := session.Open(t.Context(), wire.KindDial, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			s.Write([]byte("abc"))
			s.CloseWrite()
			io.Copy(io.Discard, s)
			s.Close()
		}
		open := -1
		for range 200 { // the last credits may still be on their way
			session.flow.mu.Lock()
			open = len(session.flow.windows)
			session.flow.mu.Unlock()
			if open == 0 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if open != 0 {
			t.Errorf("%d windows of closed streams are kept", open)
		}
		session.Close("")
		<-agent.Done()
	}()
	for range 100 {
		if runtime.NumGoroutine() <= before+1 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	buf := make([]byte, 1<<20)
	t.Errorf("%d goroutines, %d before\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
}

func tcpPair(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// relayed returns the two outer ends of kernel socket - relay - channel - relay - kernel socket.
func relayed(t *testing.T) (near, far *net.TCPConn) {
	near, nearIn := tcpPair(t)
	farIn, far := tcpPair(t)
	var relays Relays
	session, _ := pair(t, Config{}, func(r *Request) {
		s, err := r.Accept(nil)
		if err != nil {
			return
		}
		relays.Relay(s, TCP{farIn})
	})
	s, err := session.Open(t.Context(), wire.KindDial, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	go relays.Relay(s, TCP{nearIn})
	return near, far
}

func TestRelayHalfClose(t *testing.T) {
	near, far := relayed(t)
	data := bytes.Repeat([]byte("z"), 8<<20)
	go func() { near.Write(data); near.CloseWrite() }()
	got, err := io.ReadAll(far)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatal(len(got), err)
	}
	go func() { far.Write(data); far.Close() }()
	got, err = io.ReadAll(near)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatal(len(got), err)
	}
}

func TestRelayReset(t *testing.T) {
	near, far := relayed(t)
	near.Write([]byte("a"))
	io.ReadFull(far, make([]byte, 1))
	TCP{far}.Abort()
	_, err := near.Read(make([]byte, 1))
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
}

func TestRelayLostChannel(t *testing.T) {
	near, nearIn := tcpPair(t)
	var relays Relays
	session, agent := pair(t, Config{}, func(r *Request) { r.Accept(nil) })
	s, err := session.Open(t.Context(), wire.KindDial, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	go relays.Relay(s, TCP{nearIn})
	agent.session.Close()
	if _, err := near.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
}

// TestIdleFlowsBookNothing: flows that are open and have nothing to move leave the whole budget to those that have.
func TestIdleFlowsBookNothing(t *testing.T) {
	var relays Relays
	far := make(chan *net.TCPConn, 50)
	session, agent := pair(t, Config{}, func(r *Request) {
		outer, inner := tcpPair(t)
		s, err := r.Accept(nil)
		if err != nil {
			return
		}
		far <- outer
		relays.Relay(s, TCP{inner})
	})
	const burst = 300 << 10 // enough for the window to have grown
	for range 50 {
		s, err := session.Open(t.Context(), wire.KindDial, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		outer := <-far
		go outer.Write(make([]byte, burst))
		if _, err := io.ReadFull(s, make([]byte, burst)); err != nil {
			t.Fatal(err)
		}
		s.Settle()
	}
	booked := -1
	for range 300 { // the last credits come with a heartbeat
		agent.flow.mu.Lock()
		booked = agent.flow.total
		agent.flow.mu.Unlock()
		if booked == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d bytes booked with nothing under way", booked)
}
