// Package client is an editor without a screen: it speaks the Debug Adapter Protocol from the editor's side, for the
// tests and for the demo. It knows nothing of stepin, so that the same conversation can be held with a bare debugger;
// it must never be part of the adapter's own path.
package client

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/stepin-dev/stepin/adapter/dap"
)

// Message is what came, as far as an editor looks at it.
type Message struct {
	Seq        int             `json:"seq"`
	Type       string          `json:"type"`
	Command    string          `json:"command"`
	Event      string          `json:"event"`
	RequestSeq int             `json:"request_seq"`
	Success    bool            `json:"success"`
	Text       string          `json:"message"`
	Body       json.RawMessage `json:"body"`
	Arguments  json.RawMessage `json:"arguments"`
}

// Decode reads the body into v.
func (m *Message) Decode(v any) error {
	if err := json.Unmarshal(m.Body, v); err != nil {
		return fmt.Errorf("client: reading the body of %s%s: %w", m.Command, m.Event, err)
	}
	return nil
}

// Err is nil for a successful answer, else the text an editor would show.
func (m *Message) Err() error {
	if m.Success {
		return nil
	}
	var body struct{ Error struct{ Format string } }
	if json.Unmarshal(m.Body, &body) != nil || body.Error.Format == "" {
		return fmt.Errorf("%s: %s", m.Command, m.Text)
	}
	return fmt.Errorf("%s: %s", m.Command, body.Error.Format)
}

// Client is one conversation. One goroutine, started by New, reads until the stream ends.
type Client struct {
	// Reverse answers the adapter's own requests (runInTerminal); nil refuses them. It is called in a goroutine of its
	// own. Set it before the first request.
	Reverse func(command string, arguments json.RawMessage) (body any, err error)

	conn io.ReadWriteCloser

	mu      sync.Mutex
	seq     int
	waiting map[int]chan *Message
	events  []*Message
	taken   map[string]int // per event name: how many Event has returned
	change  chan struct{}  // closed and renewed with every event and at the end
	err     error          // set at the end
}

// New starts a conversation on conn, which it owns.
func New(conn io.ReadWriteCloser) *Client {
	c := &Client{conn: conn, waiting: map[int]chan *Message{}, taken: map[string]int{}, change: make(chan struct{})}
	go c.read()
	return c
}

func (c *Client) read() {
	r := bufio.NewReader(c.conn)
	for {
		body, err := dap.ReadFrame(r)
		m := &Message{}
		if err == nil {
			err = json.Unmarshal(body, m)
		}
		if err != nil {
			c.finish(err)
			return
		}
		switch m.Type {
		case "event":
			c.mu.Lock()
			c.events = append(c.events, m)
			c.signal()
			c.mu.Unlock()
		case "response":
			c.mu.Lock()
			answer := c.waiting[m.RequestSeq]
			delete(c.waiting, m.RequestSeq)
			c.mu.Unlock()
			if answer != nil {
				answer <- m
			}
		case "request":
			go c.reverse(m)
		}
	}
}

func (c *Client) signal() { close(c.change); c.change = make(chan struct{}) }

func (c *Client) finish(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = fmt.Errorf("client: the conversation has ended: %w", err)
	for _, answer := range c.waiting {
		close(answer)
	}
	c.waiting = nil
	c.signal()
}

func (c *Client) reverse(m *Message) {
	answer := map[string]any{"seq": 0, "type": "response", "request_seq": m.Seq, "command": m.Command, "success": false}
	if c.Reverse == nil {
		answer["message"] = "not supported"
	} else if body, err := c.Reverse(m.Command, m.Arguments); err != nil {
		answer["message"] = err.Error()
	} else {
		answer["success"], answer["body"] = true, body
	}
	c.write(answer) // an end of the stream is noticed by the reader
}

func (c *Client) write(v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("client: encoding: %w", err)
	}
	if _, err := c.conn.Write(dap.AppendFrame(nil, body)); err != nil {
		return fmt.Errorf("client: sending: %w", err)
	}
	return nil
}

// Send sends a request and returns its number and where the answer will come; the channel is closed if none will.
func (c *Client) Send(command string, arguments any) (int, <-chan *Message, error) {
	answer := make(chan *Message, 1)
	c.mu.Lock()
	defer c.mu.Unlock() // numbers go out in order
	if c.err != nil {
		return 0, nil, c.err
	}
	c.seq++
	c.waiting[c.seq] = answer
	m := map[string]any{"seq": c.seq, "type": "request", "command": command}
	if arguments != nil {
		m["arguments"] = arguments
	}
	return c.seq, answer, c.write(m)
}

// Do sends a request and waits for its answer, which may be a refusal: see Message.Err.
func (c *Client) Do(ctx context.Context, command string, arguments any) (*Message, error) {
	_, answer, err := c.Send(command, arguments)
	if err != nil {
		return nil, err
	}
	select {
	case m, ok := <-answer:
		if !ok {
			c.mu.Lock()
			defer c.mu.Unlock()
			return nil, fmt.Errorf("%s: %w", command, c.err)
		}
		return m, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("client: waiting for the answer to %s: %w", command, ctx.Err())
	}
}

// Event waits for the next event of one of the names that it has not returned yet.
func (c *Client) Event(ctx context.Context, names ...string) (*Message, error) {
	for {
		c.mu.Lock()
		counts := map[string]int{}
		for _, e := range c.events {
			counts[e.Event]++
			for _, n := range names {
				if e.Event == n && counts[n] > c.taken[n] {
					c.taken[n]++
					c.mu.Unlock()
					return e, nil
				}
			}
		}
		err, change := c.err, c.change
		c.mu.Unlock()
		if err != nil {
			return nil, fmt.Errorf("client: waiting for %s: %w", strings.Join(names, " or "), err)
		}
		select {
		case <-change:
		case <-ctx.Done():
			return nil, fmt.Errorf("client: waiting for %s: %w", strings.Join(names, " or "), ctx.Err())
		}
	}
}

// Events returns all events so far, in order.
func (c *Client) Events() []*Message {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*Message(nil), c.events...)
}

// Output is what output events of a category have shown so far.
func (c *Client) Output(category string) string {
	var b strings.Builder
	for _, e := range c.Events() {
		var body struct{ Category, Output string }
		if e.Event == "output" && json.Unmarshal(e.Body, &body) == nil && body.Category == category {
			b.WriteString(body.Output)
		}
	}
	return b.String()
}

// WaitOutput waits until a category's output holds the text.
func (c *Client) WaitOutput(ctx context.Context, category, text string) error {
	for {
		c.mu.Lock()
		err, change := c.err, c.change
		c.mu.Unlock()
		if strings.Contains(c.Output(category), text) {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-change:
		case <-ctx.Done():
			return fmt.Errorf("client: waiting for %q on %s, which holds %q: %w", text, category, c.Output(category), ctx.Err())
		}
	}
}

// Close ends the conversation without a disconnect, as an editor that crashes does.
func (c *Client) Close() error { return c.conn.Close() }
