package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// maxAsked bounds the ports that are asked for at once when the mode is switched: a session may have some sixty pods.
const maxAsked = 16

// stand is one port of one of the session's pods: what of its requests the session has, which is a stream to the pod's
// agent, or none in mode off. The mode may be switched while it stands.
//
// Goroutines: the caller's of run.
type stand struct {
	p        *ports
	l        *link
	k        portKey
	pod      uint16 // the pod's port
	loopback bool

	// With ports.mu.
	mode  string
	ready *opened            // a stream of that mode that was opened before; nil: none
	stop  context.CancelFunc // ends what is held now
	gone  func()             // what was held before the last switch is held no more; any number of calls
}

// opened is a stream of a stand's, and the channel that it is of.
type opened struct {
	conn   *mux.Conn
	stream *mux.Stream
}

// close gives back what the stream is, and waits for that, giveBack at most.
func (o *opened) close() {
	_ = o.stream.CloseWrite()
	stop := time.AfterFunc(giveBack, func() { o.stream.Close() })
	defer stop.Stop()
	_, _ = io.Copy(io.Discard, o.stream)
	o.stream.Close()
}

// run holds the port in the session's mode until ctx or the link has ended.
func (st *stand) run(ctx context.Context) {
	p := st.p
	p.mu.Lock()
	st.mode, st.stop, st.gone = p.mode, func() {}, func() {}
	p.stands[st] = true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		ready := st.ready
		st.ready = nil
		delete(p.stands, st)
		st.gone()
		p.mu.Unlock()
		if ready != nil {
			ready.close()
		}
	}()
	for ctx.Err() == nil {
		p.mu.Lock()
		own, stop := context.WithCancel(ctx)
		st.stop = stop
		mode := st.mode
		st.gone()
		p.mu.Unlock()
		switch mode {
		case modeSteal:
			st.steal(own)
		case modeMirror:
			st.mirror(own)
		}
		select {
		case <-own.Done():
		case <-st.l.ended:
			stop()
			return
		}
		stop()
	}
}

// turn has the stand change to a mode, with a stream of it if there is one. It is called with ports.mu held.
func (st *stand) turn(mode string, ready *opened) (gone <-chan struct{}) {
	over := make(chan struct{})
	st.mode, st.ready, st.gone = mode, ready, sync.OnceFunc(func() { close(over) })
	st.stop()
	return over
}

// port is its name, for people.
func (st *stand) port() string { return describe(st.k.network, st.pod, st.k.number) }

// steal has the port's requests taken for as long as ctx lasts.
func (st *stand) steal(ctx context.Context) {
	st.hold(ctx, wire.KindSteal, "taken", func(name string, fresh bool, stream io.Reader) error {
		if fresh {
			st.p.s.notice(fmt.Sprintf("%s of %s now %s to this program", st.port(), name, verb(st.k.network)))
		}
		_, err := io.Copy(io.Discard, stream)
		return err
	})
}

// errElsewhere says that another link asks the agent.
var errElsewhere = errors.New("session: another link asks this agent")

// open asks the agent for the port. name is the pod's.
func (st *stand) open(ctx context.Context, conn *mux.Conn, kind wire.Kind) (stream *mux.Stream, name string, err error) {
	ask := wire.Steal{Ports: []wire.Port{{Network: st.k.network, Port: st.pod, Loopback: st.loopback}}}
	if kind == wire.KindSteal {
		ask.Existing = st.p.s.config.Incoming.Existing
	}
	name, ok := st.p.s.reach.steal(st.l, &ask)
	if !ok {
		return nil, name, errElsewhere
	}
	stream, err = conn.Open(ctx, kind, ask, nil)
	return stream, name, err
}

// take is what was opened on this channel before, if anything was.
func (st *stand) take(conn *mux.Conn) *mux.Stream {
	st.p.mu.Lock()
	ready := st.ready
	st.ready = nil
	st.p.mu.Unlock()
	switch {
	case ready == nil:
		return nil
	case ready.conn != conn:
		ready.stream.Close() // it ended with its channel
		return nil
	}
	return ready.stream
}

// hold keeps a stream of kind to the port for as long as ctx lasts. use has it while it lives; name is the pod's, and fresh
// says that the developer has yet to hear of it (what comes back with the link, the link has said).
func (st *stand) hold(ctx context.Context, kind wire.Kind, what string, use func(name string, fresh bool, stream io.Reader) error) {
	said, told, name := "", "", ""
	st.l.keep(ctx, stealRetry, func(conn *mux.Conn) (err error) {
		stream := st.take(conn)
		if stream != nil {
			name, _ = st.p.s.reach.steal(st.l, &wire.Steal{})
		} else if stream, name, err = st.open(ctx, conn, kind); errors.Is(err, errElsewhere) {
			select {
			case <-conn.Done():
			case <-ctx.Done():
			}
			return mux.ErrLost
		} else if err != nil {
			return err
		}
		said = ""
		stop := context.AfterFunc(ctx, func() {
			_ = stream.CloseWrite() // the agent answers with its own end when the port is the pod's again
			time.AfterFunc(giveBack, func() { stream.Close() })
		})
		defer stop()
		defer stream.Close()
		fresh := name != told
		told = name
		return use(name, fresh, stream)
	}, func(err error) {
		if text := err.Error(); text != said && !errors.Is(err, syscall.ECANCELED) {
			said, told = text, ""
			st.p.refused(st.port(), what, name, err)
		}
	})
}

