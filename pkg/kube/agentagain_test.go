package kube

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// jobServer keeps one Job and its pod, as a cluster does.
type jobServer struct {
	*apiServer
	mu      sync.Mutex
	job     *batchv1.Job
	jobs    int
	deleted []metav1.DeletionPropagation
	pod     func(*corev1.Pod) // what has become of the first Job's pod
}

const oneJob = "made-here" // the UID that echoing gives

func newJobServer(t *testing.T) *jobServer {
	s := &jobServer{}
	u := newUpload([]byte("boot"), []byte("the agent for arm64"))
	at := shopJobs + "/" + agentName(exampleTarget().UID)
	s.apiServer = agentServer(t, map[string]http.HandlerFunc{
		"POST " + shopJobs: func(w http.ResponseWriter, r *http.Request) {
			raw, _ := io.ReadAll(r.Body)
			job := &batchv1.Job{}
			if _, _, err := scheme.Codecs.UniversalDeserializer().Decode(raw, nil, job); err != nil {
				t.Error(err)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.job != nil {
				refusing(409, "AlreadyExists", "exists")(w, r)
				return
			}
			job.TypeMeta, job.UID = metav1.TypeMeta{Kind: "Job", APIVersion: "batch/v1"}, oneJob
			if r.URL.Query().Get("dryRun") == "" {
				s.job = job
				s.jobs++
			}
			answer(job)(w, r)
		},
		"GET " + at: func(w http.ResponseWriter, r *http.Request) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.job == nil {
				refusing(404, "NotFound", "gone")(w, r)
				return
			}
			answer(s.job)(w, r)
		},
		"DELETE " + at: func(w http.ResponseWriter, r *http.Request) {
			raw, _ := io.ReadAll(r.Body)
			var o metav1.DeleteOptions
			if _, _, err := scheme.Codecs.UniversalDeserializer().Decode(raw, nil, &o); err != nil {
				t.Error(err)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.deleted = append(s.deleted, *o.PropagationPolicy)
			if *o.PropagationPolicy == metav1.DeletePropagationBackground { // the name is free at once
				s.job = nil
			}
			answer(&metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Success"})(w, r)
		},
		"GET " + shopPods: func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("watch") != "" {
				silence(w, r)
				return
			}
			list := &corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}}
			if p := s.jobPod(); p != nil {
				list.Items = append(list.Items, *p)
			}
			answer(list)(w, r)
		},
		"GET " + shopPods + "/agent-pod": func(w http.ResponseWriter, r *http.Request) {
			if p := s.jobPod(); p != nil {
				answer(p)(w, r)
				return
			}
			refusing(404, "NotFound", "gone")(w, r)
		},
		"GET " + shopMaps + "/" + u.names[0]:   holding(u.configMap(0, "shop", nil)),
		"PATCH " + shopMaps + "/" + u.names[0]: holding(u.configMap(0, "shop", nil)),
	})
	return s
}

func (s *jobServer) jobPod() *corev1.Pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.job == nil {
		return nil
	}
	yes := true
	p := &corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: "agent-pod", Namespace: "shop", UID: "of-the-pod", Labels: s.job.Labels,
		OwnerReferences: []metav1.OwnerReference{{Kind: "Job", Name: s.job.Name, UID: s.job.UID, Controller: &yes}}}, Spec: s.job.Spec.Template.Spec}
	if s.pod != nil && s.jobs == 1 {
		s.pod(p)
	}
	return p
}

