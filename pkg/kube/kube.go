// Package kube is the cluster: configuration and credentials, targets and their pods, port-forwards, commands in
// containers, and how the agent gets to a pod. It is the only package that imports k8s.io/*.
//
// It must never change a workload, keep a value of the pod's on disk or in a log, prompt, or print: what a person
// should read goes to Options.Said or into a fail.Error. Nobody outside sees a type of k8s.io but through Pod.Spec.
package kube

import (
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/stepin-dev/stepin/pkg/wire"
)

var (
	// ErrNotYet: nothing serves there yet, which a little patience may cure. The container has not started, or nothing
	// listens on the port.
	ErrNotYet = errors.New("not yet")
	// ErrPodGone: the pod does not exist any more.
	ErrPodGone = errors.New("the pod is gone")
	// ErrAgentGone: the agent is gone for good.
	ErrAgentGone = errors.New("the agent is gone")
	// ErrOnceMore: an agent is gone before it has said anything, for a reason that the next one will hardly meet: it was there
	// before us and has ended just now, or something else had its port. It is an ErrAgentGone, too.
	ErrOnceMore = errors.New("the agent is gone, and another one can be made")
	// ErrTooMany: no further agent is made for this pod.
	ErrTooMany = errors.New("there were too many agents")
)

// Options say which cluster and how to reach it.
type Options struct {
	Kubeconfig string            // a file, "~/" allowed; "" = $KUBECONFIG (a list), then ~/.kube/config, then a pod's own account
	Context    string            // "" = the kubeconfig's current one
	Namespace  string            // "" = the context's, else "default"
	Version    string            // stepin's, for the user agent
	Said       func(line string) // lines of an exec plugin's stderr and notices; it may be called at any time from any goroutine; nil = nobody
	Log        *slog.Logger      // nil = nowhere
}

// Cluster is one cluster as one user. Its methods may be called at once from many goroutines.
//
// Goroutines: one for the stderr of an exec plugin, where the configuration has one, as long as the process lives; one for
// each spare connection, as long as making it takes.
type Cluster struct {
	config      *rest.Config
	client      kubernetes.Interface
	http        *http.Client // client's: one connection for all that is no stream
	spare       spare        // connections for the next streams
	namespace   string
	contextName string
	said        func(line string)
	log         *slog.Logger
	plugin      *plugin         // nil = no exec plugin
	sending     sync.Mutex      // held while an agent is uploaded
	sent        map[string]sent // by namespace and hash
	settling    sync.WaitGroup  // of agents that have been made
	spdyOnly    atomic.Bool     // a WebSocket was refused where SPDY was not: it is not tried again

	mu    sync.Mutex
	held  map[string]*os.File // tickets in use, by their keys
	added map[string]int      // ephemeral containers that were added, by the pod's UID
}

// holding keeps a ticket from being swept until Close; nil is none.
func (c *Cluster) holding(key string, f *os.File) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if last := c.held[key]; last != nil {
		last.Close()
	}
	if c.held == nil {
		c.held = map[string]*os.File{}
	}
	c.held[key] = f
}

// mayAdd says whether one more ephemeral container may be added to a pod.
func (c *Cluster) mayAdd(uid string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.added[uid] < maxAdded
}

func (c *Cluster) hasAdded(uid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.added == nil {
		c.added = map[string]int{}
	}
	c.added[uid]++
}

// closeWait bounds the end of what goes on beside starts: a session may be over before its agent's ConfigMaps have an owner.
const closeWait = 2 * time.Second

// Close waits a little for what goes on beside the starts of agents. They must all have come to their end, one way or the
// other.
func (c *Cluster) Close() {
	settled := make(chan struct{})
	go func() {
		defer close(settled)
		c.settling.Wait()
	}()
	select {
	case <-settled:
	case <-time.After(closeWait):
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.held {
		if f != nil {
			f.Close()
		}
	}
	clear(c.held)
}

// Namespace is where targets are looked for.
func (c *Cluster) Namespace() string { return c.namespace }

// Context is the name of the kubeconfig's context, "" for a pod's own account.
func (c *Cluster) Context() string { return c.contextName }

// Server is the API server's address as the kubeconfig has it.
func (c *Cluster) Server() string { return c.config.Host }

// Pod is what a session and the agent's delivery need to know of one pod. It is a snapshot.
type Pod struct {
	Namespace, Name, UID, Node string
	Container                  string        // the container that the target means
	ContainerID                string        // of its present run, without the runtime's prefix "containerd://"
	Target                     string        // as the developer wrote it, for messages
	Addrs                      []netip.Addr  // the pod's
	Nodes                      []netip.Addr  // its node's: where health probes come from
	Volumes                    []wire.Volume // the container's mount points, by its spec
	Probes                     []wire.Probe  // of the container, its ports resolved
	Notices                    []string      // what the developer should know of the choice, one line each
	Spec                       *corev1.Pod   // the object itself, for delivery; read only
}
