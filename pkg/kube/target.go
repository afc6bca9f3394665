package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
)

// Resolve finds a target's pods that are ready. Errors are fail.Error: fail.TargetUnknown (the nearest names offered),
// TargetNotReady, TargetContainer, TargetHostNetwork, TargetSandboxed, TargetSyntax (a selector), and the cluster's.
func (c *Cluster) Resolve(ctx context.Context, t config.Target) (*Workload, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*callTimeout) // two calls one after the other, or three
	defer cancel()
	w := &Workload{cluster: c, target: t, written: t.String()}
	var err error
	switch t.Kind {
	case "pod":
		w.only, w.selector = t.Name, labels.Everything()
	case "label":
		if w.selector, err = labels.Parse(t.Name); err != nil {
			return nil, fail.Wrap(fail.TargetSyntax, err, `for example "label/app=orders"`, "target: %q is no selector", t.Name)
		}
	default:
		if err = c.owner(ctx, w); err != nil {
			return nil, err
		}
	}
	found, _, err := w.list(ctx)
	if err != nil {
		return nil, c.explain(err, "looking for %s", w.written)
	}
	if w.only != "" && len(found) == 0 {
		return nil, c.unknown(ctx, "pod", t.Name)
	}
	if err := w.first(found); err != nil {
		return nil, err
	}
	return w, nil
}

// owner fills in selector and owns from the object that the target names.
func (c *Cluster) owner(ctx context.Context, w *Workload) error {
	kind, name := w.target.Kind, w.target.Name
	var selector *metav1.LabelSelector
	var uid types.UID
	var err error
	opts := metav1.GetOptions{}
	apps, batch := c.client.AppsV1(), c.client.BatchV1()
	switch kind {
	case "deployment":
		o, e := apps.Deployments(c.namespace).Get(ctx, name, opts)
		if err = e; err == nil {
			selector, uid = o.Spec.Selector, o.UID
		}
	case "statefulset":
		o, e := apps.StatefulSets(c.namespace).Get(ctx, name, opts)
		if err = e; err == nil {
			selector, uid = o.Spec.Selector, o.UID
		}
	case "daemonset":
		o, e := apps.DaemonSets(c.namespace).Get(ctx, name, opts)
		if err = e; err == nil {
			selector, uid = o.Spec.Selector, o.UID
		}
	case "replicaset":
		o, e := apps.ReplicaSets(c.namespace).Get(ctx, name, opts)
		if err = e; err == nil {
			selector, uid = o.Spec.Selector, o.UID
		}
	case "job":
		o, e := batch.Jobs(c.namespace).Get(ctx, name, opts)
		if err = e; err == nil {
			selector, uid = o.Spec.Selector, o.UID
		}
	case "cronjob":
		o, e := c.newestJob(ctx, name)
		if err = e; err == nil {
			selector, uid = o.Spec.Selector, o.UID
		}
	case "service":
		o, e := c.client.CoreV1().Services(c.namespace).Get(ctx, name, opts)
		if err = e; err == nil {
			if len(o.Spec.Selector) == 0 {
				return fail.New(fail.TargetUnknown, "name the pod or its workload", "service %s in namespace %s has no selector, so no pods can be told from it", name, c.namespace)
			}
			w.selector = labels.SelectorFromSet(o.Spec.Selector)
			return nil
		}
	default:
		return fail.New(fail.TargetSyntax, "", "target: %q is nothing in a cluster", w.written)
	}
	if apierrors.IsNotFound(err) {
		return c.unknown(ctx, kind, name)
	}
	if err != nil {
		return c.explain(err, "reading %s %s", kind, name)
	}
	if w.selector, err = metav1.LabelSelectorAsSelector(selector); err != nil {
		return fmt.Errorf("kube: selector of %s: %w", w.written, err)
	}
	if kind == "deployment" {
		w.owns = ofDeployment(uid, name, c.replicaSetOwner)
	} else {
		w.owns = func(_ context.Context, p *corev1.Pod) bool { return controller(p.OwnerReferences).UID == uid }
	}
	return nil
}

