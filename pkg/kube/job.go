package kube

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/wire"
)

const (
	// agentPort is where an agent in a pod of its own listens, on loopback. One in the target's pod is among that pod's ports,
	// which are anybody's: it takes a random one from firstInside on, below those that Linux gives to clients
	// (net.ipv4.ip_local_port_range) and that Services have on nodes (30000 to 32767). A pod has some ten of its own, so
	// that two meet once in a thousand starts at most; the second is made once more.
	agentPort   = 7071
	firstInside = 20000
	portsInside = 10000
	// agentContainer is the container's name in the Job's pod, and the beginning of an ephemeral one's.
	agentContainer = "stepin-agent"

	partsDir = "/stepin" // where the ConfigMaps are mounted; agent/boot reads there
	bootPath = "/stepin/boot"
	tmpDir   = "/stepin-tmp"   // where agent/boot writes on nodes that execute nothing from memory
	tmpSize  = "64Mi"          // the largest image that boot takes
	ownEntry = "/stepin-agent" // in an image of ours

	// What an agent uses: some 20 MiB and a few milliseconds of CPU a second. The limit leaves room for its budget of
	// 8 MiB in each of many sessions; it may not be less than what boot needs, 25 MiB.
	askCPU, askMemory     = "10m", "32Mi"
	limitCPU, limitMemory = "1", "256Mi"
)

// Labels and annotations of everything of ours. The docs tell how to remove all of it by these.
const (
	labelName      = "app.kubernetes.io/name"
	labelManager   = "app.kubernetes.io/managed-by"
	labelPod       = "stepin.dev/pod"       // UID of the target
	labelContainer = "stepin.dev/container" // of the target
	noteAgent      = "stepin.dev/agent"     // which agent: hash of what was uploaded, or the image
	noteWho        = "stepin.dev/who"
	ourName        = "stepin"
)

// jobCapabilities is all that the agent may do in a pod of its own, and what stops without it: each was taken away on a
// real cluster (pkg/e2e, TestCapabilities). BPF is not among them: SYS_ADMIN includes what sk_lookup needs.
// DAC_READ_SEARCH is not, though a target may have it and not DAC_OVERRIDE: its session is told which files it misses.
var jobCapabilities = []struct {
	name    corev1.Capability
	without string // for docs/cluster.md
}{
	{"DAC_OVERRIDE", "the environment of a process of another user cannot be read, nor what the target reads by this capability itself"},
	{"KILL", "the agent's unprivileged half, which has the target's user, cannot be ended when it hangs: it would keep the pod's ports"},
	{"NET_ADMIN", "connections that were open before cannot be ended, so their requests stay with the pod; no nftables where the kernel has no sk_lookup"},
	{"NET_RAW", "requests cannot be mirrored; UDP ports cannot be taken: answers have to come from the pod's own address"},
	{"SETGID", "the agent's unprivileged half has not the target's groups, so Secrets of its fsGroup cannot be read"},
	{"SETUID", "the agent's unprivileged half cannot become the target's user, and does not start"},
	{"SYS_ADMIN", "the pod's network and host name cannot be entered (setns), nor sk_lookup attached there"},
	{"SYS_CHROOT", "the agent's unprivileged half, if it were taken over, would see the node's processes"},
	{"SYS_PTRACE", "a foreign process's namespaces, files and environment cannot be opened"},
}

// capabilities are their names.
func capabilities() (names []corev1.Capability) {
	for _, c := range jobCapabilities {
		names = append(names, c.name)
	}
	return names
}

// jobOptions are what the Job depends on; with the same options it is the same, byte for byte.
type jobOptions struct {
	pod       Pod
	config    config.Agent
	who       string
	tokenHash string   // hex
	agent     string   // hash of the upload, or the image
	parts     []string // names of the ConfigMaps; nil with an image of ours
	arch      string   // of parts; "" with an image of ours
	port      uint16   // of an agent inside the target's pod
}

// insidePort is a random port for an agent in a pod, none of those that the pod's spec names.
func insidePort(p *corev1.Pod) uint16 {
	named := map[int]bool{}
	for _, list := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for _, c := range list {
			for _, port := range c.Ports {
				named[int(port.ContainerPort)] = true
			}
		}
	}
	port := firstInside + rand.IntN(portsInside)
	for range portsInside {
		if !named[port] {
			break
		}
		if port++; port == firstInside+portsInside {
			port = firstInside
		}
	}
	return uint16(port)
}

// agentName is the name of the Job: one per pod and version of the wire, so that a second one cannot be.
func agentName(uid string) string { return "stepin-" + strconv.Itoa(wire.Version) + "-" + uid }

// agentNamespace is where the agent's Job and ConfigMaps are.
func agentNamespace(c config.Agent, pod Pod) string {
	if c.Namespace != "" {
		return c.Namespace
	}
	return pod.Namespace
}

