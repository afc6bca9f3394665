// Package mux is the channel between a session and an agent: many streams over one connection, each opened by a
// header and answered by an errno before any byte flows, within a budget of memory, with resets and a heartbeat.
// The streams themselves are yamux's; this package adds what yamux lacks. It must never know what a stream is for:
// kinds are opened and answered by its callers.
package mux

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// Limits and times. All of them may be lowered in Config where a test needs it.
const (
	// Heartbeat is how often each side says that it lives, and Misses how many may be missed (design §6, Lifetime).
	Heartbeat = time.Second
	Misses    = 3
	// headerTimeout bounds the wait for the header of a stream that the peer opened.
	headerTimeout = 10 * time.Second
	// helloTimeout bounds the first exchange: a peer that says nothing is not ours.
	helloTimeout = 10 * time.Second
	// maxStreams bounds the streams of a channel; beyond it a new one is refused with EMFILE.
	maxStreams = 8192
	// streamWindow is yamux's own window, and what a peer that does not keep to flow.go may send at most.
	streamWindow = maxWindow
	// acceptQueue bounds the requests that wait for Accept.
	acceptQueue = 256
)

// ErrLost is the cause of everything that fails because the peer fell silent or the connection ended.
var ErrLost = errors.New("mux: the other side is gone")

// ByeError is a channel that the peer ended on purpose.
type ByeError struct {
	Reason  string
	Stopped bool // it is the session that ends, by its owner's wish, not what it was with
}

func (e ByeError) Error() string {
	if e.Reason == "" {
		return "mux: the other side said goodbye"
	}
	return e.Reason
}

// Config may be changed until Dial or Serve.
type Config struct {
	Budget    int           // bytes under way to the peer over all streams; 0 means Budget
	Heartbeat time.Duration // 0 means Heartbeat
	Hello     time.Duration // bounds Dial's wait for the peer's welcome: one that has yet to be started takes its time; 0 means helloTimeout
	Log       *slog.Logger  // nil means none
	// OnMessage is told of control messages that are not this package's own: State and Notice. It is called by the
	// control stream's reader, so it must not block.
	OnMessage func(kind wire.Kind, body []byte)
}

// Conn is one channel.
//
// Goroutines: yamux's two and batch's; accept (ends when the session ends); one a stream that waits for its header (bounded by
// headerTimeout); readControl, beat and flushCredit (end with done);
// accuse (ends within hearOut).
type Conn struct {
	cfg     Config
	out     *batch
	guard   guard
	session *yamux.Session
	control source
	sendMu  sync.Mutex // one control message at a time
	flow    flowControl

	mu      sync.Mutex
	streams map[uint32]*Stream

	requests chan *Request
	heard    atomic.Int64 // beats left before the peer counts as gone
	heardAt  atomic.Int64 // when something has come from the peer, in nanoseconds of the clock on the wall
	once     sync.Once
	done     chan struct{}
	err      error // set before done is closed
}

