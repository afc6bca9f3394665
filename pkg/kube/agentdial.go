package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// agentGone is ErrAgentGone with the cluster's own words, and perhaps ErrOnceMore.
type agentGone struct {
	words    string
	onceMore bool
}

func (e agentGone) Error() string { return e.words }
func (e agentGone) Is(target error) bool {
	return target == ErrAgentGone || target == ErrOnceMore && e.onceMore
}

// startsText is what the node, and the API server for it, say of a pod or container that they do not know yet. It comes
// with different status codes by the way that a stream is opened, and without any by some.
var startsText = regexp.MustCompile(`unable to upgrade connection: (pod|container) .*not found|^pod not found|container .* is not running|is waiting to start`)

// portTaken is how Linux says that something else has the agent's port.
const portTaken = "address already in use"

// starting says that a call came too early for the node, not that it failed.
func starting(err error) bool {
	return err != nil && (errors.Is(err, ErrNotYet) || startsText.MatchString(err.Error()))
}

// Dial opens a stream to the agent. It waits for one that is starting, by trying: a port-forward works before the API
// server says that the container runs. It ends early on what the pod's status and events say. Errors: ErrAgentGone (also
// as a fail.Error with the cluster's words), fail.Error.
//
// The connection may still be tried again until the agent's first byte has come: nobody tells a client that the pod
// refused before it reads (see Forward), so what was written until then is written again. ctx is the connection's until that
// byte, and no longer.
func (a *Agent) Dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, agentWait)
	conn, err := a.open(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	p := &agentConn{a: a, ctx: ctx, cancel: cancel, pace: newPace(pollSoon), conn: conn, done: make(chan struct{})}
	go p.mind()
	return p, nil
}

// open makes one port-forward, as soon as there is something to forward to.
func (a *Agent) open(ctx context.Context) (net.Conn, error) {
	a.mu.Lock()
	ready, w := a.ready, a.w
	a.ready = nil
	a.mu.Unlock()
	if ready != nil {
		return ready, nil
	}
	p := newPace(pollSoon)
	for {
		pod, err := a.podName(ctx, w)
		if err != nil {
			return nil, err
		}
		if w != nil {
			a.c.Prepare(ctx, 2) // for this try, and for the next if this one comes too early
		}
		conn, err := a.c.Forward(ctx, a.t.Namespace, pod, a.t.Port)
		switch {
		case err == nil:
			return conn, nil
		case errors.Is(err, ErrPodGone) && (w == nil || w.ephemeral):
			return nil, a.gone("its pod does not exist any more", true)
		case errors.Is(err, ErrPodGone), starting(err), errors.Is(err, errOverload): // a new pod may not have reached this API server
		default:
			return nil, err
		}
		if err := a.pause(ctx, w, p.next(err)); err != nil {
			return nil, err
		}
	}
}

// reopen opens the port-forward anew, over the old one's connection where that still serves.
func (a *Agent) reopen(ctx context.Context, old net.Conn) (net.Conn, error) {
	if s, ok := old.(*stream); ok {
		next, err := s.again()
		a.c.log.Debug("kube: another stream", "err", err)
		if err == nil {
			return next, nil
		}
	} else {
		_ = old.Close()
	}
	return a.open(ctx)
}

// podName waits until the Job's pod has one, and with an image to be pulled until the container has started: there is
// nothing to try before, and pulling may take longer than the agent's hello is waited for.
func (a *Agent) podName(ctx context.Context, w *agentWatch) (string, error) {
	if w == nil {
		return a.t.Pod, nil
	}
	for {
		s := w.state()
		if err := a.hopeless(s); err != nil {
			return "", err
		}
		if s.pod != "" && (a.o.Config.Image == "" || s.up) {
			a.mu.Lock()
			a.t.Pod = s.pod
			a.mu.Unlock()
			return s.pod, nil
		}
		select {
		case <-ctx.Done():
			return "", a.late(ctx, s)
		case <-s.change:
		}
	}
}

