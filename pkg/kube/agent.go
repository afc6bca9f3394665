package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
)

const (
	// agentWait bounds an agent's start from the first call to its first answer: 0.6 to 0.9 s where nothing is pulled; an
	// image of 5 MB from a slow registry takes its time.
	agentWait = 90 * time.Second
	// pollEvery is the time between two tries to reach an agent that starts; each answers in 8 to 30 ms. It does so for
	// pollSoon, which most starts are within, and grows to pollMax then: one that pulls an image takes a minute.
	pollEvery = 25 * time.Millisecond
	pollSoon  = 3 * time.Second
	pollMax   = time.Second
	// goneWait bounds the wait for the end of a predecessor: its grace period is a second, and the node has work to do.
	goneWait = 30 * time.Second
	// tidyWait bounds what is done when nobody waits any more.
	tidyWait = 15 * time.Second
)

// AgentOptions say which agent is wanted and what it is made of.
type AgentOptions struct {
	Config   config.Agent
	Pod      Pod
	Who      string                                                // user@host
	Incoming string                                                // steal or mirror, where the user wrote that he wants that; without it a rung that cannot will do
	Binary   func(arch string) (frame []byte, size int, err error) // the agent as an LZ4 frame, for a GOARCH
	Boot     func(arch string) ([]byte, error)                     // what makes a program of it
	Tokens   string                                                // directory for tickets; "" = XDG_RUNTIME_DIR, XDG_STATE_HOME or ~/.local/state
	Progress func(what string)                                     // nil = nobody
}

// Agent is the agent of one pod, running or about to.
//
// Goroutines: those of its watch, until the agent has answered once or Discard; one that sends the agent to an ephemeral
// container, likewise; one that tidies up after others, at most tidyWait.
type Agent struct {
	c       *Cluster
	o       AgentOptions
	tickets *tickets
	key     string
	rung    rung
	says    []string

	mu      sync.Mutex
	t       ticket
	ready   net.Conn    // a connection that was opened while looking whether the agent is there
	w       *agentWatch // nil once it has answered
	heard   bool        // it has answered
	failure error       // of a connection that ended before the agent's first byte

	made   made       // by this call
	failed chan error // of the sending to an ephemeral container; nil if nothing is sent
}

// made is what a start has made, for Discard.
type made struct {
	namespace, job string
	uid            types.UID // of the Job
	container      string    // ephemeral, in the pod
	upload         *upload
	cancel         context.CancelFunc // of the sending to an ephemeral container
	settled        <-chan struct{}    // closed when the tidying up beside the start has ended
	hurry          context.CancelFunc // ends that
}

// Agent finds the agent of a pod and joins it, or makes one. It does not wait until the agent runs: Dial does.
func (c *Cluster) Agent(ctx context.Context, o AgentOptions) (*Agent, error) {
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	ctx, cancel := context.WithTimeout(ctx, agentWait)
	defer cancel()
	store, err := openTickets(o.Tokens)
	if err != nil {
		return nil, err
	}
	a := &Agent{c: c, o: o, tickets: store, key: ticketKey(c.Server(), o.Pod.UID)}
	ok, err := a.warm(ctx)
	store.sweep() // after that: a ticket that has just been used is not old
	if ok || err != nil {
		return a.orNil(err)
	}
	if err = a.find(ctx); errors.Is(err, ErrOnceMore) { // it went while it was asked
		if err = a.look(ctx); err == nil {
			err = a.find(ctx)
		}
	}
	return a.orNil(err)
}

// find joins the agent that is there, or makes one.
func (a *Agent) find(ctx context.Context) error {
	if running, _ := runningEphemeral(a.o.Pod.Spec); running != nil {
		return a.joinEphemeral(ctx, running)
	}
	return a.cold(ctx)
}

// look asks what has become of the pod.
func (a *Agent) look(ctx context.Context) error {
	now, err := a.c.client.CoreV1().Pods(a.o.Pod.Namespace).Get(ctx, a.o.Pod.Name, metav1.GetOptions{})
	if err != nil {
		return a.c.explain(err, "looking at pod %s", a.o.Pod.Name)
	}
	a.o.Pod.Spec = now
	return nil
}

func (a *Agent) orNil(err error) (*Agent, error) {
	if err != nil {
		return nil, err
	}
	return a, nil
}

