package e2e

import (
	"fmt"
	"net"
	"net/http/httptrace"
	"os"
	"strings"
	"sync"
	"time"
)

// made is a connection, and since when there is one.
type made struct {
	net.Conn
	at time.Time
}

// way is how a request went: what can be said of it if it is lost. It is written to by the transport's goroutines.
type way struct {
	mu   sync.Mutex
	port int       // that the connection is from
	had  time.Time // when the request got its connection; zero: never
	made time.Time // when that was made
	sent time.Time // when the request was written
}

// wayKey is the way in a context.
type wayKey struct{}

// dials notes the port of a connection that is about to be made. The transport may give it to another request, and this
// one what another has made.
func (w *way) dials(port int) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.had.IsZero() {
		w.port = port
	}
}

func (w *way) client() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.had, w.sent, w.port = time.Now(), time.Time{}, info.Conn.LocalAddr().(*net.TCPAddr).Port
			w.made = info.Conn.(*made).at
		},
		WroteRequest: func(info httptrace.WroteRequestInfo) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if info.Err == nil {
				w.sent = time.Now()
			}
		},
	}
}

func (w *way) from() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.port
}

// since tells of the way of a request that was asked then.
func (w *way) since(asked time.Time) string {
	if w == nil {
		return "somehow"
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	round := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	switch {
	case w.port == 0:
		return "without a connection"
	case w.had.IsZero():
		return fmt.Sprintf("while connecting from port %d", w.port)
	}
	text := fmt.Sprintf("by a connection from port %d that was %v old", w.port, round(w.had.Sub(w.made)))
	if w.sent.IsZero() {
		return text + ", not written"
	}
	return fmt.Sprintf("%s, written after %v", text, round(w.sent.Sub(asked)))
}

// leads says where the node has a connection from a pod to a Service go, as netfilter has written it down (the kernel's
// net/netfilter/nf_conntrack_standalone.c): the pod that was chosen for it, and the connection's state as seen from between.
func (n *Node) leads(client, service string, port int) (pod, state string) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/nf_conntrack", n.pid))
	if err != nil {
		return "", err.Error()
	}
	asked := fmt.Sprintf(" src=%s dst=%s sport=%d ", client, service, port)
	for line := range strings.Lines(string(text)) {
		before, after, ok := strings.Cut(line, asked)
		if !ok {
			continue
		}
		if fields := strings.Fields(before); len(fields) > 5 {
			state = fields[5]
		}
		_, answers, _ := strings.Cut(after, " src=") // the way back is from whom it leads to
		pod, _, _ = strings.Cut(answers, " ")
		return pod, state
	}
	return "", "not known to the node"
}