// pause waits a little, less if something has happened that ends the waiting.
func (a *Agent) pause(ctx context.Context, w *agentWatch, little time.Duration) error {
	var s state
	if w != nil {
		s = w.state()
		if err := a.hopeless(s); err != nil {
			return err
		}
	}
	select {
	case <-ctx.Done():
		return a.late(ctx, s)
	case err := <-a.failed: // nil channel: never
		return err
	case <-s.change:
		return nil
	case <-time.After(little):
		return nil
	}
}

// hopeless is what the cluster has said already; nil if there is hope.
func (a *Agent) hopeless(s state) error {
	switch {
	case s.words != "":
		return a.gone(s.words, s.ended)
	case s.ended:
		return a.gone("it ended without a word", true)
	}
	return nil
}

// gone is the end of this agent: a new one may be made. ended says that it has been there.
func (a *Agent) gone(words string, ended bool) error {
	if err := a.tickets.drop(a.key, a.Token()); err != nil {
		a.c.log.Debug("kube: forgetting an agent", "err", err)
	}
	if noShell(words) {
		return errNoShell(a.o.Pod)
	}
	a.mu.Lock()
	onceMore := ended && a.made.job == "" && a.made.container == "" || a.made.container != "" && strings.Contains(words, portTaken)
	a.mu.Unlock()
	hint := "kubectl get events -n " + a.t.Namespace + " shows more"
	words, its, ok := strings.Cut(strings.TrimPrefix(words, "stepin-agent: "), " hint: ") // as the agent's main writes them
	if ok {
		hint = its
	}
	return fail.Wrap(fail.AgentStart, agentGone{words, onceMore}, hint, "the agent for pod %s is not there", a.o.Pod.Name)
}

// late is a wait that took too long, or was ended by the user.
func (a *Agent) late(ctx context.Context, s state) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("kube: waiting for the agent: %w", ctx.Err())
	}
	why := s.latest
	if why == "" {
		why = "the cluster gives no reason; is the node " + a.o.Pod.Node + " up?"
	}
	return fail.New(fail.AgentStart, "kubectl get events -n "+a.t.Namespace+" shows more",
		"the agent did not start in time: %s", why)
}

// answered ends the watching: from now on the session knows more than the API server.
func (a *Agent) answered() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.heard = true
	if a.w == nil {
		return
	}
	a.w.stop()
	a.w = nil
	if _, err := a.tickets.save(a.key, a.t); err != nil { // the agent has heard ours already
		a.c.log.Debug("kube: keeping the agent's ticket", "err", err)
	}
	a.c.holding(a.key, a.tickets.hold(a.key))
}

// Failure is why a connection of Dial's ended before the agent had said anything, nil where that has not happened: what
// reads the connection may have words of its own only ("EOF"), and these are the cluster's.
func (a *Agent) Failure() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.failure
}

// maxHello bounds what is kept to be written again, in bytes: a hello has some hundred.
const maxHello = 64 << 10

// mute is how long an agent that runs may say nothing until its connection is taken for lost.
const mute = 5 * time.Second

// agentConn is a connection that is opened anew until its first byte comes. One reader and one writer may use it at once.
//
// Goroutine: mind; it ends with the first byte, or with the connection.
type agentConn struct {
	a      *Agent
	ctx    context.Context // of the trying
	cancel context.CancelFunc
	pace   *pace         // of again
	done   chan struct{} // closed when the agent has said something, or this is closed
	once   sync.Once

	mu       sync.Mutex
	conn     net.Conn
	over     net.Conn     // which end has ended
	hello    bytes.Buffer // written so far; kept until heard
	heard    bool
	shut     bool
	deadline [2]time.Time // of read and write
}

func (p *agentConn) current() (net.Conn, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn, p.heard
}

// Read returns what the agent says. Until it has said something, a refusal means that it does not listen yet.
func (p *agentConn) Read(b []byte) (int, error) {
	for {
		conn, heard := p.current()
		n, err := conn.Read(b)
		if heard {
			return n, err
		}
		if n > 0 {
			p.mu.Lock()
			p.heard, p.hello = true, bytes.Buffer{}
			p.mu.Unlock()
			p.settle()
			p.a.answered()
			return n, err
		}
		// An end before the first byte is an agent that died at once, or a node that closed where others refuse.
		if !starting(err) && !errors.Is(err, ErrPodGone) && !errors.Is(err, io.EOF) && !p.ended(conn) {
			return n, err
		}
		if err := p.again(conn); err != nil {
			p.a.mu.Lock()
			p.a.failure = err
			p.a.mu.Unlock()
			return 0, err
		}
	}
}

