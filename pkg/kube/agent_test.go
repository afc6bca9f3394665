package kube

import (
	"bytes"
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

	batchv1 "k8s.io/api/batch/v1"
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

// An agent that somebody else has started is joined only if it is what we would have started.
func TestForeignAgent(t *testing.T) {
	good := func() *batchv1.Job {
		u := newUpload([]byte("boot"), []byte("the agent for arm64"))
		job, err := agentJob(jobOptions{pod: exampleTarget(), who: "bob@desk", tokenHash: "x", agent: u.hash, parts: u.names})
		if err != nil {
			t.Fatal(err)
		}
		job.UID = "bobs"
		return job
	}
	yes := true
	pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "bobs-pod", Namespace: "shop",
		OwnerReferences: []metav1.OwnerReference{{Kind: "Job", Name: "x", UID: "bobs", Controller: &yes}}}}
	exec := shopPods + "/bobs-pod/exec"
	honest := newUpload([]byte("boot"), []byte("the agent for arm64"))
	for _, test := range []struct {
		name   string
		change func(*batchv1.Job)
		err    string
		code   fail.Code
	}{
		{"no right to exec", func(*batchv1.Job) {}, "the pod's agent is somebody else's, and to join it the right to create pods/exec is missing", fail.ClusterForbidden},
		{"another version", func(j *batchv1.Job) { j.Spec.Template.Spec.Volumes[0].Projected.Sources[0].ConfigMap.Name = "x" }, "the pod has an agent already, which is another version of stepin's (started by bob@desk at", fail.AgentRefused},
		{"another program", func(j *batchv1.Job) { j.Spec.Template.Spec.Containers[0].Command = []string{"sh"} }, "the pod has an agent already, which is another version of stepin's", fail.AgentRefused},
		{"one part more", func(j *batchv1.Job) {
			p := j.Spec.Template.Spec.Volumes[0].Projected
			p.Sources = append(p.Sources, p.Sources[0])
		}, "the pod has an agent already, which was changed by somebody", fail.AgentRefused},
		{"another node", func(j *batchv1.Job) { j.Spec.Template.Spec.NodeName = "elsewhere" }, "the pod has an agent already, which is for another pod", fail.AgentRefused},
		{"another container", func(j *batchv1.Job) { j.Labels[labelContainer] = "mesh" }, `the pod has an agent already, for its container "mesh" and not "orders"`, fail.AgentRefused},
		{"another image", func(j *batchv1.Job) { j.Spec.Template.Spec.Containers[0].Image = "x" }, "the pod has an agent already, which is another version of stepin's", fail.AgentRefused},
		{"another pod", func(j *batchv1.Job) { j.Spec.Template.Spec.Containers[0].Args[1] = "kube/1/2" }, "the pod has an agent already, which is for another pod", fail.AgentRefused},
		{"another argument", func(j *batchv1.Job) {
			j.Spec.Template.Spec.Containers[0].Args = append(j.Spec.Template.Spec.Containers[0].Args, "--x")
		}, "the pod has an agent already, which is another version of stepin's", fail.AgentRefused},
		{"an init container", func(j *batchv1.Job) { j.Spec.Template.Spec.InitContainers = j.Spec.Template.Spec.Containers }, "the pod has an agent already, which has other containers in its pod", fail.AgentRefused},
		{"something over boot", func(j *batchv1.Job) {
			c := &j.Spec.Template.Spec.Containers[0]
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "tmp", MountPath: bootPath})
		}, "the pod has an agent already, which was changed by somebody", fail.AgentRefused},
		{"another key of ours", func(j *batchv1.Job) {
			j.Spec.Template.Spec.Volumes[0].Projected.Sources[0].ConfigMap.Items[1].Key = "x"
		}, "the pod has an agent already, which was changed by somebody", fail.AgentRefused},
		{"a hook", func(j *batchv1.Job) {
			j.Spec.Template.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{}}
		}, "the pod has an agent already, which was changed by somebody", fail.AgentRefused},
		{"another boot", func(j *batchv1.Job) {
			j.Spec.Template.Spec.Volumes[0].Projected.Sources[0].ConfigMap.Name = "planted"
		}, "the pod has an agent already, which is another version of stepin's", fail.AgentRefused},
		{"boot that may change", func(j *batchv1.Job) {
			j.Spec.Template.Spec.Volumes[0].Projected.Sources[0].ConfigMap.Name = "mutable"
		}, "the pod has an agent already, which is another version of stepin's", fail.AgentRefused},
		{"boot that nobody may see", func(j *batchv1.Job) {
			j.Spec.Template.Spec.Volumes[0].Projected.Sources[0].ConfigMap.Name = "secret"
		}, "the pod's agent is somebody else's, and to see whether it can be trusted the right to get configmaps is missing", fail.ClusterForbidden},
		{"none of ours", func(j *batchv1.Job) { j.Spec.Template.Spec.Containers[0].Args = nil }, "the pod has an agent already, which is none of stepin's", fail.AgentRefused},
	} {
		t.Run(test.name, func(t *testing.T) {
			job := good()
			test.change(job)
			s := agentServer(t, map[string]http.HandlerFunc{
				"POST " + shopJobs:                 refusing(409, "AlreadyExists", "exists"),
				"GET " + shopJobs + "/" + job.Name: answer(job),
				"GET " + shopPods: func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Query().Get("watch") != "" {
						silence(w, r)
						return
					}
					answer(&corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []corev1.Pod{pod}})(w, r)
				},
				"GET " + exec: forbid("create", "pods/exec"), "POST " + exec: forbid("create", "pods/exec"),
				"GET " + shopMaps + "/" + honest.names[0]: holding(honest.configMap(0, "shop", nil)),
				"GET " + shopMaps + "/mutable":            holding(honest.configMap(0, "shop", nil), func(m *corev1.ConfigMap) { m.Immutable = nil }),
				"GET " + shopMaps + "/planted":            holding(honest.configMap(0, "shop", nil), func(m *corev1.ConfigMap) { m.BinaryData["boot"] = []byte("evil") }),
				"GET " + shopMaps + "/secret":             forbid("get", "configmaps"),
			})
			_, err := open(t, s).Agent(limited15(t), agentOptions(t))
			if err == nil || !strings.HasPrefix(err.Error(), test.err) || fail.CodeOf(err) != test.code || fail.Hint(err) == "" {
				t.Errorf("%v (%d), hint %q", err, fail.CodeOf(err), fail.Hint(err))
			}
			if test.name != "no right to exec" && s.count("GET "+exec)+s.count("POST "+exec) > 0 {
				t.Error("a token was asked for")
			}
		})
	}
}

