package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/e2e/node"
)

// grace bounds how long the kernel may take to end a killed node's processes and give its cgroups back.
const grace = 30 * time.Second

// Down ends the cluster and removes what it has left, be it alive, half dead or dead.
func (c *Cluster) Down(ctx context.Context) error {
	release, err := c.alone()
	if err != nil {
		return err
	}
	defer release()
	if err := c.stop(ctx); err != nil {
		return err
	}
	if err := os.RemoveAll(c.State); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	// Whoever waits for this lock now works on a file without a name, and finds nothing to do.
	if err := os.Remove(c.State + ".lock"); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	_ = os.Remove(filepath.Dir(c.State)) // if it is empty
	return nil
}

// stop kills the node. With the first process of a PID namespace all others go, with the last one the mounts and the
// network; link and cgroups are removed here.
func (c *Cluster) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	pid, err := c.Pid()
	if err != nil {
		return err
	}
	if pid != 0 {
		if err := c.kill(ctx, pid); err != nil {
			return err
		}
	}
	if err := disconnect(); err != nil {
		return err
	}
	return poll(ctx, "the pods' cgroups to be empty", 50*time.Millisecond, func() (bool, error) {
		return c.removeCgroups() == nil, nil
	})
}

// kill ends a process by a descriptor of it and waits until it has gone, which the first process of a PID namespace has
// only after all others.
func (c *Cluster) kill(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cluster: the node's process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if now, err := c.Pid(); err != nil || now != pid {
		return err // it has ended, and the number may be somebody else's
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("cluster: ending the node: %w", err)
	}
	return poll(ctx, "the node to end", 0, func() (bool, error) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if errors.Is(err, unix.EINTR) {
			return false, nil
		}
		return n > 0, err
	})
}

// hierarchies are the machine's cgroup hierarchies: one on most machines, one per controller with cgroup v1.
func hierarchies() ([]string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	return cgroupMounts(string(text)), nil
}

// cgroupMounts finds them in a mountinfo (proc_pid_mountinfo(5)).
func cgroupMounts(mountinfo string) []string {
	var all []string
	for line := range strings.Lines(mountinfo) {
		left, right, ok := strings.Cut(line, " - ")
		fields := strings.Fields(left)
		if ok && len(fields) > 4 && (strings.HasPrefix(right, "cgroup ") || strings.HasPrefix(right, "cgroup2 ")) {
			all = append(all, fields[4])
		}
	}
	return all
}

// makeCgroups makes the one cgroup of ours in each hierarchy, below which the kubelet makes the pods'.
func (c *Cluster) makeCgroups() error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, dir := range all {
		if err := os.Mkdir(filepath.Join(dir, node.Cgroup(c.State)), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("cluster: %w", err)
		}
	}
	return nil
}

// removeCgroups removes ours with all below. The kernel refuses as long as a process is dying in one.
func (c *Cluster) removeCgroups() error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, dir := range all {
		if err := removeTree(filepath.Join(dir, node.Cgroup(c.State))); err != nil {
			return err
		}
	}
	return nil
}

// removeTree removes folders only: a cgroup's files go with it.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cluster: removing %s: %w", dir, err)
	}
	return nil
}
