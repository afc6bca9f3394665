package kube

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
)

var updateGolden = flag.Bool("update", false, "write testdata/*.yaml anew")

// exampleTarget is a pod as the API server would show it.
func exampleTarget() Pod {
	user := int64(1000)
	return Pod{
		Namespace: "shop", Name: "orders-7d4b9-x2x5q", UID: "0b1f7a52-4c0e-4f0a-9f59-6f2e3d3f0a11", Node: "node-1",
		Container: "orders", ContainerID: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", Target: "deployment/orders",
		Spec: &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "orders-7d4b9-x2x5q", UID: "0b1f7a52-4c0e-4f0a-9f59-6f2e3d3f0a11"},
			Spec: corev1.PodSpec{
				NodeName:         "node-1",
				SecurityContext:  &corev1.PodSecurityContext{RunAsUser: &user},
				ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}},
				Containers:       []corev1.Container{{Name: "mesh", Image: "example/mesh:2"}, {Name: "orders", Image: "example/orders:1.2"}},
			},
		},
	}
}

func golden(t *testing.T, name string, v any) {
	t.Helper()
	got, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", name+".yaml")
	if *updateGolden {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || string(got) != string(want) {
		t.Errorf("%s is not what it was (%v); if that is right: go test ./pkg/kube -run %s -update\n%s", path, err, t.Name(), got)
	}
}

// The spec is what a cluster's owner reads before he allows it: it changes on purpose only, byte for byte.
func TestJob(t *testing.T) {
	plain := jobOptions{pod: exampleTarget(), who: "ada@laptop", tokenHash: strings.Repeat("ab", 32), agent: "5e1f", parts: []string{"stepin-5e1f-0", "stepin-5e1f-1", "stepin-5e1f-2"}, arch: "amd64"}
	plain.config.TTL = config.Duration(300e9)
	job, err := agentJob(plain)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "job", job)

	all := plain
	all.agent, all.parts = "example/agent:1", nil
	all.config = config.Agent{
		Image: "example/agent:1", Namespace: "debug", Labels: map[string]string{"team": "shop", labelPod: "not ours to give"},
		Annotations: map[string]string{"why": "debugging"}, ServiceAccount: "debugger", ImagePullSecrets: []string{"agents"},
		Tolerations: []config.Toleration{{Key: "dedicated", Operator: "Equal", Value: "gpu", Effect: "NoExecute"}},
		Resources:   config.Resources{Requests: map[string]string{"memory": "20Mi"}, Limits: map[string]string{"cpu": "250m", "ephemeral-storage": "1Mi"}},
	}
	if job, err = agentJob(all); err != nil {
		t.Fatal(err)
	}
	golden(t, "job-configured", job)
}

func TestJobRefuses(t *testing.T) {
	o := jobOptions{pod: exampleTarget(), parts: []string{"x"}}
	o.config.Resources.Limits = map[string]string{"cpu": "many"}
	_, err := agentJob(o)
	if fail.CodeOf(err) != fail.ConfigValue || err.Error() != `agent.resources.limits.cpu: "many" is no quantity` {
		t.Error(err)
	}
	o = jobOptions{pod: exampleTarget(), parts: []string{"x"}}
	o.pod.Container = "nobody"
	if _, err := agentJob(o); err == nil {
		t.Error("a Job without an image")
	}
}

// Whatever is configured, what the pod may do and see does not widen.
func TestJobIsOurs(t *testing.T) {
	o := jobOptions{pod: exampleTarget(), parts: []string{"x"}}
	o.config.Labels = map[string]string{"sidecar.istio.io/inject": "true"}
	o.config.Annotations = map[string]string{"linkerd.io/inject": "enabled"}
	job, err := agentJob(o)
	if err != nil {
		t.Fatal(err)
	}
	s := job.Spec.Template
	if s.Labels["sidecar.istio.io/inject"] != "false" || s.Annotations["linkerd.io/inject"] != "disabled" {
		t.Errorf("injected: %v %v", s.Labels, s.Annotations)
	}
	if c := s.Spec.Containers[0]; c.SecurityContext.Privileged != nil || s.Spec.HostNetwork || s.Spec.HostIPC || *s.Spec.AutomountServiceAccountToken {
		t.Errorf("%+v", s.Spec)
	}
}

func TestEphemeral(t *testing.T) {
	for _, image := range []string{"", "example/agent:1"} {
		o := jobOptions{pod: exampleTarget(), who: "ada@laptop", tokenHash: strings.Repeat("ab", 32), port: firstInside}
		o.config.Image = image
		all := map[string]any{}
		for r := rungNet; r <= rungBare; r++ {
			e, err := agentEphemeral(o, r, 3)
			if err != nil {
				t.Fatal(err)
			}
			all[r.String()] = e
			if got := ephemeralRung(e); got != r {
				t.Errorf("%s is taken for %s", r, got)
			}
		}
		name := "ephemeral"
		if image != "" {
			name += "-image"
		}
		golden(t, name, all)
	}
}

