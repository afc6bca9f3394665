package kube

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/stepin-dev/stepin/pkg/config"
)

// Item is one thing that can be a target.
type Item struct {
	Namespace  string   `json:"namespace"`
	Target     string   `json:"target"` // as it is written: "deployment/orders"
	Ready      int      `json:"ready"`  // pods that are
	Of         int      `json:"of"`     // pods that should be
	Containers []string `json:"containers,omitempty"`
	Default    string   `json:"default,omitempty"`  // the container that is meant where none is named
	Note       string   `json:"note,omitempty"`     // why it cannot be a target now
	Sessions   []Note   `json:"sessions,omitempty"` // who says to be on its pods (Agent.Note)
}

// Listing is all that this user may see.
type Listing struct {
	Items   []Item   `json:"items"`
	Missing []string `json:"missing,omitempty"` // what may not be listed or is left out, one sentence each
}

// listed is the outcome of one kind's list call.
type listed struct {
	deployments  []appsv1.Deployment
	statefulsets []appsv1.StatefulSet
	daemonsets   []appsv1.DaemonSet
	replicasets  []appsv1.ReplicaSet
	jobs         []batchv1.Job
	cronjobs     []batchv1.CronJob
	services     []corev1.Service
	pods         []corev1.Pod
	cut          [8]bool // by apiKinds: there are more than maxListed
}

// maxListed bounds each kind's list: beyond that nobody reads, and -A on a large cluster would take minutes.
const maxListed = 2000

// Targets lists what can be a target, in the cluster's namespace or in all. A kind that may not be listed is left out
// and said; the error is one that no other kind would mend, or the first where none may be listed.
func (c *Cluster) Targets(ctx context.Context, all bool) (*Listing, error) {
	namespace := c.namespace
	if all {
		namespace = metav1.NamespaceAll
	}
	var l listed
	calls := c.lists(namespace, &l)
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	failed := make([]error, len(calls))
	var wait sync.WaitGroup
	for i, call := range calls {
		wait.Go(func() { failed[i] = call(ctx) })
	}
	wait.Wait()
	out := &Listing{}
	refused := 0
	for i, err := range failed {
		if l.cut[i] {
			out.Missing = append(out.Missing, fmt.Sprintf("there are more than %d %s: the rest is left out", maxListed, apiKinds[i].plural))
		}
		if err == nil {
			continue
		}
		said := c.explain(err, "listing %s", apiKinds[i].plural)
		if !apierrors.IsForbidden(err) {
			return nil, said
		}
		refused++
		out.Missing = append(out.Missing, said.Error())
	}
	if refused == len(calls) {
		return nil, c.explain(failed[len(failed)-1], "listing %s", apiKinds[len(failed)-1].plural)
	}
	out.Items = l.items()
	if len(out.Items) == 0 && !all {
		if gone := c.unknownNamespace(ctx); gone != nil {
			return nil, gone
		}
	}
	return out, nil
}

// lists are the calls, in the order of apiKinds. Each writes to a field of its own.
func (c *Cluster) lists(namespace string, l *listed) []func(context.Context) error {
	o := metav1.ListOptions{Limit: maxListed}
	apps, batch, core := c.client.AppsV1(), c.client.BatchV1(), c.client.CoreV1()
	var calls []func(context.Context) error
	calls = append(calls, func(ctx context.Context) error {
		r, err := apps.Deployments(namespace).List(ctx, o)
		if err == nil {
			l.deployments, l.cut[0] = r.Items, r.Continue != ""
		}
		return err
	})
	calls = append(calls, func(ctx context.Context) error {
		r, err := apps.StatefulSets(namespace).List(ctx, o)
		if err == nil {
			l.statefulsets, l.cut[1] = r.Items, r.Continue != ""
		}
		return err
	})
	calls = append(calls, func(ctx context.Context) error {
		r, err := apps.DaemonSets(namespace).List(ctx, o)
		if err == nil {
			l.daemonsets, l.cut[2] = r.Items, r.Continue != ""
		}
		return err
	})
	calls = append(calls, func(ctx context.Context) error {
		r, err := apps.ReplicaSets(namespace).List(ctx, o)
		if err == nil {
			l.replicasets, l.cut[3] = r.Items, r.Continue != ""
		}
		return err
	})
	calls = append(calls, func(ctx context.Context) error {
		r, err := batch.Jobs(namespace).List(ctx, o)
		if err == nil {
			l.jobs, l.cut[4] = r.Items, r.Continue != ""
		}
		return err
	})
	calls = append(calls, func(ctx context.Context) error {
		r, err := batch.CronJobs(namespace).List(ctx, o)
		if err == nil {
			l.cronjobs, l.cut[5] = r.Items, r.Continue != ""
		}
		return err
	})
	calls = append(calls, func(ctx context.Context) error {
		r, err := core.Services(namespace).List(ctx, o)
		if err == nil {
			l.services, l.cut[6] = r.Items, r.Continue != ""
		}
		return err
	})
	calls = append(calls, func(ctx context.Context) error {
		r, err := core.Pods(namespace).List(ctx, o)
		if err == nil {
			l.pods, l.cut[7] = r.Items, r.Continue != ""
		}
		return err
	})
	return calls
}