func newConn(rw io.ReadWriteCloser, server bool, cfg Config) (*Conn, error) {
	if cfg.Budget == 0 {
		cfg.Budget = Budget
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = Heartbeat
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	yc := yamux.DefaultConfig()
	yc.EnableKeepAlive = false                   // ours also notices a peer that answers pings and nothing else
	yc.ConnectionWriteTimeout = 30 * time.Second // the heartbeat decides long before
	yc.StreamOpenTimeout = 0                     // it would end the whole session
	yc.StreamCloseTimeout = 0                    // half-closed flows live as long as they like
	yc.MaxStreamWindowSize = streamWindow
	yc.LogOutput, yc.Logger = nil, log.New(io.Discard, "", 0)
	open := yamux.Client
	if server {
		open = yamux.Server
	}
	c := &Conn{cfg: cfg, streams: map[uint32]*Stream{}, requests: make(chan *Request, acceptQueue), done: make(chan struct{})}
	c.flow.init(cfg.Budget)
	c.guard.budget, c.guard.streams = cfg.Budget, map[uint32]*holding{}
	var err error
	c.out = newBatch(listening{rw, c, new(sync.Once), make(chan struct{})})
	if c.session, err = open(c.out, yc); err != nil {
		c.out.Close()
		return nil, fmt.Errorf("mux: %v", err)
	}
	return c, nil
}

// listening takes whatever comes for a sign of life: on a slow link heartbeats queue behind bulk data. And it hears the peer
// out: a peer that has said goodbye and closed makes the next write fail, upon which yamux would close the connection with
// the goodbye unread in it. So a write fails only when all has been read, or nothing comes any more for a while.
type listening struct {
	io.ReadWriteCloser
	c     *Conn
	once  *sync.Once
	ended chan struct{} // closed when a read has failed
}

// hearOut bounds a failed write's wait for the reader, which has what is there within some milliseconds.
const hearOut = time.Second

func (l listening) Read(p []byte) (int, error) {
	n, err := l.ReadWriteCloser.Read(p)
	if n > 0 {
		l.c.heard.Store(Misses)
		l.c.heardAt.Store(time.Now().UnixNano())
	}
	if wrong := l.c.look(p[:n]); wrong != nil {
		n, err = 0, wrong
	}
	if err != nil {
		l.once.Do(func() { close(l.ended) })
	}
	return n, err
}

func (l listening) Write(p []byte) (int, error) {
	n, err := l.ReadWriteCloser.Write(p)
	if err != nil {
		select {
		case <-l.ended:
		case <-time.After(hearOut):
		}
	}
	return n, err
}

// Dial begins a channel as the session: it sends hello and waits for the agent's answer. A refusal is a
// *wire.Refusal, another wire version a wire.VersionError.
func Dial(ctx context.Context, rw io.ReadWriteCloser, hello wire.Hello, cfg Config) (*Conn, wire.Welcome, error) {
	var welcome wire.Welcome
	c, err := newConn(rw, false, cfg)
	if err != nil {
		rw.Close()
		return nil, welcome, err
	}
	stop := context.AfterFunc(ctx, func() { c.session.Close() })
	defer stop()
	var control *yamux.Stream
	if control, err = c.session.OpenStream(); err == nil {
		c.control = c.guard.watched(control)
		c.guard.admit() // whom one dials is known
		_ = c.control.SetDeadline(time.Now().Add(cmp.Or(cfg.Hello, helloTimeout)))
		if err = wire.Write(c.control, wire.KindHello, hello); err == nil {
			err = readReply(c.control, &welcome)
		}
	}
	if err != nil {
		switch lost := c.session.IsClosed() || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF); {
		case ctx.Err() != nil:
			err = ctx.Err()
		case lost:
			err = fmt.Errorf("%w (%v)", ErrLost, err)
		}
		c.session.Close()
		return nil, welcome, err
	}
	c.start()
	return c, welcome, nil
}

// Serve begins a channel as the agent: it reads the peer's hello and answers what admit says. An error of admit is
// sent as the refusal and returned.
func Serve(ctx context.Context, rw io.ReadWriteCloser, admit func(wire.Hello) (wire.Welcome, error), cfg Config) (*Conn, error) {
	c, err := newConn(rw, true, cfg)
	if err != nil {
		rw.Close()
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.session.Close() })
	defer stop()
	if err := c.serveHello(admit); err != nil {
		c.session.Close()
		return nil, cmp.Or(c.guard.wrong(), err)
	}
	c.start()
	return c, nil
}

func (c *Conn) serveHello(admit func(wire.Hello) (wire.Welcome, error)) error {
	timer := time.AfterFunc(helloTimeout, func() { c.session.Close() })
	defer timer.Stop()
	ys, err := c.session.AcceptStream()
	if err != nil {
		return fmt.Errorf("mux: waiting for hello: %v", err)
	}
	stream := c.guard.watched(ys)
	_ = stream.SetDeadline(time.Now().Add(helloTimeout))
	kind, body, err := wire.Read(stream)
	if err != nil {
		var version wire.VersionError
		if errors.As(err, &version) {
			_ = wire.Write(stream, wire.KindReply, wire.Refuse(&wire.Refusal{Errno: syscall.EPROTO, Message: version.Error()}))
			flush(stream)
		}
		return fmt.Errorf("mux: reading hello: %w", err)
	}
	var hello wire.Hello
	if kind != wire.KindHello {
		err = &wire.Refusal{Errno: syscall.EPROTO, Message: "mux: the first stream must say hello"}
	} else {
		err = wire.Decode(body, &hello)
	}
	var welcome wire.Welcome
	if err == nil {
		welcome, err = admit(hello)
	}
	if err != nil {
		_ = wire.Write(stream, wire.KindReply, wire.Refuse(err))
		flush(stream)
		return err
	}
	c.control = stream
	c.guard.admit()
	return writeReply(stream, welcome)
}

// flush lets a refusal reach the peer before the session is closed, which discards what is queued: it waits for the
// peer to close, a moment at most.
func flush(s source) {
	_ = s.Close()
	_ = s.SetReadDeadline(time.Now().Add(time.Second))
	_, _ = io.Copy(io.Discard, io.LimitReader(s, wire.MaxBody))
}

func (c *Conn) start() {
	_ = c.control.SetDeadline(time.Time{})
	c.heard.Store(Misses)
	go c.accept()
	go c.readControl()
	go c.beat()
	go c.flushCredit()
}

