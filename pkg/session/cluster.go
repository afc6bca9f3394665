package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"syscall"
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
	existsTime = 2 * time.Second                       // how often a target without a pod is looked for
	joinRetry  = 10 * time.Second                      // another pod whose agent did not start
	busyWait   = 3 * time.Second                       // an agent that leaves, or has not seen our last channel's end yet
	parting    = 30 * time.Second                      // a pod that ends is kept for as long as it answers, and no longer (Kubernetes' own grace period)
	discarding = 10 * time.Second                      // what a start that failed has made in the cluster is removed within this
	agentTTL   = 5 * 60 * config.Duration(time.Second) // so that the next start is faster
	deadAgents = 3                                     // agents in a row that ended before they answered: no further one is started
)

// cluster is a target in a cluster. The pod that the session began with is home, the others are members, which only send
// their requests. When home goes, a member takes its place, under the addresses and with the environment that the
// debuggee has seen already: home's link then borrows the channel of that member, whose requests go on meanwhile.
//
// Goroutines: follow's watch (ends with follow); one a member (ends with its pod, or with follow); note.
type cluster struct {
	s        *Session
	hello    wire.Hello
	begin    func(context.Context, kube.Pod) (podAgent, error) // finds or starts a pod's agent
	workload workload
	leave    func() // ends what the cluster's own code still does
	first    way    // to the pod that the session began with

	namespace, context string

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced when the pods or the members have changed
	firstUID string
	parting  bool               // the first pod is about to end
	homeUID  string             // firstUID until that has gone
	members  map[string]*member // by the pod's UID
	spent    map[string]bool    // UIDs of pods whose agents do not answer, or are not to be asked again
}

// workload is what cluster needs of a kube.Workload, and podAgent of a kube.Agent.
type workload interface {
	Pods() []kube.Pod
	Single() bool
	Watch(context.Context, func([]kube.Pod)) error
	Exists(context.Context) error
}

type podAgent interface {
	Dial(context.Context) (net.Conn, error)
	Token() string
	Says() []string
	Discard(context.Context) error
	Note(ctx context.Context, notes map[string]*kube.Note) (ids []string, err error)
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
	k.Prepare(ctx, 1) // while the pod is looked for
	w, err := k.Resolve(ctx, s.target)
	if err != nil {
		return nil, err
	}
	c := makeCluster(s, hello, w, func(ctx context.Context, pod kube.Pod) (podAgent, error) {
		a, err := k.Agent(ctx, s.agentOptions(pod, hello.Who))
		if err != nil {
			return nil, err
		}
		return a, nil
	})
	c.leave, c.namespace, c.context = k.Close, k.Namespace(), k.Context()
	return c, nil
}

func makeCluster(s *Session, hello wire.Hello, w workload, begin func(context.Context, kube.Pod) (podAgent, error)) *cluster {
	s.hello = hello
	c := &cluster{s: s, hello: hello, workload: w, begin: begin, changed: make(chan struct{}), members: map[string]*member{}, spent: map[string]bool{}, leave: func() {}}
	c.first.c = c
	return c
}

func (s *Session) agentOptions(pod kube.Pod, who string) kube.AgentOptions {
	o := s.config.Agent
	if !s.config.Wrote("agent", "ttl") {
		o.TTL = agentTTL
	}
	return kube.AgentOptions{Config: o, Pod: pod, Who: who,
		Incoming: s.wished(),
		Binary:   s.options.Parts.Packed, Boot: s.options.Parts.Boot,
		Progress: func(what string) { s.options.Progress(what, 0, startSteps) }}
}

// way is the way to the agent of one pod. Only one dial at a time uses it.
type way struct {
	c     *cluster
	mu    sync.Mutex // guards what follows against whoever asks which pod it is
	pod   kube.Pod
	agent podAgent
	dead  int // agents in a row that never answered
}

func (w *way) current() kube.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pod
}

// dial makes a channel to home's agent. Once home has gone it is the channel of the pod that takes its place.
func (c *cluster) dial(ctx context.Context, resume string) (*mux.Conn, wire.Welcome, error) {
	pod, borrowed, err := c.pickHome(ctx)
	if err != nil || borrowed != nil {
		return borrowed, wire.Welcome{}, err
	}
	conn, welcome, err := c.first.dial(ctx, pod, resume)
	if errors.Is(err, errGone) && !c.workload.Single() {
		c.spend(pod.UID)
		err = errors.New(err.Error()) // of this pod only
	}
	return conn, welcome, err
}

