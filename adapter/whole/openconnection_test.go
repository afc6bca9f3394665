package whole

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/pkg/podlet"
)

// kept is one client's connection that it keeps, request after request. Unlike http.Client it never takes another one.
type kept struct {
	net.Conn
	r *bufio.Reader
}

// keep opens one.
func keep(t *testing.T, dial func() (net.Conn, error)) *kept {
	t.Helper()
	c, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return &kept{c, bufio.NewReader(c)}
}

// ask sends a request.
func (k *kept) ask(path string) error {
	_, err := fmt.Fprintf(k, "GET %s HTTP/1.1\r\nHost: pod\r\n\r\n", path)
	return err
}

// answer reads one.
func (k *kept) answer() (r reply, err error) {
	resp, err := http.ReadResponse(k.r, nil)
	if err != nil {
		return r, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(body, &r)
}

// ended waits until the other side has ended the connection: by a reset or in order, before any byte of an answer.
func (k *kept) ended(t *testing.T, what string) {
	t.Helper()
	if _, err := k.r.ReadByte(); err != io.EOF && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s: %v", what, err)
	}
}

// TestOpenConnection is about connections that are older than the session, or than its end. They never reach the steal,
// and clients keep theirs for hours.
func TestOpenConnection(t *testing.T) {
	for _, six := range []bool{false, true} {
		t.Run(map[bool]string{false: "IPv4", true: "IPv6"}[six], func(t *testing.T) { openConnection(t, six) })
	}
	t.Run("graceful end", gracefulEnd)
}

func openConnection(t *testing.T, six bool) {
	p := servicePod(t, podlet.Spec{})
	at := netip.AddrPortFrom(p.Addr(six), 8080)
	url := "http://" + at.String() + "/"
	dial := func() (net.Conn, error) { return p.Outside.Dial(limit(t), "tcp", netip.AddrPort{}, at) }

	// Before: one connection that the test holds, and one of a client that takes a new one when its own has ended.
	old := keep(t, dial)
	client := p.Outside.HTTP(netip.Addr{})
	defer client.CloseIdleConnections()
	before, err := get(limit(t), client, url)
	if err != nil || before.Who != "pod" {
		t.Fatalf("before: %+v, %v", before, err)
	}
	if again, err := get(limit(t), client, url); err != nil || again.Client != before.Client {
		t.Fatalf("the client did not keep its connection: %+v, %v", again, err)
	}
	if err := old.ask("/"); err != nil {
		t.Fatal(err)
	}
	if r, err := old.answer(); err != nil || r.Who != "pod" {
		t.Fatalf("before: %+v, %v", r, err)
	}

	file := filepath.Join(source(t, "service"), "main.go")
	a := dap(t)
	a.launch(debugging(t, p, "service", map[string]any{"env": map[string]any{"override": map[string]any{"WHO": "debuggee"}}}),
		file, lineOf(t, file, "the breakpoint of the tests"))
	if err := a.WaitOutput(limit(t), "console", "tcp port 8080"); err != nil {
		t.Fatal(err)
	}
	old.ended(t, "the connection older than F5")

	type got struct {
		reply
		err error
	}
	answered := make(chan got, 1)
	go func() {
		r, err := get(limit(t), client, url)
		answered <- got{r, err}
	}()
	thread, _, _ := a.stopped()
	a.goOn(thread)
	during := <-answered
	if during.err != nil || during.Who != "debuggee" || during.Client == before.Client {
		t.Fatalf("its next request: %+v (the connection before was from %s)", during, before.Client)
	}

	// At the end: a connection that is idle, one whose request stands at the breakpoint.
	idle := keep(t, dial)
	if err := idle.ask("/idle"); err != nil {
		t.Fatal(err)
	}
	thread, _, _ = a.stopped()
	a.goOn(thread)
	if r, err := idle.answer(); err != nil || r.Who != "debuggee" {
		t.Fatalf("a second connection: %+v, %v", r, err)
	}
	busy := keep(t, dial)
	if err := busy.ask("/busy"); err != nil {
		t.Fatal(err)
	}
	a.stopped()
	a.disconnect()
	idle.ended(t, "the idle connection of the session")
	busy.ended(t, "the connection whose request stood at the breakpoint")
	var after reply
	eventually(t, time.Second, "the pod answers the client", func() bool {
		after, err = get(limit(t), client, url)
		return err == nil && after.Who == "pod"
	})
	if after.Client == during.Client {
		t.Errorf("the pod answered on the session's connection: %+v", after)
	}
}

// gracefulEnd has the debuggee stop listening while it still answers: the steal ends at once, and the answers in
// progress come all the same, on the stolen connection and on one from the debuggee's own loopback.
func gracefulEnd(t *testing.T) {
	p := servicePod(t, podlet.Spec{})
	at := netip.AddrPortFrom(p.Addr(false), 8080)
	r := begin(t, p, map[string]any{"env": map[string]any{"override": map[string]any{"WHO": "debuggee"}}},
		[]string{"tcp port 8080 of the pod now sends"}, program(t, "graceful"), ":8080")
	dial := func() (net.Conn, error) { return p.Outside.Dial(limit(t), "tcp", netip.AddrPort{}, at) }
	busy := keep(t, dial)
	if err := busy.ask("/wait"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // itself, by its loopback, and this one
		if got := r.line(); got != "waiting" {
			t.Fatal(got)
		}
	}
	if _, err := fmt.Fprintln(r.stdin, "stop listening"); err != nil {
		t.Fatal(err)
	}
	if got := r.line(); got != "stopped listening" {
		t.Fatal(got)
	}
	answers(t, p, "pod", time.Second)
	if _, err := fmt.Fprintln(r.stdin, "answer"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(busy.r, nil)
	if err != nil {
		t.Fatal("the answer in progress:", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if want := bytes.Repeat([]byte("x"), 1<<20); err != nil || !bytes.Equal(body, want) {
		t.Errorf("the answer in progress: %d bytes, %v", len(body), err)
	}
	if got := r.line(); got != "own answer: 1048576 bytes, <nil>" {
		t.Error(got)
	}
}