// Two sessions of one user that begin at the same moment are with one agent, by one token: both may stop both, and neither
// needs the right to exec.
func TestColdTogether(t *testing.T) {
	s := newJobServer(t)
	o := agentOptions(t)
	o.Config.Mode = "pod"
	var agents [2]*Agent
	var all sync.WaitGroup
	for i := range agents {
		c := open(t, s.apiServer)
		all.Go(func() {
			var err error
			if agents[i], err = c.Agent(limited15(t), o); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	s.mu.Lock()
	if s.jobs != 1 || agents[0].Token() != agents[1].Token() || tokenHash(agents[0].Token()) != argument(s.job.Spec.Template.Spec.Containers[0].Args, "--token-sha256") {
		t.Errorf("%d Jobs, tokens %q and %q", s.jobs, agents[0].Token(), agents[1].Token())
	}
	s.mu.Unlock()
	for _, a := range agents {
		_ = a.Discard(limited15(t))
	}
}

// An agent that was killed is replaced as soon as its container has ended: its Job, which the cluster takes its time to remove,
// is not waited for. One that only begins to end is.
func TestKilledIsReplaced(t *testing.T) {
	const background, foreground = metav1.DeletePropagationBackground, metav1.DeletePropagationForeground
	killed := func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: agentContainer, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137}}}}
	}
	for name, test := range map[string]struct {
		pod  func(n int) func(*corev1.Pod) // at the nth look
		job  func(*batchv1.Job)
		want []metav1.DeletionPropagation
	}{
		"killed":     {func(int) func(*corev1.Pod) { return killed }, nil, []metav1.DeletionPropagation{background}},
		"its failed": {func(int) func(*corev1.Pod) { return killed }, func(j *batchv1.Job) { j.Status.Failed = 1 }, []metav1.DeletionPropagation{background}},
		"being deleted": {func(n int) func(*corev1.Pod) {
			if n < 4 {
				return func(*corev1.Pod) {}
			}
			return killed
		}, func(j *batchv1.Job) { j.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }, []metav1.DeletionPropagation{foreground, background}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newJobServer(t)
			o := agentOptions(t)
			o.Config.Mode = "pod"
			first, err := open(t, s.apiServer).Agent(limited15(t), o)
			if err != nil {
				t.Fatal(err)
			}
			first.w.stop()
			looks := 0
			s.mu.Lock()
			s.pod = func(p *corev1.Pod) { looks++; test.pod(looks)(p) }
			if test.job != nil {
				test.job(s.job)
			}
			s.mu.Unlock()
			c := open(t, s.apiServer)
			second, err := c.Agent(limited15(t), o)
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			s.mu.Lock()
			if s.jobs != 2 || len(s.deleted) != len(test.want) || s.deleted[0] != test.want[0] || s.deleted[len(s.deleted)-1] != background {
				t.Errorf("%d Jobs, deleted %v", s.jobs, s.deleted)
			}
			if name == "being deleted" && looks < 4 {
				t.Error("its pod was not waited for")
			}
			s.mu.Unlock()
			_ = second.Discard(limited15(t))
		})
	}
}

// An agent within the pod listens where nothing of the pod's does.
func TestInsidePort(t *testing.T) {
	p := exampleTarget().Spec
	for port := firstInside; port < firstInside+portsInside; port++ {
		if port != firstInside+7 && port != firstInside+9 {
			p.Spec.Containers[0].Ports = append(p.Spec.Containers[0].Ports, corev1.ContainerPort{ContainerPort: int32(port)})
		}
	}
	for range 100 {
		if got := insidePort(p); got != firstInside+7 && got != firstInside+9 {
			t.Fatalf("port %d is the pod's", got)
		}
	}
	o := jobOptions{pod: exampleTarget(), port: 20123}
	if got := listening(agentArgs(o, true)); got != 20123 {
		t.Errorf("it listens on %d", got)
	}
	if got := listening(agentArgs(o, false)); got != agentPort {
		t.Errorf("it listens on %d", got)
	}
}

// A session adds three containers to a pod and no more, and says why.
func TestTooMany(t *testing.T) {
	s := agentServer(t, nil)
	c, o := open(t, s), agentOptions(t)
	o.Config.Mode, o.Config.Image = "ephemeral", "example/agent:1"
	for range maxAdded {
		a, err := c.Agent(limited15(t), o)
		if err != nil {
			t.Fatal(err)
		}
		_ = a.Discard(limited15(t))
	}
	_, err := c.Agent(limited15(t), o)
	if list, _ := os.ReadDir(o.Tokens); len(list) > 0 {
		t.Errorf("left: %v", list)
	}
	if !errors.Is(err, ErrTooMany) || !strings.HasSuffix(err.Error(), "and adds no more") || !strings.Contains(fail.Hint(err), "kubectl delete pod") || !strings.Contains(fail.Hint(err), `"mode": "pod"`) {
		t.Errorf("%v, hint %s", err, fail.Hint(err))
	}
	if n := s.count("PATCH " + shopAdd); n != maxAdded+3*(maxAdded+1) { // three dry runs each
		t.Errorf("asked %d times", n)
	}
}

