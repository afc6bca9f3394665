package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	authv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// netCapabilities are what an ephemeral agent needs beyond the runtime's own to take requests (reference: measured with
// seccomp unconfined and RuntimeDefault).
var netCapabilities = []corev1.Capability{"BPF", "NET_ADMIN", "NET_RAW", "SYS_PTRACE"}

// arrivalWait bounds the wait for the agent in its container: longer than any client tries (agentWait), since a client that
// has died says nothing. arrivalSeconds is the same for the script.
const (
	arrivalWait    = 120 * time.Second
	arrivalSeconds = "120"
)

// Without an image of ours the agent comes through the container's standard input, in an image that is the target's own:
// it must have sh, cat and chmod, and a directory that may be written to and executed from. The scripts look for one
// in the same places. What is written is gone with the ephemeral container: its file system is its own.
//
// While the agent arrives the script looks every 50 ms, or every second where sleep knows no fractions, whether it has: a
// process that slept all the time would have to be ended then, and a signal to what is about to execute sleep may be lost.
// Without a sleep in the image the wait has no bound.
const (
	placesScript = `for d in /tmp /var/tmp /dev/shm /run "$HOME" ""; do f=$d/.stepin-agent; `
	arriveScript = placesScript +
		`(printf '#!/bin/sh\nexit 0\n' >"$f" && chmod 700 "$f" && "$f") 2>/dev/null && break; f=; done; ` +
		`if [ -z "$f" ]; then echo "no directory of this image may be written to and executed from" >&2; exit 1; fi; ` +
		`exec 3<&0; cat <&3 >"$f" & c=$!; p=0.05 n=2400; sleep $p 2>/dev/null || { p=1; n=` + arrivalSeconds + `; }; ` +
		`while kill -0 "$c" 2>/dev/null && sleep $p; do n=$((n-1)); ` +
		`if [ $n -le 0 ]; then kill "$c"; echo "` + neverArrived + `" >&2; exit 1; fi; done; ` +
		`exec 3<&-; wait "$c" || exit; exec "$f" "$@"`
	joinScript = placesScript + `[ -x "$f" ] && exec "$f" "$@"; done; echo "the agent's file is not there" >&2; exit 1`

	neverArrived = "whoever has added this container did not send the agent within " + arrivalSeconds + " s"
)

// agentEphemeral is the container of a rung. n counts those of ours that the pod has had: a name cannot be used twice,
// and two sessions that start at once take the same one, so that the second is refused.
func agentEphemeral(o jobOptions, r rung, n int) (*corev1.EphemeralContainer, error) {
	image, err := targetImage(o.pod)
	if err != nil {
		return nil, err
	}
	yes, no, root := true, false, int64(0)
	secure := &corev1.SecurityContext{}
	switch r {
	case rungNet:
		secure.RunAsUser, secure.RunAsGroup, secure.RunAsNonRoot = &root, &root, &no
		secure.Capabilities = &corev1.Capabilities{Add: netCapabilities}
		secure.SeccompProfile = &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined}
	case rungPlain:
		secure.RunAsUser, secure.RunAsGroup, secure.RunAsNonRoot = &root, &root, &no
	default:
		// The target's own user: where its container names none, the image does, and it is the same image unless ours is
		// used, which has none; then the kubelet refuses in words.
		secure.RunAsUser, secure.RunAsGroup = targetUser(o.pod)
		secure.RunAsNonRoot, secure.AllowPrivilegeEscalation = &yes, &no
		secure.Capabilities = &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}
		secure.SeccompProfile = &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}
	}
	c := &corev1.EphemeralContainer{
		TargetContainerName: o.pod.Container,
		EphemeralContainerCommon: corev1.EphemeralContainerCommon{
			Name:            ephemeralName(n),
			Image:           o.config.Image,
			Command:         []string{ownEntry},
			Args:            agentArgs(o, true),
			ImagePullPolicy: corev1.PullIfNotPresent,
			SecurityContext: secure, TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		},
	}
	if o.config.Image == "" {
		c.Image, c.Command = image, []string{"sh", "-c", arriveScript, "stepin-agent"}
		c.Stdin, c.StdinOnce = true, true
	}
	return c, nil
}

func ephemeralName(n int) string { return agentContainer + "-" + strconv.Itoa(n) }

// targetUser is the user and group that the pod's spec gives the target, nil where it gives none.
func targetUser(pod Pod) (user, group *int64) {
	if p := pod.Spec.Spec.SecurityContext; p != nil {
		user, group = p.RunAsUser, p.RunAsGroup
	}
	for _, c := range pod.Spec.Spec.Containers {
		if c.Name == pod.Container && c.SecurityContext != nil {
			if c.SecurityContext.RunAsUser != nil {
				user = c.SecurityContext.RunAsUser
			}
			if c.SecurityContext.RunAsGroup != nil {
				group = c.SecurityContext.RunAsGroup
			}
		}
	}
	return user, group
}

// refusedBefore says that this image has already shown that it has no shell: every further try would leave an entry in
// the pod for ever.
func refusedBefore(p *corev1.Pod) bool {
	for _, s := range p.Status.EphemeralContainerStatuses {
		if !strings.HasPrefix(s.Name, agentContainer+"-") {
			continue
		}
		for _, t := range []*corev1.ContainerStateTerminated{s.State.Terminated, s.LastTerminationState.Terminated} {
			if t != nil && noShell(t.Message) {
				return true
			}
		}
	}
	return false
}

