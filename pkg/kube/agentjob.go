package kube

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// defaultArch is taken where the node cannot be asked: nearly every node is of that kind, and one that is not says so when
// it is to execute the first byte.
const defaultArch = "amd64"

// probed is what the first round trip has brought: everything that does not depend on anything else is asked at once.
type probed struct {
	answers   [rungsCount]ruling
	exists    bool   // there is a Job for this pod
	overtaken bool   // another session has added an ephemeral agent since we looked at the pod
	arch      string // of the node
}

// probe asks the API server, by dry runs, which rungs it admits. One round trip, all side by side.
func (c *Cluster) probe(ctx context.Context, o jobOptions) (*probed, error) {
	p := &probed{}
	o.agent, o.parts = "dry-run", []string{"dry-run"}
	if o.config.Image != "" {
		o.agent, o.parts = o.config.Image, nil
	}
	var calls []func() error
	var overtaken, mute atomic.Bool
	if o.config.Mode != "ephemeral" {
		job, err := agentJob(o)
		if err != nil {
			return nil, err
		}
		calls = append(calls, func() (err error) { p.answers[rungJob], p.exists, err = c.askJob(ctx, job); return err })
	}
	if o.config.Mode != "pod" {
		_, n := runningEphemeral(o.pod.Spec)
		for r := rungNet; r <= rungBare; r++ {
			e, err := agentEphemeral(o, r, n)
			if err != nil {
				return nil, err
			}
			calls = append(calls, func() (err error) {
				if err = c.patchEphemeral(ctx, o.pod, e, true); taken(err) {
					overtaken.Store(true)
					return nil
				}
				p.answers[r], err = c.judge(err, "adding a container to pod "+o.pod.Name)
				return err
			})
		}
	}
	if o.config.Image == "" && o.config.Mode != "pod" {
		calls = append(calls, func() error { mute.Store(!c.mayAttach(ctx, o.pod.Namespace)); return nil })
	}
	calls = append(calls, func() (err error) { p.arch, err = c.askNode(ctx, o.pod); return err })
	err := each(len(calls), func(i int) error { return calls[i]() })
	p.overtaken = overtaken.Load()
	for r := rungNet; r <= rungBare && mute.Load(); r++ {
		if p.answers[r].admitted {
			p.answers[r] = ruling{right: "create pods/attach in namespace " + o.pod.Namespace}
		}
	}
	return p, err
}

// askNode returns the architecture of the pod's node, which is a guess without the right to ask. A node that is gone is
// named here: an agent on it would be waited for in vain.
func (c *Cluster) askNode(ctx context.Context, pod Pod) (arch string, err error) {
	node, err := c.client.CoreV1().Nodes().Get(ctx, pod.Node, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", fail.New(fail.TargetNotReady, "wait until the pod is somewhere else: kubectl get pods -o wide -n "+pod.Namespace,
			"node %s, where pod %s is, does not exist any more", pod.Node, pod.Name)
	}
	if err != nil {
		return defaultArch, nil
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status != corev1.ConditionTrue {
			return "", fail.New(fail.TargetNotReady, "kubectl describe node "+pod.Node,
				"node %s, where pod %s is, is not ready: %s", pod.Node, pod.Name, firstNonEmpty(condition.Message, condition.Reason))
		}
	}
	return firstNonEmpty(node.Status.NodeInfo.Architecture, defaultArch), nil
}

