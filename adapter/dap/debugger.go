package dap

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// serve forwards what the real debugger says until it ends, and then answers what it left unanswered.
func (r *run) serve() {
	defer close(r.gone)
	err := r.link.read(r.onMessage)
	if !errors.Is(err, io.EOF) {
		r.c.log.Debug("reading from the real debugger", "error", err)
	}
	r.link.close()
	r.session.arrival.settle()
	r.outs.drain()
	r.closeRelays()
	r.lost()
	r.outs.close()
}

// lost is called when the connection has ended. An end that nobody asked for is told to the editor.
func (r *run) lost() {
	c := r.c
	r.mu.Lock()
	asked, finished := r.quiet || r.ending, r.quiet || r.finished
	r.mu.Unlock()
	c.mu.Lock()
	// launch, restart and disconnect have an answer of their own.
	told := c.phase == launching || c.phase == ending || c.swap != nil && c.swap.changing
	c.mu.Unlock()
	var died error = fail.New(fail.DebuggerFailed, "", "%s has ended", r.name)
	if !asked && !finished && !r.c.isChild() {
		died = r.death()
		r.kill() // its debuggee must not run on unseen
		if !told {
			c.say(died)
		}
	}
	r.failPending(died)
	if !finished && !told {
		c.setPaused(r, false)
		c.terminate()
	}
}

// failPending answers every request that will not be answered any more.
func (r *run) failPending(err error) {
	for _, p := range r.link.takeAll() {
		switch {
		case p.done != nil:
			p.done(nil)
		default:
			r.c.refuse(p.seq, p.command, err)
		}
	}
}

func (r *run) onMessage(m *Message) {
	switch m.Type {
	case "response":
		r.onResponse(m)
	case "event":
		r.onEvent(m)
	default:
		r.onReverse(m)
	}
}

func (r *run) onResponse(m *Message) {
	p := r.link.take(m.RequestSeq)
	if p == nil {
		r.c.log.Debug("dropped", "message", m.String())
		return
	}
	if p.done != nil {
		p.done(m)
		return
	}
	if m.Success {
		if goesOn(p.command) {
			r.c.setPaused(r, false)
		}
		r.c.learn(r, p.key, m)
	}
	m.named(p.command)
	m.RequestSeq = p.seq
	r.c.toEditor(m)
}

// goesOn says whether a debuggee that stood runs when the request has succeeded.
func goesOn(command string) bool {
	switch command {
	case "continue", "next", "stepIn", "stepOut", "stepBack", "reverseContinue", "goto", "configurationDone":
		return true
	}
	return false
}

func (r *run) onEvent(m *Message) {
	r.mu.Lock()
	quiet, ending := r.quiet, r.ending
	if m.Event == "terminated" {
		r.finished = true
	}
	r.mu.Unlock()
	if quiet {
		return
	}
	switch m.Event {
	case "initialized":
		if !r.start.first {
			r.start.onReady(r)
			return
		}
	case "output":
		r.plain(m)
	case "process":
		if !r.c.isChild() {
			r.onProcess(m)
		}
	case "stopped":
		if ending { // Delve halts the debuggee to end it
			return
		}
		r.c.setPaused(r, true)
		r.ids.stopped(m)
	case "breakpoint":
		r.ids.breakpoint(m)
	case "continued":
		r.c.setPaused(r, false)
	case "debugpyAttach":
		if !r.c.isChild() && r.onAttachEvent(m) == drop { // a child's is its parent's
			return
		}
	case "exited", "terminated":
		r.session.arrival.settle()
		r.outs.drain()
		r.c.setPaused(r, false)
		r.c.onEnd(r, m)
		return
	}
	r.c.toEditor(m)
}

