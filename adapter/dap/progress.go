package dap

import (
	"strconv"
	"sync"
)

// progress is one operation as the editor shows it (DAP: progressStart, progressUpdate, progressEnd), or our extension
// (ownPrefix before these names, with the same bodies). Its zero value and nil show nothing: not every editor can.
type progress struct {
	id     string
	prefix string // of the events' names

	mu    sync.Mutex
	c     *conversation
	last  string
	ended bool
}

// startProgress begins one; it can be cancelled by its id. seq is the editor's number of the request it belongs to.
func (c *conversation) startProgress(seq int, title string) *progress {
	c.mu.Lock()
	shown, own := c.client.Progress, c.client.OwnProgress
	c.mu.Unlock()
	p := &progress{id: "stepin-" + strconv.Itoa(seq)}
	if !shown {
		p.ended = true
		return p
	}
	p.c = c
	if own {
		p.prefix = ownPrefix
	}
	c.reply(newEvent(p.prefix+"progressStart", struct {
		ID          string `json:"progressId"`
		Title       string `json:"title"`
		RequestID   int    `json:"requestId"`
		Cancellable bool   `json:"cancellable"`
	}{p.id, title, seq, true}))
	return p
}

// update says what is being done; the same words are said once. total 0 means that nobody knows how much it is.
func (p *progress) update(message string, done, total int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || message == p.last && total == 0 {
		return
	}
	p.last = message
	body := map[string]any{"progressId": p.id, "message": message}
	if total > 0 {
		body["percentage"] = min(100, 100*done/total)
	}
	p.c.reply(newEvent(p.prefix+"progressUpdate", body))
}

// end takes it off the screen; later calls do nothing.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	p.ended = true
	p.c.reply(newEvent(p.prefix+"progressEnd", map[string]string{"progressId": p.id}))
}