// pickHome keeps home while it lives; else the oldest pod that can be reached becomes it. It waits for one. The channel
// is nil where it is still the first.
func (c *cluster) pickHome(ctx context.Context) (kube.Pod, *mux.Conn, error) {
	said := false
	exists := time.Now()
	for {
		pod, conn, changed := c.candidate()
		if pod.UID != "" {
			return pod, conn, nil
		}
		if c.workload.Single() {
			return kube.Pod{}, nil, ended("%s has ended, and nothing takes a single pod's place", c.s.config.Target)
		}
		if len(c.workload.Pods()) == 0 && time.Since(exists) >= 0 {
			exists = time.Now().Add(existsTime)
			if err := c.workload.Exists(ctx); fail.CodeOf(err) == fail.TargetUnknown {
				return kube.Pod{}, nil, ended("%s was deleted", c.s.config.Target)
			}
			if !said {
				said = true
				c.s.notice("no pod of " + c.s.config.Target + " is ready; waiting for one")
			}
		}
		select {
		case <-changed:
		case <-time.After(redialEvery): // a member's link has no other way to say that it is up again
		case <-ctx.Done():
			return kube.Pod{}, nil, fmt.Errorf("no pod of %s can be reached", c.s.config.Target)
		}
	}
}

// ended is the end of the session, in one sentence.
func ended(format string, args ...any) error {
	return fmt.Errorf("%w: %w", errGone, fail.New(fail.TargetUnknown, "start again when there is one", format, args...))
}

// candidate is home now, and the channel that it borrows; no pod where none can be reached.
func (c *cluster) candidate() (pod kube.Pod, conn *mux.Conn, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pods := c.workload.Pods()
	if c.firstUID == "" && len(pods) > 0 {
		c.firstUID, c.homeUID = pods[0].UID, pods[0].UID
	}
	at := func(uid string) int {
		return slices.IndexFunc(pods, func(p kube.Pod) bool { return p.UID == uid && !c.spent[uid] })
	}
	if i := at(c.firstUID); i >= 0 {
		return pods[i], nil, c.changed
	}
	if at(c.homeUID) >= 0 {
		pods = pods[at(c.homeUID):][:1]
	}
	for _, p := range pods {
		if m := c.members[p.UID]; m != nil && m.link != nil {
			if conn, _ = m.link.current(); conn == nil {
				continue
			}
			if c.homeUID != p.UID {
				c.homeUID = p.UID
				c.s.notice("pod " + p.Name + " takes the place of the one that ended")
			}
			return p, conn, c.changed
		}
	}
	return kube.Pod{}, nil, c.changed
}

// spend has nothing more asked of a pod.
func (c *cluster) spend(uid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spent[uid] = true
	c.change()
}

// change is called with c.mu held.
func (c *cluster) change() {
	c.s.changed.ring()
	close(c.changed)
	c.changed = make(chan struct{})
}

// find is what is known of a pod now.
func (c *cluster) find(uid string) (kube.Pod, bool) {
	for _, p := range c.workload.Pods() {
		if p.UID == uid {
			return p, true
		}
	}
	return kube.Pod{}, false
}

// dial finds or starts the agent of the pod, unless it is known already, and opens a channel to it.
func (w *way) dial(ctx context.Context, pod kube.Pod, resume string) (*mux.Conn, wire.Welcome, error) {
	w.mu.Lock()
	w.pod = pod
	agent := w.agent
	w.mu.Unlock()
	if agent == nil {
		var err error
		if agent, err = w.start(ctx, pod); err != nil {
			return nil, wire.Welcome{}, err
		}
	}
	conn, welcome, err := w.patiently(ctx, agent, resume)
	if errors.Is(err, kube.ErrOnceMore) && w.unknown() { // an agent that was found in its last second
		discard(ctx, agent, w.c.s)
		if agent, err = w.start(ctx, pod); err != nil {
			return nil, wire.Welcome{}, err
		}
		conn, welcome, err = w.patiently(ctx, agent, resume)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err == nil:
		w.agent, w.dead = agent, 0
		go func() { _ = conn.Send(wire.KindTarget, wire.Target{Container: pod.ContainerID}) }() // it may have been restarted meanwhile
		return conn, welcome, nil
	case w.agent == nil: // one that we have started, or found, and that never answered
		discard(ctx, agent, w.c.s)
		if ctx.Err() == nil && fail.CodeOf(err) != fail.ClusterUnreachable {
			w.dead++
		}
	case errors.Is(err, kube.ErrAgentGone):
		w.agent = nil
	}
	if w.dead >= deadAgents {
		err = fmt.Errorf("%w: %w", errGone, err)
	}
	return nil, wire.Welcome{}, err
}

// start finds or starts the pod's agent.
func (w *way) start(ctx context.Context, pod kube.Pod) (podAgent, error) {
	agent, err := w.c.begin(ctx, pod)
	if errors.Is(err, kube.ErrTooMany) {
		err = fmt.Errorf("%w: %w", errGone, err)
	}
	return agent, err
}

// unknown says that no agent of the pod has answered yet.
func (w *way) unknown() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.agent == nil
}