// agentJob is the Job that brings the agent to the node of the pod.
func agentJob(o jobOptions) (*batchv1.Job, error) {
	template, err := agentTemplate(o)
	if err != nil {
		return nil, err
	}
	one, none := int32(1), int32(0)
	return &batchv1.Job{
		TypeMeta: metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"},
		ObjectMeta: metav1.ObjectMeta{
			Name: agentName(o.pod.UID), Namespace: agentNamespace(o.config, o.pod),
			Labels: template.Labels, Annotations: template.Annotations,
		},
		Spec: batchv1.JobSpec{
			Completions: &one, Parallelism: &one,
			BackoffLimit:            &none, // an agent that ends is not missed: the next session makes one
			TTLSecondsAfterFinished: &none, // the cluster removes it, however it ended
			Template:                *template,
		},
	}, nil
}

// agentLabels are everyone's; the user's own go beneath them.
func agentLabels(o jobOptions) (labels, notes map[string]string) {
	labels, notes = map[string]string{}, map[string]string{}
	maps.Copy(labels, o.config.Labels)
	maps.Copy(notes, o.config.Annotations)
	maps.Copy(labels, map[string]string{
		labelName: ourName, labelManager: ourName, labelPod: o.pod.UID, labelContainer: o.pod.Container,
		"sidecar.istio.io/inject": "false", // the agent's own traffic is none of a mesh's business
	})
	maps.Copy(notes, map[string]string{
		noteAgent: o.agent, noteWho: o.who,
		"sidecar.istio.io/inject": "false", "linkerd.io/inject": "disabled",
	})
	return labels, notes
}

func agentTemplate(o jobOptions) (*corev1.PodTemplateSpec, error) {
	container, err := jobContainer(o)
	if err != nil {
		return nil, err
	}
	labels, notes := agentLabels(o)
	yes, no, grace := true, false, int64(1)
	t := &corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: notes},
		Spec: corev1.PodSpec{
			NodeName:                      o.pod.Node,
			HostPID:                       true, // the target is found, and entered, by its process
			RestartPolicy:                 corev1.RestartPolicyNever,
			TerminationGracePeriodSeconds: &grace,
			AutomountServiceAccountToken:  &no,
			EnableServiceLinks:            &no,
			ShareProcessNamespace:         nil,
			ServiceAccountName:            o.config.ServiceAccount,
			ImagePullSecrets:              pullSecrets(o),
			Tolerations:                   tolerations(o.config),
			Containers:                    []corev1.Container{*container},
		},
	}
	if o.parts == nil {
		return t, nil
	}
	readable := int32(0o555) // boot is executed where it is mounted
	size := quantity.MustParse(tmpSize)
	sources := make([]corev1.VolumeProjection, len(o.parts))
	for i, name := range o.parts {
		part := "agent." + strconv.Itoa(i)
		sources[i].ConfigMap = &corev1.ConfigMapProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: name},
			Items:                []corev1.KeyToPath{{Key: part, Path: part}}, Optional: &no,
		}
		if i == 0 {
			sources[i].ConfigMap.Items = append(sources[i].ConfigMap.Items, corev1.KeyToPath{Key: "boot", Path: "boot"})
		}
	}
	t.Spec.Volumes = []corev1.Volume{
		{Name: "agent", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: sources, DefaultMode: &readable}}},
		{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &size}}},
	}
	t.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{
		{Name: "agent", MountPath: partsDir, ReadOnly: true}, {Name: "tmp", MountPath: tmpDir},
	}
	t.Spec.Containers[0].SecurityContext.ReadOnlyRootFilesystem = &yes
	return t, nil
}

