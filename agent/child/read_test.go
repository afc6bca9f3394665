package child

import (
	"context"
	"errors"
	"testing"
)

// TestFileOps: no more than maxFileOps system calls on files are under way, and who gives up waiting makes none.
func TestFileOps(t *testing.T) {
	c := &Child{fileOps: make(chan struct{}, maxFileOps)}
	hang, running, ended := make(chan struct{}), make(chan struct{}), make(chan error)
	for range maxFileOps {
		go func() {
			ended <- c.onFiles(t.Context(), func() error { running <- struct{}{}; <-hang; return nil })
		}()
	}
	for range maxFileOps {
		<-running
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.onFiles(ctx, func() error { t.Error("one too many"); return nil }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(hang)
	for range maxFileOps {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if err := c.onFiles(t.Context(), func() error { return nil }); err != nil {
		t.Error(err)
	}
}