// mind ends connections of which nothing comes: a node does not always say that what it forwarded to has gone, but the
// pod's state does. Read then finds out what there is to say, or tries again.
func (p *agentConn) mind() {
	tick := time.NewTicker(mute)
	defer tick.Stop()
	var minded net.Conn
	for {
		p.a.mu.Lock()
		w := p.a.w
		p.a.mu.Unlock()
		if w == nil {
			return
		}
		s := w.state()
		if s.words != "" || s.ended {
			p.end()
		}
		select {
		case <-p.done:
			return
		case <-p.ctx.Done(): // Read finds out why
			p.end()
			return
		case <-s.change:
		case <-tick.C:
			if conn, _ := p.current(); s.up && conn == minded {
				p.end()
			} else {
				minded = conn
			}
		}
	}
}

// end ends the connection below.
func (p *agentConn) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.heard && p.over != p.conn {
		p.over = p.conn
		_ = p.conn.Close()
	}
}

// ended says that it was end which ended a connection.
func (p *agentConn) ended(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.over == conn && !p.shut
}

// again takes the place of a connection that was refused.
func (p *agentConn) again(old net.Conn) error {
	p.a.mu.Lock()
	w := p.a.w
	p.a.mu.Unlock()
	if w == nil { // it has answered once, or runs since before us
		_ = old.Close()
		return p.a.gone("nothing listens there any more", true)
	}
	if err := p.a.pause(p.ctx, w, p.pace.next(nil)); err != nil {
		_ = old.Close()
		return err
	}
	conn, err := p.a.reopen(p.ctx, old)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shut {
		_ = conn.Close()
		return net.ErrClosed
	}
	p.conn = conn
	_ = conn.SetReadDeadline(p.deadline[0])
	_ = conn.SetWriteDeadline(p.deadline[1])
	_, err = conn.Write(p.hello.Bytes())
	if errors.Is(err, ErrNotYet) { // the next Read says so again
		err = nil
	}
	return err
}

func (p *agentConn) Write(b []byte) (int, error) {
	p.mu.Lock()
	conn := p.conn
	if p.heard {
		p.mu.Unlock()
		return conn.Write(b)
	}
	defer p.mu.Unlock()
	if p.hello.Len()+len(b) > maxHello {
		return 0, fmt.Errorf("kube: %d bytes written before the agent has said anything", p.hello.Len()+len(b))
	}
	p.hello.Write(b)
	n, err := conn.Write(b)
	if errors.Is(err, ErrNotYet) || errors.Is(err, net.ErrClosed) && !p.shut { // again writes it
		return len(b), nil
	}
	return n, err
}

// CloseWrite ends our direction.
func (p *agentConn) CloseWrite() error {
	conn, _ := p.current()
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Close ends the connection and the trying.
func (p *agentConn) Close() error {
	p.mu.Lock()
	p.shut = true
	conn := p.conn
	p.mu.Unlock()
	p.settle()
	return conn.Close()
}

// settle ends the trying.
func (p *agentConn) settle() {
	p.once.Do(func() {
		close(p.done)
		p.cancel()
	})
}

func (p *agentConn) LocalAddr() net.Addr  { return address("stepin") }
func (p *agentConn) RemoteAddr() net.Addr { return address("agent") }

func (p *agentConn) SetDeadline(t time.Time) error {
	return errors.Join(p.SetReadDeadline(t), p.SetWriteDeadline(t))
}

func (p *agentConn) SetReadDeadline(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deadline[0] = t
	return p.conn.SetReadDeadline(t)
}

func (p *agentConn) SetWriteDeadline(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deadline[1] = t
	return p.conn.SetWriteDeadline(t)
}
