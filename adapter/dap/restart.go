package dap

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
)

// maxHeld bounds the requests that wait for the new real debugger.
const maxHeld = 256

// swap is a restart under way: what must not reach the editor, or not yet. Guarded by conversation.mu.
type swap struct {
	old      *run       // the run that the restart ends
	changing bool       // between the end of the old real debugger and the new one's readiness
	held     []held     // requests that came then
	ends     []*Message // exited and terminated of the old one, which count only if the restart fails
}

type held struct {
	message *Message
	key     string
}

func (s *swap) hold(h held) bool {
	if len(s.held) >= maxHeld {
		return false
	}
	s.held = append(s.held, h)
	return true
}

func (c *conversation) onRestart(m *Message) {
	c.mu.Lock()
	ready := c.phase == running && c.swap == nil && !c.terminated
	if ready {
		c.swap = &swap{old: c.run}
	}
	c.mu.Unlock()
	if !ready {
		c.refuse(m.Seq, m.Command, fail.New(fail.Internal, "", "nothing runs that could be restarted"))
		return
	}
	c.begin(m, "stepin: restart", func(ctx context.Context, op *operation) error {
		err := c.restart(ctx, m, op)
		c.settle(err)
		return err
	})
}

// restart builds, then starts a new real debugger in the same session. Until the build is through the old run lives.
func (c *conversation) restart(ctx context.Context, m *Message, op *operation) error {
	c.mu.Lock()
	s, old := c.session, c.run
	c.mu.Unlock()
	d, cfg, err := c.reconfigure(m, s)
	if err != nil {
		return err
	}
	op.progress.update("building", 0, 0)
	program, err := d.Build(ctx, s.runner.Dir(), c.print)
	if err != nil {
		return err
	}
	c.mu.Lock()
	if c.phase != running {
		c.mu.Unlock()
		return context.Canceled
	}
	c.swap.changing = true
	wasPaused := c.paused
	former := s.program
	s.former = append(s.former, s.debugger)
	s.debugger, s.config, s.program = d, cfg, program
	c.mu.Unlock()
	c.setPaused(old, false)
	old.mu.Lock()
	old.quiet = true
	old.mu.Unlock()
	old.failPending(fail.New(fail.Internal, "", "the program was restarted"))
	old.end(nil)
	if former != program && filepath.Dir(former) == s.runner.Dir() {
		os.Remove(former) // else every restart leaves one in what may be memory
	}
	op.progress.update("starting "+d.Name(), 0, 0)
	return c.startAgain(ctx, m, op, s, d, program, wasPaused)
}

// reconfigure prepares the real debugger from the configuration that came with the request (VS Code sends the edited
// one), else from the launch's.
func (c *conversation) reconfigure(m *Message, s *live) (Debugger, *config.Launch, error) {
	var args struct {
		Arguments json.RawMessage `json:"arguments"`
	}
	if err := decode(m.Field("arguments"), &args); err != nil {
		return nil, nil, fail.Wrap(fail.ConfigValue, err, "", "restart arguments")
	}
	cfg := s.config
	if len(args.Arguments) > 0 && string(args.Arguments) != "null" {
		var err error
		if cfg, err = c.o.Parse(args.Arguments); err != nil {
			return nil, nil, err
		}
	}
	d, err := c.debugger(cfg, s.noDebug)
	if err == nil {
		err = c.canShow(d)
	}
	return d, cfg, err
}

