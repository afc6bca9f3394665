package kube

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// defaultContainer is the annotation by which a pod says which container a person means (kubectl logs and exec heed it).
const defaultContainer = "kubectl.kubernetes.io/default-container"

// sidecars are containers that a service mesh puts into pods, by the names that its injector gives them: nobody means
// them who names a workload.
var sidecars = []string{
	"istio-proxy", "linkerd-proxy", "envoy", "envoy-sidecar", "consul-dataplane", "consul-connect-envoy-sidecar",
	"kuma-sidecar", "nginx-mesh-sidecar", "osm-envoy", "queue-proxy",
}

// sandboxes are runtimes whose containers have no process that the node could see, by what their RuntimeClass is called.
var sandboxes = []string{"gvisor", "runsc", "kata"}

// describe takes a pod object apart. Errors: fail.TargetContainer, TargetHostNetwork, TargetSandboxed, TargetNotReady
// (the container does not run).
func describe(p *corev1.Pod, target config.Target, written string) (Pod, error) {
	out := Pod{
		Namespace: p.Namespace, Name: p.Name, UID: string(p.UID), Node: p.Spec.NodeName, Target: written, Spec: p,
	}
	if p.Spec.HostNetwork {
		return out, fail.New(fail.TargetHostNetwork, "choose a pod with a network of its own",
			"pod %s has the node's own network (hostNetwork): taking its place would take the whole node's traffic", p.Name)
	}
	if class := p.Spec.RuntimeClassName; class != nil && sandboxed(*class) {
		return out, fail.New(fail.TargetSandboxed, "choose a pod that runs without it",
			"pod %s runs in a sandbox (runtimeClassName: %s): its processes cannot be reached from the node", p.Name, *class)
	}
	c, notice, err := choose(p, target.Container)
	if err != nil {
		return out, err
	}
	if notice != "" {
		out.Notices = append(out.Notices, notice)
	}
	out.Container = c.Name
	status := statusOf(p, c.Name)
	if status == nil || status.State.Running == nil || status.ContainerID == "" {
		return out, fail.New(fail.TargetNotReady, "kubectl describe pod "+p.Name+" -n "+p.Namespace,
			"pod %s is not ready: %s", p.Name, whyNot(p))
	}
	_, out.ContainerID, _ = strings.Cut(status.ContainerID, "://")
	out.Addrs, out.Nodes = podAddresses(p), nodeAddresses(p)
	out.Volumes = volumes(p, c)
	out.Probes = probes(p, c)
	return out, nil
}

func sandboxed(class string) bool {
	class = strings.ToLower(class)
	return slices.ContainsFunc(sandboxes, func(s string) bool {
		return class == s || strings.HasPrefix(class, s+"-") || strings.HasSuffix(class, "-"+s)
	})
}

// containers are those that run side by side: init containers count only where they never end.
func containers(p *corev1.Pod) []*corev1.Container {
	var out []*corev1.Container
	for i := range p.Spec.Containers {
		out = append(out, &p.Spec.Containers[i])
	}
	for i, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			out = append(out, &p.Spec.InitContainers[i])
		}
	}
	return out
}

// choose finds the container that is meant, and what to say about the choice.
func choose(p *corev1.Pod, name string) (*corev1.Container, string, error) {
	all := containers(p)
	names := make([]string, len(all))
	for i, c := range all {
		names[i] = c.Name
	}
	find := func(name string) *corev1.Container {
		if i := slices.Index(names, name); i >= 0 {
			return all[i]
		}
		return nil
	}
	if name != "" {
		if c := find(name); c != nil {
			return c, "", nil
		}
		what := ""
		if near := config.Nearest(name, names); near != "" {
			what = "; did you mean \"" + near + "\"?"
		}
		return nil, "", fail.New(fail.TargetContainer, "its containers are "+offer(names), "pod %s has no container %q%s", p.Name, name, what)
	}
	if len(p.Spec.Containers) == 0 {
		return nil, "", fail.New(fail.TargetContainer, "choose another pod", "pod %s has no container", p.Name)
	}
	if c := find(p.Annotations[defaultContainer]); c != nil {
		if len(all) == 1 {
			return c, "", nil
		}
		return c, fmt.Sprintf("container %s of pod %s, its default; others: %s", c.Name, p.Name, others(names, c.Name)), nil
	}
	c := &p.Spec.Containers[0]
	for i := range p.Spec.Containers {
		if !slices.Contains(sidecars, p.Spec.Containers[i].Name) {
			c = &p.Spec.Containers[i]
			break
		}
	}
	if len(all) == 1 {
		return c, "", nil
	}
	return c, fmt.Sprintf("container %s of pod %s, the first; others: %s", c.Name, p.Name, others(names, c.Name)), nil
}

