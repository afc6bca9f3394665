package kube

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/stepin-dev/stepin/pkg/config"
)

const (
	// watchLife is how long one watch lasts before it is renewed, which costs one round trip: a way that has died without
	// a word is noticed then at the latest. client-go's HTTP/2 pings notice most of them within 45 s.
	watchLife = 5 * time.Minute
	// pollPeriod is how often the pods are listed where watching is not allowed.
	pollPeriod = 3 * time.Second
	// watchShort is a life of a watch that is no life: what ends each of them so soon is not asked at once again.
	watchShort = time.Second
	// backoffMin and backoffMax are the pauses between tries while the cluster cannot be reached.
	backoffMin = 200 * time.Millisecond
	backoffMax = 5 * time.Second
)

// Workload is what a target means: a set of pods that changes.
type Workload struct {
	cluster  *Cluster
	target   config.Target
	written  string // the target as the developer wrote it
	selector labels.Selector
	owns     func(context.Context, *corev1.Pod) bool // nil: the selector alone decides; called by one goroutine at a time
	only     string                                  // the name of the one pod, "" for a workload

	mu   sync.Mutex
	pods []Pod
}

// Pods are the ready ones as they were last seen, oldest first; the first is home.
func (w *Workload) Pods() []Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.pods)
}

// Single says that the target is one pod: when that has ended, nothing takes its place.
func (w *Workload) Single() bool { return w.only != "" }

