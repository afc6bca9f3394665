package kube

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
)

const (
	shopJobs   = "/apis/batch/v1/namespaces/shop/jobs"
	shopPods   = "/api/v1/namespaces/shop/pods"
	shopMaps   = "/api/v1/namespaces/shop/configmaps"
	shopEvents = "/api/v1/namespaces/shop/events"
	shopAdd    = shopPods + "/orders-7d4b9-x2x5q/ephemeralcontainers"
)

// refusing answers with a Status of the API server's.
func refusing(code int, reason metav1.StatusReason, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { status(w, code, reason, message) }
}

// echoing answers a create with what was sent, and a UID.
func echoing(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	object, kind, err := scheme.Codecs.UniversalDeserializer().Decode(raw, nil, nil)
	if err != nil {
		status(w, http.StatusBadRequest, "BadRequest", err.Error())
		return
	}
	object.GetObjectKind().SetGroupVersionKind(*kind)
	m := object.(metav1.Object)
	m.SetUID("made-here")
	m.SetCreationTimestamp(metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)))
	answer(object)(w, r)
}

// agentServer answers everything that a start asks with yes; over is put over it.
func agentServer(t *testing.T, over map[string]http.HandlerFunc) *apiServer {
	node := &corev1.Node{TypeMeta: metav1.TypeMeta{Kind: "Node", APIVersion: "v1"}, Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{Architecture: "arm64"}}}
	handlers := map[string]http.HandlerFunc{
		"POST " + shopJobs: echoing, "POST " + shopPods: echoing, "POST " + shopMaps: echoing, "PATCH " + shopAdd: answer(&corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}}),
		"GET /api/v1/nodes/node-1": answer(node),
		"GET " + shopPods:          silence, "GET " + shopEvents: silence,
	}
	for at, h := range over {
		handlers[at] = h
	}
	return newServer(t, handlers)
}

// silence is a watch on which nothing happens.
func silence(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	<-r.Context().Done()
}

// telling is a watch that begins with these objects.
func telling(kind string, objects ...any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for _, o := range objects {
			_ = json.NewEncoder(w).Encode(map[string]any{"type": kind, "object": o})
		}
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
}

func agentOptions(t *testing.T) AgentOptions {
	return AgentOptions{
		Config: config.Agent{Mode: "auto"}, Pod: exampleTarget(), Who: "ada@laptop", Tokens: t.TempDir() + "/stepin",
		Binary: func(arch string) ([]byte, int, error) { return []byte("the agent for " + arch), 1, nil },
		Boot:   func(arch string) ([]byte, error) { return []byte("boot"), nil },
	}
}