// askJob asks about the Job, which a right is needed for, and about its pod, which policies look at. Where pods cannot be
// asked about, the warnings on the Job are all there is before it is tried.
func (c *Cluster) askJob(ctx context.Context, job *batchv1.Job) (a ruling, exists bool, err error) {
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	var ofJob, ofPod ruling
	var warned warnings
	pod := jobPod(job) // a copy: a quantity remembers its text when it is written
	err = each(2, func(i int) (err error) {
		if i == 0 {
			client, err := c.hearing(&warned)
			if err != nil {
				return err
			}
			_, err = client.BatchV1().Jobs(job.Namespace).Create(ctx, job, dry)
			if exists = apierrors.IsAlreadyExists(err); exists {
				return nil
			}
			ofJob, err = c.judge(err, "creating the agent's Job")
			return err
		}
		_, err = c.client.CoreV1().Pods(job.Namespace).Create(ctx, pod, dry)
		ofPod, err = c.judge(err, "creating the agent's pod")
		return err
	})
	switch {
	case err != nil || exists:
		return a, exists, err
	case !ofJob.admitted:
		return ofJob, false, nil
	case !ofPod.admitted && ofPod.right == "":
		return ofPod, false, nil
	}
	if words := warned.refusal(); words != "" && !ofPod.admitted {
		return ruling{policy: words}, false, nil
	}
	return ruling{admitted: true}, false, nil
}

// warnings collects what the API server adds to an answer.
type warnings struct {
	mu   sync.Mutex
	list []string
}

// HandleWarningHeaderWithContext is rest.WarningHandlerWithContext.
func (w *warnings) HandleWarningHeaderWithContext(_ context.Context, _ int, _ string, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(w.list, text)
}

// refusal is a warning that says the Job's pods will be refused (pod-security-admission, admission.go).
func (w *warnings) refusal() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, text := range w.list {
		if strings.HasPrefix(text, "would violate PodSecurity") {
			return text
		}
	}
	return ""
}

// listening is the same client, over the same connection, with an ear for warnings.
func (c *Cluster) hearing(w *warnings) (kubernetes.Interface, error) {
	rc := rest.CopyConfig(c.config)
	rc.WarningHandlerWithContext = w
	return kubernetes.NewForConfigAndClient(rc, c.http)
}

// judge makes an answer of what a dry run brought. An error that says nothing about admission is returned as one.
func (c *Cluster) judge(err error, doing string) (ruling, error) {
	if err == nil {
		return ruling{admitted: true}, nil
	}
	if apierrors.IsForbidden(err) || policyWords(err) != "" {
		var a ruling
		message := err.Error()
		var status apierrors.APIStatus
		if errors.As(err, &status) {
			message = status.Status().Message
		}
		if a.right = missingRight(message); a.right == "" {
			a.policy = firstNonEmpty(policyWords(err), message)
		}
		return a, nil
	}
	return ruling{}, c.explain(err, "%s", doing)
}

// refusedBy finds the part of a refusal that a person can do something about, behind the name of what was refused:
// `pods "x" is forbidden: violates PodSecurity …`, `admission webhook "x" denied the request: …`.
var refusedBy = regexp.MustCompile(`(?s)^(?:\S+ "[^"]*" is forbidden: |\S+ is forbidden: )?(violates PodSecurity .*|exceeded quota: .*|failed quota: .*|admission webhook "[^"]*" denied the request.*|ValidatingAdmissionPolicy .*|.*denied request: .*)$`)

// policyWords are what a policy, a webhook or a quota says of a refusal; "" for any other error.
func policyWords(err error) string {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return ""
	}
	message := status.Status().Message
	if m := refusedBy.FindStringSubmatch(message); m != nil {
		return m[1]
	}
	switch code := status.Status().Code; {
	case code == 403 && missingRight(message) == "", code == 422:
		return message
	}
	return ""
}