func others(names []string, but string) string {
	return offer(slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == but }))
}

// statusOf returns a container's status, nil where the node has reported none yet.
func statusOf(p *corev1.Pod, name string) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// ready says that the pod serves: it runs, is not about to end, and its node says so.
func ready(p *corev1.Pod) bool {
	if p.DeletionTimestamp != nil || p.Status.Phase != corev1.PodRunning {
		return false
	}
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// whyNot says in a few words why a pod is not ready: a container's own reason before the pod's.
func whyNot(p *corev1.Pod) string {
	if p.DeletionTimestamp != nil {
		return "it is being deleted"
	}
	if p.Status.Phase == corev1.PodSucceeded {
		return "it has ended"
	}
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for _, s := range list {
			switch {
			case s.State.Waiting != nil && s.State.Waiting.Reason != "" && s.State.Waiting.Reason != "PodInitializing":
				return reason("container "+s.Name, s.State.Waiting.Reason, s.State.Waiting.Message)
			case s.State.Terminated != nil && s.State.Terminated.ExitCode != 0:
				return reason(fmt.Sprintf("container %s ended with status %d", s.Name, s.State.Terminated.ExitCode),
					s.State.Terminated.Reason, s.State.Terminated.Message)
			}
		}
	}
	if p.Status.Phase == corev1.PodFailed {
		return reason("it has failed", p.Status.Reason, p.Status.Message)
	}
	for _, kind := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		for _, c := range p.Status.Conditions {
			if c.Type == kind && c.Status == corev1.ConditionFalse {
				return reason(string(p.Status.Phase), c.Reason, c.Message)
			}
		}
	}
	return "its phase is " + string(p.Status.Phase)
}

// maxReason bounds a node's or scheduler's message within a sentence, in bytes.
const maxReason = 300

func reason(who, word, message string) string {
	out := who
	if word != "" {
		out += ": " + word
	}
	if message = strings.TrimSpace(message); message != "" {
		if len(message) > maxReason {
			message = strings.ToValidUTF8(message[:maxReason], "") + "…"
		}
		out += " (" + message + ")"
	}
	return out
}

// addresses reads addresses in the order given, each once; what is none is left out.
func addresses(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, t := range texts {
		if a, err := netip.ParseAddr(t); err == nil && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

func podAddresses(p *corev1.Pod) []netip.Addr {
	var texts []string
	for _, ip := range p.Status.PodIPs {
		texts = append(texts, ip.IP)
	}
	return addresses(append(texts, p.Status.PodIP)...)
}

func nodeAddresses(p *corev1.Pod) []netip.Addr {
	var texts []string
	for _, ip := range p.Status.HostIPs {
		texts = append(texts, ip.IP)
	}
	return addresses(append(texts, p.Status.HostIP)...)
}

// volumes are the container's mount points. An emptyDir that no other container mounts is the program's own scratch
// space: the debuggee has its own.
func volumes(p *corev1.Pod, c *corev1.Container) []wire.Volume {
	var out []wire.Volume
	for _, m := range c.VolumeMounts {
		i := slices.IndexFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		if i < 0 {
			continue // the API server lets none through
		}
		v := &p.Spec.Volumes[i]
		if v.EmptyDir != nil && !shared(p, c.Name, m.Name) {
			continue
		}
		small := v.ConfigMap != nil || v.Secret != nil || v.Projected != nil || v.DownwardAPI != nil
		out = append(out, wire.Volume{Path: path.Clean(m.MountPath), Small: small, File: small && oneFile(v, m)})
	}
	return out
}

// shared says that another container, init containers included, mounts the volume, too: what it writes there is meant
// for this one, such as the secrets that vault-agent fetches.
func shared(p *corev1.Pod, container, volume string) bool {
	for _, list := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for _, c := range list {
			if c.Name != container && slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == volume }) {
				return true
			}
		}
	}
	return false
}