// patiently opens a channel to an agent that may be about to leave, or to see that our last channel has ended.
func (w *way) patiently(ctx context.Context, agent podAgent, resume string) (*mux.Conn, wire.Welcome, error) {
	for end := time.Now().Add(busyWait); ; {
		conn, welcome, err := w.open(ctx, agent, resume)
		var refusal *wire.Refusal
		if !errors.As(err, &refusal) || refusal.Errno != syscall.ESHUTDOWN && refusal.Errno != syscall.EBUSY {
			return conn, welcome, err
		}
		if time.Now().After(end) {
			return nil, wire.Welcome{}, errors.New(refusal.Message) // no wire.Refusal, which would be for good
		}
		select {
		case <-time.After(redialEvery):
		case <-ctx.Done():
			return nil, wire.Welcome{}, ctx.Err()
		}
	}
}

// open dials the agent. What its connection says of the agent's end is better than what the channel makes of it.
func (w *way) open(ctx context.Context, agent podAgent, resume string) (*mux.Conn, wire.Welcome, error) {
	raw, err := agent.Dial(ctx)
	if err != nil {
		return nil, wire.Welcome{}, err
	}
	listening := &lastError{Conn: raw}
	hello := w.c.hello
	hello.Token, hello.Resume = agent.Token(), resume
	begun := time.Now()
	conn, welcome, err := mux.Dial(ctx, listening, hello, w.channel())
	w.c.s.log.Debug("round trip", "what", "hello", "took", time.Since(begun), "err", err)
	var words *fail.Error
	if said := listening.get(); err != nil && (errors.Is(said, kube.ErrAgentGone) || errors.As(said, &words)) {
		err = said
	}
	return conn, welcome, err
}

// channel has patience with an agent that has yet to start: kube knows when there is no hope.
func (w *way) channel() mux.Config {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.agent == nil {
		return mux.Config{Hello: clusterTry}
	}
	return mux.Config{}
}

// discard removes what a start has made that came to nothing, whatever has become of ctx.
func discard(ctx context.Context, agent podAgent, s *Session) {
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
	c.first.mu.Lock()
	pod, says := c.first.pod, c.first.agent.Says()
	c.first.mu.Unlock()
	p.Volumes = pod.Volumes
	p.Target = pod.Target + " (pod " + pod.Name + ", container " + pod.Container + ")"
	if len(pod.Addrs) > 0 {
		p.Addrs = pod.Addrs
	}
	p.Limits = slices.Concat(pod.Notices, says, p.Limits)
}

// steal tells the agent which of the pod's requests are its health probes, and where they come from. Home's link asks
// for nothing while its channel is a member's, who does.
func (c *cluster) steal(l *link, s *wire.Steal) (pod string, ok bool) {
	c.mu.Lock()
	w := &c.first
	borrows := c.homeUID != c.firstUID
	for _, m := range c.members {
		if m.link == l {
			w, borrows = &m.way, false
		}
	}
	c.mu.Unlock()
	p := w.current()
	if c.s.config.Incoming.Probes == "pod" {
		s.Probes, s.Nodes = p.Probes, p.Nodes
	}
	return "pod " + p.Name, !borrows
}

// pod: while home's channel is a member's, either's link may be told of that pod's requests.
func (c *cluster) pod(l *link) string {
	c.mu.Lock()
	w := &c.first
	for uid, m := range c.members {
		if m.link == l || l == c.s.link && uid == c.homeUID {
			w = &m.way
		}
	}
	c.mu.Unlock()
	return w.current().Name
}

// pods are those that the session has a way to, or is making one to; home first, then by name.
func (c *cluster) pods() (namespace, context string, pods []StatePod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	add := func(w *way, l *link, home bool) {
		p := StatePod{Name: w.current().Name, Home: home, link: l}
		if l != nil {
			conn, _ := l.current()
			p.Connected = conn != nil
		}
		pods = append(pods, p)
	}
	if c.homeUID == c.firstUID {
		add(&c.first, c.s.link, true)
	}
	for uid, m := range c.members {
		add(&m.way, m.link, uid == c.homeUID)
	}
	slices.SortFunc(pods, func(a, b StatePod) int {
		if a.Home != b.Home && a.Home {
			return -1
		} else if a.Home != b.Home {
			return 1
		}
		return cmp.Compare(a.Name, b.Name)
	})
	return c.namespace, c.context, pods
}

// notice is what home's link says. Of a borrowed channel its member says it.
func (c *cluster) notice(line string) {
	c.mu.Lock()
	borrows := c.homeUID != c.firstUID
	c.mu.Unlock()
	if !borrows {
		c.s.notice(line)
	}
}

func (c *cluster) try() time.Duration { return clusterTry }

// final: the end of a pod or of its agent is not the session's; the next dial finds what takes its place.
func (c *cluster) final(bye mux.ByeError) bool { return bye.Stopped }

// news are of the target's pods and of the ways to them.
func (c *cluster) news() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// close has nothing to undo: the agents end by themselves, and with them what is in the cluster, once it is theirs.
func (c *cluster) close() { c.leave() }
