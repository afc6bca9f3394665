package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/kube"
	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// Waits in a cluster.
const (
	clusterTry = 95 * time.Second                      // one try to reach an agent, which may have to be started first (kube bounds that)
	homeWait   = 5 * time.Minute                       // for a pod to take home's place: a rollout pulls images, a crashing container backs off
	joinRetry  = 10 * time.Second                      // another pod whose agent did not start
	discarding = 10 * time.Second                      // what a start that failed has made in the cluster is removed within this
	agentTTL   = 5 * 60 * config.Duration(time.Second) // so that the next start is faster
	deadAgents = 3                                     // agents in a row that ended before they answered: no further one is started
)

// cluster is a target in a cluster. One of its pods is home; the others only send their requests. When home goes,
// another pod takes its place, under the addresses and with the environment that the debuggee has seen already.
//
// Goroutines: follow's watch (ends with follow); one a pod that is not home (ends with the pod, or with follow).
type cluster struct {
	s        *Session
	hello    wire.Hello
	kube     *kube.Cluster
	workload *kube.Workload
	home     way

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when the pods have changed, or home has
	homeUID string
	ways    map[*link]*way
}

// newCluster finds the target. Nothing is made in the cluster yet.
func newCluster(ctx context.Context, s *Session) (reach, error) {
	hello, err := newHello()
	if err != nil {
		return nil, err
	}
	said := func(line string) { s.notice(line) }
	k, err := kube.Open(kube.Options{Kubeconfig: s.config.Kubeconfig, Context: s.config.Context, Namespace: s.config.Namespace,
		Version: s.options.Parts.Version, Said: said, Log: s.log})
	if err != nil {
		return nil, err
	}
	c := &cluster{s: s, hello: hello, kube: k, changed: make(chan struct{}), ways: map[*link]*way{}}
	if c.workload, err = k.Resolve(ctx, s.target); err != nil {
		return nil, err
	}
	c.home.c = c
	return c, nil
}

// way is the way to the agent of one pod. Only one dial at a time uses it.
type way struct {
	c     *cluster
	mu    sync.Mutex // guards what follows against whoever asks which pod it is
	pod   kube.Pod
	agent *kube.Agent
	dead  int // agents in a row that never answered
}

func (w *way) current() kube.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pod
}

// dial makes a channel to home's agent; if home has gone, to the agent of the pod that takes its place.
func (c *cluster) dial(ctx context.Context, resume string) (*mux.Conn, wire.Welcome, error) {
	pod, err := c.pickHome(ctx)
	if err != nil {
		return nil, wire.Welcome{}, err
	}
	return c.home.dial(ctx, pod, resume)
}

// pickHome keeps home while it lives; else the oldest pod becomes it. It waits for one.
func (c *cluster) pickHome(ctx context.Context) (kube.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, homeWait)
	defer cancel()
	for {
		c.mu.Lock()
		pods, changed, was := c.workload.Pods(), c.changed, c.homeUID
		if len(pods) > 0 {
			i := max(0, slices.IndexFunc(pods, func(p kube.Pod) bool { return p.UID == was }))
			c.homeUID = pods[i].UID
			if was != "" && was != c.homeUID { // whoever follows that pod leaves it to us
				c.change()
			}
			c.mu.Unlock()
			if was != "" && was != pods[i].UID {
				c.s.notice("pod " + pods[i].Name + " takes the place of the one that ended")
			}
			return pods[i], nil
		}
		c.mu.Unlock()
		if c.workload.Single() {
			return kube.Pod{}, fmt.Errorf("%w: the pod has ended", errGone)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return kube.Pod{}, fmt.Errorf("no pod of %s is ready", c.s.config.Target)
		}
	}
}