// oneFile says that a subPath of a small volume is a file: it is unless an item lies below it. subPathExpr is expanded
// by the node; its text is taken as it stands, and only a directory of items could make that wrong.
func oneFile(v *corev1.Volume, m corev1.VolumeMount) bool {
	sub := m.SubPath
	if sub == "" {
		sub = m.SubPathExpr
	}
	if sub == "" {
		return false
	}
	below := path.Clean(sub) + "/"
	return !slices.ContainsFunc(items(v), func(item string) bool { return strings.HasPrefix(path.Clean(item), below) })
}

// items are the paths that a small volume's spec names.
func items(v *corev1.Volume) []string {
	var out []string
	keys := func(list []corev1.KeyToPath) {
		for _, k := range list {
			out = append(out, k.Path)
		}
	}
	fields := func(list []corev1.DownwardAPIVolumeFile) {
		for _, f := range list {
			out = append(out, f.Path)
		}
	}
	switch {
	case v.ConfigMap != nil:
		keys(v.ConfigMap.Items)
	case v.Secret != nil:
		keys(v.Secret.Items)
	case v.DownwardAPI != nil:
		fields(v.DownwardAPI.Items)
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			switch {
			case s.ConfigMap != nil:
				keys(s.ConfigMap.Items)
			case s.Secret != nil:
				keys(s.Secret.Items)
			case s.DownwardAPI != nil:
				fields(s.DownwardAPI.Items)
			case s.ServiceAccountToken != nil:
				out = append(out, s.ServiceAccountToken.Path)
			case s.ClusterTrustBundle != nil:
				out = append(out, s.ClusterTrustBundle.Path)
			}
		}
	}
	return out
}

// probes are the container's health checks that come to this pod, each once.
func probes(p *corev1.Pod, c *corev1.Container) []wire.Probe {
	var out []wire.Probe
	for _, probe := range []*corev1.Probe{c.StartupProbe, c.ReadinessProbe, c.LivenessProbe} {
		if probe == nil {
			continue
		}
		one, ok := resolveProbe(p, c, probe)
		if ok && !slices.Contains(out, one) {
			out = append(out, one)
		}
	}
	return out
}

func resolveProbe(p *corev1.Pod, c *corev1.Container, probe *corev1.Probe) (wire.Probe, bool) {
	elsewhere := func(host string) bool {
		return host != "" && host != p.Status.PodIP && host != "localhost" && host != "127.0.0.1"
	}
	switch {
	case probe.HTTPGet != nil:
		port := portOf(c, probe.HTTPGet.Port)
		where := probe.HTTPGet.Path
		if !strings.HasPrefix(where, "/") {
			where = "/" + where
		}
		kind := "http"
		if probe.HTTPGet.Scheme == corev1.URISchemeHTTPS {
			kind = "https"
		}
		return wire.Probe{Kind: kind, Port: port, Path: where}, port != 0 && !elsewhere(probe.HTTPGet.Host)
	case probe.TCPSocket != nil:
		port := portOf(c, probe.TCPSocket.Port)
		return wire.Probe{Kind: "tcp", Port: port}, port != 0 && !elsewhere(probe.TCPSocket.Host)
	case probe.GRPC != nil:
		service := ""
		if probe.GRPC.Service != nil {
			service = *probe.GRPC.Service
		}
		return wire.Probe{Kind: "grpc", Port: uint16(probe.GRPC.Port), Service: service}, probe.GRPC.Port > 0
	case probe.Exec != nil:
		return wire.Probe{Kind: "exec"}, true
	}
	return wire.Probe{}, false
}

// portOf resolves a port's name among those of the container; 0 where there is none.
func portOf(c *corev1.Container, port intstr.IntOrString) uint16 {
	if port.Type == intstr.Int {
		return uint16(port.IntVal)
	}
	for _, p := range c.Ports {
		if p.Name == port.StrVal {
			return uint16(p.ContainerPort)
		}
	}
	return 0
}