// current is the mode, and whether it was switched to.
func (p *ports) current() (mode string, chosen bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mode, p.chosen
}

// setMode switches every port of every pod to a mode, or none. What the new mode is on each is asked for first, while the
// old one stands; a refusal leaves that and is returned. Whose a connection of the meantime is is decided when the switch
// is through: until then copies wait (admitCopy), so that nothing is served twice; what comes before the agent has taken a
// port is the pod's alone, as at the beginning of any steal. Pods that cannot be reached now follow when they are back.
func (p *ports) setMode(ctx context.Context, mode string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.s.ctx, cancel)()
	select {
	case p.switching <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-p.switching }()
	p.mu.Lock()
	from := p.mode
	if from == mode {
		p.chosen = true
		p.mu.Unlock()
		return nil
	}
	through := make(chan struct{})
	p.turning = through
	var stands []*stand
	for st := range p.stands {
		stands = append(stands, st)
	}
	p.mu.Unlock()
	tried, err := p.try(ctx, mode, stands)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		var giving sync.WaitGroup
		for _, o := range tried {
			giving.Go(o.close)
		}
		giving.Wait()
		p.settle(from)
		return err
	}
	p.mu.Lock()
	p.mode, p.chosen = mode, true
	var gone []<-chan struct{}
	for st := range p.stands { // some may have come meanwhile, in the old mode
		gone = append(gone, st.turn(mode, tried[st]))
		delete(tried, st)
	}
	p.mu.Unlock()
	for _, o := range tried {
		o.close() // its port or pod has gone meanwhile
	}
	limit := time.NewTimer(giveBack)
	defer limit.Stop()
	for _, g := range gone {
		select {
		case <-g:
		case <-limit.C:
			limit.Reset(0) // for the rest, too
		case <-p.s.ctx.Done():
		}
	}
	p.settle(mode)
	return nil
}

// settle ends a switch: from here on it is known whose each connection is.
func (p *ports) settle(mode string) {
	p.mu.Lock()
	close(p.turning)
	p.turning = nil
	var flows []*stolenFlow
	for _, some := range p.stolen {
		for f := range some {
			flows = append(flows, f)
		}
	}
	p.mu.Unlock()
	for _, f := range flows {
		f.end(mode != modeSteal)
	}
	p.s.changed.ring()
}

// try opens what a mode is on each stand. A refusal is an error; a link that is down is none.
func (p *ports) try(ctx context.Context, mode string, stands []*stand) (map[*stand]*opened, error) {
	kind, what := wire.KindSteal, "taken"
	if mode == modeMirror {
		kind, what = wire.KindMirror, "mirrored"
	}
	var mu sync.Mutex
	tried := map[*stand]*opened{}
	var asking errgroup.Group
	asking.SetLimit(maxAsked)
	for _, st := range stands {
		conn, _ := st.l.current()
		if conn == nil || mode == modeOff || mode == modeMirror && st.k.network != "tcp" {
			continue
		}
		asking.Go(func() error {
			stream, name, err := st.open(ctx, conn, kind)
			switch {
			case errors.Is(err, errElsewhere), errors.Is(err, mux.ErrLost):
				return nil
			case err != nil:
				return notSwitched(mode, fmt.Sprintf("%s is not %s from %s", st.port(), what, name), err)
			}
			mu.Lock()
			defer mu.Unlock()
			tried[st] = &opened{conn, stream}
			return nil
		})
	}
	return tried, asking.Wait()
}

// notSwitched says why the mode stays.
func notSwitched(mode, what string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fail.Wrap(fail.StealConflict, err, "ask them to end it; until then the mode stays as it is", "%s", what)
	case errors.Is(err, syscall.EPERM):
		return fail.Wrap(fail.AgentRefused, err, "stepin doctor -t TARGET says which right is missing; the mode stays as it is", "%s", what)
	}
	return fail.Wrap(fail.AgentRefused, err, "the mode stays as it is", "%s", what)
}

// SetMode switches what becomes of the pods' requests: "steal", "mirror" or "off". Connections that the program has by then
// end after the answer in progress. An error is a fail.Error, and leaves the mode as it was.
func (s *Session) SetMode(ctx context.Context, mode string) error {
	needs := map[string]string{modeSteal: rightSteal, modeMirror: rightMirror, modeOff: ""}
	right, ok := needs[mode]
	if !ok {
		return fail.New(fail.ConfigValue, `write "steal", "mirror" or "off"`, "there is no mode %q", mode)
	}
	select {
	case <-s.link.ended:
		return fail.New(fail.AgentLost, "start again", "the agent is gone, and with it the way to the pod's requests")
	default:
	}
	if right != "" && !slices.Contains(s.pod.Rights, right) {
		return fail.New(fail.AgentRefused, "stepin doctor -t TARGET says which right is missing; the mode stays as it is",
			"the pod's agent lacks the right to %s requests", mode)
	}
	if err := s.ports.setMode(ctx, mode); err != nil {
		return err
	}
	if mode == modeOff {
		s.notice("the pod's requests are its own again")
	}
	return nil
}