// warm goes back to an agent that this user knows. The connection is the question whether it is still there, so a warm
// start costs no round trip more than a plain port-forward.
func (a *Agent) warm(ctx context.Context) (bool, error) {
	t, ok := a.tickets.load(a.key)
	if !ok {
		return false, nil
	}
	r, ok := rungByName(t.Rung)
	if ok && t.Target == a.o.Pod.Container && (r != rungJob || a.o.Config.Mode != "ephemeral") && (r == rungJob || a.o.Config.Mode != "pod") {
		conn, err := a.c.patient(ctx, t)
		switch {
		case err == nil && a.alive(r, t):
			if !r.serves(a.o.Incoming) {
				_ = conn.Close()
				_, _, err := decide(wish{mode: "ephemeral", incoming: a.o.Incoming}, only(r))
				return false, err
			}
			a.t, a.ready, a.rung, a.says = t, conn, r, r.says()
			a.c.holding(a.key, a.tickets.hold(a.key))
			return true, nil
		case err == nil:
			_ = conn.Close()
		case !errors.Is(err, ErrPodGone) && !starting(err):
			return false, err
		}
	}
	return false, a.tickets.drop(a.key, t.Token)
}

// alive says whether the agent's container runs, as far as the pod that the session has just asked for shows it.
func (a *Agent) alive(r rung, t ticket) bool {
	if r == rungJob {
		return true // its pod ends with it
	}
	running, _ := runningEphemeral(a.o.Pod.Spec)
	return running != nil && running.Name == t.Container
}

// only is a ladder with one rung.
func only(r rung) (answers [rungsCount]ruling) {
	answers[r].admitted = true
	for other := range rungsCount {
		if !answers[other].admitted {
			answers[other].policy = "the agent that runs is " + rungTable[r].title
		}
	}
	return answers
}

// cold asks what is admitted, and makes an agent on the first rung that is.
func (a *Agent) cold(ctx context.Context) error {
	jo := jobOptions{pod: a.o.Pod, config: a.o.Config, who: a.o.Who, tokenHash: tokenHash("of a dry run"), port: insidePort(a.o.Pod.Spec)}
	a.o.Progress("asking what the cluster admits")
	p, err := a.c.probe(ctx, jo)
	if err != nil {
		return err
	}
	if p.exists { // whoever made it, it is there, so it was admitted
		return a.joinJob(ctx)
	}
	if p.overtaken {
		return a.follow(ctx)
	}
	if p.answers[rungJob].right != "" { // so nothing has said whether there is one
		if joined, err := a.joinPod(ctx); joined || err != nil {
			return err
		}
	}
	chosen, notices, err := decide(wish{mode: a.o.Config.Mode, incoming: a.o.Incoming}, p.answers)
	if err != nil {
		return err
	}
	a.rung, a.says = chosen, append(notices, chosen.says()...)
	token, err := a.tickets.claim(a.key)
	if err != nil {
		return err
	}
	jo.tokenHash = tokenHash(token)
	a.t = ticket{Token: token, Target: a.o.Pod.Container, Port: agentPort, Rung: chosen.String()}
	if chosen == rungJob {
		err = a.makeJob(ctx, jo, p.arch)
	} else {
		a.t.Port = jo.port
		err = a.makeEphemeral(ctx, jo, p.arch)
	}
	if err != nil {
		tidy, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyWait)
		defer cancel()
		if e := a.Discard(tidy); e != nil {
			a.c.log.Debug("kube: tidying up", "err", e)
		}
		a.tickets.unclaim(a.key)
		return err
	}
	return nil
}

// parts reads the agent that is built in.
func (a *Agent) parts(arch string) (*upload, error) {
	boot, err := a.o.Boot(arch)
	if err != nil {
		return nil, err
	}
	frame, _, err := a.o.Binary(arch)
	if err != nil {
		return nil, err
	}
	return newUpload(boot, frame), nil
}

// content is the agent as one file: boot finds the frame behind itself.
func (a *Agent) content(arch string) ([]byte, error) {
	boot, err := a.o.Boot(arch)
	if err != nil {
		return nil, err
	}
	frame, _, err := a.o.Binary(arch)
	if err != nil {
		return nil, err
	}
	return append(append(make([]byte, 0, len(boot)+len(frame)), boot...), frame...), nil
}

// Token is what the agent wants to hear first.
func (a *Agent) Token() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.t.Token
}

// Rung names the way the agent is with the pod.
func (a *Agent) Rung() string { return a.rung.String() }

// Steals says whether the agent can take the pod's requests.
func (a *Agent) Steals() bool { return rungTable[a.rung].steals }

// Says is what works and what does not, for the start message, one line each.
func (a *Agent) Says() []string { return a.says }

