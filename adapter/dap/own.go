package dap

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/stepin-dev/stepin/pkg/fail"
)

const (
	// ownPrefix begins the names of requests and events that are stepin's own (docs/protocol.md).
	ownPrefix = "stepin."
	// stateEvery is how often the editor is told a new state at most: a program that opens a hundred ports is one change.
	stateEvery = 100 * time.Millisecond
	// ownLimit bounds an answer that takes the cluster: a switch of the mode is some round trips.
	ownLimit = 20 * time.Second
	// maxOwn bounds the requests of ours that are under way: an editor asks one at a time.
	maxOwn = 32
)

// isOwn says that a request is for stepin itself, whichever real debugger there is.
func isOwn(m *Message) bool { return strings.HasPrefix(m.Command, ownPrefix) }

// onOwn answers a request of stepin's own, by reply. A child session's come to its parent (children.go).
//
// Goroutines: one a request, maxOwn at most; it ends within ownLimit, or with the conversation.
func (c *conversation) onOwn(m *Message, reply func(*Message)) {
	seq, command := m.Seq, m.Command
	c.mu.Lock()
	s, ready := c.session, c.phase == running
	full := c.owns >= maxOwn
	if ready && !full {
		c.owns++
	}
	c.mu.Unlock()
	switch {
	case !ready || s == nil:
		reply(c.failure(seq, command, fail.New(fail.SessionUnknown, "ask again when it has started", "there is no session yet, or no more")))
		return
	case full:
		reply(c.failure(seq, command, fail.New(fail.Internal, "wait for their answers", "%d requests are under way already", maxOwn)))
		return
	}
	arguments := m.Field("arguments")
	c.wg.Go(func() {
		ctx, cancel := context.WithTimeout(c.ctx, ownLimit)
		defer cancel()
		body, err := s.answer(ctx, command, arguments)
		c.mu.Lock()
		c.owns--
		c.mu.Unlock()
		if err != nil {
			reply(c.failure(seq, command, err))
			return
		}
		reply(newResponse(seq, command, body))
	})
}

// answer is the one place that says what stepin's own requests do.
func (l *live) answer(ctx context.Context, command string, arguments json.RawMessage) (body any, err error) {
	var args struct {
		Mode string `json:"mode"`
		ID   string `json:"id"`
	}
	if err := decode(arguments, &args); err != nil {
		return nil, fail.Wrap(fail.ConfigValue, err, "docs/protocol.md lists them", "%s arguments", command)
	}
	switch command {
	case "stepin.state":
	case "stepin.setMode":
		if err := l.runner.SetMode(ctx, args.Mode); err != nil {
			return nil, err
		}
	case "stepin.sessions":
		return map[string]any{"sessions": l.runner.Sessions(ctx)}, nil
	case "stepin.stopSession":
		return struct{}{}, l.runner.Stop(ctx, args.ID)
	default:
		return nil, fail.New(fail.ConfigValue, "docs/protocol.md lists them", "there is no request %s", command)
	}
	body, _ = l.runner.State()
	return body, nil
}

// failure is an answer in our usual form. Our own extension shows it itself.
func (c *conversation) failure(seq int, command string, err error) *Message {
	c.mu.Lock()
	show := !c.client.OwnErrors
	c.mu.Unlock()
	return newFailure(seq, command, err.Error(), int(fail.CodeOf(err)), describe(err), show)
}

// tellState tells the editor each state that is another than the last, until the session has ended.
func (c *conversation) tellState(s *live) {
	var told []byte
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
		case <-s.closed:
			return
		}
		state, changed := s.runner.State()
		if body := mustRaw(state); !bytes.Equal(body, told) {
			told = body
			c.reply(newEvent("stepin.state", body))
		}
		select {
		case <-changed:
		case <-s.closed:
			return
		}
		pause.Reset(stateEvery)
	}
}
