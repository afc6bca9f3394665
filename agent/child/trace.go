package child

import (
	"encoding/json"
	"io"
	"log/slog"
	"sync"
)

// trace is the agent's list of what it did in the pod: names and addresses, never a value or a content. It goes to the
// log at debug level and, where the agent was started with --trace, as JSON lines to that file.
type trace struct {
	log *slog.Logger
	mu  sync.Mutex
	w   io.Writer // nil: none
}

// traceLine is one line. Own marks what the debuggee did not ask for: the session's or the agent's own doing.
type traceLine struct {
	Op   string `json:"op"` // dial, lookup, open, lstat, readlink, readdir, volume, steal, original
	What string `json:"what"`
	Own  bool   `json:"own"`
}

func (t *trace) note(op, what string, own bool) {
	t.log.Debug(op, "what", what, "own", own)
	if t.w == nil {
		return
	}
	line, err := json.Marshal(traceLine{op, what, own})
	if err != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	_, _ = t.w.Write(append(line, '\n'))
}
