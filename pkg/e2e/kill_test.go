package e2e

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepin-dev/stepin/adapter/dap/client"
	"github.com/stepin-dev/stepin/adapter/dap/talk"
)

const (
	// killTTL is the agents' own here, and tidyTime what everything may take to be gone: an agent that has lost its
	// session keeps the ports reserved for 10 s, then waits for its TTL, and its Job is removed by the cluster. On a node
	// as busy as this test makes it each step takes its time.
	killTTL  = "1s"
	tidyTime = 40 * time.Second
	// orphanTime is how old a ConfigMap without an owner has to be before a session sweeps it.
	orphanTime = 2 * time.Minute
)

// bare is a pod by itself.
func bare(name string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: bare}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: web
      image: stepin.test/workload:1
      imagePullPolicy: Never
      args: [serve, -name=web, "-http=:8080"]
      ports: [{name: http, containerPort: 8080}]
      resources: {requests: {cpu: 1m, memory: 8Mi}, limits: {memory: 64Mi}}
---
`, name)
}

// victim is who is killed.
type victim struct {
	name  string
	roles []string // killed one right after the other; "" is the adapter
	group bool     // the adapter's process group
	over  bool     // the debugging is over then
	words []string // what the developer reads where the adapter lives, one of them
}

// lives says that the adapter does.
func (v victim) lives() bool { return !v.group && !slices.Contains(v.roles, "") }

// kind is a program under its real debugger.
type kind struct {
	debugger string         // its name, in the console and as a role
	keys     map[string]any // of the configuration's debugger
	line     string         // where every request stops
	status   int            // by which it tells of a debuggee that was killed
}

// kinds are those that go through the matrix.
func kinds(t *testing.T) []kind {
	t.Helper()
	program, err := debuggee()
	if err != nil {
		t.Fatal(err)
	}
	script := scriptFile(t, "orders.py")
	return []kind{
		{"dlv", map[string]any{"type": "go", "mode": "exec", "program": program, "args": []string{"serve", "-name=debuggee", "-http=:8080"}},
			where(t), -int(syscall.SIGKILL)},
		{"debugpy", map[string]any{"type": "python", "python": "/usr/bin/python3", "program": script, "args": []string{"{}"}},
			talk.Mark(t, script, "a breakpoint's line"), 0xff & -int(syscall.SIGKILL)}, // the lowest 8 bits: debugpy's launcher/debuggee.py
	}
}

// victims are who of a session is killed.
func (k kind) victims() []victim {
	return []victim{
		{name: "adapter", roles: []string{""}},
		{name: "agent's parent", roles: []string{"agent"}, words: []string{"the agent is back after"}},
		{name: "agent's child", roles: []string{"agent's child"}, words: []string{"the agent is back after"}},
		{name: "holder", roles: []string{"holder"}, over: true, words: []string{"the debuggee's namespaces are gone"}},
		{name: k.debugger, roles: []string{k.debugger}, over: true, words: []string{k.debugger + " ended"}},
		{name: "debuggee", roles: []string{"debuggee"}, over: true, words: []string{""}}, // see told
		{name: "adapter and holder", roles: []string{"", "holder"}},
		{name: "process group", group: true},
	}
}

// scene is one session somebody of which is killed.
type scene struct {
	life
	kind   kind
	state  string
	victim victim
	pod    corev1.Pod
	seen   []proc
	killed time.Time
}

// TestKill kills each part by SIGKILL while a launch is under way, while the debuggee runs and while it stands at a
// breakpoint: the pod serves within a second, the developer is told, and nothing is left in the cluster.
func TestKill(t *testing.T) {
	c := Up(t)
	c.NeedsNode(t, "killing what runs on the node")
	ns := c.Namespace(t, "")
	documents, names := Client("client"), []string{"pod/client"}
	var scenes []*scene
	for _, k := range kinds(t) {
		for _, state := range []string{"launching", "running", "stopped"} {
			for _, v := range k.victims() {
				name := fmt.Sprintf("kill-%d", len(scenes))
				scenes = append(scenes, &scene{life: life{c: c, ns: ns}, kind: k, state: state, victim: v, pod: corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}})
				documents += "---" + bare(name)
				names = append(names, "pod/"+name)
			}
		}
	}
	c.Apply(t, ns, documents)
	c.Ready(t, ns, names...)
	from := c.inside(t, ns, "client")
	all := c.Pods(t, ns, "app=bare")
	early := orphaned(t, c) // first, since it has to grow old
	t.Run("at once", func(t *testing.T) {
		for _, s := range scenes {
			s.from = from
			s.pod = all[slices.IndexFunc(all, func(p corev1.Pod) bool { return p.Name == s.pod.Name })]
			t.Run(s.kind.debugger+": "+s.victim.name+" while "+s.state, func(t *testing.T) {
				t.Parallel()
				s.t = t
				s.play()
			})
		}
	})
	t.Run("left", func(t *testing.T) {
		for _, s := range scenes {
			for _, p := range s.seen {
				if now := parentOf(p.pid); now == p.parent && now != 0 {
					t.Errorf("%s: process %d %q", s.t.Name(), p.pid, p.argv)
				}
			}
		}
		c.LeavesNothing(t, ns, tidyTime)
	})
	t.Run("before the Job", func(t *testing.T) { early.swept(t, c) })
}

// play has the session killed in its state and looks at what becomes of it.
func (s *scene) play() {
	t := s.t
	s.asks = s.from.ask(t, "http://"+s.pod.Status.PodIP+":8080/", 50*time.Millisecond, 5*time.Second, true)
	s.a = Stepin{Kubeconfig: s.c.Kubeconfig, Env: WithDelve(t)}.DAP(t)
	if s.state == "launching" {
		s.launching()
		return
	}
	talk.Begin(t, s.a.Client, s.configuration())
	s.said("tcp port 8080 of pod "+s.pod.Name+" now sends", Patience)
	if _, err := s.asks.first(time.Now(), sayTime, "debuggee"); err != nil {
		t.Fatal(err)
	}
	var stopped *client.Message
	if s.state == "stopped" {
		talk.SetBreakpoints(t, s.a.Client, s.kind.line)
		stopped = talk.Event(t, s.a.Client, "stopped")
	}
	s.kill()
	s.serves()
	s.told()
	if s.victim.lives() && !s.victim.over {
		if stopped != nil {
			none := map[string]any{"source": map[string]string{"path": strings.Split(s.kind.line, ":")[0]}, "breakpoints": []any{}} // debugpy wants a list
			talk.Must(t, s.a.Client, "setBreakpoints", none)
			goOn(t, s.a.Client, stopped)
		}
		if _, err := s.asks.first(time.Now(), backTime, "debuggee"); err != nil {
			t.Errorf("the session does not take up again: %v", err)
		}
	}
	s.leave()
}

func (s *scene) configuration() map[string]any {
	return Configuration(s.ns, "pod/"+s.pod.Name, "", map[string]any{"debugger": s.kind.keys, "agent": map[string]any{"ttl": killTTL}})
}

// launching kills the victim as soon as there is one; those that are there from the beginning, when the holder is.
func (s *scene) launching() {
	t := s.t
	talk.Must(t, s.a.Client, "initialize", talk.Initialize)
	_, answered, err := s.a.Send("launch", s.configuration())
	if err != nil {
		t.Fatal(err)
	}
	go func() { // debugpy answers launch only after that
		if _, err := s.a.Event(t.Context(), "initialized"); err == nil {
			_, _, _ = s.a.Send("configurationDone", nil)
		}
	}()
	last := "holder"
	for _, role := range s.victim.roles {
		last = cmp.Or(role, last)
	}
	for end := time.Now().Add(Patience); s.find(last) == 0; time.Sleep(15 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("there is no %s", last)
		}
	}
	s.kill()
	s.serves()
	if !s.victim.lives() {
		s.leave()
		return
	}
	select {
	case m := <-answered:
		s.refused(m)
	case <-time.After(backTime):
		t.Error("launch is not answered")
	}
	s.leave()
}

// refused: a launch that something was taken from fails in one sentence, or has got over it.
func (s *scene) refused(m *client.Message) {
	switch {
	case m == nil:
		s.t.Error("launch has got no answer")
	case m.Err() == nil && s.victim.over:
		s.told()
	case m.Err() != nil && len(strings.Split(strings.TrimSpace(m.Err().Error()), "\n")) > 2: // sentence and hint
		s.t.Errorf("launch is refused with %q", m.Err())
	case m.Err() != nil:
		s.t.Logf("launch is refused with %q", m.Err())
	}
}

// find is the number of who plays a role, 0 while there is nobody.
func (s *scene) find(role string) int {
	s.seen = append(family(s.a.Cmd.Process.Pid), proc{s.a.Cmd.Process.Pid, parentOf(s.a.Cmd.Process.Pid), s.a.Cmd.Args})
	switch role {
	case "agent", "agent's child":
		parent, child := agents(s.pod)
		if role == "agent" {
			return parent
		}
		return child
	}
	return of(s.seen, role)
}

// kill sends the signals.
func (s *scene) kill() {
	s.t.Helper()
	var pids []int
	for _, role := range s.victim.roles {
		if role == "" {
			s.find("")
			pids = append(pids, s.a.Cmd.Process.Pid)
		} else if pid := s.find(role); pid != 0 {
			pids = append(pids, pid)
		} else {
			s.t.Fatalf("there is no %s among %+v", role, s.seen)
		}
	}
	if s.victim.group {
		s.find("")
		pids = append(pids, -s.a.Cmd.Process.Pid)
	}
	s.killed = time.Now()
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			s.t.Fatalf("kill %d: %v", pid, err)
		}
	}
}

// serves: who asks after the kill is answered by the pod within a second.
func (s *scene) serves() {
	s.t.Helper()
	r, err := s.asks.first(s.killed, quickTime, "web")
	if err != nil {
		s.t.Errorf("the pod does not serve within %v: %v", quickTime, err)
		return
	}
	s.t.Logf("the pod served %v after the kill", r.answered.Sub(s.killed).Round(time.Millisecond))
}

// told waits for the words that the developer reads.
func (s *scene) told() {
	s.t.Helper()
	v := s.victim
	if !v.lives() {
		return
	}
	said := func() string { return s.console() + s.a.Output("stderr") + s.a.Stderr.String() }
	within := backTime
	if v.over {
		within = sayTime
	}
	for end := time.Now().Add(within); !slices.ContainsFunc(v.words, func(w string) bool { return strings.Contains(said(), w) }); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Errorf("the developer does not read %q but %q", v.words, said())
			break
		}
	}
	if !v.over {
		s.lives()
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), sayTime)
	defer cancel()
	if v.name == "debuggee" {
		var told struct{ ExitCode int }
		if e, err := s.a.Event(ctx, "exited"); err != nil || e.Decode(&told) != nil || told.ExitCode != s.kind.status {
			s.t.Errorf("how the debuggee ended is not told: %v %+v", err, e)
		}
	}
	if _, err := s.a.Event(ctx, "terminated"); err != nil {
		s.t.Error(err)
	}
}

// leave ends what still lives, as the editor's stop button does, and looks at what all requests have got since.
func (s *scene) leave() {
	s.t.Helper()
	if s.victim.lives() {
		ctx, cancel := context.WithTimeout(context.Background(), ending)
		defer cancel()
		if _, err := s.a.Do(ctx, "disconnect", map[string]any{"terminateDebuggee": true}); err != nil {
			s.t.Error(err)
		}
	}
	select {
	case <-s.a.Ended:
	case <-time.After(ending):
		s.t.Error("the adapter is still there")
	}
	over := time.Now()
	if _, err := s.asks.first(over, quickTime, "web"); err != nil {
		s.t.Errorf("after the session: %v", err)
	}
	for _, r := range s.asks.stop() {
		if s.victim.lives() { // the session has ended in its own way since
			continue
		}
		if r.asked.After(s.killed.Add(quickTime)) && (r.err != nil || r.who != "web") {
			s.t.Errorf("after the kill: %v", r)
		}
	}
}

// orphan is what a session leaves that is killed when it has uploaded its agent and no Job owns it yet.
type orphan struct {
	ns     string
	killed time.Time
}

// orphaned makes one. The Job comes some ten milliseconds after the upload, so it may take several tries.
func orphaned(t *testing.T, c *Cluster) orphan {
	const tries = 20
	ns := c.Namespace(t, "")
	c.Apply(t, ns, bare("early"))
	c.Ready(t, ns, "pod/early")
	pod := c.Pods(t, ns, "app=bare")[0]
	for range tries {
		ctx, cancel := context.WithCancel(Limit(t))
		defer cancel()
		maps, err := c.Client.CoreV1().ConfigMaps(ns).Watch(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/managed-by=stepin"})
		if err != nil {
			t.Fatal(err)
		}
		s := &scene{life: life{t: t, c: c, ns: ns}, kind: kinds(t)[0], pod: pod}
		a := Stepin{Kubeconfig: c.Kubeconfig, Env: WithDelve(t)}.DAP(t)
		talk.Must(t, a.Client, "initialize", talk.Initialize)
		if _, _, err := a.Send("launch", s.configuration()); err != nil {
			t.Fatal(err)
		}
		select {
		case <-maps.ResultChan():
		case <-ctx.Done():
			t.Fatal("no upload")
		}
		killed := time.Now()
		if err := syscall.Kill(-a.Cmd.Process.Pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-a.Ended
		maps.Stop()
		// A Job that is there already ends with its agent, and takes along the ConfigMaps that it owns by now.
		var left []string
		Eventually(t, tidyTime, "no Job and no owned ConfigMap", func() bool {
			left = c.leavings(t, ns)
			return !slices.ContainsFunc(left, func(what string) bool { return !c.ownerless(t, ns, what) })
		})
		if len(left) > 0 {
			t.Logf("left: %q", left)
			return orphan{ns, killed}
		}
	}
	t.Fatal("no session was killed between its upload and its Job's owning it")
	return orphan{}
}

// ownerless says that a leaving is a ConfigMap that goes with nothing else.
func (c *Cluster) ownerless(t *testing.T, namespace, what string) bool {
	t.Helper()
	name, is := strings.CutPrefix(what, "configmap/")
	if !is {
		return false
	}
	m, err := c.Client.CoreV1().ConfigMaps(namespace).Get(Limit(t), name, metav1.GetOptions{})
	return err == nil && len(m.OwnerReferences) == 0
}

// swept has the next session come when what was left is old enough.
func (o orphan) swept(t *testing.T, c *Cluster) {
	const clocks = 2 * time.Second // the API server's has seconds only
	if left := c.leavings(t, o.ns); len(left) == 0 {
		t.Fatal("nothing is left")
	}
	time.Sleep(time.Until(o.killed.Add(orphanTime + clocks)))
	r := Stepin{Kubeconfig: c.Kubeconfig}.Run(t, "exec", "-t", "pod/early", "-n", o.ns, "--config", ttlFile(t), "--", "true")
	if r.Status != 0 {
		t.Fatalf("the next session: %+v", r)
	}
	c.LeavesNothing(t, o.ns, tidyTime)
}

// ttlFile is a configuration whose agents do not stay.
func ttlFile(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "stepin.yaml")
	if err := os.WriteFile(path, []byte("agent: {ttl: "+killTTL+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
