package kube

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
)

// A Job whose pod waits in vain is replaced, and no watch is left of any way that joining ends.
func TestJoinEnds(t *testing.T) {
	u := newUpload([]byte("boot"), []byte("the agent for arm64"))
	job, err := agentJob(jobOptions{pod: exampleTarget(), who: "bob@desk", agent: u.hash, parts: u.names})
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	job.UID = "bobs"
	at := shopJobs + "/" + job.Name
	exec := shopPods + "/bobs-pod/exec"
	for name, test := range map[string]struct {
		pods func(*corev1.Pod) []corev1.Pod
		err  string // "" = replaced
	}{
		"stuck": {func(p *corev1.Pod) []corev1.Pod {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: agentContainer, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff"}}}}
			return []corev1.Pod{*p}
		}, ""},
		"no exec": {func(p *corev1.Pod) []corev1.Pod { return []corev1.Pod{*p} }, "to join it the right to create pods/exec is missing"},
		"foreign": {func(p *corev1.Pod) []corev1.Pod { p.Spec.InitContainers = p.Spec.Containers; return []corev1.Pod{*p} }, "which has other containers in its pod"},
		"no pod":  {func(*corev1.Pod) []corev1.Pod { return nil }, "is not there: quota"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: "bobs-pod", Namespace: "shop", Labels: job.Labels,
				OwnerReferences: []metav1.OwnerReference{{Kind: "Job", Name: job.Name, UID: job.UID, Controller: &yes}}}, Spec: job.Spec.Template.Spec}
			var watches atomic.Int64 // under way
			var mu sync.Mutex
			removed := false
			watching := func(h http.HandlerFunc) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					watches.Add(1)
					defer watches.Add(-1)
					h(w, r)
				}
			}
			s := agentServer(t, map[string]http.HandlerFunc{
				"POST " + shopJobs: func(w http.ResponseWriter, r *http.Request) {
					mu.Lock()
					defer mu.Unlock()
					if removed {
						echoing(w, r)
						return
					}
					refusing(409, "AlreadyExists", "exists")(w, r)
				},
				"GET " + at: func(w http.ResponseWriter, r *http.Request) {
					mu.Lock()
					defer mu.Unlock()
					if removed {
						refusing(404, "NotFound", "gone")(w, r)
						return
					}
					answer(job)(w, r)
				},
				"DELETE " + at: func(w http.ResponseWriter, r *http.Request) {
					mu.Lock()
					defer mu.Unlock()
					if uid := precondition(t, r); !removed && uid != "bobs" {
						t.Errorf("UID %q", uid)
					}
					removed = true
					answer(&metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Success"})(w, r)
				},
				"GET " + shopMaps + "/" + u.names[0]: holding(u.configMap(0, "shop", nil)),
				"GET " + shopPods: func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Query().Get("watch") != "" {
						watching(silence)(w, r)
						return
					}
					answer(&corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: test.pods(&pod)})(w, r)
				},
				"GET " + shopEvents: watching(telling("ADDED", &corev1.Event{TypeMeta: metav1.TypeMeta{Kind: "Event", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "shop"},
					InvolvedObject: corev1.ObjectReference{Kind: "Job", UID: "bobs"}, Type: "Warning", Reason: map[bool]string{true: "FailedCreate", false: "x"}[name == "no pod"], Message: "quota"})),
				"GET " + exec: forbid("create", "pods/exec"), "POST " + exec: forbid("create", "pods/exec"),
			})
			a, err := open(t, s).Agent(limited15(t), agentOptions(t))
			mu.Lock()
			replaced := removed
			mu.Unlock()
			if test.err == "" {
				if err != nil || !replaced {
					t.Fatalf("replaced %v, %v", replaced, err)
				}
				_ = a.Discard(limited15(t))
			} else if err == nil || !strings.Contains(err.Error(), test.err) || replaced {
				t.Errorf("replaced %v, %v", replaced, err)
			}
			for end := time.Now().Add(5 * time.Second); watches.Load() > 0; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("a watch is left")
				}
			}
		})
	}
}

// precondition is the UID that a DELETE wants its object to have.
func precondition(t *testing.T, r *http.Request) string {
	raw, _ := io.ReadAll(r.Body)
	var o metav1.DeleteOptions
	if _, _, err := scheme.Codecs.UniversalDeserializer().Decode(raw, nil, &o); err != nil || o.Preconditions == nil || o.Preconditions.UID == nil {
		t.Errorf("%+v, %v", o, err)
		return ""
	}
	return string(*o.Preconditions.UID)
}

// A Job is removed by its UID, and not at all once its agent runs: others may have joined it.
func TestDiscard(t *testing.T) {
	yes := true
	pod := &corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: "agent-pod", Namespace: "shop",
		OwnerReferences: []metav1.OwnerReference{{Kind: "Job", UID: "made-here", Controller: &yes}}}}
	container := func(s corev1.ContainerState) *corev1.Pod {
		p := pod.DeepCopy()
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: agentContainer, State: s}}
		return p
	}
	for name, test := range map[string]struct {
		pod     *corev1.Pod
		known   func(state) bool
		removed int
	}{
		"pending": {pod, func(s state) bool { return s.pod != "" }, 1},
		"runs":    {container(corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}), func(s state) bool { return s.up }, 0},
		"ended":   {container(corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}), func(s state) bool { return s.ended }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			at := "DELETE " + shopJobs + "/" + agentName(exampleTarget().UID)
			s := agentServer(t, map[string]http.HandlerFunc{
				"GET " + shopPods: telling("MODIFIED", test.pod),
				at: func(w http.ResponseWriter, r *http.Request) {
					if uid := precondition(t, r); uid != "made-here" {
						t.Errorf("UID %q", uid)
					}
					refusing(409, "Conflict", "another UID")(w, r) // it is somebody else's already
				},
			})
			o := agentOptions(t)
			c := open(t, s)
			a, err := c.Agent(limited15(t), o)
			if err != nil {
				t.Fatal(err)
			}
			for st := a.w.state(); !test.known(st); st = a.w.state() {
				select {
				case <-st.change:
				case <-limited15(t).Done():
					t.Fatal("nothing is seen of the pod")
				}
			}
			if _, err := a.tickets.save(a.key, ticket{Token: a.Token(), Pod: "agent-pod", Port: agentPort}); err != nil {
				t.Fatal(err)
			}
			if err := a.Discard(limited15(t)); err != nil {
				t.Error(err)
			}
			if n := s.count(at); n != test.removed {
				t.Errorf("removed %d times", n)
			}
			if _, ok := a.tickets.load(a.key); ok != (test.removed == 0) {
				t.Errorf("the token is there: %v", ok)
			}
		})
	}
}
