package dap

import (
	"context"
	"encoding/json"
	"time"
)

// end begins the end of the conversation, at whatever moment; m is the disconnect request, or nil when the editor has
// gone or the adapter was told to stop. It does not wait.
func (c *conversation) end(m *Message) {
	c.mu.Lock()
	if m != nil {
		c.disconnects = append(c.disconnects, m)
	}
	begun := c.phase == ending
	c.phase = ending
	op := c.op
	c.mu.Unlock()
	if op != nil {
		op.cancel()
	}
	if !begun {
		go c.shutdown(op)
	}
}

// shutdown ends everything in order: the operation under way, the real debugger, the session. What takes longer than
// answerEnd goes on while the editor gets its answer.
func (c *conversation) shutdown(op *operation) {
	defer close(c.ended)
	answer := time.After(answerEnd)
	through := make(chan struct{})
	go func() {
		defer close(through)
		if op != nil {
			<-op.done
		}
		c.mu.Lock()
		r, s := c.run, c.session
		var args json.RawMessage
		if len(c.disconnects) > 0 {
			args = c.disconnects[0].Field("arguments")
		}
		c.mu.Unlock()
		if r != nil {
			r.end(args)
		}
		if s != nil {
			s.close(c.log)
		}
	}()
	select {
	case <-through:
	case <-answer:
		c.log.Debug("answering disconnect before everything has ended")
	}
	c.mu.Lock()
	asked, told := c.disconnects, c.terminated
	c.disconnects, c.terminated = nil, true
	launched := c.session != nil
	c.mu.Unlock()
	for _, m := range asked {
		c.reply(newResponse(m.Seq, m.Command, nil))
	}
	if !told && (launched || len(asked) > 0) {
		c.reply(newEvent("terminated", nil))
	}
	flush, cancel := context.WithTimeout(context.Background(), flushEnd)
	c.editor.flush(flush)
	cancel()
	c.cancel()
	c.editor.close()
	c.wait(through)
}

// wait gives what goes on cleanEnd to end: the session's own guards are behind it.
func (c *conversation) wait(through <-chan struct{}) {
	all := make(chan struct{})
	go func() {
		<-through
		c.wg.Wait()
		close(all)
	}()
	select {
	case <-all:
	case <-time.After(cleanEnd):
		c.log.Debug("leaving with work unfinished")
	}
}
