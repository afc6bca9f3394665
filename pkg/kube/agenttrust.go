package kube

import (
	"context"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// otherVersion is what is said of an agent that we would have started otherwise.
const otherVersion = "is another version of stepin's"

// trusted checks that what runs under the name of our Job is the agent that we would have started: on the target's node,
// for that very pod and container, with nothing else in its pod, and of our own bytes. A token is only ever got from such a
// one. meta and spec are the Job's and its template's, or its pod's.
func (a *Agent) trusted(ctx context.Context, meta metav1.ObjectMeta, spec corev1.PodSpec) error {
	names, err := a.shape(meta, spec)
	if err != nil || names == nil {
		return err
	}
	same, err := a.carries(ctx, agentNamespace(a.o.Config, a.o.Pod), names)
	if err == nil && !same {
		err = a.foreign(otherVersion, meta.Annotations[noteWho], meta.CreationTimestamp.Time)
	}
	return err
}

// shape is trusted's look at the specification alone; names are the ConfigMaps that the agent is made of, nil with an image.
func (a *Agent) shape(meta metav1.ObjectMeta, spec corev1.PodSpec) (names []string, err error) {
	refuse := func(what string) ([]string, error) {
		return nil, a.foreign(what, meta.Annotations[noteWho], meta.CreationTimestamp.Time)
	}
	if len(spec.Containers) != 1 || listening(spec.Containers[0].Args) == 0 {
		return refuse("is none of stepin's")
	}
	its := spec.Containers[0]
	if c := meta.Labels[labelContainer]; c != a.o.Pod.Container {
		return nil, otherContainer(c, a.o.Pod.Container)
	}
	if meta.Labels[labelPod] != a.o.Pod.UID || spec.NodeName != a.o.Pod.Node || !strings.HasPrefix(argument(its.Args, "--pod"), "kube/"+a.o.Pod.UID+"/") {
		return refuse("is for another pod")
	}
	if image := a.o.Config.Image; image != "" && its.Image != image {
		return refuse("is of the image " + its.Image + " and not " + image)
	}
	jo := jobOptions{pod: a.o.Pod, config: a.o.Config}
	if a.o.Config.Image == "" {
		if jo.parts = parts(spec); jo.parts == nil {
			return refuse(otherVersion)
		}
	}
	ours, err := agentTemplate(jo)
	if err != nil {
		return nil, err
	}
	want := ours.Spec.Containers[0]
	switch {
	case len(spec.InitContainers) > 0, len(spec.EphemeralContainers) > 0:
		return refuse("has other containers in its pod")
	case its.Image != want.Image || !slices.Equal(its.Command, want.Command) || !sameArgs(its.Args, want.Args):
		return refuse(otherVersion)
	case !equality.Semantic.DeepEqual(spec.Volumes, ours.Spec.Volumes), !equality.Semantic.DeepEqual(its.VolumeMounts, want.VolumeMounts), meddled(&its):
		return refuse("was changed by somebody")
	}
	return jo.parts, nil
}

// trustedInside checks the same of a container in the target's own pod. What was carried into it nobody can look at; that
// takes the right to attach to the pod, which is as good as being in it.
func (a *Agent) trustedInside(e *corev1.EphemeralContainer) error {
	its := corev1.Container(e.EphemeralContainerCommon)
	refuse := func(what string) error {
		return a.foreign(what, argument(e.Args, "--who"), startedAt(a.o.Pod.Spec, e.Name))
	}
	jo := jobOptions{pod: a.o.Pod, config: a.o.Config, port: listening(e.Args)}
	if e.Stdin {
		jo.config.Image = ""
	} else if jo.config.Image == "" || its.Image != jo.config.Image {
		return refuse("is of the image " + its.Image + " and not " + firstNonEmpty(jo.config.Image, "carried into the target's own"))
	}
	want, err := agentEphemeral(jo, a.rung, 0)
	if err != nil {
		return err
	}
	switch {
	case !strings.HasPrefix(argument(its.Args, "--pod"), "kube/"+a.o.Pod.UID+"/"):
		return refuse("is for another pod")
	case its.Image != want.Image || !slices.Equal(its.Command, want.Command) || !sameArgs(its.Args, want.Args):
		return refuse(otherVersion)
	case len(its.VolumeMounts) > 0 || meddled(&its):
		return refuse("was changed by somebody")
	}
	return nil
}

// startedAt is when an ephemeral container began, the zero time if it has not.
func startedAt(p *corev1.Pod, name string) time.Time {
	for _, s := range p.Status.EphemeralContainerStatuses {
		if s.Name == name && s.State.Running != nil {
			return s.State.Running.StartedAt.Time
		}
	}
	return time.Time{}
}

// foreign is the end of joining an agent that is not what we would have started.
func (a *Agent) foreign(what, who string, since time.Time) error {
	return fail.New(fail.AgentRefused, "wait until it is gone, or ask "+firstNonEmpty(who, "whoever has started it"),
		"the pod has an agent already, which %s (started by %s at %s)", what, firstNonEmpty(who, "somebody"), since.Format(time.TimeOnly))
}

// carries says whether the ConfigMaps of these names are our agent, for either architecture: the node knows which.
func (a *Agent) carries(ctx context.Context, namespace string, names []string) (bool, error) {
	found := make([]*corev1.ConfigMap, len(names))
	err := each(len(names), func(i int) (err error) {
		found[i], err = a.c.client.CoreV1().ConfigMaps(namespace).Get(ctx, names[i], metav1.GetOptions{})
		return err
	})
	switch {
	case apierrors.IsNotFound(err):
		return false, nil
	case apierrors.IsForbidden(err):
		return false, fail.New(fail.ClusterForbidden, "ask for the right to get configmaps in namespace "+namespace+", or wait until the agent is gone",
			"the pod's agent is somebody else's, and to see whether it can be trusted the right to get configmaps is missing")
	case err != nil:
		return false, a.c.explain(err, "looking at what the pod's agent is made of")
	}
	for _, arch := range []string{"amd64", "arm64"} {
		u, err := a.parts(arch)
		if err != nil || len(u.data) != len(names) {
			continue
		}
		same := true
		for i, m := range found {
			same = same && u.is(m, i)
		}
		if same {
			return true, nil
		}
	}
	return false, nil
}

// maxParts bounds what is fetched of a foreign agent: ours has three parts.
const maxParts = 16

// parts are the names of the ConfigMaps that a pod executes; nil where it executes something else.
func parts(spec corev1.PodSpec) (names []string) {
	if len(spec.Volumes) == 0 || spec.Volumes[0].Projected == nil || len(spec.Volumes[0].Projected.Sources) > maxParts {
		return nil
	}
	for _, s := range spec.Volumes[0].Projected.Sources {
		if s.ConfigMap == nil {
			return nil
		}
		names = append(names, s.ConfigMap.Name)
	}
	return names
}

// sameArgs says that an agent's arguments are ours but for what is its creator's: token, patience, name, and the run of the
// container that it has found.
func sameArgs(its, ours []string) bool {
	plain := func(args []string) []string {
		args = slices.Clone(args)
		for i := 1; i < len(args); i++ {
			switch args[i-1] {
			case "--token-sha256", "--ttl", "--who":
				args[i] = ""
			case "--pod":
				args[i] = args[i][:strings.LastIndex(args[i], "/")+1]
			}
		}
		return args
	}
	return slices.Equal(plain(its), plain(ours))
}

// meddled says that something of a container makes its program do what it would not do by itself, or runs beside it.
func meddled(c *corev1.Container) bool {
	return len(c.Env) > 0 || len(c.EnvFrom) > 0 || len(c.VolumeDevices) > 0 || c.WorkingDir != "" || c.Lifecycle != nil ||
		c.LivenessProbe != nil || c.ReadinessProbe != nil || c.StartupProbe != nil
}

// argument is the value behind a flag.
func argument(args []string, flag string) string {
	for i, a := range args {
		if a == flag && i+1 < len(args) {
			return args[i+1]
		}
	}
	return ""
}