func firstNonEmpty(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// makeJob sends the agent and starts it. Two round trips, one after the other: the ConfigMaps, all at once, and the Job;
// the watch that brings the pod's name is beside the latter.
func (a *Agent) makeJob(ctx context.Context, o jobOptions, arch string) error {
	namespace := agentNamespace(o.config, o.pod)
	a.made.namespace, a.t.Namespace, a.t.Container = namespace, namespace, agentContainer
	o.agent = o.config.Image
	if o.config.Image == "" {
		u, err := a.parts(arch)
		if err != nil {
			return err
		}
		a.made.upload = u
		a.o.Progress("sending the agent")
		if err := a.c.send(ctx, namespace, u); err != nil {
			return a.c.explain(err, "sending the agent to namespace %s", namespace)
		}
		o.agent, o.parts, o.arch = u.hash, u.names, arch
	}
	job, err := agentJob(o)
	if err != nil {
		return err
	}
	a.o.Progress("starting the agent")
	w := a.c.newAgentWatch(ctx, namespace, agentContainer, false)
	w.watchJob(job.Name, o.pod.UID)
	a.w = w
	created, err := a.c.client.BatchV1().Jobs(namespace).Create(ctx, job, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) { // another session was faster
		w.stop()
		a.w = nil
		return a.joinJob(ctx)
	}
	if err != nil {
		if words := policyWords(err); words != "" {
			return fail.New(fail.AgentStart, "ask the cluster's owner", "the agent's Job is refused: %s", words)
		}
		return a.c.explain(err, "creating the agent's Job")
	}
	a.made.job, a.made.uid = created.Name, created.UID
	w.found(created.UID)
	upload := a.made.upload
	settling, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyWait)
	settled := make(chan struct{})
	a.made.settled, a.made.hurry = settled, cancel
	a.c.settling.Go(func() {
		defer close(settled)
		defer cancel()
		a.c.settle(settling, created, upload)
	})
	return nil
}

// settle does what the start need not wait for: the Job becomes the owner of its ConfigMaps, and what killed sessions have
// left behind goes.
func (c *Cluster) settle(ctx context.Context, job *batchv1.Job, u *upload) {
	if u != nil {
		err := c.adopt(ctx, job, u)
		if err != nil {
			c.log.Debug("kube: owning the agent's ConfigMaps", "err", err)
		}
		if errors.Is(err, errForeign) { // nobody knows which the node has got
			if err := c.removeJob(ctx, job.Namespace, job.Name, job.UID); err != nil {
				c.log.Debug("kube: removing the agent's Job", "err", err)
			}
		}
	}
	if err := c.sweep(ctx, job.Namespace, job.CreationTimestamp.Time); err != nil {
		c.log.Debug("kube: sweeping", "err", err)
	}
}

// joinJob joins the agent that another session, or an earlier one, has started; one that is at its end is replaced.
func (a *Agent) joinJob(ctx context.Context) error {
	namespace := agentNamespace(a.o.Config, a.o.Pod)
	jobs := a.c.client.BatchV1().Jobs(namespace)
	var job *batchv1.Job
	var pods *corev1.PodList
	err := each(2, func(i int) (err error) {
		if i == 0 {
			job, err = jobs.Get(ctx, agentName(a.o.Pod.UID), metav1.GetOptions{})
		} else {
			pods, err = a.c.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: labelPod + "=" + a.o.Pod.UID + "," + labelManager + "=" + ourName})
		}
		return err
	})
	if apierrors.IsNotFound(err) {
		return a.cold(ctx)
	}
	if err != nil {
		return a.c.explain(err, "looking at the pod's agent")
	}
	var pod *corev1.Pod
	for i := range pods.Items {
		if controller(pods.Items[i].OwnerReferences).UID == job.UID {
			pod = &pods.Items[i]
		}
	}
	if finished(job) || pod != nil && (stuck(pod) || over(pod)) {
		if err := a.outlive(ctx, job, pod); err != nil {
			return err
		}
		return a.cold(ctx)
	}
	if err := a.trusted(ctx, job.ObjectMeta, job.Spec.Template.Spec); err != nil {
		return err
	}
	a.rung, a.says = rungJob, rungJob.says()
	a.t = ticket{Namespace: namespace, Container: agentContainer, Target: a.o.Pod.Container,
		Port: listening(job.Spec.Template.Spec.Containers[0].Args), Rung: rungJob.String()}
	w := a.c.newAgentWatch(ctx, namespace, agentContainer, false)
	w.watchJob(job.Name, a.o.Pod.UID)
	w.found(job.UID)
	a.w = w
	joined := false
	defer func() {
		if !joined {
			w.stop()
			a.w = nil
		}
	}()
	if pod == nil {
		if _, err = a.podName(ctx, w); err != nil {
			return err
		}
		if pod, err = a.c.client.CoreV1().Pods(namespace).Get(ctx, a.t.Pod, metav1.GetOptions{}); err != nil {
			return a.c.explain(err, "looking at the pod's agent")
		}
	}
	if made, err := a.shape(pod.ObjectMeta, pod.Spec); err != nil {
		return err
	} else if !slices.Equal(made, parts(job.Spec.Template.Spec)) {
		return a.foreign(otherVersion, pod.Annotations[noteWho], pod.CreationTimestamp.Time)
	}
	a.t.Pod = pod.Name
	err = a.askToken(ctx, job.Spec.Template.Spec.Containers[0].Args, a.joinCommand(false))
	joined = err == nil
	return err
}