// Discard removes what this call has made, after a start that failed. An agent that has come up is left alone, since others
// may have joined it by now; it goes by itself. The context bounds it.
func (a *Agent) Discard(ctx context.Context) error {
	a.mu.Lock()
	up := a.heard
	if a.w != nil {
		s := a.w.state()
		up = up || !a.w.ephemeral && s.up && !s.ended // a container that waits for the agent to arrive is none
		a.w.stop()
		a.w = nil
	}
	if a.ready != nil {
		_ = a.ready.Close()
		a.ready = nil
	}
	m, token := a.made, a.t.Token
	a.made = made{}
	a.mu.Unlock()
	if m.cancel != nil {
		m.cancel()
	}
	if m.hurry != nil {
		if !up {
			m.hurry()
		}
		select {
		case <-m.settled:
		case <-ctx.Done():
			m.hurry()
		}
	}
	if up {
		return nil
	}
	var errs []error
	if m.job != "" {
		errs = append(errs, a.c.removeJob(ctx, m.namespace, m.job, m.uid))
	}
	if m.upload != nil { // what the Job owns goes with it; what it does not own yet, here
		errs = append(errs, a.c.abandon(ctx, m.namespace, m.upload))
	}
	if m.job != "" || m.container != "" {
		errs = append(errs, a.tickets.drop(a.key, token))
	}
	return errors.Join(errs...)
}

// makeEphemeral adds the agent to the pod.
func (a *Agent) makeEphemeral(ctx context.Context, jo jobOptions, arch string) error {
	if a.o.Config.Image == "" && refusedBefore(a.o.Pod.Spec) {
		return errNoShell(a.o.Pod)
	}
	a.o.Progress("adding the agent to the pod")
	_, n := runningEphemeral(a.o.Pod.Spec)
	container, err := agentEphemeral(jo, a.rung, n)
	if err != nil {
		return err
	}
	var content []byte
	if a.o.Config.Image == "" {
		if content, err = a.content(arch); err != nil {
			return err
		}
	}
	if !a.c.mayAdd(a.o.Pod.UID) {
		return errTooMany(a.o.Pod)
	}
	w := a.c.newAgentWatch(ctx, a.o.Pod.Namespace, container.Name, true)
	a.w = w
	w.watchPod(a.o.Pod.Name)
	if err := a.c.patchEphemeral(ctx, a.o.Pod, container, false); taken(err) {
		w.stop()
		a.w = nil
		return a.follow(ctx)
	} else if err != nil {
		if m := policyWords(err); m != "" {
			return fail.New(fail.AgentStart, "start again", "the agent cannot be added to the pod: %s", m)
		}
		return a.c.explain(err, "adding the agent to pod %s", a.o.Pod.Name)
	}
	a.c.hasAdded(a.o.Pod.UID)
	a.made.container = container.Name
	a.t.Namespace, a.t.Pod, a.t.Container = a.o.Pod.Namespace, a.o.Pod.Name, container.Name
	if content != nil {
		a.send(ctx, container.Name, content)
	}
	return a.keep()
}

// keep keeps the ticket, and takes part in another session's of this user's.
func (a *Agent) keep() (err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.t, err = a.tickets.save(a.key, a.t); err != nil {
		return err
	}
	a.c.holding(a.key, a.tickets.hold(a.key))
	return nil
}

// follow joins the ephemeral agent that another session has added at the same moment.
func (a *Agent) follow(ctx context.Context) error {
	if err := a.look(ctx); err != nil {
		return err
	}
	if running, _ := runningEphemeral(a.o.Pod.Spec); running != nil {
		return a.joinEphemeral(ctx, running)
	}
	return fail.New(fail.AgentStart, "start again", "another session has added an agent to pod %s, and it has ended", a.o.Pod.Name)
}

// send brings the agent through the container's standard input, beside the first tries to reach it.
func (a *Agent) send(ctx context.Context, container string, content []byte) {
	sending, cancel := context.WithTimeout(context.WithoutCancel(ctx), agentWait)
	failed := make(chan error, 1)
	a.made.cancel, a.failed = cancel, failed
	go func() {
		defer cancel()
		if err := a.c.arrive(sending, a.o.Pod, container, func() io.Reader { return bytes.NewReader(content) }); err != nil && sending.Err() == nil {
			failed <- err
		}
	}()
}

// joinCommand is the agent's own command, by the way that its program came into the container.
func (a *Agent) joinCommand(carried bool) []string {
	tail := []string{"join", "--who", a.o.Who}
	switch {
	case a.o.Config.Image != "" && !carried:
		return append([]string{ownEntry}, tail...)
	case a.rung == rungJob:
		return append([]string{bootPath}, tail...)
	}
	return append([]string{"sh", "-c", joinScript, "sh"}, tail...)
}