// oldest orders pods by age. The API's times are whole seconds: among equals the name decides at the start, and later
// who came first, so that home stays home while it lives.
func oldest(a, b Pod) int {
	return cmp.Or(a.Spec.CreationTimestamp.Compare(b.Spec.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

// Watch calls changed with the pods at each change until ctx ends, whose error it returns; to call it twice at once is
// an error of the caller's. A pod joins when it is ready, and stays until it ends: a readiness that flickers, or a
// container that restarts, is no reason to leave it. What it says of the pod (its container's ID, its addresses) is
// always the latest. The set may be empty.
//
// It reconnects by itself, without end and without a word: whether the cluster can be reached is the port-forward's to
// say. Only a right that has been taken away ends it, as fail.ClusterForbidden.
func (w *Workload) Watch(ctx context.Context, changed func([]Pod)) error {
	set := newSet(w)
	pause := backoffMin
	version, polls := "", false
	for {
		var err error
		if version == "" || polls {
			if version, err = w.relist(ctx, set, changed); err == nil {
				pause = backoffMin
			}
		}
		wait := time.Duration(0)
		switch {
		case err != nil:
		case polls:
			wait = pollPeriod
		default:
			begun := time.Now()
			if version, err = w.follow(ctx, set, version, changed); time.Since(begun) < watchShort {
				wait = backoffMin
			}
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil:
		case apierrors.IsForbidden(err) && !polls && version != "":
			w.cluster.said("watching pods is not allowed here; they are listed every " + pollPeriod.String() + " instead")
			polls = true
		case apierrors.IsForbidden(err):
			return w.cluster.explain(err, "following the pods of %s", w.written)
		default:
			w.cluster.log.Debug("kube: watching pods", "target", w.written, "err", err, "pause", pause)
			wait, pause = pause, min(2*pause, backoffMax)
		}
		if wait > 0 {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(wait):
			}
		}
	}
}

// relist replaces the set by what exists now.
func (w *Workload) relist(ctx context.Context, set *set, changed func([]Pod)) (version string, err error) {
	found, version, err := w.list(ctx)
	if err != nil {
		return "", err
	}
	set.replace(found)
	w.publish(set, changed)
	return cmp.Or(version, "0"), nil // "0": any version that the server has at hand
}

// follow applies the events of one watch and returns the version to go on from, "" to list anew.
func (w *Workload) follow(ctx context.Context, set *set, version string, changed func([]Pod)) (string, error) {
	o := w.options()
	seconds := int64(watchLife / time.Second)
	o.ResourceVersion, o.AllowWatchBookmarks, o.TimeoutSeconds = version, true, &seconds
	ctx, cancel := context.WithTimeout(ctx, watchLife+callTimeout)
	defer cancel()
	events, err := w.cluster.client.CoreV1().Pods(w.cluster.namespace).Watch(ctx, o)
	if err != nil {
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			return "", nil
		}
		return version, err
	}
	defer events.Stop()
	for e := range events.ResultChan() {
		switch o := e.Object.(type) {
		case *corev1.Pod:
			version = o.ResourceVersion
			if e.Type == watch.Bookmark {
				continue
			}
			if e.Type == watch.Deleted {
				set.drop(o.UID)
			} else if w.mine(ctx, o) {
				set.put(o)
			}
			w.publish(set, changed)
		case *metav1.Status:
			if o.Code == http.StatusGone {
				return "", nil
			}
			return "", &apierrors.StatusError{ErrStatus: *o}
		default:
			return "", fmt.Errorf("kube: a watch brought %T", o)
		}
	}
	return version, nil // it ended as they do, and begins again where it was
}

// publish tells of the set if it has changed.
func (w *Workload) publish(set *set, changed func([]Pod)) {
	now := set.pods()
	w.mu.Lock()
	same := slices.EqualFunc(w.pods, now, samePod)
	w.pods = now
	w.mu.Unlock()
	if !same {
		changed(slices.Clone(now))
	}
}

// samePod says that nothing has changed of what anybody does something about.
func samePod(a, b Pod) bool {
	return a.UID == b.UID && a.ContainerID == b.ContainerID && slices.Equal(a.Addrs, b.Addrs)
}

// set is the pods of a workload as a watch shows them. It belongs to one goroutine.
type set struct {
	target  config.Target
	written string
	known   map[types.UID]Pod
	order   map[types.UID]int // when each came
	next    int
}

// newSet begins with what Resolve found.
func newSet(w *Workload) *set {
	s := &set{target: w.target, written: w.written, known: map[types.UID]Pod{}, order: map[types.UID]int{}}
	for _, p := range w.Pods() {
		s.keep(types.UID(p.UID), p)
	}
	return s
}

func (s *set) replace(found []*corev1.Pod) {
	exists := map[types.UID]bool{}
	for _, p := range found {
		exists[p.UID] = true
		s.put(p)
	}
	for uid := range s.known {
		if !exists[uid] {
			s.drop(uid)
		}
	}
}

func (s *set) put(p *corev1.Pod) {
	before, known := s.known[p.UID]
	if p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		s.drop(p.UID)
		return
	}
	if !known && !ready(p) {
		return
	}
	pod, err := describe(p, s.target, s.written)
	switch {
	case err == nil:
		s.keep(p.UID, pod)
	case known: // its container is between two runs
		before.Spec = p
		s.known[p.UID] = before
	}
}

func (s *set) keep(uid types.UID, p Pod) {
	if _, known := s.known[uid]; !known {
		s.next++
		s.order[uid] = s.next
	}
	s.known[uid] = p
}

func (s *set) drop(uid types.UID) {
	delete(s.known, uid)
	delete(s.order, uid)
}

func (s *set) pods() []Pod {
	out := make([]Pod, 0, len(s.known))
	for _, p := range s.known {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b Pod) int {
		return cmp.Or(a.Spec.CreationTimestamp.Compare(b.Spec.CreationTimestamp.Time),
			cmp.Compare(s.order[types.UID(a.UID)], s.order[types.UID(b.UID)]))
	})
	return out
}

// Exists says whether the target's own object is still there; fail.TargetUnknown if it is not. That it has no pod is no
// error.
func (w *Workload) Exists(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if w.only != "" || w.target.Kind == "label" {
		return nil
	}
	return w.cluster.owner(ctx, &Workload{cluster: w.cluster, target: w.target, written: w.written})
}
