package dap

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
)

// errAnswered says that the request has its answer already: the real debugger's own.
var errAnswered = errors.New("dap: launching: the real debugger refused")

// begin starts an operation, or says why not. Its context ends with the conversation or by cancel.
func (c *conversation) begin(m *Message, title string, work func(context.Context, *operation) error) {
	ctx, cancel := context.WithCancel(c.ctx)
	op := &operation{seq: m.Seq, cancel: cancel, done: make(chan struct{})}
	c.mu.Lock()
	c.op = op
	c.mu.Unlock()
	op.progress = c.startProgress(m.Seq, title)
	c.wg.Go(func() {
		defer close(op.done)
		defer cancel()
		err := work(ctx, op)
		op.progress.end()
		c.mu.Lock()
		if c.op == op {
			c.op = nil
		}
		c.mu.Unlock()
		if ctx.Err() != nil && err != nil {
			err = context.Canceled
		}
		if err != nil && !errors.Is(err, errAnswered) {
			c.refuse(m.Seq, m.Command, err)
		}
	})
}

// toLaunching enters the phase, or refuses the request.
func (c *conversation) toLaunching(m *Message) bool {
	c.mu.Lock()
	ready := c.phase == idle && c.announced != nil
	if ready {
		c.phase = launching
		c.client.extension = extension{}
		_ = decode(m.Field("arguments"), &c.client.extension) // what is wrong with them, launch says
	}
	c.mu.Unlock()
	if !ready {
		c.refuse(m.Seq, m.Command, fail.New(fail.Internal, "", "launch comes once, after initialize"))
	}
	return ready
}

func (c *conversation) onLaunch(m *Message) {
	if !c.toLaunching(m) {
		return
	}
	c.begin(m, "stepin", func(ctx context.Context, op *operation) error {
		s, err := c.launch(ctx, m, op)
		return c.settleLaunch(s, err)
	})
}

// settleLaunch clears away what a launch that failed has left.
func (c *conversation) settleLaunch(s *live, err error) error {
	if err == nil {
		return nil
	}
	if s != nil {
		s.close(c.log)
	}
	c.mu.Lock()
	if c.phase != ending {
		c.phase, c.run, c.session = idle, nil, nil
		c.memory.init()
	}
	c.mu.Unlock()
	return err
}

// launch does what F5 asks for. On an error it has ended the real debugger; the session it returns is the caller's.
func (c *conversation) launch(ctx context.Context, m *Message, op *operation) (*live, error) {
	cfg, d, noDebug, err := c.configure(m)
	if err != nil {
		return nil, err
	}
	if err := c.canShow(d); err != nil {
		return nil, err
	}
	s, program, err := c.prepare(ctx, cfg, d, op.progress)
	if err != nil {
		return nil, err
	}
	s.noDebug = noDebug
	c.wg.Go(func() { c.tellState(s) })
	return s, c.await(ctx, m, op, s, func(st starting) (*run, error) {
		c.wg.Go(func() { c.watch(s) })
		op.progress.update("starting "+d.Name(), 0, 0)
		return c.startRun(ctx, s, d, program, st)
	})
}

// await makes the session the conversation's, starts its real debugger and returns when that has answered the launch
// request, or has ended. On an error it has ended the real debugger.
func (c *conversation) await(ctx context.Context, m *Message, op *operation, s *live, start func(starting) (*run, error)) error {
	c.mu.Lock()
	if c.phase == ending {
		c.mu.Unlock()
		return context.Canceled
	}
	c.session = s
	c.mu.Unlock()
	answered := make(chan *Message, 1)
	r, err := start(starting{first: true, onLaunch: func(answer *Message) {
		// In the reader of the real debugger, so that the order of its messages stays.
		if answer != nil {
			if answer.Success {
				op.progress.end()
				c.mu.Lock()
				if c.phase == launching {
					c.phase = running
				}
				c.mu.Unlock()
			}
			answer.named(m.Command)
			answer.RequestSeq = m.Seq
			c.toEditor(answer)
		}
		answered <- answer
	}})
	if err != nil {
		return s.why(err)
	}
	var answer *Message
	select {
	case answer = <-answered:
	case <-ctx.Done():
		select {
		case answer = <-answered: // the cancel came too late
		default:
			r.end(nil)
			answer = <-answered // the reader has ended: whether it answered is settled
			if answer == nil {
				return ctx.Err()
			}
			if answer.Success {
				c.terminateUnlessEnding()
			}
		}
	}
	if answer == nil {
		return s.why(r.death())
	}
	if !answer.Success {
		r.end(nil)
		return errAnswered
	}
	if d := s.debugger; d != nil && d.Console() == InternalConsole { // a terminal may take its time
		r.begun()
	}
	return nil
}

// why is the session's own end where that took the real debugger with it, or that the debuggee is not where it should be;
// else err.
func (l *live) why(err error) error {
	if astray := l.arrival.astray(); astray != nil {
		return astray
	}
	select {
	case <-l.runner.Done():
		if own := l.runner.Err(); own != nil {
			return own
		}
	case <-time.After(flushEnd):
	}
	return err
}