func limited15(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// What the API server says to the dry runs is what the ladder gets to know.
func TestProbe(t *testing.T) {
	const psa = `pods "x" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostPID=true)`
	warning := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Warning", `299 - "would violate PodSecurity \"baseline:latest\": host namespaces (hostPID=true)"`)
		echoing(w, r)
	}
	noPods := forbid("create", "pods")
	for _, test := range []struct {
		name string
		over map[string]http.HandlerFunc
		want ruling
	}{
		{"admitted", nil, ruling{admitted: true}},
		{"PodSecurity", map[string]http.HandlerFunc{"POST " + shopPods: refusing(403, "Forbidden", psa)}, ruling{policy: psa[len(`pods "x" is forbidden: `):]}},
		{"no right to Jobs", map[string]http.HandlerFunc{"POST " + shopJobs: forbid("create", "jobs")}, ruling{right: "create jobs in namespace shop"}},
		{"no right to pods", map[string]http.HandlerFunc{"POST " + shopPods: noPods}, ruling{admitted: true}},
		{"no right to pods, warned", map[string]http.HandlerFunc{"POST " + shopPods: noPods, "POST " + shopJobs: warning},
			ruling{policy: `would violate PodSecurity "baseline:latest": host namespaces (hostPID=true)`}},
		{"warned for nothing", map[string]http.HandlerFunc{"POST " + shopJobs: warning}, ruling{admitted: true}},
		{"quota", map[string]http.HandlerFunc{"POST " + shopPods: refusing(403, "Forbidden", `pods "x" is forbidden: exceeded quota: small, requested: pods=1`)}, ruling{policy: "exceeded quota: small, requested: pods=1"}},
		{"webhook", map[string]http.HandlerFunc{"POST " + shopPods: refusing(400, "BadRequest", `admission webhook "no.example" denied the request: not here`)}, ruling{policy: `admission webhook "no.example" denied the request: not here`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := open(t, agentServer(t, test.over))
			p, err := c.probe(limited15(t), jobOptions{pod: exampleTarget(), config: config.Agent{Mode: "auto"}})
			if err != nil {
				t.Fatal(err)
			}
			if p.answers[rungJob] != test.want || p.exists || p.arch != "arm64" || !p.answers[rungBare].admitted {
				t.Errorf("%+v", p)
			}
		})
	}
}

// A cold start is these requests and no others, and a start that is given up leaves nothing.
func TestColdStart(t *testing.T) {
	gone := refusing(404, "NotFound", "gone")
	s := agentServer(t, map[string]http.HandlerFunc{"DELETE " + shopJobs + "/" + agentName(exampleTarget().UID): answer(&metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Success"})})
	c := open(t, s)
	o := agentOptions(t)
	u := newUpload([]byte("boot"), []byte("the agent for arm64"))
	for _, name := range u.names {
		s.mu.Lock()
		s.handlers["PATCH "+shopMaps+"/"+name], s.handlers["GET "+shopMaps+"/"+name] = answer(&corev1.ConfigMap{TypeMeta: metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"}}), gone
		s.mu.Unlock()
	}
	a, err := c.Agent(limited15(t), o)
	if err != nil {
		t.Fatal(err)
	}
	if a.Rung() != "pod" || !a.Steals() || len(a.Token()) != 32 || len(a.Says()) != 1 {
		t.Errorf("%s, %q", a.Rung(), a.Says())
	}
	for at, want := range map[string]int{"POST " + shopJobs: 2, "POST " + shopPods: 1, "POST " + shopMaps: 1, "PATCH " + shopAdd: 3, "GET /api/v1/nodes/node-1": 1} {
		if got := s.count(at); got != want {
			t.Errorf("%d times %s, want %d", got, at, want)
		}
	}
	if err := a.Discard(limited15(t)); err != nil {
		t.Error(err)
	}
	if s.count("DELETE "+shopJobs+"/"+agentName(o.Pod.UID)) != 1 {
		t.Error("the Job is left")
	}
	store, err := openTickets(o.Tokens)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := store.load(ticketKey(c.Server(), o.Pod.UID)); ok {
		t.Error("the token is left")
	}
}

// What the cluster says of an agent that does not come up is what the user reads, at once.
func TestDialEndsEarly(t *testing.T) {
	yes := true
	owned := metav1.ObjectMeta{Name: "agent-pod", Namespace: "shop", OwnerReferences: []metav1.OwnerReference{{Kind: "Job", UID: "made-here", Controller: &yes}}}
	withStatus := func(s corev1.PodStatus) any {
		return &corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, ObjectMeta: owned, Status: s}
	}
	container := func(s corev1.ContainerState) any {
		return withStatus(corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: agentContainer, State: s}}})
	}
	event := func(kind, uid, kindOf, why, text string) any {
		return &corev1.Event{TypeMeta: metav1.TypeMeta{Kind: "Event", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "shop"},
			InvolvedObject: corev1.ObjectReference{Kind: kind, UID: "made-here"}, Type: kindOf, Reason: why, Message: text}
	}
	for _, test := range []struct {
		name, path, kind string
		object           any
		want             string
	}{
		{"quota", shopEvents, "ADDED", event("Job", "made-here", "Warning", "FailedCreate", "Error creating: exceeded quota"), "Error creating: exceeded quota"},
		{"image", shopPods, "MODIFIED", container(corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "no such host"}}), "its container: ErrImagePull (no such host)"},
		{"its own last words", shopPods, "MODIFIED", container(corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Message: "log\nstepin-agent: no room\n"}}), "no room"},
		{"node", shopPods, "MODIFIED", withStatus(corev1.PodStatus{Phase: corev1.PodFailed, Reason: "OutOfcpu", Message: "too small"}), "the node: OutOfcpu (too small)"},
		{"deleted", shopPods, "DELETED", withStatus(corev1.PodStatus{}), ""}, // in which words depends on whether it was made before

	} {
		t.Run(test.name, func(t *testing.T) {
			s := agentServer(t, map[string]http.HandlerFunc{"GET " + test.path: telling(test.kind, test.object)})
			o := agentOptions(t)
			o.Config.Mode = "pod"
			a, err := open(t, s).Agent(limited15(t), o)
			if err != nil {
				t.Fatal(err)
			}
			_, err = a.Dial(limited15(t))
			want := "the agent for pod orders-7d4b9-x2x5q is not there: " + test.want
			if err == nil || err.Error() != want && (test.want != "" || !strings.HasPrefix(err.Error(), want)) || !errors.Is(err, ErrAgentGone) || fail.Hint(err) == "" {
				t.Errorf("%v, want %s", err, want)
			}
			_ = a.Discard(limited15(t))
		})
	}
}

// Only what is ours, old and nobody's is swept, by the server's clock.
func TestSweep(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	item := func(name string, age time.Duration, owner string) metav1.PartialObjectMetadata {
		m := metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "u", ResourceVersion: "7", CreationTimestamp: metav1.NewTime(now.Add(-age))}}
		if owner != "" {
			m.OwnerReferences = []metav1.OwnerReference{{Kind: "Job", Name: owner}}
		}
		return m
	}
	var mu sync.Mutex
	var deleted []string
	s := newServer(t, map[string]http.HandlerFunc{
		"GET " + shopMaps: func(w http.ResponseWriter, r *http.Request) {
			if got := r.URL.Query().Get("labelSelector"); got != "app.kubernetes.io/managed-by=stepin" || !strings.Contains(r.Header.Get("Accept"), "PartialObjectMetadata") {
				t.Errorf("selector %q, %s", got, r.Header.Get("Accept"))
			}
			answer(&metav1.PartialObjectMetadataList{TypeMeta: metav1.TypeMeta{Kind: "PartialObjectMetadataList", APIVersion: "meta.k8s.io/v1"},
				Items: []metav1.PartialObjectMetadata{item("old", time.Hour, ""), item("owned", time.Hour, "job"), item("young", time.Minute, "")}})(w, r)
		},
	})
	for _, name := range []string{"old", "owned", "young"} {
		s.handlers["DELETE "+shopMaps+"/"+name] = func(w http.ResponseWriter, r *http.Request) {
			var o metav1.DeleteOptions
			if err := json.NewDecoder(r.Body).Decode(&o); err != nil || o.Preconditions == nil || *o.Preconditions.ResourceVersion != "7" {
				t.Errorf("%+v, %v", o, err)
			}
			mu.Lock()
			defer mu.Unlock()
			deleted = append(deleted, name)
			answer(&metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Success"})(w, r)
		}
	}
	if err := open(t, s).sweep(limited15(t), "shop", now); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(deleted, []string{"old"}) {
		t.Errorf("deleted %q", deleted)
	}
}