// errNoShell is the end of the ladder for images that nothing can be brought into.
func errNoShell(pod Pod) error {
	return fail.Wrap(fail.AgentStart, agentGone{words: "it lacks sh, cat or chmod, or a directory that may be written to and executed from"},
		"name an image that holds the agent by agent.image: `stepin agent image push` makes one",
		"the agent cannot be brought into the image of container %s", pod.Container)
}

// maxAdded bounds the ephemeral containers that one session adds to a pod: the first, and one after each of two restarts of the
// target's container, or ends of the agent. Kubernetes removes none from the pod's list.
const maxAdded = 3

// errTooMany is the end of adding.
func errTooMany(pod Pod) error {
	return tooMany{fail.New(fail.AgentStart,
		"kubectl delete pod -n "+pod.Namespace+" "+pod.Name+` gives its successor an empty list; an agent that is a pod of its own ("agent": {"mode": "pod"}) adds none`,
		"this session has added %d agents to pod %s, each of which stays in its list of ephemeral containers, and adds no more", maxAdded, pod.Name)}
}

// tooMany is ErrTooMany in words.
type tooMany struct{ words error }

func (e tooMany) Error() string        { return e.words.Error() }
func (e tooMany) Unwrap() error        { return e.words }
func (e tooMany) Is(target error) bool { return target == ErrTooMany }

// patchEphemeral adds the container to the pod, or asks whether it might be.
func (c *Cluster) patchEphemeral(ctx context.Context, pod Pod, container *corev1.EphemeralContainer, dry bool) error {
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"ephemeralContainers": []any{container}}})
	if err != nil {
		return fmt.Errorf("kube: adding the agent to the pod: %w", err)
	}
	o := metav1.PatchOptions{}
	if dry {
		o.DryRun = []string{metav1.DryRunAll}
	}
	_, err = c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, o, "ephemeralcontainers")
	return err
}

// arriving says that a joiner came before the agent's file was whole: nobody executes what is being written to.
func arriving(e *ExitError) bool {
	return strings.Contains(e.Stderr, "Text file busy") || strings.Contains(e.Stderr, "the agent's file is not there")
}

// errNoArrival: a container waits for an agent that nobody will send any more.
var errNoArrival = errors.New("kube: the agent of the pod never arrived")

// overdue says that a container of which a joiner has heard that its agent is arriving has waited too long for that. Its own
// watchdog ends it, unless its image has no sleep.
func overdue(p *corev1.Pod, container string) bool {
	began := startedAt(p, container)
	return !began.IsZero() && time.Since(began) > arrivalWait
}

// mayAttach asks for the right to send the agent to a container: without it the container would wait in vain, and its entry
// stays in the pod for ever. A cluster that does not answer that is believed to allow it.
func (c *Cluster) mayAttach(ctx context.Context, namespace string) bool {
	answer, err := c.client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authv1.SelfSubjectAccessReview{
		Spec: authv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authv1.ResourceAttributes{
			Namespace: namespace, Verb: "create", Resource: "pods", Subresource: "attach"}}}, metav1.CreateOptions{})
	return err != nil || answer.Status.Allowed
}

// taken says that another session was faster: it has used the name that we would have used.
func taken(err error) bool {
	return apierrors.IsInvalid(err) && strings.Contains(err.Error(), "may not be changed")
}

// runningEphemeral finds a running agent among the pod's ephemeral containers, and counts those that there have been. One
// that the node says nothing of yet has just been added.
func runningEphemeral(p *corev1.Pod) (running *corev1.EphemeralContainer, count int) {
	for i := range p.Spec.EphemeralContainers {
		e := &p.Spec.EphemeralContainers[i]
		if !strings.HasPrefix(e.Name, agentContainer+"-") {
			continue
		}
		count++
		ended := false
		for _, s := range p.Status.EphemeralContainerStatuses {
			if s.Name == e.Name {
				ended = s.State.Terminated != nil || s.LastTerminationState.Terminated != nil ||
					s.State.Waiting != nil && hopeless[s.State.Waiting.Reason]
			}
		}
		if !ended {
			running = e
		}
	}
	return running, count
}

// arrive sends the agent to the standard input of its container, as soon as that runs. It returns when all is sent and the
// other side has ended the stream or ctx ends; what was sent in between is what counts.
func (c *Cluster) arrive(ctx context.Context, pod Pod, container string, content func() io.Reader) error {
	where := c.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("attach").
		VersionedParams(&corev1.PodAttachOptions{Container: container, Stdin: true}, scheme.ParameterCodec).URL()
	first, err := remotecommand.NewWebSocketExecutor(c.config, "GET", where.String())
	if err != nil {
		return fmt.Errorf("kube: sending the agent: %w", err)
	}
	second, err := remotecommand.NewSPDYExecutor(c.config, "POST", where)
	if err != nil {
		return fmt.Errorf("kube: sending the agent: %w", err)
	}
	for {
		e := first
		if c.spdyOnly.Load() {
			e = second
		}
		err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: content()})
		if err != nil && e == first && refusedUpgrade(err) {
			err = second.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: content()})
		}
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		if !starting(upgradeError(err)) {
			return c.explain(upgradeError(err), "sending the agent to pod %s", pod.Name)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollEvery):
		}
	}
}

// noShell says that a container could not be started for want of what the target's image does not have.
func noShell(words string) bool {
	return strings.Contains(words, `"sh": executable file not found`) || strings.Contains(words, "no directory of this image") ||
		strings.Contains(words, "cat: not found") || strings.Contains(words, "chmod: not found")
}