// change is called with c.mu held.
func (c *cluster) change() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// dial finds or starts the agent of the pod, unless it is known already, and opens a channel to it.
func (w *way) dial(ctx context.Context, pod kube.Pod, resume string) (*mux.Conn, wire.Welcome, error) {
	w.mu.Lock()
	if w.pod.UID != pod.UID {
		w.agent, w.dead = nil, 0
	}
	w.pod = pod
	agent := w.agent
	w.mu.Unlock()
	if agent == nil {
		var err error
		if agent, err = w.start(ctx, pod); err != nil {
			return nil, wire.Welcome{}, err
		}
	}
	conn, welcome, err := w.open(ctx, agent, resume)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err == nil:
		w.agent, w.dead = agent, 0
		_ = conn.Send(wire.KindTarget, wire.Target{Container: pod.ContainerID}) // it may have been restarted meanwhile
	case w.agent == nil: // one that we have started, or found, and that never answered
		discard(ctx, agent, w.c.s)
		w.dead++
	case errors.Is(err, kube.ErrAgentGone):
		w.agent = nil
	}
	if err != nil && w.dead >= deadAgents {
		err = fmt.Errorf("%w: %w", errGone, err)
	}
	return conn, welcome, err
}

func (w *way) start(ctx context.Context, pod kube.Pod) (*kube.Agent, error) {
	s := w.c.s
	o := s.config.Agent
	if !s.config.Wrote("agent", "ttl") {
		o.TTL = agentTTL
	}
	return w.c.kube.Agent(ctx, kube.AgentOptions{Config: o, Pod: pod, Who: w.c.hello.Who,
		Steal: s.config.Wrote("incoming", "mode") && s.config.Incoming.Mode == "steal", Binary: s.options.Parts.Packed, Boot: s.options.Parts.Boot,
		Progress: func(what string) { s.options.Progress(what, 0, startSteps) }})
}

// open dials the agent. What its connection says of the agent's end is better than what the channel makes of it.
func (w *way) open(ctx context.Context, agent *kube.Agent, resume string) (*mux.Conn, wire.Welcome, error) {
	raw, err := agent.Dial(ctx)
	if err != nil {
		return nil, wire.Welcome{}, err
	}
	listening := &lastError{Conn: raw}
	hello := w.c.hello
	hello.Token, hello.Resume = agent.Token(), resume
	conn, welcome, err := mux.Dial(ctx, listening, hello, mux.Config{})
	if said := listening.get(); err != nil && said != nil && (errors.Is(said, kube.ErrAgentGone) || fail.CodeOf(said) != 0) {
		err = said
	}
	return conn, welcome, err
}

// discard removes what a start has made that came to nothing, whatever has become of ctx.
func discard(ctx context.Context, agent *kube.Agent, s *Session) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), discarding)
	defer cancel()
	if err := agent.Discard(ctx); err != nil {
		s.log.Debug("removing an agent that did not start", "err", err)
	}
}

// lastError remembers why reading failed.
type lastError struct {
	net.Conn
	mu  sync.Mutex
	err error
}

func (c *lastError) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.mu.Lock()
		c.err = err
		c.mu.Unlock()
	}
	return n, err
}

func (c *lastError) get() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// complete replaces the agent's guesses by what the pod's spec says.
func (c *cluster) complete(p *wire.Pod) {
	c.home.mu.Lock()
	pod, says := c.home.pod, c.home.agent.Says()
	c.home.mu.Unlock()
	p.Volumes = pod.Volumes
	p.Target = pod.Target + " (pod " + pod.Name + ", container " + pod.Container + ")"
	if len(pod.Addrs) > 0 {
		p.Addrs = pod.Addrs
	}
	p.Limits = slices.Concat(pod.Notices, says, p.Limits)
}

// steal tells the agent which of the pod's requests are its health probes, and where they come from.
func (c *cluster) steal(l *link, s *wire.Steal) (pod string) {
	c.mu.Lock()
	w := c.ways[l]
	c.mu.Unlock()
	if w == nil {
		w = &c.home
	}
	p := w.current()
	if c.s.config.Incoming.Probes == "pod" {
		s.Probes, s.Nodes = p.Probes, p.Nodes
	}
	return "pod " + p.Name
}