// askToken has the running agent make a token for us: who may run a command in its container may do all that it does. Where
// args, the agent's own, show that it was made for a token that we have, nobody is asked: another session of this user's has
// started it just now.
func (a *Agent) askToken(ctx context.Context, args, command []string) error {
	if own, ok := a.tickets.read(a.key); ok && tokenHash(own.Token) == argument(args, "--token-sha256") {
		a.t.Token = own.Token
		return a.keep()
	}
	p := newPace(0)
	for {
		out, err := a.c.Exec(ctx, a.t.Namespace, a.t.Pod, a.t.Container, command)
		var exit *ExitError
		switch {
		case err == nil:
			if token := lastLine(string(out)); token != "" {
				a.t.Token = token
				return a.keep()
			}
			return fail.New(fail.AgentRefused, "", "the agent that runs for this pod gave no token")
		case ctx.Err() != nil:
			return a.unanswered(ctx)
		case errors.As(err, &exit) && arriving(exit):
			if overdue(a.o.Pod.Spec, a.t.Container) {
				return errNoArrival
			}
		case errors.As(err, &exit) && strings.Contains(exit.Stderr, "no agent runs in this container"): // agent/parent, Join
			return a.gone("it has ended just now", true)
		case errors.As(err, &exit):
			return fail.New(fail.AgentRefused, "", "the agent that runs for this pod gave no token: %s", lastLine(exit.Stderr))
		case errors.Is(err, ErrPodGone):
			return a.gone("its pod does not exist any more", true)
		case !starting(err) && !errors.Is(err, errOverload):
			if fail.CodeOf(err) == fail.ClusterForbidden {
				return errNoExec(a.t.Namespace)
			}
			return err
		}
		if err := a.pause(ctx, a.w, p.next(err)); err != nil {
			if ctx.Err() != nil {
				return a.unanswered(ctx)
			}
			return err
		}
	}
}

// unanswered is the end of the patience with an agent that somebody else has started.
func (a *Agent) unanswered(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("kube: joining the pod's agent: %w", ctx.Err())
	}
	return fail.New(fail.AgentStart, "kubectl describe pod -n "+a.t.Namespace+" "+a.t.Pod+" shows what it does",
		"the agent that another session has started for this pod does not answer")
}

// joinEphemeral joins the agent in the pod itself. Whose place it takes is in its spec, which nobody can change.
func (a *Agent) joinEphemeral(ctx context.Context, e *corev1.EphemeralContainer) error {
	a.rung = ephemeralRung(e)
	if a.o.Config.Mode == "pod" {
		return fail.New(fail.AgentRefused, `write "agent": {"mode": "auto"}, or wait until it is gone`,
			"the pod has an agent already, which is %s", rungTable[a.rung].title)
	}
	if e.TargetContainerName != a.o.Pod.Container {
		return otherContainer(e.TargetContainerName, a.o.Pod.Container)
	}
	if !a.rung.serves(a.o.Incoming) {
		_, _, err := decide(wish{mode: "ephemeral", incoming: a.o.Incoming}, only(a.rung))
		return err
	}
	a.says = a.rung.says()
	a.t = ticket{Namespace: a.o.Pod.Namespace, Pod: a.o.Pod.Name, Container: e.Name, Target: a.o.Pod.Container,
		Port: listening(e.Args), Rung: a.rung.String()}
	if a.t.Port == 0 {
		return fail.New(fail.AgentRefused, "", "container %s of the pod is named like an agent and is none", e.Name)
	}
	if err := a.trustedInside(e); err != nil {
		return err
	}
	a.w = a.c.newAgentWatch(ctx, a.o.Pod.Namespace, e.Name, true)
	a.w.watchPod(a.o.Pod.Name)
	if err := a.askToken(ctx, e.Args, a.joinCommand(e.Stdin)); err != nil {
		a.w.stop()
		a.w = nil
		if errors.Is(err, errNoArrival) {
			return a.cold(ctx)
		}
		return err
	}
	return nil
}

// ephemeralRung tells from a container's rights which rung it is on.
func ephemeralRung(e *corev1.EphemeralContainer) rung {
	s := e.SecurityContext
	switch {
	case s == nil || s.Capabilities == nil:
		return rungPlain
	case len(s.Capabilities.Add) > 0:
		return rungNet
	}
	return rungBare
}

func otherContainer(its, ours string) error {
	return fail.New(fail.AgentRefused, "take that container, or wait until the agent is gone",
		"the pod has an agent already, for its container %q and not %q; a pod has one agent", its, ours)
}
