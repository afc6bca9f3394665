// Package node is the inside of the test cluster's one node: PID 1 of its PID, mount, UTS, IPC and network namespaces,
// which mounts, configures and keeps running etcd, containerd, the Kubernetes components and nothing else. What it does
// to the file system, to the network and to sysctls ends with its namespaces; the one exception, the cgroups, is
// cluster's to remove. It must never be called outside of such namespaces.
package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

// The cluster's addresses. Pods and Services are reachable from the node only; the machine reaches the API server.
const (
	Name          = "node1"
	Link          = "eth0"
	Subnet        = "10.201.0.0/24"
	Machine       = "10.201.0.1"
	Address       = "10.201.0.2"
	Prefix        = 24
	Port          = 6443
	Pods          = "10.244.0.0/24"
	Services      = "10.96.0.0/16"
	FirstService  = "10.96.0.1" // the API server's own
	DNS           = "10.96.0.10"
	Domain        = "cluster.local"
	Issuer        = "https://kubernetes.default.svc." + Domain
	PauseImage    = "stepin.test/pause:1"
	CNI           = "/usr/lib/cni"
	ContainerdAPI = "/run/containerd/containerd.sock" // as seen inside
)

// Cgroup is the name of the cgroup above the pods' own, in each hierarchy: they are the machine's, where there may be
// another node with another state directory.
func Cgroup(state string) string {
	sum := sha256.Sum256([]byte(filepath.Clean(state)))
	return "stepin-e2e-" + hex.EncodeToString(sum[:4])
}

// Home is where the node sees the state directory: one short path, whatever the machine calls it.
const Home = "/run/cluster"

// The parts of the state directory.
const (
	LockFile   = "node.lock"      // held by the node as a POSIX lock as long as it lives
	Log        = "log"            // one file per component
	PKI        = "pki"            // certificates, keys, kubeconfigs
	Kubernetes = "bin/kubernetes" // the components
)

// Go is the descriptor on which the node waits for one byte: its end of the veth pair is there. The end of file instead
// means that whoever started it has died.
const Go = 3

// Main is the node. It returns only when it cannot begin.
func Main(state string) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if os.Getpid() != 1 {
		return errors.New("node: to be started as the first process of a PID namespace")
	}
	lock, err := hold(filepath.Join(state, LockFile))
	if err != nil {
		return err
	}
	defer lock.Close()
	if _, err := io.ReadFull(os.NewFile(Go, "go"), make([]byte, 1)); err != nil {
		return fmt.Errorf("node: waiting for the network: %w", err)
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"mounts", func() error { return mounts(state) }},
		{"sysctls", sysctls},
		{"network", network},
		{"configuration", func() error { return configure(state) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("node: %s: %w", step.what, err)
		}
	}
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	s := newSupervisor(filepath.Join(Home, Log), log)
	go bringUp(context.Background(), s)
	s.reap(children)
	return nil
}

// hold takes the lock that says that a node lives, and who it is: fcntl(2), F_GETLK. It is the kernel's to release, so
// it is never stale.
func hold(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	if err := syscall.FcntlFlock(f.Fd(), syscall.F_SETLK, &syscall.Flock_t{Type: syscall.F_WRLCK}); err != nil {
		f.Close()
		return nil, fmt.Errorf("node: another one holds %s: %w", path, err)
	}
	return f, nil
}