// items makes one line of each object: workloads first, then services and pods, by namespace and name. What another
// target makes and would only repeat is left out: the ReplicaSets of a Deployment, the Jobs of a CronJob, what has ended.
func (l *listed) items() []Item {
	var out []Item
	add := func(meta *metav1.ObjectMeta, kind string, ready, of int, template *corev1.PodTemplateSpec) {
		i := Item{Namespace: meta.Namespace, Target: kind + "/" + meta.Name, Ready: ready, Of: of}
		if template != nil {
			i.describe(&corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec})
		}
		if i.Note == "" && ready == 0 {
			i.Note = "no pod is ready"
		}
		out = append(out, i)
	}
	for _, o := range l.deployments {
		add(&o.ObjectMeta, "deployment", int(o.Status.ReadyReplicas), replicasOf(o.Spec.Replicas), &o.Spec.Template)
	}
	for _, o := range l.statefulsets {
		add(&o.ObjectMeta, "statefulset", int(o.Status.ReadyReplicas), replicasOf(o.Spec.Replicas), &o.Spec.Template)
	}
	for _, o := range l.daemonsets {
		add(&o.ObjectMeta, "daemonset", int(o.Status.NumberReady), int(o.Status.DesiredNumberScheduled), &o.Spec.Template)
	}
	for _, o := range l.replicasets {
		if controller(o.OwnerReferences).Name == "" {
			add(&o.ObjectMeta, "replicaset", int(o.Status.ReadyReplicas), replicasOf(o.Spec.Replicas), &o.Spec.Template)
		}
	}
	active := map[string]int{} // of a CronJob, by namespace and name
	for _, o := range l.jobs {
		ready, running := 0, int(o.Status.Active)
		if o.Status.Ready != nil {
			ready = int(*o.Status.Ready)
		}
		if by := controller(o.OwnerReferences); ours(&o.ObjectMeta) {
			continue
		} else if by.Kind == "CronJob" {
			active[o.Namespace+"/"+by.Name] += ready
		} else if running > 0 {
			add(&o.ObjectMeta, "job", ready, running, &o.Spec.Template)
		}
	}
	for _, o := range l.cronjobs {
		add(&o.ObjectMeta, "cronjob", active[o.Namespace+"/"+o.Name], len(o.Status.Active), &o.Spec.JobTemplate.Spec.Template)
	}
	for _, o := range l.services {
		if len(o.Spec.Selector) > 0 {
			ready, of := l.behind(&o)
			add(&o.ObjectMeta, "service", ready, of, nil)
		}
	}
	for i := range l.pods {
		if p := &l.pods[i]; !ours(&p.ObjectMeta) && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			out = append(out, podItem(p))
		}
	}
	users := l.users()
	for i := range out {
		out[i].Sessions = users[[2]string{out[i].Namespace, out[i].Target}]
	}
	order := map[string]int{}
	for i, k := range apiKinds {
		order[k.kind] = i
	}
	slices.SortStableFunc(out, func(a, b Item) int {
		x, _ := config.ParseTarget(a.Target)
		y, _ := config.ParseTarget(b.Target)
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(order[x.Kind], order[y.Kind]), cmp.Compare(x.Name, y.Name))
	})
	return out
}

// behind counts the pods that a Service selects.
func (l *listed) behind(o *corev1.Service) (readyPods, all int) {
	selector := labels.SelectorFromSet(o.Spec.Selector)
	for i := range l.pods {
		if p := &l.pods[i]; p.Namespace == o.Namespace && selector.Matches(labels.Set(p.Labels)) {
			all++
			if ready(p) {
				readyPods++
			}
		}
	}
	return readyPods, all
}

func podItem(p *corev1.Pod) Item {
	i := Item{Namespace: p.Namespace, Target: "pod/" + p.Name, Of: 1}
	i.describe(p)
	if ready(p) {
		i.Ready = 1
	} else if i.Note == "" {
		i.Note = whyNot(p)
	}
	return i
}

// describe fills in the containers, and why such a pod can be no target at all.
func (i *Item) describe(p *corev1.Pod) {
	for _, c := range containers(p) {
		i.Containers = append(i.Containers, c.Name)
	}
	if c, _, err := choose(p, ""); err == nil {
		i.Default = c.Name
	}
	switch class := p.Spec.RuntimeClassName; {
	case p.Spec.HostNetwork:
		i.Note = "has the node's own network"
	case class != nil && sandboxed(*class):
		i.Note = fmt.Sprintf("runs in a sandbox (%s)", *class)
	}
}

// replicasOf is a number of replicas; absent means one.
func replicasOf(n *int32) int {
	if n == nil {
		return 1
	}
	return int(*n)
}