// An agent that ends while it is joined is nobody's failure: another one is made.
func TestEndsWhileJoined(t *testing.T) {
	o := agentOptions(t)
	o.Config.Mode = "ephemeral"
	e, err := agentEphemeral(jobOptions{pod: o.Pod, who: "bob@desk", port: firstInside}, rungNet, 0)
	if err != nil {
		t.Fatal(err)
	}
	o.Pod.Spec.Spec.EphemeralContainers = []corev1.EphemeralContainer{*e}
	now := o.Pod.Spec.DeepCopy()
	now.TypeMeta = metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}
	now.Status.EphemeralContainerStatuses = []corev1.ContainerStatus{{Name: e.Name, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}}
	exec := shopPods + "/" + o.Pod.Name + "/exec"
	for name, refusal := range map[string]http.HandlerFunc{
		"no container": refusing(500, "InternalError", "container stepin-agent-0 is not running"),
		"no agent":     speaking(t, "", "stepin-agent: no agent runs in this container hint: it has ended just now, start again\n", execBad),
	} {
		t.Run(name, func(t *testing.T) {
			s := agentServer(t, map[string]http.HandlerFunc{"GET " + exec: refusal, "POST " + exec: refusal,
				"GET " + shopPods: telling("MODIFIED", now), "GET " + shopPods + "/" + o.Pod.Name: answer(now)})
			a, err := open(t, s).Agent(limited15(t), o)
			if err != nil {
				t.Fatal(err)
			}
			if a.t.Container != ephemeralName(1) {
				t.Errorf("it is %s", a.t.Container)
			}
			_ = a.Discard(limited15(t))
		})
	}
}

// What has no hope because something else has the port may be tried once more; an agent of ours that ends otherwise may not.
func TestOnceMore(t *testing.T) {
	c := open(t, agentServer(t, nil))
	store, err := openTickets(t.TempDir() + "/stepin")
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		made  made
		words string
		more  bool
	}{
		"joined":     {made{}, "nothing listens there any more", true},
		"not there":  {made{}, "quota", false},
		"port taken": {made{container: "stepin-agent-0"}, "stepin-agent: listening: listen tcp 127.0.0.1:20001: bind: address already in use", true},
		"ours":       {made{container: "stepin-agent-0"}, "stepin-agent: no target", false},
		"our Job":    {made{job: "x"}, "nothing listens there any more", false},
	} {
		a := &Agent{c: c, o: agentOptions(t), tickets: store, key: "key", made: test.made}
		if err := a.gone(test.words, test.words != "quota"); errors.Is(err, ErrOnceMore) != test.more || !errors.Is(err, ErrAgentGone) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// early is a port-forward that came too early.
type early struct{ net.Conn }

func (early) Read([]byte) (int, error)        { return 0, ErrNotYet }
func (early) Write(b []byte) (int, error)     { return len(b), nil }
func (early) Close() error                    { return nil }
func (early) SetReadDeadline(time.Time) error { return nil }

// A start that is given up while the agent is waited for ends at once, by its context or by Close, even if the API server
// answers nothing.
func TestDialIsCancelled(t *testing.T) {
	for name, end := range map[string]func(context.CancelFunc, net.Conn){
		"context": func(cancel context.CancelFunc, _ net.Conn) { cancel() },
		"close":   func(_ context.CancelFunc, c net.Conn) { _ = c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan struct{}, 100)
			hang := func(w http.ResponseWriter, r *http.Request) { asked <- struct{}{}; <-r.Context().Done() }
			at := shopPods + "/" + exampleTarget().Name + "/portforward"
			c := open(t, agentServer(t, map[string]http.HandlerFunc{"GET " + at: hang, "POST " + at: hang}))
			o := agentOptions(t)
			a := &Agent{c: c, o: o, ready: early{}, t: ticket{Namespace: "shop", Pod: o.Pod.Name, Port: 7071}}
			a.w = c.newAgentWatch(t.Context(), "shop", agentContainer, true)
			a.w.pod = o.Pod.Name
			defer a.w.stop()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			conn, err := a.Dial(ctx)
			if err != nil {
				t.Fatal(err)
			}
			read := make(chan error, 1)
			go func() {
				_, err := conn.Read(make([]byte, 1))
				read <- err
			}()
			<-asked
			end(cancel, conn)
			select {
			case err := <-read:
				if err == nil {
					t.Error("it has read something")
				}
			case <-limited15(t).Done():
				t.Error("it is still waiting")
			}
		})
	}
}
