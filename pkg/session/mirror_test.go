package session

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// TestLosses: the first loss is said at once, what is left at the end, and nothing twice.
func TestLosses(t *testing.T) {
	var mu sync.Mutex
	var said []string
	lines := func() string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(said, "\n")
	}
	l := &losses{port: "tcp port 80", say: func(line string) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, line)
	}}
	l.begin("pod a")
	l.heard(wire.Mirrored{Flows: 3, Bytes: 9})
	l.last()
	if lines() != "" {
		t.Errorf("without a loss: %s", lines())
	}
	l.heard(wire.Mirrored{Flows: 3, LostFlows: 1, Lost: 7})
	eventually(t, "the first loss is said", func() bool {
		return lines() == "tcp port 80 of pod a: 1 of 3 connections were not copied, or not whole (7 bytes): this program, or the way to it, does not keep up"
	})
	l.heard(wire.Mirrored{Flows: 4, LostFlows: 2, Lost: 8, Text: "a line"})
	l.heard(wire.Mirrored{Flows: 5, LostFlows: 3, Lost: 9, Dropped: 2})
	if got := lines(); strings.Count(got, "\n") != 1 || !strings.HasSuffix(got, "pod a: a line") {
		t.Errorf("too soon: %s", got)
	}
	l.last()
	l.last()
	if got := lines(); strings.Count(got, "\n") != 2 || !strings.HasSuffix(got, "3 of 5 connections were not copied, or not whole (9 bytes): this program, or the way to it, does not keep up; the pod's kernel dropped 2 frames before they were seen") {
		t.Errorf("the rest: %s", got)
	}
}

// TestCheckIncoming: what the agent cannot do is an error where it was written, and a line where it is the default.
func TestCheckIncoming(t *testing.T) {
	for _, test := range []struct {
		written string
		rights  []string
		err     bool
		said    bool
	}{
		{`{}`, []string{"steal", rightMirror}, false, false},
		{`{}`, []string{"steal"}, false, true},
		{`{"incoming":{"mode":"mirror"}}`, []string{"steal"}, true, false},
		{`{"incoming":{"mode":"mirror"}}`, []string{rightMirror}, false, false},
		{`{"incoming":{"mode":"steal"}}`, nil, false, false},
		{`{"incoming":{"ports":[80]}}`, nil, false, true},
	} {
		c, err := config.Parse([]byte(strings.Replace(test.written, "{", `{"target":"local/1",`, 1)))
		if strings.HasSuffix(test.written, "{}") {
			c, err = config.Parse([]byte(`{"target":"local/1"}`))
		}
		if err != nil {
			t.Fatal(err)
		}
		var said []string
		s := &Session{config: c, pod: wire.Pod{Rights: test.rights}, options: Options{Notice: func(line string) { said = append(said, line) }}}
		s.ports = newPorts(s)
		err = s.checkIncoming()
		if (err != nil) != test.err || err != nil && (fail.Hint(err) == "" || !strings.Contains(err.Error(), "NET_RAW")) {
			t.Errorf("%s with %v: %v", test.written, test.rights, err)
		}
		if (len(said) > 0) != test.said || (s.ports.mode == modeOff) != test.said || test.said && !strings.Contains(said[0], "NET_RAW") {
			t.Errorf("%s with %v: said %q", test.written, test.rights, said)
		}
	}
}

// TestAnswers: a debuggee that has not answered yet is not told that its client has gone.
func TestAnswers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	debuggee, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	a := &answers{conn: conn.(*net.TCPConn), over: make(chan struct{})}
	go a.drop()
	a.asked()
	waited := make(chan struct{})
	go func() { a.wait(t.Context()); close(waited) }()
	select {
	case <-waited:
		t.Fatal("it did not wait for the answer")
	case <-time.After(2 * answerPoll):
	}
	if _, err := fmt.Fprint(debuggee, "answer"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-waited:
	case <-time.After(10 * answerQuiet):
		t.Error("it waits although the debuggee has answered")
	}
	a.asked()
	debuggee.Close() // it will not answer any more
	a.wait(t.Context())
}

func TestSpeaksHTTP(t *testing.T) {
	var got []string
	for _, first := range []string{"GET / HTTP/1.1\r\nHost: x\r\n", "PRI * HTTP/2.0\r\n\r\n", "SSH-2.0-x\r\n", "GET / HTTP/1.1", ""} {
		if speaksHTTP([]byte(first)) {
			got = append(got, first[:3])
		}
	}
	if !slices.Equal(got, []string{"GET", "PRI"}) {
		t.Error(got)
	}
}

// TestCopying: a client's port that comes again is told from one that was used before.
func TestCopying(t *testing.T) {
	var c copying
	dst := netip.MustParseAddrPort("10.0.0.9:80")
	client, mapped := netip.MustParseAddrPort("192.0.2.7:1"), netip.MustParseAddrPort("[::ffff:192.0.2.7]:1")
	first := c.begin(mapped, dst)
	if c.twice(client, dst) {
		t.Error("it is the only one")
	}
	second := c.begin(client, dst)
	other := c.begin(netip.MustParseAddrPort("192.0.2.7:2"), dst)
	if !c.twice(client, dst) {
		t.Error("the first one lasts")
	}
	if first(); c.twice(client, dst) {
		t.Error("the first one is over")
	}
	second()
	if other(); len(c.now) != 0 {
		t.Errorf("left: %v", c.now)
	}
}
