package kube

import (
	"context"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// agentWatch is told by the API server what becomes of an agent's container: watches are pushed, so that nothing is asked
// again and again, and nothing waits for a time-out that somebody has given the reason of already.
//
// Goroutines: one for the pods, one for the Job's events, one for the pod's; all end with stop.
type agentWatch struct {
	c         *Cluster
	ctx       context.Context
	stop      context.CancelFunc
	namespace string
	container string // name of the agent's container
	ephemeral bool

	mu     sync.Mutex
	change chan struct{}             // closed and made anew at each change
	owner  types.UID                 // of the Job; "" until it exists, or with an ephemeral container
	pods   map[types.UID]*corev1.Pod // by their owner; one Job has one pod
	pod    string                    // name of ours
	up     bool                      // the container runs, or has run
	words  string                    // why it will not run, from a status or an event
	latest string                    // the last warning, which may pass
	ended  bool                      // the container or the pod has ended
	early  []corev1.Event            // of the Job, before its UID is known
}

// maxEarly bounds what is kept of events before the Job exists: those of its predecessors.
const maxEarly = 100

func (c *Cluster) newAgentWatch(ctx context.Context, namespace, container string, ephemeral bool) *agentWatch {
	w := &agentWatch{c: c, namespace: namespace, container: container, ephemeral: ephemeral,
		change: make(chan struct{}), pods: map[types.UID]*corev1.Pod{}}
	w.ctx, w.stop = context.WithCancel(context.WithoutCancel(ctx))
	return w
}

// watchJob begins before the Job exists, beside its creation; found says which one it was.
func (w *agentWatch) watchJob(job, target string) {
	go w.follow(func() (watch.Interface, error) {
		return w.c.client.CoreV1().Pods(w.namespace).Watch(w.ctx, metav1.ListOptions{LabelSelector: labelPod + "=" + target + "," + labelManager + "=" + ourName})
	}, w.sawPod, w.blind)
	go w.events("Job", job)
}

// watchPod is for a pod whose name is known: the target of an ephemeral container, or an agent's that runs already.
func (w *agentWatch) watchPod(name string) {
	w.mu.Lock()
	w.pod = name
	w.mu.Unlock()
	go w.follow(func() (watch.Interface, error) {
		return w.c.client.CoreV1().Pods(w.namespace).Watch(w.ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()})
	}, w.sawPod, w.blind)
	go w.events("Pod", name)
}

func (w *agentWatch) events(kind, name string) {
	w.follow(func() (watch.Interface, error) {
		return w.c.client.CoreV1().Events(w.namespace).Watch(w.ctx, metav1.ListOptions{FieldSelector: fields.Set{"involvedObject.name": name, "involvedObject.kind": kind}.String()})
	}, w.sawEvent, func(error) {})
}

// blind is the end of a start whose pod nobody may see: its name would never be known.
func (w *agentWatch) blind(err error) {
	if !apierrors.IsForbidden(err) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.words = w.c.explain(err, "watching the agent start").Error()
	w.tell()
}

// follow reads one watch until it ends. It is not begun again: a start is over before any server ends a watch.
func (w *agentWatch) follow(begin func() (watch.Interface, error), saw func(watch.Event), refused func(error)) {
	in, err := begin()
	if err != nil {
		w.c.log.Debug("kube: watching the agent", "err", err)
		refused(err)
		return
	}
	defer in.Stop()
	for {
		select {
		case <-w.ctx.Done():
			return
		case e, ok := <-in.ResultChan():
			if !ok {
				return
			}
			saw(e)
		}
	}
}

// found says which Job is ours. What was seen before counts if it is that Job's.
func (w *agentWatch) found(job types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.owner = job
	if p := w.pods[job]; p != nil {
		w.judge(p)
	}
	for i := range w.early {
		w.judgeEvent(&w.early[i])
	}
	w.early = nil
	w.tell()
}

func (w *agentWatch) tell() {
	close(w.change)
	w.change = make(chan struct{})
}