// newestJob is the one that a CronJob runs now.
func (c *Cluster) newestJob(ctx context.Context, name string) (*batchv1.Job, error) {
	cron, err := c.client.BatchV1().CronJobs(c.namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	var newest *batchv1.Job
	for _, ref := range cron.Status.Active {
		job, err := c.client.BatchV1().Jobs(c.namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue // it has ended meanwhile
		}
		if err != nil {
			return nil, c.explain(err, "reading job %s", ref.Name)
		}
		if newest == nil || newest.CreationTimestamp.Before(&job.CreationTimestamp) {
			newest = job
		}
	}
	if newest == nil {
		return nil, fail.New(fail.TargetNotReady, "kubectl create job -n "+c.namespace+" --from=cronjob/"+name+" "+name+"-debug",
			"cronjob %s has no job running now", name)
	}
	return newest, nil
}

// controller is the owner that made an object; empty where nobody did.
func controller(refs []metav1.OwnerReference) metav1.OwnerReference {
	for _, r := range refs {
		if r.Controller != nil && *r.Controller {
			return r
		}
	}
	return metav1.OwnerReference{}
}

// ofDeployment says whether a pod is a Deployment's: its ReplicaSet is. The ReplicaSets that a Deployment makes bear its
// name and their pods' hash, which saves a round trip; any other, such as one that it has adopted, is looked up once.
func ofDeployment(uid types.UID, name string, owner func(ctx context.Context, namespace, name string) (types.UID, error)) func(context.Context, *corev1.Pod) bool {
	known := map[types.UID]bool{}
	return func(ctx context.Context, p *corev1.Pod) bool {
		set := controller(p.OwnerReferences)
		if set.Kind != "ReplicaSet" {
			return false
		}
		if hash := p.Labels["pod-template-hash"]; hash != "" && set.Name == name+"-"+hash {
			return true
		}
		if mine, found := known[set.UID]; found {
			return mine
		}
		by, err := owner(ctx, p.Namespace, set.Name)
		if err != nil {
			return false // no right to look, or it has gone: asked again at the next change
		}
		known[set.UID] = by == uid
		return by == uid
	}
}

func (c *Cluster) replicaSetOwner(ctx context.Context, namespace, name string) (types.UID, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	set, err := c.client.AppsV1().ReplicaSets(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	return controller(set.OwnerReferences).UID, nil
}

// list returns the target's pods, ready or not, and the list's version; its error is the API server's own. A single pod is read by get, the one right that
// a person with a single pod may have.
func (w *Workload) list(ctx context.Context) ([]*corev1.Pod, string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	c := w.cluster
	if w.only != "" {
		p, err := c.client.CoreV1().Pods(c.namespace).Get(ctx, w.only, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil, "", nil
		}
		if err != nil {
			return nil, "", err
		}
		return []*corev1.Pod{p}, p.ResourceVersion, nil
	}
	all, err := c.client.CoreV1().Pods(c.namespace).List(ctx, w.options())
	if err != nil {
		return nil, "", err
	}
	var out []*corev1.Pod
	for i := range all.Items {
		if w.mine(ctx, &all.Items[i]) {
			out = append(out, &all.Items[i])
		}
	}
	return out, all.ResourceVersion, nil
}

func (w *Workload) options() metav1.ListOptions {
	o := metav1.ListOptions{LabelSelector: w.selector.String()}
	if w.only != "" {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", w.only).String()
	}
	return o
}

func (w *Workload) mine(ctx context.Context, p *corev1.Pod) bool {
	return w.owns == nil || w.owns(ctx, p)
}

// first takes the pods of the start. One that cannot be described is an error only if no other can: a replica that
// has just been scheduled says nothing about the rest.
func (w *Workload) first(found []*corev1.Pod) error {
	var why error
	for _, p := range found {
		running := w.only != "" && p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning
		if !ready(p) && !running {
			continue
		}
		pod, err := describe(p, w.target, w.written)
		if err != nil {
			why = errors.Join(why, err)
			continue
		}
		if !ready(p) {
			pod.Notices = append(pod.Notices, fmt.Sprintf("pod %s is not ready: %s", p.Name, whyNot(p)))
		}
		w.pods = append(w.pods, pod)
	}
	slices.SortFunc(w.pods, oldest)
	if len(w.pods) > 0 {
		return nil
	}
	if first := firstOf(why); first != nil {
		return first
	}
	c := w.cluster
	if len(found) == 0 {
		hint := "kubectl get pods -n " + c.namespace
		if w.target.Kind == "label" || w.target.Kind == "service" {
			return fail.New(fail.TargetNotReady, hint, "no pod in namespace %s has the labels %s (%s)", c.namespace, w.selector, w.written)
		}
		return fail.New(fail.TargetNotReady, hint, "%s in namespace %s has no pod", w.written, c.namespace)
	}
	p := slices.MinFunc(found, func(a, b *corev1.Pod) int { return b.CreationTimestamp.Compare(a.CreationTimestamp.Time) }) // the newest: what is wrong now
	hint := "kubectl describe pod " + p.Name + " -n " + p.Namespace
	if w.only != "" {
		return fail.New(fail.TargetNotReady, hint, "pod %s is not ready: %s", p.Name, whyNot(p))
	}
	return fail.New(fail.TargetNotReady, hint, "%s has no pod that is ready: pod %s: %s", w.written, p.Name, whyNot(p))
}

// firstOf unpacks what errors.Join has packed.
func firstOf(err error) error {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		return many.Unwrap()[0]
	}
	return err
}

// apiKind is a kind of object as the API's paths have it.
type apiKind struct {
	kind, plural string
	client       func(*Cluster) rest.Interface
}

// apiKinds are the kinds that a target may name, in the order in which stepin targets shows them.
var apiKinds = []apiKind{
	{"deployment", "deployments", func(c *Cluster) rest.Interface { return c.client.AppsV1().RESTClient() }},
	{"statefulset", "statefulsets", func(c *Cluster) rest.Interface { return c.client.AppsV1().RESTClient() }},
	{"daemonset", "daemonsets", func(c *Cluster) rest.Interface { return c.client.AppsV1().RESTClient() }},
	{"replicaset", "replicasets", func(c *Cluster) rest.Interface { return c.client.AppsV1().RESTClient() }},
	{"job", "jobs", func(c *Cluster) rest.Interface { return c.client.BatchV1().RESTClient() }},
	{"cronjob", "cronjobs", func(c *Cluster) rest.Interface { return c.client.BatchV1().RESTClient() }},
	{"service", "services", func(c *Cluster) rest.Interface { return c.client.CoreV1().RESTClient() }},
	{"pod", "pods", func(c *Cluster) rest.Interface { return c.client.CoreV1().RESTClient() }},
}

// maxNames bounds the list that a misspelt name is compared with.
const maxNames = 500

// names lists the objects of a kind by their metadata only.
func (c *Cluster) names(ctx context.Context, kind string) ([]string, error) {
	i := slices.IndexFunc(apiKinds, func(r apiKind) bool { return r.kind == kind })
	if i < 0 {
		return nil, errors.ErrUnsupported
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	raw, err := apiKinds[i].client(c).Get().Namespace(c.namespace).Resource(apiKinds[i].plural).
		Param("limit", fmt.Sprint(maxNames)).
		SetHeader("Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1, application/json").
		DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	var list metav1.PartialObjectMetadataList
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("kube: reading names: %w", err)
	}
	var out []string
	for _, o := range list.Items {
		out = append(out, o.Name)
	}
	slices.Sort(out)
	return out, nil
}

// unknown is the sentence for an object that does not exist, with the names that do as far as they may be seen.
func (c *Cluster) unknown(ctx context.Context, kind, name string) error {
	names, err := c.names(ctx, kind)
	hint := "stepin targets"
	switch {
	case err != nil: // no right to list: nothing to offer
		hint = "kubectl get " + kind + " -n " + c.namespace
	case len(names) == 0:
		if gone := c.unknownNamespace(ctx); gone != nil {
			return gone
		}
		return fail.New(fail.TargetUnknown, `stepin targets -A shows all namespaces; "namespace" (-n) chooses one`,
			"there is no %s %s: namespace %s has no %s at all", kind, name, c.namespace, kind)
	default:
		hint = "namespace " + c.namespace + " has " + offer(names)
	}
	what := ""
	if near := config.Nearest(name, names); near != "" {
		what = "; did you mean \"" + near + "\"?"
	} else if near := beginning(name, names); near != "" {
		what = "; did you mean \"" + near + "\"?"
	}
	return fail.New(fail.TargetUnknown, hint, "there is no %s %s in namespace %s%s", kind, name, c.namespace, what)
}

// beginning finds a name that goes on where the other ends: pods' names have a tail that nobody types.
func beginning(name string, names []string) string {
	for _, n := range names {
		if strings.HasPrefix(n, name+"-") {
			return n
		}
	}
	return ""
}

// unknownNamespace says that the namespace does not exist; nil if it does or may not be looked at.
func (c *Cluster) unknownNamespace(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := c.client.CoreV1().Namespaces().Get(ctx, c.namespace, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return nil
	}
	hint, what := "kubectl get namespaces", ""
	if all, err := c.client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{Limit: maxNames}); err == nil {
		var names []string
		for _, n := range all.Items {
			names = append(names, n.Name)
		}
		hint = "the namespaces are " + offer(names)
		if near := config.Nearest(c.namespace, names); near != "" {
			what = "; did you mean \"" + near + "\"?"
		}
	}
	return fail.New(fail.TargetUnknown, hint, "there is no namespace %s%s", c.namespace, what)
}
