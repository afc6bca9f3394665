package kube

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// agentPod is the pod that the Job of a target's agent makes.
func agentPod(t *testing.T, name string, target *corev1.Pod, parts []string) corev1.Pod {
	t.Helper()
	job, err := agentJob(jobOptions{pod: Pod{Namespace: "shop", Name: target.Name, UID: string(target.UID), Node: "node-1", Container: "orders", Spec: target},
		who: "ann@desk", tokenHash: "x", parts: parts})
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	p := corev1.Pod{ObjectMeta: job.Spec.Template.ObjectMeta, Spec: job.Spec.Template.Spec}
	p.Name, p.Namespace = name, "shop"
	p.CreationTimestamp = metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	p.OwnerReferences = []metav1.OwnerReference{{Kind: "Job", Name: job.Name, Controller: &yes}}
	return p
}

// someTarget is a replica of a Deployment.
func someTarget(name string) corev1.Pod {
	yes := true
	p := *exampleTarget().Spec.DeepCopy()
	p.Name, p.UID = name, types.UID("uid-"+name)
	p.Labels = map[string]string{"pod-template-hash": "7d4b9"}
	p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "orders-7d4b9", Controller: &yes}}
	return p
}

// podLists answers a list, with a selector only those that have the label of an agent's pod.
func podLists(all ...corev1.Pod) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		list := &corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}}
		for _, p := range all {
			if !strings.Contains(r.URL.Query().Get("labelSelector"), labelPod) || p.Labels[labelPod] != "" {
				list.Items = append(list.Items, p)
			}
		}
		answer(list)(w, r)
	}
}

// TestAgents: by pods alone, with whom the user has a token for.
func TestAgents(t *testing.T) {
	beside, within, without, finished := someTarget("orders-7d4b9-1"), someTarget("orders-7d4b9-2"), someTarget("orders-7d4b9-3"), someTarget("orders-7d4b9-4")
	e, err := agentEphemeral(jobOptions{pod: Pod{Namespace: "shop", Name: within.Name, UID: string(within.UID), Container: "orders", Spec: &within}, who: "bob@desk", port: firstInside}, rungPlain, 0)
	if err != nil {
		t.Fatal(err)
	}
	within.Spec.EphemeralContainers = []corev1.EphemeralContainer{*e}
	within.Status.EphemeralContainerStatuses = []corev1.ContainerStatus{{Name: e.Name, State: corev1.ContainerState{
		Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))}}}}
	one, other, over := agentPod(t, "one", &beside, []string{"part"}), agentPod(t, "other", &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "elsewhere"}, Spec: beside.Spec}, []string{"part"}),
		agentPod(t, "over", &finished, []string{"part"})
	over.Status.Phase = corev1.PodSucceeded
	impostor := someTarget("impostor")
	impostor.Labels = map[string]string{labelManager: ourName, labelPod: "x"}
	s := newServer(t, map[string]http.HandlerFunc{"GET " + shopPods: podLists(beside, within, without, finished, one, other, over, impostor)})
	c, dir := open(t, s), filepath.Join(t.TempDir(), "own")
	store, err := openTickets(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.save(ticketKey(c.Server(), string(beside.UID)), ticket{Token: "secret", Namespace: "shop", Pod: "one", Container: agentContainer, Port: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := store.save(ticketKey(c.Server(), string(within.UID)), ticket{Token: "of an earlier one", Namespace: "shop", Pod: within.Name, Container: "stepin-agent-7", Port: 1}); err != nil {
		t.Fatal(err)
	}
	found, missing, err := c.Agents(limited15(t), false, dir)
	if err != nil || len(missing) > 0 || len(found) != 3 {
		t.Fatalf("%d agents, %q, %v", len(found), missing, err)
	}
	for i, want := range []Running{
		{Target: "", Pod: "elsewhere", Who: "ann@desk", Rung: "pod"},
		{Target: "deployment/orders", Pod: beside.Name, Who: "ann@desk", Rung: "pod"},
		{Target: "deployment/orders", Pod: within.Name, Who: "bob@desk", Rung: "ephemeral"},
	} {
		r := found[i]
		if r.Namespace != "shop" || r.Target != want.Target || r.Pod != want.Pod || r.Container != "orders" || r.Who != want.Who || r.Rung != want.Rung ||
			r.Since.IsZero() || r.Known() != (i == 1) {
			t.Errorf("%+v, want %+v", r, want)
		}
	}
	if s.count("GET "+shopPods) != 2 {
		t.Error("more was asked than the pods")
	}
}

// TestAgentsRefused: the missing right is named, and a token that cannot be had is no token.
func TestAgentsRefused(t *testing.T) {
	if _, _, err := open(t, newServer(t, map[string]http.HandlerFunc{"GET " + shopPods: forbid("list", "pods")})).Agents(limited15(t), false, filepath.Join(t.TempDir(), "own")); fail.CodeOf(err) != fail.ClusterForbidden ||
		!strings.Contains(err.Error(), "list pods in namespace shop") {
		t.Error(err)
	}
	target := someTarget("orders-7d4b9-1")
	exec := shopPods + "/one/exec"
	c := open(t, newServer(t, map[string]http.HandlerFunc{"GET " + shopPods: podLists(target, agentPod(t, "one", &target, []string{"part"})),
		"GET " + exec: forbid("create", "pods/exec"), "POST " + exec: forbid("create", "pods/exec")}))
	found, _, err := c.Agents(limited15(t), false, filepath.Join(t.TempDir(), "own"))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	if err := found[0].Join(limited15(t), "bob@desk"); fail.CodeOf(err) != fail.ClusterForbidden || !strings.Contains(err.Error(), "pods/exec") || found[0].Known() {
		t.Error(err)
	}
}

// TestJoinByPod: who may not make a Job, nor look at one, finds the agent by its pod, and no other pod for it.
func TestJoinByPod(t *testing.T) {
	o := agentOptions(t)
	u := newUpload([]byte("boot"), []byte("the agent for arm64"))
	target := *o.Pod.Spec
	good := agentPod(t, "one", &target, u.names)
	another := agentPod(t, "two", &target, []string{"x"})
	stray := agentPod(t, "three", &target, u.names)
	stray.OwnerReferences = nil
	exec := "GET " + shopPods + "/one/exec"
	for _, test := range []struct {
		name string
		pods []corev1.Pod
		err  string
	}{
		{"without pods/exec", []corev1.Pod{stray, good}, "the pod's agent is somebody else's, and to join it the right to create pods/exec is missing"},
		{"another version", []corev1.Pod{another}, "the pod has an agent already, which is another version of stepin's (started by ann@desk at"},
		{"none", []corev1.Pod{stray}, "the agent cannot be brought to the pod: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := agentServer(t, map[string]http.HandlerFunc{"POST " + shopJobs: forbid("create", "jobs"), "POST " + shopPods: forbid("create", "pods"),
				"PATCH " + shopAdd: forbid("patch", "pods/ephemeralcontainers"), "GET " + shopPods: podLists(test.pods...),
				"GET " + shopMaps + "/" + u.names[0]: holding(u.configMap(0, "shop", nil)),
				exec:                                 forbid("create", "pods/exec"), "POST" + strings.TrimPrefix(exec, "GET"): forbid("create", "pods/exec")})
			_, err := open(t, s).Agent(limited15(t), agentOptions(t))
			if err == nil || !strings.HasPrefix(err.Error(), test.err) || fail.Hint(err) == "" {
				t.Error(err)
			}
		})
	}
}