func (w *agentWatch) sawPod(e watch.Event) {
	p, ok := e.Object.(*corev1.Pod)
	if !ok {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.tell()
	if w.pod == "" {
		owner := controller(p.OwnerReferences).UID
		if w.owner == "" {
			if w.pods[owner] = p; e.Type == watch.Deleted {
				w.pods[owner].Status = corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Deleted"}
			}
			return
		}
		if owner != w.owner {
			return
		}
	}
	if w.pod != "" && p.Name != w.pod {
		return
	}
	w.judge(p)
	if e.Type == watch.Deleted {
		w.ended = true
	}
}

// hopeless are a waiting container's reasons that time alone does not cure. The first failed pull is among them: who
// pressed F5 wants to read about it now.
var hopeless = map[string]bool{"ErrImagePull": true, "ImagePullBackOff": true, "ErrImageNeverPull": true, "InvalidImageName": true,
	"ImageInspectError": true, "RegistryUnavailable": true, "SignatureValidationFailed": true,
	"CreateContainerConfigError": true, "CreateContainerError": true, "RunContainerError": true, "StartError": true}

// judge reads a pod's status. The caller holds mu.
func (w *agentWatch) judge(p *corev1.Pod) {
	if w.pod == "" {
		w.pod = p.Name
		go w.events("Pod", p.Name)
	}
	list := p.Status.ContainerStatuses
	if w.ephemeral {
		list = p.Status.EphemeralContainerStatuses
	} else if p.Status.Phase == corev1.PodFailed && p.Status.Reason != "" { // refused by the node: OutOfcpu, Evicted …
		w.words, w.ended = reason("the node", p.Status.Reason, p.Status.Message), true
	}
	for _, s := range list {
		if s.Name != w.container {
			continue
		}
		switch {
		case s.State.Running != nil:
			w.up = true
		case s.State.Waiting != nil && hopeless[s.State.Waiting.Reason]:
			w.words = reason("its container", s.State.Waiting.Reason, s.State.Waiting.Message)
		case s.State.Terminated != nil:
			w.ended = true
			if text := lastLine(s.State.Terminated.Message); text != "" {
				w.words = text
			} else if w.words == "" {
				w.words = reason("its container", s.State.Terminated.Reason, "")
			}
		}
	}
}

func (w *agentWatch) sawEvent(e watch.Event) {
	ev, ok := e.Object.(*corev1.Event)
	if !ok {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.owner == "" && ev.InvolvedObject.Kind == "Job" {
		if len(w.early) < maxEarly {
			w.early = append(w.early, *ev)
		}
		return
	}
	w.judgeEvent(ev)
	w.tell()
}

// judgeEvent reads what a controller or the node says. The caller holds mu.
func (w *agentWatch) judgeEvent(ev *corev1.Event) {
	if ev.InvolvedObject.Kind == "Job" && ev.InvolvedObject.UID != w.owner {
		return
	}
	if w.ephemeral && !strings.Contains(ev.InvolvedObject.FieldPath, "{"+w.container+"}") {
		return
	}
	switch {
	case ev.Reason == "Started":
		w.up = true
	case ev.Type != corev1.EventTypeWarning:
	case ev.Reason == "FailedCreate", ev.Reason == "FailedScheduling":
		w.words = ev.Message
	case ev.Reason == "Failed": // a failed pull has two: what it was about, then "Error: ErrImagePull"
		if text, short := strings.CutPrefix(ev.Message, "Error: "); !short || w.words == "" {
			w.words = text
		}
	default:
		w.latest = reason(ev.Reason, "", ev.Message)
	}
}

// state is what is known now, and a channel that is closed at the next change.
type state struct {
	pod, words, latest string
	up, ended          bool
	change             <-chan struct{}
}

func (w *agentWatch) state() state {
	w.mu.Lock()
	defer w.mu.Unlock()
	return state{w.pod, w.words, w.latest, w.up, w.ended, w.change}
}

// lastLine is what a program said before it ended.
func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}