// startAgain starts the new real debugger and returns when it is configured and runs.
func (c *conversation) startAgain(ctx context.Context, m *Message, op *operation, s *live, d Debugger, program string, wasPaused bool) error {
	launched := make(chan *Message, 1)
	ready := make(chan struct{}) // closed in the new run's reader, after the answer
	answer := func() {
		op.progress.end()
		c.reply(newResponse(m.Seq, m.Command, nil))
		if wasPaused { // the editor still shows the old run's stack
			c.reply(newEvent("continued", map[string]any{"threadId": 1, "allThreadsContinued": true}))
		}
	}
	r, err := c.startRun(ctx, s, d, program, starting{
		onLaunch: func(m *Message) {
			if m != nil && m.Success && s.noDebug { // no initialized event comes
				answer()
				c.release()
				close(ready)
			}
			if m != nil && !m.Success && closed(ready) { // some answer launch only when they are configured
				c.say(refusal(d.Name(), m))
			}
			launched <- m
		},
		onReady: func(r *run) { c.replay(r, answer, func() { close(ready) }) },
	})
	if err != nil {
		return err
	}
	for {
		select {
		case m := <-launched:
			if m == nil {
				return r.death()
			}
			if !m.Success {
				r.discard()
				return refusal(r.name, m)
			}
			launched = nil
		case <-ready:
			return nil
		case <-r.gone: // so the reader has ended, and whether it answered is settled
			if closed(ready) {
				return nil
			}
			return r.death()
		case <-ctx.Done():
			if closed(ready) {
				return nil // the cancel came too late
			}
			r.discard()
			if closed(ready) { // answered in the last moment: no second answer
				c.terminateUnlessEnding()
				return nil
			}
			return ctx.Err()
		}
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// discard ends a run that the editor is to hear nothing more of.
func (r *run) discard() {
	r.mu.Lock()
	r.quiet = true
	r.mu.Unlock()
	r.end(nil)
}

// refusal is the real debugger's own sentence.
func refusal(name string, m *Message) error {
	var body errorBody
	if decode(m.Field("body"), &body) != nil || body.Error.Format == "" {
		return fail.New(fail.DebuggerFailed, "", "%s refused to start the program", name)
	}
	return fail.New(fail.DebuggerFailed, "", "%s", body.Error.Format)
}

// replay configures the new real debugger like the old one. It is called in the run's reader and does not wait: each
// answer leads to the next request. answer is called before the debuggee runs on, done at the end.
func (c *conversation) replay(r *run, answer, done func()) {
	type entry struct {
		*remembered
		arguments json.RawMessage // a copy: the editor may be changing them
	}
	c.mu.Lock()
	entries := make([]entry, len(c.memory.entries))
	for i, e := range c.memory.entries {
		entries[i] = entry{e, e.arguments}
	}
	configured := c.memory.configured
	c.mu.Unlock()
	var next func(i int)
	next = func(i int) {
		if i < len(entries) {
			e := entries[i]
			r.ask(e.command, e.arguments, func(m *Message) {
				if m != nil && m.Success {
					c.relearn(r, e.remembered, m)
				}
				if m != nil {
					next(i + 1)
				}
			})
			return
		}
		answer()
		if configured {
			r.ask("configurationDone", nil, func(*Message) {})
		}
		c.release()
		done()
	}
	next(0)
}

// relearn tells the editor what became of its breakpoints in the new program: they may have moved or gone.
func (c *conversation) relearn(r *run, e *remembered, m *Message) {
	c.mu.Lock()
	ids := c.memory.answer(r.ids, m, e.ids)
	e.ids = ids
	c.mu.Unlock()
	var list []json.RawMessage
	if decode(fields(m, "body")["breakpoints"], &list) != nil {
		return
	}
	for i, b := range list {
		if i < len(ids) && ids[i] != 0 {
			c.toEditor(newEvent("breakpoint", map[string]any{"reason": "changed", "breakpoint": b}))
		}
	}
}

// release sends the new real debugger what came meanwhile: under mu, so that nothing newer overtakes it. It does not
// wait.
func (c *conversation) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.swap == nil {
		return
	}
	for _, h := range c.swap.held {
		c.run.forward(h.message, h.key)
	}
	c.swap.held, c.swap.changing = nil, false
}

// settle ends the restart. Where it failed before the old run was ended, the old run lives and what it said meanwhile
// counts; where it failed later, the debuggee is gone.
func (c *conversation) settle(err error) {
	c.mu.Lock()
	s := c.swap
	c.swap = nil
	r, over := c.run, c.phase == ending
	c.mu.Unlock()
	for _, h := range s.held { // none after a success
		c.refuse(h.message.Seq, h.message.Command, fail.New(fail.DebuggerFailed, "", "the restart failed"))
	}
	switch {
	case err == nil, over:
	case s.changing:
		if errors.Is(err, context.Canceled) {
			err = fail.New(fail.Internal, "start it again", "the restart was cancelled when the old run had ended")
		}
		c.say(err)
		c.terminate()
	default:
		for _, m := range s.ends {
			c.onEnd(r, m)
		}
	}
}
