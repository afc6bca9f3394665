package kube

import (
	"cmp"
	"context"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/stepin-dev/stepin/pkg/config"
)

// Workload is what a target means: a set of pods that changes.
type Workload struct {
	cluster  *Cluster
	target   config.Target
	written  string // the target as the developer wrote it
	selector labels.Selector
	owns     func(*corev1.Pod) bool // nil: the selector alone decides
	only     string                 // the name of the one pod, "" for a workload

	mu   sync.Mutex
	pods []Pod
}

// Pods are the ready ones as they were last seen, oldest first; the first is home.
func (w *Workload) Pods() []Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.pods)
}

// oldest orders pods by age, so that home stays home while it lives.
func oldest(a, b Pod) int {
	return cmp.Or(a.Spec.CreationTimestamp.Compare(b.Spec.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

// Watch is in watch.go.
var _ = context.Canceled