func TestRunningEphemeral(t *testing.T) {
	p := exampleTarget().Spec
	entry := func(name string, ended bool) {
		p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: name}})
		s := corev1.ContainerStatus{Name: name}
		if ended {
			s.State.Terminated = &corev1.ContainerStateTerminated{}
		}
		p.Status.EphemeralContainerStatuses = append(p.Status.EphemeralContainerStatuses, s)
	}
	entry("debugger-abc", false)
	entry("stepin-agent-0", true)
	if e, n := runningEphemeral(p); e != nil || n != 1 {
		t.Errorf("%v, %d", e, n)
	}
	entry("stepin-agent-1", false)
	if e, n := runningEphemeral(p); e == nil || e.Name != "stepin-agent-1" || n != 2 {
		t.Errorf("%v, %d", e, n)
	}
}

func TestListening(t *testing.T) {
	for args, want := range map[string]uint16{"--listen tcp:127.0.0.1:7071 --ttl 5m": 7071, "--listen unix:/x": 0, "--listen": 0, "--listen tcp:127.0.0.1:99999": 0, "": 0} {
		if got := listening(strings.Fields(args)); got != want {
			t.Errorf("%q: %d", args, got)
		}
	}
}

func TestDecide(t *testing.T) {
	const psa = `violates PodSecurity "baseline:latest": host namespaces (hostPID=true)`
	yes, policy, right := ruling{admitted: true}, ruling{policy: psa}, ruling{right: "create jobs.batch in namespace shop"}
	for _, test := range []struct {
		name     string
		mode     string
		incoming string
		answers  [rungsCount]ruling
		want     rung
		notices  []string
		err      string
		code     fail.Code
	}{
		{"all", "auto", "", [...]ruling{yes, yes, yes, yes}, rungJob, nil, "", 0},
		{"all, asked for", "auto", "steal", [...]ruling{yes, yes, yes, yes}, rungJob, nil, "", 0},
		{"no Job", "auto", "steal", [...]ruling{right, yes, yes, yes}, rungNet,
			[]string{"the agent as a pod on the node is refused: the right to create jobs.batch in namespace shop is missing; next: an ephemeral container with NET_ADMIN and BPF"}, "", 0},
		{"baseline", "auto", "", [...]ruling{policy, {policy: "non-default capabilities"}, yes, yes}, rungPlain,
			[]string{"the agent as a pod on the node is refused: violates PodSecurity \"baseline:latest\": host namespaces; next: an ephemeral container with NET_ADMIN and BPF",
				"the agent as an ephemeral container with NET_ADMIN and BPF is refused: non-default capabilities; next: an ephemeral container with the default capabilities"}, "", 0},
		{"baseline, asked for", "auto", "steal", [...]ruling{policy, policy, yes, yes}, 0, nil, "requests cannot be taken here: the cluster admits no more than an ephemeral container with the default capabilities; ", fail.ClusterForbidden},
		{"baseline, a copy asked for", "auto", "mirror", [...]ruling{policy, policy, yes, yes}, rungPlain, []string{"", ""}, "", 0},
		{"restricted, a copy asked for", "auto", "mirror", [...]ruling{policy, policy, policy, yes}, 0, nil, "requests cannot be mirrored here: the cluster admits no more than an ephemeral container without capabilities; ", fail.ClusterForbidden},
		{"restricted", "ephemeral", "", [...]ruling{{}, policy, policy, yes}, rungBare, []string{"", ""}, "", 0},
		{"pod only", "pod", "", [...]ruling{policy, yes, yes, yes}, 0, nil, "the agent cannot be brought to the pod: the agent as a pod on the node is refused: " + psa, fail.AgentStart},
		{"ephemeral only", "ephemeral", "steal", [...]ruling{yes, yes, yes, yes}, rungNet, nil, "", 0},
		{"nothing", "auto", "", [...]ruling{right, right, right, right}, 0, nil, "the agent cannot be brought to the pod: ", fail.ClusterForbidden},
		{"a refusal without words", "pod", "", [rungsCount]ruling{}, 0, nil, "the agent cannot be brought to the pod: the agent as a pod on the node is refused: it was refused without a word", fail.AgentStart},
	} {
		got, notices, err := decide(wish{mode: test.mode, incoming: test.incoming}, test.answers)
		if test.err != "" {
			if err == nil || !strings.HasPrefix(err.Error(), test.err) || fail.CodeOf(err) != test.code || fail.Hint(err) == "" {
				t.Errorf("%s: %v (%d), want %s (%d)", test.name, err, fail.CodeOf(err), test.err, test.code)
			}
			continue
		}
		if err != nil || got != test.want || len(notices) != len(test.notices) {
			t.Errorf("%s: %s, %q, %v", test.name, got, notices, err)
			continue
		}
		for i, n := range test.notices {
			if n != "" && notices[i] != n {
				t.Errorf("%s: said %q, want %q", test.name, notices[i], n)
			}
		}
	}
}

// Each rung says what it can do, and is found by its name.
func TestRungs(t *testing.T) {
	var names []string
	for r := range rungsCount {
		back, ok := rungByName(r.String())
		if !ok || back != r {
			t.Errorf("%s is not found again", r)
		}
		says := r.says()
		if strings.Contains(strings.Join(says, " "), noSteal) == rungTable[r].steals || strings.HasPrefix(says[0], "the agent is "+rungTable[r].title+": requests") != rungTable[r].steals {
			t.Errorf("%s: %q", r, says)
		}
		names = append(names, fmt.Sprint(r))
	}
	if _, ok := rungByName("no such"); ok || len(names) != 4 {
		t.Errorf("%q", names)
	}
}
