package kube

import (
	"bytes"
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
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
)

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
		pod    func(*corev1.Pod)
	}{
		{"another pod than its Job's", func(*batchv1.Job) {}, "the pod has an agent already, which is another version of stepin's", fail.AgentRefused,
			func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"sh"} }},
		{"other parts than its Job's", func(*batchv1.Job) {}, "the pod has an agent already, which is another version of stepin's", fail.AgentRefused,
			func(p *corev1.Pod) { p.Spec.Volumes[0].Projected.Sources[0].ConfigMap.Name = "planted" }},

		{"no right to exec", func(*batchv1.Job) {}, "the pod's agent is somebody else's, and to join it the right to create pods/exec is missing", fail.ClusterForbidden, nil},
		{"another version", func(j *batchv1.Job) { j.Spec.Template.Spec.Volumes[0].Projected.Sources[0].ConfigMap.Name = "x" }, "the pod has an agent already, which is another version of stepin's (started by bob@desk at", fail.AgentRefused, nil},
		{"another program", func(j *batchv1.Job) { j.Spec.Template.Spec.Containers[0].Command = []string{"sh"} }, "the pod has an agent already, which is another version of stepin's", fail.AgentRefused, nil},
		{"one part more", func(j *batchv1.Job) {
			p := j.Spec.Template.Spec.Volumes[0].Projected
			p.Sources = append(p.Sources, p.Sources[0])
		}, "the pod has an agent already, which was changed by somebody", fail.AgentRefused, nil},
		{"another node", func(j *batchv1.Job) { j.Spec.Template.Spec.NodeName = "elsewhere" }, "the pod has an agent already, which is for another pod", fail.AgentRefused, nil},
		{"another container", func(j *batchv1.Job) { j.Labels[labelContainer] = "mesh" }, `the pod has an agent already, for its container "mesh" and not "orders"`, fail.AgentRefused, nil},
		{"another image", func(j *batchv1.Job) { j.Spec.Template.Spec.Containers[0].Image = "x" }, "the pod has an agent already, which is another version of stepin's", fail.AgentRefused, nil},
		{"another pod", func(j *batchv1.Job) { j.Spec.Template.Spec.Containers[0].Args[1] = "kube/1/2" }, "the pod has an agent already, which is for another pod", fail.AgentRefused, nil},
		{"another argument", func(j *batchv1.Job) {
			j.Spec.Template.Spec.Containers[0].Args = append(j.Spec.Template.Spec.Containers[0].Args, "--x")
		}, "the pod has an agent already, which is another version of stepin's", fail.AgentRefused, nil},
		{"an init container", func(j *batchv1.Job) { j.Spec.Template.Spec.InitContainers = j.Spec.Template.Spec.Containers }, "the pod has an agent already, which has other containers in its pod", fail.AgentRefused, nil},
		{"something over boot", func(j *batchv1.Job) {
			c := &j.Spec.Template.Spec.Containers[0]
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "tmp", MountPath: bootPath})
		}, "the pod has an agent already, which was changed by somebody", fail.AgentRefused, nil},
		{"another key of ours", func(j *batchv1.Job) {
			j.Spec.Template.Spec.Volumes[0].Projected.Sources[0].ConfigMap.Items[1].Key = "x"
		}, "the pod has an agent already, which was changed by somebody", fail.AgentRefused, nil},
		{"a hook", func(j *batchv1.Job) {
			j.Spec.Template.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{}}
		}, "the pod has an agent already, which was changed by somebody", fail.AgentRefused, nil},
		{"another boot", func(j *batchv1.Job) {
			j.Spec.Template.Spec.Volumes[0].Projected.Sources[0].ConfigMap.Name = "planted"
		}, "the pod has an agent already, which is another version of stepin's", fail.AgentRefused, nil},
		{"boot that may change", func(j *batchv1.Job) {
			j.Spec.Template.Spec.Volumes[0].Projected.Sources[0].ConfigMap.Name = "mutable"
		}, "the pod has an agent already, which is another version of stepin's", fail.AgentRefused, nil},
		{"boot that nobody may see", func(j *batchv1.Job) {
			j.Spec.Template.Spec.Volumes[0].Projected.Sources[0].ConfigMap.Name = "secret"
		}, "the pod's agent is somebody else's, and to see whether it can be trusted the right to get configmaps is missing", fail.ClusterForbidden, nil},
		{"none of ours", func(j *batchv1.Job) { j.Spec.Template.Spec.Containers[0].Args = nil }, "the pod has an agent already, which is none of stepin's", fail.AgentRefused, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			job := good()
			test.change(job)
			pod := pod
			job.Labels[labelPod] = job.Spec.Template.Labels[labelPod]
			pod.Labels, pod.Spec = job.Labels, job.Spec.Template.Spec
			if test.pod != nil {
				pod.Spec = *pod.Spec.DeepCopy()
				test.pod(&pod)
			}
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

// An agent in the target's own pod is joined only if its container is one that we would have added.
func TestForeignInside(t *testing.T) {
	jo := jobOptions{pod: exampleTarget(), who: "bob@desk", tokenHash: "x", config: config.Agent{TTL: 1}, port: firstInside}
	exec := shopPods + "/" + exampleTarget().Name + "/exec"
	for name, test := range map[string]struct {
		change func(*corev1.EphemeralContainer)
		image  string // that it was made of
		err    string
	}{
		"good":             {nil, "", "the pod's agent is somebody else's, and to join it the right to create pods/exec is missing"},
		"another image":    {func(e *corev1.EphemeralContainer) { e.Image = "x" }, "", "which is another version"},
		"another script":   {func(e *corev1.EphemeralContainer) { e.Command[2] = "x" }, "", "which is another version"},
		"another argument": {func(e *corev1.EphemeralContainer) { e.Args[0] = "--x" }, "", "which is for another pod"},
		"another pod":      {func(e *corev1.EphemeralContainer) { e.Args[1] = "kube/1/2" }, "", "which is for another pod"},
		"a volume of the pod's": {func(e *corev1.EphemeralContainer) {
			e.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/bin"}}
		}, "", "which was changed by somebody"},
		"a variable": {func(e *corev1.EphemeralContainer) { e.Env = []corev1.EnvVar{{Name: "LD_PRELOAD", Value: "x"}} }, "", "which was changed by somebody"},
		"its image":  {nil, "example/agent:1", "which is of the image example/agent:1 and not carried"},
	} {
		t.Run(name, func(t *testing.T) {
			jo := jo
			jo.config.Image = test.image
			e, err := agentEphemeral(jo, rungNet, 0)
			if err != nil {
				t.Fatal(err)
			}
			if test.change != nil {
				test.change(e)
			}
			o := agentOptions(t)
			o.Pod.Spec.Spec.EphemeralContainers = []corev1.EphemeralContainer{*e}
			s := agentServer(t, map[string]http.HandlerFunc{"GET " + exec: forbid("create", "pods/exec"), "POST " + exec: forbid("create", "pods/exec")})
			_, err = open(t, s).Agent(limited15(t), o)
			if err == nil || !strings.Contains(err.Error(), test.err) || fail.Hint(err) == "" {
				t.Errorf("%v", err)
			}
			if asked := s.count("GET "+exec) > 0; asked != (name == "good") {
				t.Errorf("a token was asked for: %v", asked)
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
					mu.Lock()
					if _, _, err := scheme.Codecs.UniversalDeserializer().Decode(raw, nil, &job); err != nil {
						t.Error(err)
					}
					mu.Unlock()
				}
				r.Body = io.NopCloser(bytes.NewReader(raw))
				echoing(w, r)
			}
			a, err := open(t, s).Agent(limited15(t), agentOptions(t))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = a.Discard(limited15(t)) }()
			mu.Lock()
			defer mu.Unlock()
			taken := job.Spec.Template.Spec.Volumes[0].Projected.Sources[0].ConfigMap.Name
			if change == nil && (taken != honest.Name || len(made) > 0) {
				t.Errorf("it takes %s, and made %q", taken, made)
			}
			if change != nil && (taken == honest.Name || !slices.Equal(slices.Compact(made), []string{taken})) {
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

// What was sent is not sent again, as long as it is the very same that is there.
func TestSentOnce(t *testing.T) {
	u := newUpload([]byte("boot"), []byte("the agent for arm64"))
	at := "GET " + shopMaps + "/" + u.names[0]
	evil := func(m *corev1.ConfigMap) { m.BinaryData["boot"] = []byte("evil") }
	there := func(uid types.UID) http.HandlerFunc {
		return holding(u.configMap(0, "shop", nil), evil, func(m *corev1.ConfigMap) { m.UID = uid })
	}
	for name, test := range map[string]struct {
		now   http.HandlerFunc
		posts int
		same  bool // name
	}{
		"there":   {there("made-here"), 1, true}, // what is immutable cannot have changed
		"gone":    {refusing(404, "NotFound", "gone"), 2, true},
		"another": {there("another"), 3, false},
	} {
		t.Run(name, func(t *testing.T) {
			var s *apiServer
			s = agentServer(t, map[string]http.HandlerFunc{at: test.now, "POST " + shopMaps: func(w http.ResponseWriter, r *http.Request) {
				if s.count("POST "+shopMaps) == 2 && name == "another" {
					refusing(409, "AlreadyExists", "exists")(w, r)
					return
				}
				echoing(w, r)
			}})
			c := open(t, s)
			for range 2 {
				if err := c.send(limited15(t), "shop", newUpload([]byte("boot"), []byte("the agent for arm64"))); err != nil {
					t.Fatal(err)
				}
			}
			if s.count("POST "+shopMaps) != test.posts {
				t.Errorf("sent %d times", s.count("POST "+shopMaps))
			}
			if got := c.sent["shop/"+u.hash].names[0]; (got == u.names[0]) != test.same {
				t.Errorf("it is %s", got)
			}
		})
	}
}

// Two Jobs may become owners of a ConfigMap at the same moment, and a session that is over at once waits for that.
func TestAdopt(t *testing.T) {
	u := newUpload([]byte("boot"), []byte("the agent for arm64"))
	at := "PATCH " + shopMaps + "/" + u.names[0]
	var s *apiServer
	s = agentServer(t, map[string]http.HandlerFunc{at: func(w http.ResponseWriter, r *http.Request) {
		if s.count(at) < 3 {
			refusing(409, "Conflict", "it was changed")(w, r)
			return
		}
		holding(u.configMap(0, "shop", nil))(w, r)
	}})
	c := open(t, s)
	a, err := c.Agent(limited15(t), agentOptions(t))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if n := s.count(at); n != 3 {
		t.Errorf("tried %d times", n)
	}
	_ = a.Discard(limited15(t))
}

// Who may not upload reads which right is missing.
func TestUploadForbidden(t *testing.T) {
	s := agentServer(t, map[string]http.HandlerFunc{"POST " + shopMaps: forbid("create", "configmaps")})
	_, err := open(t, s).Agent(limited15(t), agentOptions(t))
	refused(t, err, fail.ClusterForbidden, "sending the agent to namespace shop is forbidden: the right to create configmaps in namespace shop is missing")
}
