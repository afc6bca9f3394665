package child

import (
	"context"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/stepin-dev/stepin/agent/files"
	"github.com/stepin-dev/stepin/pkg/resolv"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// view is what there is to see of the target: its files, variables and mounts. It changes when the container restarts,
// and in between its files are away: a process that keeps the ended container's root would see empty volumes without an
// error (measured).
type view struct {
	mu      sync.Mutex
	root    *files.Root // nil: away, or out of reach
	never   bool        // out of reach
	target  string
	env     []wire.Name
	mounts  *os.File
	changed chan struct{} // closed and replaced when the view changes

	raw  []byte // resolv.conf as it was read last
	conf resolv.Conf
}

// awayWait is how long a question about files waits for the container's restart: longer than a restart without back-off
// takes, shorter than a program would like to stand still.
const awayWait = 5 * time.Second

// set changes the view. A nil root is one that is away.
func (v *view) set(root *files.Root, target string, env []wire.Name, mounts *os.File) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.root = root; root != nil || v.changed == nil {
		if v.mounts != nil {
			v.mounts.Close()
		}
		v.target, v.env, v.mounts = target, env, mounts
	}
	if v.changed != nil {
		close(v.changed)
	}
	v.changed = make(chan struct{})
}

// wait returns the root, and what is closed when it is no longer that. It waits awayWait for one that is away, and
// fails with EIO then; with EACCES where the agent's rights do not reach it.
func (v *view) wait(ctx context.Context) (*files.Root, <-chan struct{}, error) {
	ctx, cancel := context.WithTimeout(ctx, awayWait)
	defer cancel()
	for {
		v.mu.Lock()
		root, never, changed := v.root, v.never, v.changed
		v.mu.Unlock()
		switch {
		case root != nil:
			return root, changed, nil
		case never:
			return nil, changed, syscall.EACCES
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, changed, syscall.EIO
		}
	}
}

// now returns the root if there is one, without waiting.
func (v *view) now() *files.Root {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.root
}