// Heard is when the last sign of life came from the peer. By the clock on the wall, which goes on while a laptop sleeps.
func (c *Conn) Heard() time.Time { return time.Unix(0, c.heardAt.Load()) }

// Done is closed when the channel has ended; Err then says why.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err is nil while the channel lives; then ErrLost or a ByeError, perhaps wrapped.
func (c *Conn) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// Close ends the channel on purpose: the peer learns the reason. Where the connection takes nothing any more it waits
// for the missing heartbeats to end it.
func (c *Conn) Close(reason string) error { return c.Bye(wire.Bye{Reason: reason}) }

// Bye is Close with all that a Bye can say.
func (c *Conn) Bye(bye wire.Bye) error {
	_ = c.Send(wire.KindBye, bye)
	select {
	case <-c.out.written():
	case <-c.done:
	}
	c.fail(net.ErrClosed)
	return nil
}

func (c *Conn) fail(err error) {
	c.once.Do(func() {
		c.err = err
		close(c.done)
		c.flow.close()
		c.session.Close()
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, s := range c.streams {
			s.cancel(ErrLost)
		}
	})
}

// Send sends a control message. It fails when the channel has ended.
func (c *Conn) Send(kind wire.Kind, body any) error {
	frame, err := wire.Append(nil, kind, body)
	if err != nil {
		return err
	}
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	if _, err := c.control.Write(frame); err != nil {
		return fmt.Errorf("%w (%v)", ErrLost, err)
	}
	return nil
}

func (c *Conn) readControl() {
	for {
		kind, body, err := wire.Read(c.control)
		if err != nil {
			c.fail(fmt.Errorf("%w (%v)", ErrLost, err))
			return
		}
		switch kind {
		case wire.KindHeartbeat:
		case wire.KindCredit:
			if credit, ok := wire.ParseCredit(body); ok {
				for _, g := range credit {
					c.flow.grant(g)
				}
			}
		case wire.KindReset:
			var r wire.Reset
			if wire.Decode(body, &r) == nil {
				if s := c.stream(r.Stream); s != nil {
					s.resetAfter(wire.Errno(r.Errno), r.After)
				}
			}
		case wire.KindBye:
			var b wire.Bye
			_ = wire.Decode(body, &b)
			c.fail(ByeError(b))
			return
		default: // State, Notice, and whatever a later peer may say
			if c.cfg.OnMessage != nil {
				c.cfg.OnMessage(kind, body)
			}
		}
	}
}

// beat sends heartbeats and counts the peer's. A tick that comes late means that this process slept (SIGSTOP, a
// closed lid): the peer's beats may lie unread, so it is given its full time again.
func (c *Conn) beat() {
	tick := time.NewTicker(c.cfg.Heartbeat)
	defer tick.Stop()
	last := time.Now()
	var beating sync.Mutex // one at a time: a peer may talk for ever and read nothing
	for {
		select {
		case <-c.done:
			return
		case <-tick.C:
		}
		now := time.Now()
		if now.Sub(last) > 2*c.cfg.Heartbeat {
			c.heard.Store(Misses)
		}
		last = now
		if c.heard.Add(-1) < 0 {
			c.fail(fmt.Errorf("%w (no sign of life for %v)", ErrLost, Misses*c.cfg.Heartbeat))
			return
		}
		c.shrink()
		c.flow.wakeFlush() // what was too little for a message of its own
		if beating.TryLock() {
			go func() { // a stalled pipe must not stop the counting
				defer beating.Unlock()
				_ = c.Send(wire.KindHeartbeat, nil)
			}()
		}
	}
}

// shrink has yamux give back the buffers that are empty: it keeps them at the largest size they ever had (1,000 flows
// that stood still after a burst held 90 MiB, 55 with this). At each read it would be too often while few streams run: a
// new buffer is allocated twice, and copied, for its first frame. See crowded.
func (c *Conn) shrink() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.streams {
		s.ys.Shrink()
	}
}

// crowded says that there are so many streams that what their buffers grew to within a second would be too much: a
// thousand that a pod's kernel took 200 KiB of each at once held 130 MiB. From there on each gives its own back at each wait.
func (c *Conn) crowded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.streams) > manyFlows
}

func (c *Conn) stream(id uint32) *Stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams[id]
}

