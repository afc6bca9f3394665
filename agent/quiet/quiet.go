// Package quiet keeps a log from being flooded: whoever can dial the agent, or a port that it steals, has it write a line
// each time. It must never keep back the first lines of a kind, nor leave out without saying how many.
package quiet

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// maxLines of one message are written within a window; those beyond are counted.
	maxLines = 10
	window   = time.Minute
	// maxKinds bounds the messages that are told apart. They are constants of the agent's, far fewer than this.
	maxKinds = 512
)

// Handler passes on what its inner handler is to write. Debug lines it leaves alone: who turns them on wants them all.
//
// A timer for each message of which lines were left out writes how many at its window's end.
type Handler struct {
	slog.Handler
	book *book
}

// New makes a Handler.
func New(inner slog.Handler) Handler { return Handler{inner, &book{kinds: map[string]*kind{}}} }

type book struct {
	mu    sync.Mutex
	kinds map[string]*kind
}

// kind is one message in its window.
type kind struct {
	since   time.Time
	lines   int
	omitted int
}

// Handle implements slog.Handler.
func (h Handler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelInfo || h.pass(r) {
		return h.Handler.Handle(ctx, r)
	}
	return nil
}

// pass says whether a line is written, or else counts it.
func (h Handler) pass(r slog.Record) bool {
	h.book.mu.Lock()
	defer h.book.mu.Unlock()
	now := time.Now()
	k := h.book.kinds[r.Message]
	if k == nil || k.omitted == 0 && now.Sub(k.since) >= window {
		if k == nil && len(h.book.kinds) >= maxKinds {
			return true
		}
		k = &kind{since: now}
		h.book.kinds[r.Message] = k
	}
	if k.lines < maxLines {
		k.lines++
		return true
	}
	if k.omitted++; k.omitted == 1 {
		time.AfterFunc(k.since.Add(window).Sub(now), func() { h.tell(k, r.Level, r.Message) })
	}
	return false
}

// tell writes what was left out, and begins the next window.
func (h Handler) tell(k *kind, level slog.Level, message string) {
	h.book.mu.Lock()
	omitted := k.omitted
	k.since, k.lines, k.omitted = time.Now(), 0, 0
	h.book.mu.Unlock()
	r := slog.NewRecord(time.Now(), level, message, 0)
	r.Add("omitted", omitted)
	_ = h.Handler.Handle(context.Background(), r)
}

// WithAttrs implements slog.Handler.
func (h Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return Handler{h.Handler.WithAttrs(attrs), h.book}
}

// WithGroup implements slog.Handler.
func (h Handler) WithGroup(name string) slog.Handler {
	return Handler{h.Handler.WithGroup(name), h.book}
}
