package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// copies is what a session was sent of mirrored connections.
type copies struct {
	t  *testing.T
	mu sync.Mutex
	by map[string]*bytes.Buffer // by client and address called
	// ended says how each came to its end.
	ended  map[string]string
	counts wire.Mirrored
	texts  []string
	over   chan struct{} // closed when the agent has ended the mirror
}

// mirror opens a mirror and collects what comes.
func (s *testSession) mirror(ports ...wire.Port) (*copies, *mux.Stream, error) {
	c := &copies{t: s.t, by: map[string]*bytes.Buffer{}, ended: map[string]string{}, over: make(chan struct{})}
	s.setIncoming(c.serve)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	stream, err := s.Open(ctx, wire.KindMirror, wire.Steal{Ports: ports}, nil)
	if err != nil {
		return nil, nil, err
	}
	go func() {
		defer close(c.over)
		for in := json.NewDecoder(stream); ; {
			var m wire.Mirrored
			if in.Decode(&m) != nil {
				return
			}
			c.mu.Lock()
			if c.counts = m; m.Text != "" {
				c.texts = append(c.texts, m.Text)
			}
			c.mu.Unlock()
		}
	}()
	return c, stream, nil
}

func (s *testSession) mustMirror(ports ...wire.Port) (*copies, *mux.Stream) {
	s.t.Helper()
	c, stream, err := s.mirror(ports...)
	if err != nil {
		s.t.Fatal(err)
	}
	return c, stream
}

func (c *copies) serve(r *mux.Request, in wire.Incoming) {
	if r.Kind != wire.KindCopy {
		r.Refuse(syscall.ECONNREFUSED)
		return
	}
	key := in.Client.Addr().String() + " " + in.Local.String()
	c.mu.Lock()
	got := c.by[key]
	if got == nil {
		got = &bytes.Buffer{}
		c.by[key] = got
	}
	c.mu.Unlock()
	stream, err := r.Accept(nil)
	if err != nil {
		return
	}
	defer stream.Close()
	end := "open"
	for chunks := wire.NewChunkReader(stream); end == "open"; {
		ch, err := chunks.Read()
		c.mu.Lock()
		switch {
		case errors.Is(err, io.EOF):
			end = "end"
		case err != nil:
			end = err.Error()
		case ch.Type == wire.ChunkGap:
			end = fmt.Sprint("gap of ", ch.Gap)
		default:
			got.Write(ch.Data)
		}
		c.ended[key] = end
		c.mu.Unlock()
	}
}

func (c *copies) text(key string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b := c.by[key]; b != nil {
		return b.String()
	}
	return ""
}

// settle waits until nothing more comes, and returns all.
func (c *copies) settle() string {
	last, same := "", 0
	for same < 10 {
		c.mu.Lock()
		var all []string
		for k, b := range c.by {
			all = append(all, fmt.Sprintf("%s: %q", k, b))
		}
		c.mu.Unlock()
		slices.Sort(all)
		if now := strings.Join(all, "\n"); now == last {
			same++
		} else {
			last, same = now, 0
		}
		time.Sleep(20 * time.Millisecond)
	}
	return last
}

// TestMirror: the pod answers, and the session is sent what the clients sent, once, whoever else mirrors or steals.
func TestMirror(t *testing.T) {
	p := servePod(t)
	a := startAgent(t, p.pid)
	one, two := a.join("one", ""), a.join("two", "")
	ways := []struct {
		addr, from string
		client     bool
	}{
		{podIP + ":8080", clientIP, true}, {"[" + podIP6 + "]:8080", clientIP6, true}, {"127.0.0.1:8080", "127.0.0.1", false},
		{"[::1]:8080", "::1", false}, {podIP + ":8080", podIP, false},
	}
	first, stream := one.mustMirror(tcp(8080))
	second, _ := two.mustMirror(tcp(8080))
	var want []string
	for _, w := range ways {
		if got := p.ask("tcp", w.addr, w.client); got != "pod hi" {
			t.Errorf("%s: %q, want the pod's answer", w.addr, got)
		}
		want = append(want, fmt.Sprintf("%s %s: %q", w.from, w.addr, "hi\n"))
	}
	slices.Sort(want)
	for _, c := range []*copies{first, second} {
		if got := c.settle(); got != strings.Join(want, "\n") {
			t.Errorf("copied:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
		}
	}
	var modes []string
	for _, i := range one.sessions() {
		modes = append(modes, fmt.Sprint(i.ID, i.Mode, i.Ports))
	}
	if got := strings.Join(modes, " "); got != "onemirror[{tcp 8080 false}] twomirror[{tcp 8080 false}]" {
		t.Error(got)
	}

	// One that is over takes nothing from the others; neither does a steal.
	stream.CloseWrite()
	<-first.over
	three := a.join("three", "")
	three.mustSteal(tcp(8080))
	if got := p.ask("tcp", podIP+":8080", true); !strings.HasPrefix(got, "session ") {
		t.Errorf("with a steal beside the mirror: %q", got)
	}
	key := clientIP + " " + podIP + ":8080"
	until(t, 5*time.Second, "the copy of a stolen connection", func() bool { return second.text(key) == "hi\nhi\n" })
	if got := first.text(key); got != "hi\n" {
		t.Errorf("a mirror that is over got %q", got)
	}
}
