// Package cluster is the test cluster seen from the machine, which plays the developer's: it builds and caches the
// Kubernetes binary, makes images, keys and the state directory, starts and ends the node (package node) and undoes all
// that it has made. A cluster is one per user and machine. It must never touch a cluster that it has not made, nor
// leave anything behind after Down but the cached binary.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/stepin-dev/stepin/pkg/e2e/node"
	"github.com/stepin-dev/stepin/pkg/e2e/pki"
)

// Link is the machine's end of the veth pair. Whoever delays or drops what passes here has a cluster far away.
const Link = "stepin0"

// Cluster is where one is, running or not.
type Cluster struct {
	Source string // pkg/e2e
	State  string // all that it keeps; removed by Down
	Cache  string // what is worth keeping
	Log    *slog.Logger
}

// At is the user's cluster; source is the folder pkg/e2e.
func At(source string, log *slog.Logger) (*Cluster, error) {
	state, err := directory("XDG_STATE_HOME", ".local/state")
	if err != nil {
		return nil, err
	}
	cache, err := directory("XDG_CACHE_HOME", ".cache")
	if err != nil {
		return nil, err
	}
	return &Cluster{Source: source, State: filepath.Join(state, "cluster"), Cache: filepath.Join(cache, "e2e"), Log: log}, nil
}

// directory is ours below one of the XDG base directories.
func directory(variable, fallback string) (string, error) {
	base := os.Getenv(variable)
	if !filepath.IsAbs(base) { // the specification has others ignored
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("cluster: %w", err)
		}
		base = filepath.Join(home, fallback)
	}
	return filepath.Join(base, "stepin"), nil
}

// Kubeconfig is the path of the administrator's.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.State, "kubeconfig") }

// Kubectl is the path of a kubectl of the cluster's version, there while it runs.
func (c *Cluster) Kubectl() string { return filepath.Join(c.State, "bin", "kubectl") }

// Server is the API server's URL.
func (c *Cluster) Server() string { return fmt.Sprintf("https://%s:%d", node.Address, node.Port) }

// Authority signs what the API server believes.
func (c *Cluster) Authority() (*pki.Authority, error) {
	pair, err := pki.Read(filepath.Join(c.State, node.PKI), "ca")
	if err != nil {
		return nil, err
	}
	return pki.Parse(pair)
}

// Pid is the node's first process as this machine numbers it, 0 when there is none. The kernel is asked who holds the
// node's lock, so the answer is never stale.
func (c *Cluster) Pid() (int, error) {
	f, err := os.OpenFile(filepath.Join(c.State, node.LockFile), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("cluster: %w", err)
	}
	defer f.Close()
	lock := syscall.Flock_t{Type: syscall.F_WRLCK}
	if err := syscall.FcntlFlock(f.Fd(), syscall.F_GETLK, &lock); err != nil {
		return 0, fmt.Errorf("cluster: asking who holds the node's lock: %w", err)
	}
	if lock.Type == syscall.F_UNLCK {
		return 0, nil
	}
	return int(lock.Pid), nil
}

// Root is the node's file system as this machine can open it.
func (c *Cluster) Root() (string, error) {
	pid, err := c.Pid()
	if err != nil {
		return "", err
	}
	if pid == 0 {
		return "", errors.New("cluster: none is running (./just cluster-up)")
	}
	return fmt.Sprintf("/proc/%d/root", pid), nil
}

// alone lets one Up or Down at a time work on the state directory.
func (c *Cluster) alone() (release func(), err error) {
	if err := os.MkdirAll(filepath.Dir(c.State), 0o700); err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	return lock(c.State + ".lock")
}

// lock waits for a file's lock, which ends with its holder.
func lock(path string) (release func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("cluster: waiting for %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// poll asks until the answer is yes.
func poll(ctx context.Context, what string, pace time.Duration, ok func() (bool, error)) error {
	for {
		yes, err := ok()
		if yes || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cluster: waiting for %s: %w", what, ctx.Err())
		case <-time.After(pace):
		}
	}
}