// adopt makes a Stream of a yamux stream, or refuses where there are too many.
func (c *Conn) adopt(ys *yamux.Stream) (*Stream, error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	s := &Stream{c: c, ys: c.guard.watched(ys), ctx: ctx, stop: cancel}
	c.mu.Lock()
	if len(c.streams) >= maxStreams {
		c.mu.Unlock()
		cancel(syscall.EMFILE)
		s.ys.leave()
		return nil, &wire.Refusal{Errno: syscall.EMFILE, Message: "mux: too many streams on this channel"}
	}
	c.streams[ys.StreamID()] = s
	c.mu.Unlock()
	s.window = c.flow.open(ys.StreamID())
	select {
	case <-c.done: // fail may have gone over the streams already
		s.cancel(ErrLost)
	default:
	}
	return s, nil
}

// Open opens a stream, sends body as its header and waits for the reply, which is decoded into reply unless that is
// nil. A refusal is a *wire.Refusal and carries the errno. Where ctx ends first the peer is told.
func (c *Conn) Open(ctx context.Context, kind wire.Kind, body, reply any) (*Stream, error) {
	ys, err := c.session.OpenStream()
	if err != nil {
		return nil, fmt.Errorf("%w (%v)", ErrLost, err)
	}
	s, err := c.adopt(ys)
	if err != nil {
		ys.Close()
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { s.Reset(syscall.ECANCELED) })
	defer stop()
	if err = wire.Write(ys, kind, body); err == nil {
		err = readReply(ys, reply)
	}
	if err != nil {
		cause := context.Cause(s.ctx)
		s.Close()
		var refusal *wire.Refusal
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.As(err, &refusal):
			return nil, err
		case cause != nil:
			return nil, fmt.Errorf("mux: opening a stream of kind %d: %w", kind, cause)
		}
		return nil, fmt.Errorf("mux: opening a stream of kind %d: %w (%v)", kind, ErrLost, err)
	}
	return s, nil
}

func readReply(r io.Reader, into any) error {
	kind, body, err := wire.Read(r)
	if err != nil {
		return err
	}
	if kind != wire.KindReply {
		return fmt.Errorf("mux: kind %d where a reply was due", kind)
	}
	var reply wire.Reply
	if err := wire.Decode(body, &reply); err != nil {
		return err
	}
	if reply.Errno != 0 {
		return &wire.Refusal{Errno: wire.Errno(reply.Errno), Message: reply.Message}
	}
	if into == nil || len(reply.Body) == 0 {
		return nil
	}
	return wire.Decode(reply.Body, into)
}

func writeReply(w io.Writer, body any) error {
	var reply wire.Reply
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("mux: encoding a reply: %v", err)
		}
		reply.Body = raw
	}
	return wire.Write(w, wire.KindReply, reply)
}

// Request is a stream that the peer wants to open. It must be accepted or refused.
type Request struct {
	Kind   wire.Kind
	Body   []byte
	stream *Stream
}

// Context ends when the peer gives the request up or the channel ends.
func (r *Request) Context() context.Context { return r.stream.ctx }

// ID is the stream's number, the same on both sides.
func (r *Request) ID() uint32 { return r.stream.ID() }

// Accept answers the request with errno 0 and body, which may be nil.
func (r *Request) Accept(body any) (*Stream, error) {
	if err := writeReply(r.stream.ys, body); err != nil {
		r.stream.Close()
		return nil, err
	}
	return r.stream, nil
}

// Refuse answers the request with err's errno (EIO where it has none) and text.
func (r *Request) Refuse(err error) {
	_ = wire.Write(r.stream.ys, wire.KindReply, wire.Refuse(err))
	r.stream.Close()
}

// Accept returns the next stream the peer opens. It fails when the channel has ended.
func (c *Conn) Accept() (*Request, error) {
	select {
	case r := <-c.requests:
		return r, nil
	case <-c.done:
		return nil, c.err
	}
}

// accept must never wait for anything but yamux: the acknowledgement that lets the peer open more comes from here.
// That the session has ended it leaves to readControl to say, which may still find a Bye.
func (c *Conn) accept() {
	for {
		ys, err := c.session.AcceptStream()
		if err != nil {
			return
		}
		s, err := c.adopt(ys)
		if err != nil {
			go func() { // the write may have to wait
				_ = wire.Write(ys, wire.KindReply, wire.Refuse(err))
				ys.Close()
			}()
			continue
		}
		go c.readHeader(s)
	}
}

func (c *Conn) readHeader(s *Stream) {
	_ = s.ys.SetReadDeadline(time.Now().Add(headerTimeout))
	kind, body, err := wire.Read(s.ys)
	if err != nil {
		s.Close()
		return
	}
	_ = s.ys.SetReadDeadline(time.Time{})
	if s.ctx.Err() != nil { // reset in the meantime: the deadline that woke its reader was just removed
		s.Close()
		return
	}
	select {
	case c.requests <- &Request{Kind: kind, Body: body, stream: s}:
	case <-c.done:
	}
}