// follow keeps one link to each pod that is not home for as long as both exist.
func (c *cluster) follow(ctx context.Context) {
	var members sync.WaitGroup
	defer members.Wait()
	watched := make(chan error, 1)
	members.Go(func() {
		watched <- c.workload.Watch(ctx, func([]kube.Pod) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.change()
		})
	})
	stops := map[string]context.CancelFunc{}
	for {
		c.mu.Lock()
		pods, changed, home := c.workload.Pods(), c.changed, c.homeUID
		c.mu.Unlock()
		wanted := map[string]bool{}
		for _, p := range pods {
			if p.UID == home {
				c.restarted(&c.home, c.s.link, p)
				continue
			}
			wanted[p.UID] = true
			if stops[p.UID] == nil {
				member, stop := context.WithCancel(ctx)
				stops[p.UID] = stop
				members.Go(func() { c.member(member, p) })
			}
		}
		for uid, stop := range stops {
			if !wanted[uid] {
				stop()
				delete(stops, uid)
			}
		}
		c.follows(pods)
		select {
		case <-changed:
		case err := <-watched:
			if ctx.Err() == nil {
				c.s.notice(fmt.Sprintf("pods that come from now on are not followed: %v", err))
			}
			watched = nil
		case <-ctx.Done():
			for _, stop := range stops {
				stop()
			}
			return
		}
	}
}

// follows tells the ways of the other pods of containers that were restarted.
func (c *cluster) follows(pods []kube.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for l, w := range c.ways {
		for _, p := range pods {
			c.restarted(w, l, p)
		}
	}
}

// restarted tells an agent which container took the ended one's place, if it is that pod's.
func (c *cluster) restarted(w *way, l *link, p kube.Pod) {
	w.mu.Lock()
	changed := l != nil && w.pod.UID == p.UID && w.pod.ContainerID != p.ContainerID
	if changed {
		w.pod = p
	}
	w.mu.Unlock()
	if !changed {
		return
	}
	c.s.notice("container " + p.Container + " of pod " + p.Name + " was restarted")
	if conn, _ := l.current(); conn != nil {
		_ = conn.Send(wire.KindTarget, wire.Target{Container: p.ContainerID}) // of a channel that is lost: the next dial tells
	}
}

// member takes the requests of one pod that is not home.
func (c *cluster) member(ctx context.Context, pod kube.Pod) {
	w := &way{c: c}
	dial := func(ctx context.Context, resume string) (*mux.Conn, wire.Welcome, error) {
		return w.dial(ctx, pod, resume)
	}
	said := ""
	for ctx.Err() == nil {
		o := c.s.linkOptions(dial)
		o.notice = func(line string) { c.s.notice("pod " + pod.Name + ": " + line) }
		l, err := newLink(ctx, o)
		if err == nil {
			c.keep(ctx, w, l)
			continue
		}
		if text := err.Error(); text != said && ctx.Err() == nil {
			said = text
			c.s.notice(fmt.Sprintf("pod %s keeps its requests: %v", pod.Name, err))
		}
		select {
		case <-time.After(joinRetry):
		case <-ctx.Done():
		}
	}
}

// keep has the link among the session's until it or ctx has ended.
func (c *cluster) keep(ctx context.Context, w *way, l *link) {
	defer l.close()
	c.mu.Lock()
	c.ways[l] = w
	c.mu.Unlock()
	if c.s.join(l) {
		defer c.s.part(l)
		select {
		case <-l.ended:
		case <-ctx.Done():
		}
	}
	c.mu.Lock()
	delete(c.ways, l)
	c.mu.Unlock()
}

func (c *cluster) try() time.Duration { return clusterTry }

// final: the end of a pod or of its agent is not the session's; the next dial finds what takes its place.
func (c *cluster) final(bye mux.ByeError) bool { return bye.Stopped }

// close has nothing to undo: the agents end by themselves, and with them what is in the cluster.
func (c *cluster) close() {}