// plain leaves our own words out of the command line that a real debugger outside shows.
func (r *run) plain(m *Message) {
	if r.way == Dials || r.c.isChild() {
		return
	}
	body := fields(m, "body")
	var text string
	ours := strings.Join(r.session.runner.Wrap(nil), " ")
	if ours == "" || decode(body["output"], &text) != nil {
		return
	}
	if rest, ok := strings.CutPrefix(text, ours+" "); ok {
		body["output"] = mustRaw(rest)
		m.raw["body"] = mustRaw(body)
	}
}

// onProcess remembers the debuggee, for kill, and watches it.
func (r *run) onProcess(m *Message) {
	var body struct {
		Pid int `json:"systemProcessId"`
	}
	if decode(m.Field("body"), &body) != nil || body.Pid <= 1 {
		return
	}
	p, err := os.FindProcess(body.Pid)
	if err != nil {
		return
	}
	r.begun()
	r.mu.Lock()
	first := len(r.debuggees) == 0
	if len(r.debuggees) < maxChildren {
		r.debuggees = append(r.debuggees, p)
	}
	r.mu.Unlock()
	if first && r.way == Dials { // others are told by the debuggee itself
		r.c.wg.Go(func() { r.watchStanding(body.Pid) })
	}
}

// onEnd passes on exited and terminated: later, if a restart is under way that may succeed, or disconnect wants to
// answer first.
func (c *conversation) onEnd(r *run, m *Message) {
	c.mu.Lock()
	switch {
	case c.run != r, c.terminated, c.phase == ending && m.Event == "terminated":
		c.mu.Unlock()
		return
	case c.swap != nil && c.swap.old == r:
		c.swap.ends = append(c.swap.ends, m)
		c.mu.Unlock()
		return
	}
	c.terminated = m.Event == "terminated"
	c.mu.Unlock()
	c.toEditor(m)
}

// setPaused passes on whether the debuggee of the present run stands.
func (c *conversation) setPaused(r *run, paused bool) {
	c.changePaused(r, func() { c.paused = paused })
}

// setChildPaused passes on whether one of its children stands.
func (c *conversation) setChildPaused(r *run, paused bool) {
	c.changePaused(r, func() { c.childPaused = paused })
}

func (c *conversation) changePaused(r *run, change func()) {
	c.mu.Lock()
	if c.run != r {
		c.mu.Unlock()
		return
	}
	before := c.paused || c.childPaused
	change()
	after := c.paused || c.childPaused
	c.mu.Unlock()
	if before != after {
		r.session.runner.SetPaused(after)
	}
}

// onReverse passes a request of the real debugger (runInTerminal, startDebugging) to the editor.
func (r *run) onReverse(m *Message) {
	seq, command := m.Seq, m.Command
	err := r.prepareReverse(m)
	switch {
	case err != nil:
	case command == "startDebugging" && r.c.ownChildren():
		r.c.toEditor(newEvent(childEvent, m.Field("arguments")))
		if err := r.link.send(newResponse(seq, command, nil)); err != nil {
			r.c.log.Debug("answering the real debugger", "error", err)
		}
	default:
		_, err = r.c.editor.ask(m, &pending{command: command, seq: seq, from: r})
	}
	if err != nil {
		answer := newFailure(seq, command, err.Error(), int(fail.Internal), err.Error(), false)
		if err := r.link.send(answer); err != nil {
			r.c.log.Debug("answering the real debugger", "error", err)
		}
	}
}

// prepareReverse changes a request of the real debugger's where the editor is not to have it as it is.
func (r *run) prepareReverse(m *Message) error {
	switch {
	case r.way == Dials, r.c.isChild(): // Delve has no children; a child is as its parent has left it
		return nil
	case m.Command == "startDebugging":
		r.begun()
		return r.adopt(m)
	case m.Command == "runInTerminal":
		return r.cleanTerminal(m)
	}
	return nil
}

// fields returns an object of the message, "body" or "arguments", by its fields; an absent one is empty.
func fields(m *Message, name string) map[string]json.RawMessage {
	f := map[string]json.RawMessage{}
	if decode(m.Field(name), &f) != nil || f == nil {
		return map[string]json.RawMessage{}
	}
	return f
}
