package requests

import (
	"errors"
	"sync"
	"time"
)

const (
	// flowCost is what a followed flow holds, in bytes; linesCost what it may hold more of lines that have not come whole.
	flowCost  = 1 << 10
	linesCost = 4 * maxLine
	// exchangeCost is what a request that waits for its answer holds, in bytes, without its path.
	exchangeCost = 256
	// maxWaiting bounds the requests that wait for an answer on one connection. A mirrored one's client goes on while the
	// debuggee stands at a breakpoint, so they may be many.
	maxWaiting = 4096
)

// What a request gets that is not answered.
const (
	whyDebuggee = "the program ended the connection before its answer"
	whyClient   = "the connection ended before the answer"
	whyPart     = "the answer did not come whole"
	whyUnread   = "the connection could not be read any further"
)

var (
	errForeign = errors.New("requests: not HTTP")
	errFull    = errors.New("requests: too much waits")
)

// language is how the bytes of a flow are read. An error gives the flow up.
type language interface {
	client(p []byte) error
	debuggee(p []byte) error
	debuggeeEnd()
	left() []*exchange // those that have not been told
}

// Flow is one flow that is read along. Its methods may be called by several goroutines and with a nil flow; they keep
// nothing of what they are shown, never wait, and never fail.
type Flow struct {
	feed  *Feed
	about About

	mu        sync.Mutex
	language  language // nil: given up, or ended
	held      int64
	at        time.Time
	in, out   int64 // bytes, without those of requests that were told
	http      bool  // it began as HTTP
	lost      bool  // it was given up
	ended     bool
	endedHere bool // by the debuggee
}

// Follow begins to follow a flow; End ends that. It is nil if the feed is.
func (f *Feed) Follow(about About) *Flow {
	if f == nil {
		return nil
	}
	l := &Flow{feed: f, about: about, at: time.Now()}
	if l.hold(flowCost) {
		l.language = newHTTP1(l)
	} else {
		l.lost = true
	}
	return l
}

// Client is shown what the client has sent, before the debuggee gets it.
func (l *Flow) Client(p []byte) {
	if l == nil || len(p) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.in += int64(len(p))
	l.try(func() error { return l.language.client(p) })
}

// Debuggee is shown what the debuggee has sent, before the client gets it.
func (l *Flow) Debuggee(p []byte) {
	if l == nil || len(p) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out += int64(len(p))
	l.try(func() error { return l.language.debuggee(p) })
}

// DebuggeeEnd says that the debuggee sends no more: an answer may have no other end.
func (l *Flow) DebuggeeEnd() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endedHere = true
	l.try(func() error { l.language.debuggeeEnd(); return nil })
}

// End tells what has not been told. why is said of requests that were not answered; "" where nothing special has happened.
func (l *Flow) End(why string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	l.ended = true
	if why == "" && l.endedHere {
		why = whyDebuggee
	} else if why == "" {
		why = whyClient
	}
	l.leave(why)
	// A connection without a byte is a port scan's, or a load balancer's look.
	if (l.lost || !l.http) && (l.in > 0 || l.out > 0) {
		l.feed.offer(Request{About: l.about, Protocol: TCP, GRPC: noGRPC, At: l.at, Took: time.Since(l.at), In: l.in, Out: l.out})
	}
	l.free(l.held)
}

// try reads, and gives the flow up where it cannot be read, or where that goes wrong.
func (l *Flow) try(read func() error) {
	if l.language == nil {
		return
	}
	good := false
	defer func() {
		if !good {
			if recover() != nil { // whoever relays the bytes must not suffer from what is in them
				l.feed.panics.Add(1)
			}
			l.lost = true
			l.leave(whyUnread)
		}
	}()
	good = read() == nil
}

// leave ends the reading. Bytes that come later are counted.
func (l *Flow) leave(why string) {
	if l.language == nil {
		return
	}
	left := l.language.left()
	l.language = nil
	for _, e := range left {
		switch {
		case e.tunnel:
			l.told(e, "")
		case e.status != 0:
			l.told(e, whyPart)
		default:
			l.told(e, why)
		}
	}
}

// exchange is a request that waits for its answer, or for that answer's end.
type exchange struct {
	protocol, method, path string

	at      time.Time
	in, out int64
	status  int
	grpc    int
	tunnel  bool // its answer has made the connection another protocol's
}

// begin books a request.
func (l *Flow) begin(e *exchange) error {
	if !l.hold(exchangeCost + int64(len(e.path))) {
		return errFull
	}
	e.grpc, l.http = noGRPC, true
	return nil
}

// told tells of a request that waits no longer.
func (l *Flow) told(e *exchange, why string) {
	l.free(exchangeCost + int64(len(e.path)))
	l.in -= e.in
	l.out -= e.out
	l.feed.offer(Request{About: l.about, Protocol: e.protocol, Method: e.method, Path: e.path, Status: e.status, GRPC: e.grpc,
		At: e.at, Took: time.Since(e.at), In: e.in, Out: e.out, Error: why})
}

func (l *Flow) hold(n int64) bool {
	if !l.feed.hold(n) {
		return false
	}
	l.held += n
	return true
}

func (l *Flow) free(n int64) {
	l.feed.held.Add(-n)
	l.held -= n
}
