package cluster

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/stepin-dev/stepin/pkg/e2e/node"
)

// patience bounds each wait of Up. On a busy machine of two cores all of them together took 15 s.
const patience = 2 * time.Minute

// addons is what runs in the cluster from the beginning: CoreDNS.
//
//go:embed coredns.yaml
var addons []byte

// Up starts the cluster if it does not run, mends it if it runs half, and returns when it is ready for pods. It must be
// called by the program that has the hidden command `node`: that is what it starts.
func (c *Cluster) Up(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("cluster: a node needs root (cgroups, mounts, devices)")
	}
	release, err := c.alone()
	if err != nil {
		return err
	}
	defer release()
	if err := c.prepare(ctx); err != nil {
		return err
	}
	images, err := c.BuildImages(ctx)
	if err != nil {
		return err
	}
	if err := c.ensureNode(ctx); err != nil {
		return err
	}
	begun := time.Now()
	if err := c.finish(ctx, images); err != nil {
		return fmt.Errorf("%w\nhint: the components' own words are in %s; ./just cluster-down, then up again", err, filepath.Join(c.State, node.Log))
	}
	c.Log.Info("ready", "after", time.Since(begun).Round(100*time.Millisecond), "kubeconfig", c.Kubeconfig())
	return nil
}

// prepare fills the state directory.
func (c *Cluster) prepare(ctx context.Context) error {
	for _, dir := range []string{c.State, filepath.Join(c.State, node.Log), filepath.Join(c.State, "bin")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("cluster: %w", err)
		}
	}
	if err := c.installKubernetes(ctx); err != nil {
		return err
	}
	return c.ensureKeys()
}

// ensureNode starts the node's first process unless it lives and can be reached.
func (c *Cluster) ensureNode(ctx context.Context) error {
	pid, err := c.Pid()
	if err != nil {
		return err
	}
	if pid != 0 && connected() {
		return nil
	}
	if err := c.stop(ctx); err != nil { // also what a dead one has left
		return err
	}
	if err := free(); err != nil {
		return err
	}
	if err := c.makeCgroups(); err != nil {
		return err
	}
	return c.startNode(ctx)
}

// startNode starts this program again as the first process of new namespaces, gives it the other end of a veth pair
// and lets it go on.
func (c *Cluster) startNode(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(c.State, node.Log, "node.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	defer log.Close()
	wait, release, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	defer release.Close()
	cmd := exec.Command("/proc/self/exe", "node", c.State) // outlives the context
	cmd.Args[0] = "stepin-e2e"
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.ExtraFiles = []*os.File{wait} // node.Go
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true,
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC |
			syscall.CLONE_NEWNET,
	}
	err = cmd.Start()
	wait.Close()
	if err != nil {
		return fmt.Errorf("cluster: starting the node: %w", err)
	}
	if err := connect(cmd.Process.Pid); err != nil {
		return err // the pipe's end ends the node
	}
	if _, err := release.Write([]byte{1}); err != nil {
		return fmt.Errorf("cluster: the node has died at once (see %s): %w", log.Name(), err)
	}
	c.Log.Info("started the node", "pid", cmd.Process.Pid)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // reaped while this program lives, by init after it
	return poll(ctx, "the node to take its lock", 10*time.Millisecond, func() (bool, error) {
		select {
		case err := <-ended:
			return false, fmt.Errorf("cluster: the node has ended (see %s): %w", log.Name(), err)
		default:
		}
		pid, err := c.Pid()
		return pid == cmd.Process.Pid, err
	})
}

// finish waits for the cluster to come up and adds what is missing.
func (c *Cluster) finish(ctx context.Context, images []string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := c.importImages(ctx, images); err != nil {
		return err
	}
	begun := time.Now()
	if err := poll(ctx, "the API server", 100*time.Millisecond, func() (bool, error) {
		if pid, err := c.Pid(); err != nil || pid == 0 {
			return false, errors.Join(errors.New("cluster: the node has ended"), err)
		}
		_, err := c.kubectl(ctx, nil, "get", "--raw=/readyz")
		return err == nil, nil
	}); err != nil {
		return err
	}
	c.Log.Info("API server ready", "after", time.Since(begun).Round(100*time.Millisecond))
	for _, step := range [][]string{
		{"apply", "--server-side", "--force-conflicts", "-f", "-"},
		{"wait", "--for=create", "node/" + node.Name},
		{"wait", "--for=condition=Ready", "node/" + node.Name},
		{"wait", "--for=create", "serviceaccount/default"}, // a pod needs it
		{"rollout", "status", "--namespace=kube-system", "deployment/coredns"},
	} {
		if step[0] != "apply" {
			step = append(step, "--timeout="+patience.String())
		}
		if _, err := c.kubectl(ctx, addons, step...); err != nil {
			return err
		}
	}
	return nil
}

// kubectl runs the cluster's own as administrator.
func (c *Cluster) kubectl(ctx context.Context, stdin []byte, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.Kubectl(), append([]string{"--kubeconfig=" + c.Kubeconfig()}, args...)...)
	cmd.Stdin = strings.NewReader(string(stdin))
	cmd.Env = append(os.Environ(), "HOME="+c.State) // its cache
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("cluster: kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}
