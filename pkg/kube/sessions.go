package kube

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// Running is an agent that runs in the cluster, as its pod or container shows it. Who uses it, and for what, only the
// agent itself can tell, and only to those who have a token of its.
type Running struct {
	Namespace string // of the pod that the agent is in
	Target    string // the workload of the pod it serves, as in "deployment/orders", else "pod/NAME"; "" where that pod is not seen
	Pod       string // that it serves; its UID where it is not seen
	Container string // that it serves
	Node      string
	Rung      string    // the way that it is with the pod
	Who       string    // has started it
	Since     time.Time // when; zero while it starts

	c       *Cluster
	uid     string   // of the pod that it serves
	t       ticket   // without a token where this user has none
	command []string // its own, which joins with more arguments
}

// Agents lists the agents in the cluster's namespace, or in all, by pods alone: a Job's pod has all that its Job says.
// missing says what is left out. tokens is AgentOptions.Tokens.
func (c *Cluster) Agents(ctx context.Context, all bool, tokens string) (found []*Running, missing []string, err error) {
	namespace := c.namespace
	if all {
		namespace = metav1.NamespaceAll
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var ours, others *corev1.PodList
	err = each(2, func(i int) (err error) {
		if i == 0 {
			ours, err = c.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: labelManager + "=" + ourName + "," + labelPod})
		} else {
			others, err = c.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{Limit: maxListed})
		}
		return err
	})
	if err != nil {
		return nil, nil, c.explain(err, "listing pods")
	}
	if others.Continue != "" {
		missing = append(missing, fmt.Sprintf("there are more than %d pods: agents within the rest are left out", maxListed))
	}
	known := map[string]*corev1.Pod{}
	for i := range others.Items {
		p := &others.Items[i]
		known[string(p.UID)] = p
		if e, _ := runningEphemeral(p); e != nil {
			found = append(found, c.inside(p, e))
		}
	}
	for i := range ours.Items {
		if r := c.beside(&ours.Items[i], known); r != nil {
			found = append(found, r)
		}
	}
	found = slices.DeleteFunc(found, func(r *Running) bool { return r.t.Port == 0 }) // something of ours by its name only
	if err := c.know(found, tokens); err != nil {
		missing = append(missing, err.Error())
	}
	slices.SortFunc(found, func(a, b *Running) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Target, b.Target), cmp.Compare(a.Pod, b.Pod))
	})
	return found, missing, nil
}

// beside is the agent in a pod of its own; nil where that ends.
func (c *Cluster) beside(p *corev1.Pod, known map[string]*corev1.Pod) *Running {
	if ended(p) || len(p.Spec.Containers) != 1 {
		return nil
	}
	own := p.Spec.Containers[0]
	r := &Running{Namespace: p.Namespace, Pod: p.Labels[labelPod], Container: p.Labels[labelContainer], Node: p.Spec.NodeName,
		Rung: rungJob.String(), Who: p.Annotations[noteWho], Since: p.CreationTimestamp.Time, c: c, command: own.Command, uid: p.Labels[labelPod],
		t: ticket{Namespace: p.Namespace, Pod: p.Name, Container: own.Name, Port: listening(own.Args)}}
	if target := known[r.Pod]; target != nil {
		r.Pod, r.Target = target.Name, workloadOf(target)
	}
	return r
}

// inside is the agent in a container of the pod that it serves.
func (c *Cluster) inside(p *corev1.Pod, e *corev1.EphemeralContainer) *Running {
	r := &Running{Namespace: p.Namespace, Target: workloadOf(p), Pod: p.Name, Container: e.TargetContainerName, Node: p.Spec.NodeName,
		Rung: ephemeralRung(e).String(), Who: argument(e.Args, "--who"), c: c, command: e.Command, uid: string(p.UID),
		t: ticket{Namespace: p.Namespace, Pod: p.Name, Container: e.Name, Port: listening(e.Args)}}
	if e.Stdin {
		r.command = []string{"sh", "-c", joinScript, "sh"}
	}
	for _, s := range p.Status.EphemeralContainerStatuses {
		if s.Name == e.Name && s.State.Running != nil {
			r.Since = s.State.Running.StartedAt.Time
		}
	}
	return r
}

// know gives the agents the tokens that this user has for them.
func (c *Cluster) know(found []*Running, tokens string) error {
	store, err := openTickets(tokens)
	if err != nil {
		return err
	}
	for _, r := range found {
		t, ok := store.read(ticketKey(c.Server(), r.uid))
		if ok && t.Namespace == r.t.Namespace && t.Container == r.t.Container && t.Pod == r.t.Pod {
			r.t.Token = t.Token
		}
	}
	return nil
}

// ended says that nothing runs in a pod any more, or not for long.
func ended(p *corev1.Pod) bool {
	return p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// workloadOf names what a pod is a replica of, without asking: a Deployment's ReplicaSets bear its name and the pods' hash.
func workloadOf(p *corev1.Pod) string {
	by := controller(p.OwnerReferences)
	switch by.Kind {
	case "ReplicaSet":
		if name, ok := strings.CutSuffix(by.Name, "-"+p.Labels["pod-template-hash"]); ok {
			return "deployment/" + name
		}
		return "replicaset/" + by.Name
	case "StatefulSet", "DaemonSet", "Job":
		return strings.ToLower(by.Kind) + "/" + by.Name
	}
	return "pod/" + p.Name
}

// Known says whether there is a token to talk to it with.
func (r *Running) Known() bool { return r.t.Token != "" }

// Token is what the agent wants to hear first.
func (r *Running) Token() string { return r.t.Token }

// Dial opens a stream to the agent.
func (r *Running) Dial(ctx context.Context) (net.Conn, error) {
	return r.c.Forward(ctx, r.t.Namespace, r.t.Pod, r.t.Port)
}

// Join has the agent make a token, which takes the right to create pods/exec. It is not kept: nobody has checked that
// this is an agent that a session could trust.
func (r *Running) Join(ctx context.Context, who string) error {
	out, err := r.c.Exec(ctx, r.t.Namespace, r.t.Pod, r.t.Container, append(slices.Clone(r.command), "join", "--who", who))
	switch {
	case fail.CodeOf(err) == fail.ClusterForbidden, apierrors.IsForbidden(err):
		return errNoExec(r.t.Namespace)
	case err != nil:
		return fmt.Errorf("kube: joining the agent: %w", err)
	}
	if r.t.Token = lastLine(string(out)); r.t.Token == "" {
		return fail.New(fail.AgentRefused, "", "the agent gave no token")
	}
	return nil
}

// errNoExec is the end of joining without the right to.
func errNoExec(namespace string) error {
	return fail.New(fail.ClusterForbidden, "ask for the right to create pods/exec in namespace "+namespace+", or wait until the agent is gone",
		"the pod's agent is somebody else's, and to join it the right to create pods/exec is missing")
}