// holding answers with a ConfigMap, changed.
func holding(m *corev1.ConfigMap, change ...func(*corev1.ConfigMap)) http.HandlerFunc {
	m = m.DeepCopy()
	m.TypeMeta, m.UID = metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"}, "there"
	for _, f := range change {
		f(m)
	}
	return answer(m)
}

// What is found under the name of a ConfigMap of ours is used only if it is ours and stays so: whoever may create ConfigMaps
// would otherwise choose what runs as root on the node.
func TestPlanted(t *testing.T) {
	u := newUpload([]byte("boot"), []byte("the agent for arm64"))
	honest := u.configMap(0, "shop", nil)
	for name, change := range map[string]func(*corev1.ConfigMap){
		"the same":         nil,
		"another boot":     func(m *corev1.ConfigMap) { m.BinaryData["boot"] = []byte("evil") },
		"another agent":    func(m *corev1.ConfigMap) { m.BinaryData["agent.0"] = nil },
		"one key more":     func(m *corev1.ConfigMap) { m.BinaryData["agent.1"] = []byte("evil") },
		"boot as text":     func(m *corev1.ConfigMap) { m.Data = map[string]string{"boot": "evil"} },
		"it can change":    func(m *corev1.ConfigMap) { no := false; m.Immutable = &no },
		"it is on its way": func(m *corev1.ConfigMap) { m.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} },
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var made []string
			there := holding(honest)
			if change != nil {
				there = holding(honest, change)
			}
			s := agentServer(t, map[string]http.HandlerFunc{
				"GET " + shopMaps + "/" + honest.Name: there,
				"POST " + shopMaps: func(w http.ResponseWriter, r *http.Request) {
					raw, _ := io.ReadAll(r.Body)
					var m corev1.ConfigMap
					if _, _, err := scheme.Codecs.UniversalDeserializer().Decode(raw, nil, &m); err != nil || m.Name == honest.Name {
						refusing(409, "AlreadyExists", "exists")(w, r)
						return
					}
					mu.Lock()
					made = append(made, m.Name)
					mu.Unlock()
					r.Body = io.NopCloser(bytes.NewReader(raw))
					echoing(w, r)
				},
			})
			var job batchv1.Job
			s.handlers["POST "+shopJobs] = func(w http.ResponseWriter, r *http.Request) {
				raw, _ := io.ReadAll(r.Body)
				if r.URL.Query().Get("dryRun") == "" {
					if _, _, err := scheme.Codecs.UniversalDeserializer().Decode(raw, nil, &job); err != nil {
						t.Error(err)
					}
				}
				r.Body = io.NopCloser(bytes.NewReader(raw))
				echoing(w, r)
			}
			a, err := open(t, s).Agent(limited15(t), agentOptions(t))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = a.Discard(limited15(t)) }()
			taken := job.Spec.Template.Spec.Volumes[0].Projected.Sources[0].ConfigMap.Name
			if change == nil && (taken != honest.Name || len(made) > 0) {
				t.Errorf("it takes %s, and made %q", taken, made)
			}
			if change != nil && (taken == honest.Name || !slices.Equal(made, []string{taken})) {
				t.Errorf("it takes %s, and made %q", taken, made)
			}
		})
	}
}

// A ConfigMap that vanished after it was looked at, and that somebody else has put his own in the place of, ends the Job that
// would have executed it.
func TestPlantedLate(t *testing.T) {
	u := newUpload([]byte("boot"), []byte("the agent for arm64"))
	at := shopMaps + "/" + u.names[0]
	made := 0
	ended := make(chan struct{})
	s := agentServer(t, map[string]http.HandlerFunc{
		"POST " + shopMaps: func(w http.ResponseWriter, r *http.Request) {
			if made++; made > 1 {
				refusing(409, "AlreadyExists", "exists")(w, r)
				return
			}
			echoing(w, r)
		},
		"PATCH " + at: refusing(422, "Invalid", "metadata.uid: field is immutable"),
		"GET " + at:   holding(u.configMap(0, "shop", nil), func(m *corev1.ConfigMap) { m.BinaryData["boot"] = []byte("evil") }),
		"DELETE " + shopJobs + "/" + agentName(exampleTarget().UID): func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-ended:
			default:
				close(ended)
			}
			answer(&metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Success"})(w, r)
		},
	})
	a, err := open(t, s).Agent(limited15(t), agentOptions(t))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-limited15(t).Done():
		t.Error("the Job is left")
	}
	_ = a.Discard(limited15(t))
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
		{"its own last words", shopPods, "MODIFIED", container(corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Message: "log\nstepin-agent: no room\n"}}), "stepin-agent: no room"},
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