// configure reads launch arguments and prepares the real debugger they name.
func (c *conversation) configure(m *Message) (*config.Launch, Debugger, bool, error) {
	args := m.Field("arguments")
	var editor struct {
		NoDebug bool   `json:"noDebug"`
		Type    string `json:"type"`
	}
	if err := decode(args, &editor); err != nil {
		return nil, nil, false, fail.Wrap(fail.ConfigValue, err, "", "launch arguments")
	}
	c.mu.Lock()
	c.kind = editor.Type
	c.mu.Unlock()
	cfg, err := c.o.Parse(args)
	if err != nil {
		return nil, nil, false, err
	}
	d, err := c.debugger(cfg, editor.NoDebug)
	return cfg, d, editor.NoDebug, err
}

func (c *conversation) debugger(cfg *config.Launch, noDebug bool) (Debugger, error) {
	prepare := c.o.Debuggers[cfg.Debugger.Type]
	if prepare == nil {
		return nil, fail.New(fail.ConfigValue, `write "debugger": {"type": "go", "program": "…"}`,
			"debugger.type %q is none that a launch can use", cfg.Debugger.Type)
	}
	return prepare(cfg, noDebug, c.o.Place)
}

// canShow checks that the editor has what the configuration asks for: the console, and child sessions where nothing is
// debugged without.
func (c *conversation) canShow(d Debugger) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d.Command("").Way == Serves && !c.client.Children {
		return fail.New(fail.ConfigValue, "VS Code and nvim-dap are editors that can",
			"%s debugs a program in a child session, and this editor cannot start one (startDebugging)", d.Name())
	}
	if d.Console() != InternalConsole && !c.client.Terminal {
		return fail.New(fail.ConfigValue, `use "console": "internalConsole"`,
			"console %q needs an editor that can run a program in a terminal, and this one cannot", d.Console())
	}
	return nil
}

// prepare starts the session and builds, side by side, since each takes seconds. The first error cancels the other.
func (c *conversation) prepare(ctx context.Context, cfg *config.Launch, d Debugger, p *progress) (*live, string, error) {
	life, stop := context.WithCancel(c.ctx) // the session's: it follows the launch only until both have succeeded
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	follow := context.AfterFunc(work, stop)
	var g errgroup.Group
	attempt := func(step func() error) {
		g.Go(func() error {
			err := step()
			if err != nil {
				cancel()
			}
			return err
		})
	}
	dir := make(chan string, 1)
	var told sync.Once
	tell := func(path string) { told.Do(func() { dir <- path }) }
	var runner Runner
	attempt(func() (err error) {
		runner, err = c.o.Start(life, cfg, d.Hints(), Hooks{Progress: p.update, Notice: c.notice, Request: c.traffic(cfg), Dir: tell})
		if err == nil {
			tell(runner.Dir())
		}
		return err
	})
	var program string
	attempt(func() (err error) {
		select {
		case path := <-dir:
			program, err = d.Build(work, path, c.print)
			return err
		case <-work.Done():
			return work.Err()
		}
	})
	err := g.Wait()
	s := &live{runner: runner, stop: stop, config: cfg, debugger: d, closed: make(chan struct{})}
	if err == nil && !follow() {
		err = work.Err() // cancelled in the last moment
	}
	if err == nil {
		s.program = program
		return s, program, nil
	}
	stop()
	if runner == nil {
		s.runner = noRunner{}
	}
	s.close(c.log)
	return nil, "", err
}

// noRunner stands for a session that did not start.
type noRunner struct{ Runner }

func (noRunner) Close() error { return nil }

// watch tells the editor when the session ends by itself.
func (c *conversation) watch(s *live) {
	select {
	case <-s.closed:
		return
	case <-s.runner.Done():
	}
	c.mu.Lock()
	r, over := c.run, c.phase == ending || c.session != s
	c.mu.Unlock()
	select {
	case <-s.closed:
		return
	default:
	}
	if over {
		return
	}
	if err := s.runner.Err(); err != nil {
		c.say(err)
	}
	if r != nil {
		r.end(nil)
	}
	c.terminate()
}

// say shows an error of ours in the console.
func (c *conversation) say(err error) {
	c.print("stderr", "stepin: "+describe(err)+"\n")
}

// terminate tells the editor that the debuggee is gone, once.
func (c *conversation) terminate() {
	c.mu.Lock()
	told := c.terminated
	c.terminated = true
	c.mu.Unlock()
	if !told {
		c.toEditor(newEvent("terminated", nil))
	}
}

// terminateUnlessEnding is terminate where no disconnect is to be answered first.
func (c *conversation) terminateUnlessEnding() {
	c.mu.Lock()
	over := c.phase == ending
	c.mu.Unlock()
	if !over {
		c.terminate()
	}
}
