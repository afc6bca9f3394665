package dap

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
)

// Limits of one link.
const (
	// queueHigh is where senders that can wait begin to: a debuggee that prints faster than the editor reads is then
	// held in its write, as by a terminal. In bytes.
	queueHigh = 1 << 20
	// queueMax is where the peer is given up: it has not read for a long time. In bytes, above the largest message.
	queueMax = 4 * MaxMessage
	// maxPending bounds the requests that a peer may leave unanswered.
	maxPending = 4096
)

var (
	errStalled = errors.New("dap: sending: the peer does not read")
	errClosed  = errors.New("dap: sending: the connection is closed")
)

// pending is a request that waits for its answer.
type pending struct {
	command string
	seq     int            // the requester's own number, when it was forwarded
	key     string         // what a restart remembers it by, or ""
	from    *run           // the real debugger that asked, when the editor is to answer
	done    func(*Message) // called with the answer when the request is ours; nil: forward it. Must not block
}

// link is one peer: its connection, our sequence numbers towards it, and what it has not answered yet.
//
// Goroutines: (1) the writer, started by newLink, which waits on the queue and ends on close or a write error;
// whoever calls read (2) is the reader. close may be called by anyone, at any time.
type link struct {
	name string
	conn io.ReadWriteCloser
	log  *slog.Logger

	mu      sync.Mutex
	changed sync.Cond // queue, closed or idle changed
	seq     int
	pending map[int]*pending
	queue   [][]byte
	queued  int // bytes in queue and in the write under way
	closed  bool
	done    chan struct{} // closed with the writer
}

func newLink(name string, conn io.ReadWriteCloser, log *slog.Logger) *link {
	l := &link{name: name, conn: conn, log: log, pending: map[int]*pending{}, done: make(chan struct{})}
	l.changed.L = &l.mu
	go l.write()
	return l
}

// read calls handle for each message until the stream ends, and returns why: io.EOF is the orderly end.
func (l *link) read(handle func(*Message)) error {
	r := bufio.NewReader(l.conn)
	for {
		body, err := ReadFrame(r)
		if err != nil {
			return err
		}
		m, err := ParseMessage(body)
		if err != nil {
			return err
		}
		l.log.Debug("received", "from", l.name, "message", m.String())
		handle(m)
	}
}

func (l *link) write() {
	defer close(l.done)
	for {
		l.mu.Lock()
		for len(l.queue) == 0 && !l.closed {
			l.changed.Wait()
		}
		if len(l.queue) == 0 {
			l.mu.Unlock()
			return
		}
		next := l.queue[0]
		l.queue = l.queue[1:]
		l.mu.Unlock()
		_, err := l.conn.Write(next)
		l.mu.Lock()
		l.queued -= len(next)
		if err != nil {
			l.closed, l.queue, l.queued = true, nil, 0
		}
		l.changed.Broadcast()
		l.mu.Unlock()
	}
}

// send queues m with the next sequence number. It never waits; a peer that has let queueMax pile up is given up.
func (l *link) send(m *Message) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.enqueue(m, nil)
}

// sendWait is send that first waits while more than queueHigh is queued, for senders that can be held.
func (l *link) sendWait(ctx context.Context, m *Message) error {
	stop := context.AfterFunc(ctx, func() { l.mu.Lock(); l.changed.Broadcast(); l.mu.Unlock() })
	defer stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.queued > queueHigh && !l.closed && ctx.Err() == nil {
		l.changed.Wait()
	}
	return l.enqueue(m, nil)
}

// ask queues a request and remembers p under its number, which it returns.
func (l *link) ask(m *Message, p *pending) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pending) >= maxPending {
		return 0, fmt.Errorf("%w: %d requests unanswered", errStalled, len(l.pending))
	}
	err := l.enqueue(m, p)
	return l.seq, err
}

func (l *link) enqueue(m *Message, p *pending) error {
	if l.closed {
		return errClosed
	}
	body, err := m.encode(l.seq + 1)
	if err != nil {
		return fmt.Errorf("dap: encoding %s: %w", m, err)
	}
	if l.queued+len(body) > queueMax {
		l.closed, l.queue, l.queued = true, nil, 0
		l.changed.Broadcast()
		go l.conn.Close() // may block in a pipe's write; nobody waits for it
		return errStalled
	}
	l.seq++
	if p != nil {
		l.pending[l.seq] = p
	}
	frame := AppendFrame(make([]byte, 0, len(body)+32), body)
	l.queue = append(l.queue, frame)
	l.queued += len(frame)
	l.changed.Broadcast()
	l.log.Debug("sending", "to", l.name, "message", m.String())
	return nil
}

// take removes and returns the pending request that an answer names, or nil: answers nobody asked for are dropped.
func (l *link) take(requestSeq int) *pending {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.pending[requestSeq]
	delete(l.pending, requestSeq)
	return p
}

// takeAll removes and returns every pending request.
func (l *link) takeAll() []*pending {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]*pending, 0, len(l.pending))
	for n, p := range l.pending {
		all = append(all, p)
		delete(l.pending, n)
	}
	return all
}

// find returns our number of the pending request that was forwarded for the requester's seq, or 0.
func (l *link) find(seq int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n, p := range l.pending {
		if p.done == nil && p.seq == seq {
			return n
		}
	}
	return 0
}

// flush waits until everything queued has been written, the link is closed, or ctx ends.
func (l *link) flush(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { l.mu.Lock(); l.changed.Broadcast(); l.mu.Unlock() })
	defer stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.queued > 0 && !l.closed && ctx.Err() == nil {
		l.changed.Wait()
	}
}

// close ends the link and its connection. What is still queued is dropped.
func (l *link) close() {
	l.mu.Lock()
	l.closed, l.queue, l.queued = true, nil, 0
	l.changed.Broadcast()
	l.mu.Unlock()
	l.conn.Close()
}