func jobContainer(o jobOptions) (*corev1.Container, error) {
	needs, err := requirements(o.config)
	if err != nil {
		return nil, err
	}
	yes, no, root := true, false, int64(0)
	c := &corev1.Container{
		Name:    agentContainer,
		Image:   o.config.Image,
		Command: []string{ownEntry},
		Args:    agentArgs(o, false),
		// Never is what a pod with a side-loaded image needs, Always would ask a registry for what is here already.
		ImagePullPolicy: corev1.PullIfNotPresent,
		Resources:       needs,
		// What the agent says before it ends comes with the pod's status, which needs no further right than watching pods.
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		SecurityContext: &corev1.SecurityContext{
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: capabilities()},
			RunAsUser:                &root,
			RunAsGroup:               &root,
			RunAsNonRoot:             &no,
			AllowPrivilegeEscalation: &yes, // what SYS_ADMIN implies; the API server refuses false beside it
			// Every runtime's own profile allows bpf, setns and the like to whoever has SYS_ADMIN.
			SeccompProfile:  &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined},
			SELinuxOptions:  &corev1.SELinuxOptions{Type: "spc_t"}, // nodes without SELinux pass over it
		},
	}
	if o.parts != nil {
		c.Command = []string{bootPath}
		if c.Image, err = targetImage(o.pod); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// agentArgs are the agent's own arguments. inside says that it runs in the target's pod.
func agentArgs(o jobOptions, inside bool) []string {
	id, port := o.pod.ContainerID, uint16(agentPort)
	if inside {
		port = o.port
	}
	args := []string{
		"--pod", "kube/" + o.pod.UID + "/" + id,
		"--listen", fmt.Sprintf("tcp:127.0.0.1:%d", port),
		"--token-sha256", o.tokenHash,
		"--ttl", o.config.TTL.String(),
		"--who", o.who,
	}
	if inside {
		args = append(args, "--inside")
	}
	return args
}

// targetImage is the image of the target's container, as the node knows it: a tag may have moved on since the pod began,
// but what the pod's spec names is on the node by that name.
func targetImage(pod Pod) (string, error) {
	for _, list := range [][]corev1.Container{pod.Spec.Spec.Containers, pod.Spec.Spec.InitContainers} {
		for _, c := range list {
			if c.Name == pod.Container {
				return c.Image, nil
			}
		}
	}
	return "", fmt.Errorf("kube: pod %s has no container %q", pod.Name, pod.Container)
}

// pullSecrets are the configured ones and, in the target's namespace, the target's: IfNotPresent pulls where the image
// was removed from the node, and newer nodes ask for the right to an image that is there (KubeletEnsureSecretPulledImages).
func pullSecrets(o jobOptions) (secrets []corev1.LocalObjectReference) {
	for _, name := range o.config.ImagePullSecrets {
		secrets = append(secrets, corev1.LocalObjectReference{Name: name})
	}
	if agentNamespace(o.config, o.pod) != o.pod.Namespace {
		return secrets
	}
	for _, s := range o.pod.Spec.Spec.ImagePullSecrets {
		if !slices.Contains(secrets, s) {
			secrets = append(secrets, s)
		}
	}
	return secrets
}

// tolerations are all there are, unless the user names his: the node is the target's, whatever its taints.
func tolerations(c config.Agent) []corev1.Toleration {
	if len(c.Tolerations) == 0 {
		return []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	}
	list := make([]corev1.Toleration, len(c.Tolerations))
	for i, t := range c.Tolerations {
		list[i] = corev1.Toleration{Key: t.Key, Operator: corev1.TolerationOperator(t.Operator), Value: t.Value, Effect: corev1.TaintEffect(t.Effect)}
	}
	return list
}

// requirements are the configuration's, each that is not given ours.
func requirements(c config.Agent) (corev1.ResourceRequirements, error) {
	read := func(what string, given map[string]string, own map[corev1.ResourceName]string) (corev1.ResourceList, error) {
		list := corev1.ResourceList{}
		for name, text := range own {
			list[name] = quantity.MustParse(text)
		}
		for _, name := range slices.Sorted(maps.Keys(given)) {
			q, err := quantity.ParseQuantity(given[name])
			if err != nil {
				return nil, fail.New(fail.ConfigValue, `write for example "100m" of cpu, "64Mi" of memory`,
					"agent.resources.%s.%s: %q is no quantity", what, name, given[name])
			}
			list[corev1.ResourceName(name)] = q
		}
		return list, nil
	}
	requests, err := read("requests", c.Resources.Requests, map[corev1.ResourceName]string{"cpu": askCPU, "memory": askMemory})
	if err != nil {
		return corev1.ResourceRequirements{}, err
	}
	limits, err := read("limits", c.Resources.Limits, map[corev1.ResourceName]string{"cpu": limitCPU, "memory": limitMemory})
	if err != nil {
		return corev1.ResourceRequirements{}, err
	}
	return corev1.ResourceRequirements{Requests: requests, Limits: limits}, nil
}

// jobPod is the pod that the Job's controller would make of it, for a dry run: admission looks at pods.
func jobPod(job *batchv1.Job) *corev1.Pod {
	meta := *job.Spec.Template.ObjectMeta.DeepCopy()
	meta.GenerateName, meta.Namespace = job.Name+"-", job.Namespace
	return &corev1.Pod{ObjectMeta: meta, Spec: *job.Spec.Template.Spec.DeepCopy()}
}

// listening reads the port from an agent's arguments; 0 where there is none.
func listening(args []string) uint16 {
	for i, a := range args {
		if a != "--listen" || i+1 == len(args) {
			continue
		}
		_, port, _ := strings.Cut(strings.TrimPrefix(args[i+1], "tcp:"), ":")
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return 0
		}
		return uint16(n)
	}
	return 0
}
