package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// Waits of reconnecting.
const (
	redialTry = 5 * time.Second // one try
	redialSay = time.Second     // what is over sooner is one line only
)

// errGone is a dialer's word that there is no agent any more: reconnecting is pointless.
var errGone = errors.New("the agent is gone")

// dialer makes one channel to the agent. resume is the token of the last Welcome.
type dialer func(ctx context.Context, resume string) (*mux.Conn, wire.Welcome, error)

// link is the way to the agent. That it may be down for a while is one of its states, not an error of the session:
// meanwhile new streams fail at once, and it dials until it is up again or the agent is gone.
//
// Goroutines: run and states (end with close, or when the agent is gone); one a channel that hands out its requests.
type link struct {
	linkOptions
	opened atomic.Uint64 // streams asked for by open, each a round trip

	mu      sync.Mutex
	conn    *mux.Conn     // nil while down
	changed chan struct{} // closed and replaced at each change of conn
	resume  string
	state   wire.State    // what the agent is to know
	stated  chan struct{} // one: state has changed

	ctx    context.Context
	cancel context.CancelFunc
	ended  chan struct{} // closed when it will never be up again
	err    error         // set before ended is closed
}

// linkOptions say where a link leads and what it tells whom.
type linkOptions struct {
	dial   dialer
	try    time.Duration             // what one dial may take that is not the first
	final  func(mux.ByeError) bool   // whether a goodbye of the agent's is for good
	serve  func(*link, *mux.Request) // each in a goroutine of its own
	notice func(string)              // one line for the developer
	news   func() <-chan struct{}    // closed when something has changed that another try may depend on; nil for never
	ring   func()                    // the link is down, or up again; nil: nobody asks
	log    *slog.Logger
}

// newLink makes the first channel; its failure is the caller's.
func newLink(ctx context.Context, o linkOptions) (*link, error) {
	conn, welcome, err := o.dial(ctx, "")
	if err != nil {
		return nil, err
	}
	l := &link{linkOptions: o, conn: conn, resume: welcome.Resume, changed: make(chan struct{}), ended: make(chan struct{}), stated: make(chan struct{}, 1)}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	go l.run(conn)
	go l.states()
	return l, nil
}

func (l *link) run(conn *mux.Conn) {
	defer close(l.ended)
	for {
		go l.accept(conn)
		select {
		case <-conn.Done():
		case <-l.ctx.Done():
			conn.Close("")
			l.set(nil)
			l.err = context.Canceled
			return
		}
		l.set(nil)
		var bye mux.ByeError
		goodbye := errors.As(conn.Err(), &bye)
		if goodbye {
			if l.final(bye) {
				l.err = bye
				return
			}
			l.notice(bye.Reason)
		}
		l.log.Debug("channel lost", "err", conn.Err())
		lost := conn.Heard() // the loss is noticed some heartbeats later
		var err error
		if conn, err = l.redial(goodbye); err != nil {
			l.err = err
			return
		}
		l.notice(fmt.Sprintf("the agent is back after %v", time.Since(lost).Round(100*time.Millisecond)))
	}
}

// redial tries until there is a channel again, or none will come. said says that the developer knows why.
func (l *link) redial(said bool) (*mux.Conn, error) {
	var saying sync.Once
	if said {
		saying.Do(func() {})
	}
	silence := time.AfterFunc(redialSay, func() {
		saying.Do(func() { l.notice("the way to the agent is broken; trying again") })
	})
	defer silence.Stop()
	denied := false // said that it is the credentials
	var patience patience
	for {
		news := l.news() // before the try: it may already know
		ctx, cancel := context.WithTimeout(l.ctx, l.try)
		conn, welcome, err := l.dial(ctx, l.resume)
		cancel()
		var refusal *wire.Refusal
		switch {
		case err == nil:
			l.mu.Lock()
			l.resume = welcome.Resume
			l.mu.Unlock()
			l.set(conn)
			return conn, nil
		case l.ctx.Err() != nil:
			return nil, context.Canceled
		case errors.Is(err, errGone), errors.As(err, &refusal):
			return nil, err
		case fail.CodeOf(err) == fail.ClusterCredentials && !denied: // which no trying cures
			denied = true
			saying.Do(func() {})
			l.notice(fmt.Sprintf("the way to the agent is closed: %v; hint: %s", err, fail.Hint(err)))
		default:
			saying.Do(func() { l.notice(fmt.Sprintf("the way to the agent is broken (%v); trying again", err)) })
		}
		if !patience.pause(l.ctx, err, news) {
			return nil, context.Canceled
		}
	}
}