// finished says that a Job's pod has ended or is ending.
func finished(job *batchv1.Job) bool {
	if job.DeletionTimestamp != nil || job.Status.Failed > 0 || job.Status.Succeeded > 0 {
		return true
	}
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed || c.Type == batchv1.JobFailureTarget || c.Type == batchv1.JobSuccessCriteriaMet) && c.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}

// stuck says that an agent's pod waits for what time alone does not bring.
func stuck(p *corev1.Pod) bool {
	for _, s := range p.Status.ContainerStatuses {
		if s.Name == agentContainer && s.State.Waiting != nil && hopeless[s.State.Waiting.Reason] {
			return true
		}
	}
	return false
}

// over says that an agent's container has ended, and with it all that the agent had, the lock on the target's network among
// it. Its pod may stay for many seconds more.
func over(p *corev1.Pod) bool {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return true
	}
	for _, s := range p.Status.ContainerStatuses {
		if s.Name == agentContainer && s.State.Terminated != nil {
			return true
		}
	}
	return false
}

// outlive frees the name of a Job that is at its end, as soon as its agent has ended: so there is never more than one to be
// found. pod is the Job's, nil where it has none any more. It does not wait until that has gone, which takes the node and
// three controllers 4 to 18 s (measured): without its Job it is nobody's, and is removed by the cluster.
func (a *Agent) outlive(ctx context.Context, job *batchv1.Job, pod *corev1.Pod) error {
	if pod != nil && !over(pod) {
		a.o.Progress("waiting for the end of the pod's former agent")
		if err := a.c.removeJob(ctx, job.Namespace, job.Name, job.UID); err != nil {
			return err
		}
		if err := a.await(ctx, pod); err != nil {
			return err
		}
	}
	if err := a.c.disown(ctx, job); err != nil {
		a.c.log.Debug("kube: keeping the former agent's ConfigMaps", "err", err)
	}
	return a.c.deleteJob(ctx, job.Namespace, job.Name, job.UID, metav1.DeletePropagationBackground)
}

// await waits for the end of an agent whose Job is being removed.
func (a *Agent) await(ctx context.Context, pod *corev1.Pod) error {
	ctx, cancel := context.WithTimeout(ctx, goneWait)
	defer cancel()
	for {
		now, err := a.c.client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && (now.UID != pod.UID || over(now)) {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			return a.c.explain(err, "waiting for the end of the pod's former agent")
		}
		select {
		case <-ctx.Done():
			return fail.New(fail.AgentStart, "kubectl delete pod -n "+pod.Namespace+" "+pod.Name, "the pod's former agent is still ending after %v", goneWait)
		case <-time.After(4 * pollEvery):
		}
	}
}

// removeJob deletes a Job and its pod, if it is still that one. In the foreground: as long as the pod is there, and with it
// an agent that has not let go of the target, the Job's name is taken, and whoever comes next waits.
func (c *Cluster) removeJob(ctx context.Context, namespace, name string, uid types.UID) error {
	return c.deleteJob(ctx, namespace, name, uid, metav1.DeletePropagationForeground)
}

func (c *Cluster) deleteJob(ctx context.Context, namespace, name string, uid types.UID, pods metav1.DeletionPropagation) error {
	err := c.client.BatchV1().Jobs(namespace).Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: &pods, Preconditions: &metav1.Preconditions{UID: &uid}})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err != nil {
		return c.explain(err, "removing the agent's Job")
	}
	return nil
}
