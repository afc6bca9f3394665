package pair

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// Caller asks over a Conn and hands every answer to the call it belongs to.
//
// Goroutines: one that receives; it ends, and fails every call, when the other process has gone.
type Caller struct {
	conn    *Conn
	onEvent func(Message, []*os.File)

	mu      sync.Mutex
	last    uint32
	pending map[uint32]chan answer
	done    chan struct{}
}

type answer struct {
	m     Message
	files []*os.File
}

// NewCaller begins to receive. onEvent is told of messages that answer nothing; it must not block, and
// the files are its.
func NewCaller(conn *Conn, onEvent func(Message, []*os.File)) *Caller {
	c := &Caller{conn: conn, onEvent: onEvent, pending: map[uint32]chan answer{}, done: make(chan struct{})}
	go c.receive()
	return c
}

// Done is closed when the other process has gone.
func (c *Caller) Done() <-chan struct{} { return c.done }

// Tell sends a question whose answer does not matter; those of one goroutine arrive in their order.
func (c *Caller) Tell(op string, body any) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("pair: encoding %q: %v", op, err)
	}
	return c.conn.Send(Message{Op: op, Body: raw})
}

// Call sends a question and waits for its answer, which the other side gives promptly or dies. A refusal is a
// *wire.Refusal. The files belong to the caller.
func (c *Caller) Call(op string, body, reply any) ([]*os.File, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("pair: encoding %q: %v", op, err)
	}
	c.mu.Lock()
	c.last++
	if c.last == 0 {
		c.last++
	}
	id, got := c.last, make(chan answer, 1)
	c.pending[id] = got
	c.mu.Unlock()
	if err := c.conn.Send(Message{ID: id, Op: op, Body: raw}); err != nil {
		c.forget(id)
		return nil, err
	}
	select {
	case a := <-got:
		return c.open(op, a, reply)
	case <-c.done:
	}
	select { // the answer may have come just before the end
	case a := <-got:
		return c.open(op, a, reply)
	default:
		return nil, ErrClosed
	}
}

func (c *Caller) open(op string, a answer, reply any) ([]*os.File, error) {
	err := error(nil)
	switch {
	case a.m.Errno != 0:
		err = &wire.Refusal{Errno: wire.Errno(a.m.Errno), Message: a.m.Text}
	case reply != nil:
		if jerr := json.Unmarshal(a.m.Body, reply); jerr != nil {
			err = fmt.Errorf("pair: decoding the answer to %q: %v", op, jerr)
		}
	}
	if err != nil {
		CloseAll(a.files)
		return nil, err
	}
	return a.files, nil
}

func (c *Caller) forget(id uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, id)
}

func (c *Caller) receive() {
	defer close(c.done)
	for {
		m, files, err := c.conn.Recv()
		if err != nil {
			return
		}
		if m.Op != "" {
			c.onEvent(m, files)
			continue
		}
		c.mu.Lock()
		got := c.pending[m.ID]
		delete(c.pending, m.ID)
		c.mu.Unlock()
		if got == nil {
			CloseAll(files)
			continue
		}
		got <- answer{m, files}
	}
}