func (l *link) accept(conn *mux.Conn) {
	for {
		r, err := conn.Accept()
		if err != nil {
			return
		}
		go l.serve(l, r)
	}
}

func (l *link) set(conn *mux.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn = conn
	close(l.changed)
	l.changed = make(chan struct{})
	if l.ring != nil {
		l.ring()
	}
}

// current returns the channel, nil while it is down, and what is closed when that changes.
func (l *link) current() (*mux.Conn, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conn, l.changed
}

// open opens a stream; while the link is down it fails with mux.ErrLost.
func (l *link) open(ctx context.Context, kind wire.Kind, body, reply any) (*mux.Stream, error) {
	conn, _ := l.current()
	if conn == nil {
		return nil, mux.ErrLost
	}
	l.opened.Add(1)
	defer l.traced(kind)()
	return conn.Open(ctx, kind, body, reply)
}

// traced has a stream's round trip told to the debug log when it has come to its end.
func (l *link) traced(kind wire.Kind) func() {
	if !l.log.Enabled(l.ctx, slog.LevelDebug) {
		return func() {}
	}
	begun := time.Now()
	return func() {
		l.log.Debug("round trip", "what", fmt.Sprint("stream of kind ", kind), "took", time.Since(begun))
	}
}

// ask opens a stream for the sake of its reply.
func (l *link) ask(ctx context.Context, kind wire.Kind, body, reply any) error {
	s, err := l.open(ctx, kind, body, reply)
	if err != nil {
		return err
	}
	return s.Close()
}

// keep holds a stream open for as long as ctx lasts: use gets it each time the link comes up, and is called again
// when it returns, after retry unless the link has changed meanwhile. A refusal goes to refused.
func (l *link) keep(ctx context.Context, retry time.Duration, use func(*mux.Conn) error, refused func(error)) {
	for {
		conn, changed := l.current()
		if conn != nil {
			if err := use(conn); err != nil && ctx.Err() == nil && !errors.Is(err, mux.ErrLost) {
				refused(err)
			}
		}
		var again <-chan time.Time
		if conn != nil {
			again = time.After(retry)
		}
		select {
		case <-changed:
		case <-again:
		case <-ctx.Done():
			return
		case <-l.ended:
			return
		}
	}
}

// lostWait is what it may take to learn that an agent whose channel is lost has gone.
const lostWait = time.Second

// why is err, unless the agent's end is what is behind it: whoever needed it has failed in a way of its own.
func (l *link) why(err error) error {
	if conn, _ := l.current(); conn != nil {
		select {
		case <-conn.Done():
		default:
			if !errors.Is(err, mux.ErrLost) && fail.CodeOf(err) != fail.AgentLost {
				return err
			}
		}
	}
	select {
	case <-l.ended: // by now what a killed agent has left is removed
	case <-time.After(lostWait):
	}
	l.log.Debug("starting failed without the agent", "err", err)
	return fail.New(fail.AgentLost, "start again", "the agent was lost while the session started")
}

// tell tells the agent the debuggee's state: now if the link is up, and again whenever it comes back. It does not wait.
func (l *link) tell(state wire.State) {
	l.mu.Lock()
	l.state = state
	l.mu.Unlock()
	select {
	case l.stated <- struct{}{}:
	default: // it will be looked at anyway
	}
}

// states tells each channel the last state, if it is another than the one that agents begin with. Nobody else does, so
// the last one told is the last one; and a channel that hangs holds nobody up.
func (l *link) states() {
	var on *mux.Conn
	var told wire.State
	for {
		conn, changed := l.current()
		l.mu.Lock()
		state := l.state
		l.mu.Unlock()
		if conn != on {
			on, told = conn, wire.State{}
		}
		if conn != nil && state != told {
			told = state
			_ = conn.Send(wire.KindState, state) // of a channel that is lost: the next one is told
		}
		select {
		case <-changed:
		case <-l.stated:
		case <-l.ended:
			return
		}
	}
}

func (l *link) close() {
	l.cancel()
	<-l.ended
}

// errno is what the debuggee gets for a stream that could not be opened: the pod's own errno where the pod said one.
func errno(err error, otherwise syscall.Errno) syscall.Errno {
	if errors.Is(err, mux.ErrLost) {
		return otherwise
	}
	return wire.ErrnoOf(err, otherwise)
}
