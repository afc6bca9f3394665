package dap

import (
	"context"
	"io"
	"log/slog"
	"net"
	"testing"
)

// TestEndsDuringRestart has the old run and the new one end while the restart is not settled: the old one's end waits,
// the new one's is told.
func TestEndsDuringRestart(t *testing.T) {
	for _, which := range []string{"old", "new"} {
		ours, theirs := net.Pipe()
		log := slog.New(slog.DiscardHandler)
		c := &conversation{log: log, ctx: context.Background(), phase: running, editor: newLink("editor", ours, log)}
		defer c.editor.close()
		go io.Copy(io.Discard, theirs)
		old := &run{c: c}
		c.run, c.swap = old, &swap{old: old}
		if which == "new" {
			c.run = &run{c: c}
		}
		c.onEnd(c.run, newEvent("terminated", nil))
		if told, waiting := c.terminated, len(c.swap.ends); told != (which == "new") || waiting == 1 != (which == "old") {
			t.Errorf("%s: told %v, %d waiting", which, told, waiting)
		}
	}
}
