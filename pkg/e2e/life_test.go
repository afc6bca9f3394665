package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stepin-dev/stepin/adapter/dap/talk"
)

const (
	// backTime is what the session may take to be in a pod's place again: an agent starts in a second, a pod in a few,
	// each in many on a busy machine.
	backTime = 40 * time.Second
	// silentTime is what the pod may take to serve when the network falls silent, and quickTime after everything else.
	silentTime = 5 * time.Second
	quickTime  = time.Second
	// sayTime is what it may take to tell the developer.
	sayTime = 5 * time.Second
)

// debuggee is the workload's program, built for the debugger once for all tests.
var debuggee = sync.OnceValues(func() (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, ".tools", "build", "debuggee")
	cmd := exec.Command("go", "build", "-gcflags=all=-N -l", "-o", path, "./workload")
	cmd.Dir = filepath.Join(root, "pkg", "e2e")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// life is one session whose pods something happens to.
type life struct {
	t    *testing.T
	c    *Cluster
	ns   string
	from inside // a pod that asks
	a    *Adapter
	asks *asker

	mu    sync.Mutex
	heard []heard // what the developer has read, and when
}

// heard is a line of the console's.
type heard struct {
	at   time.Time
	line string
}

// lasting is Web as those write it who lose no request by a rollout: a pod that ends answers until the Services know.
func lasting(name string, replicas int) string {
	return strings.NewReplacer("terminationGracePeriodSeconds: 1\n", "terminationGracePeriodSeconds: 8\n",
		"          ports:", "          lifecycle: {preStop: {sleep: {seconds: 4}}}\n          ports:").Replace(Web(name, replicas))
}

// where is the line at which every request stops.
func where(t testing.TB) string {
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	return talk.Mark(t, filepath.Join(root, "pkg", "e2e", "workload", "serve.go"), "a breakpoint's line")
}

// living begins a session in a Deployment's place, and asks its Service from then on.
func living(t *testing.T, replicas int, target string) *life {
	c := Up(t)
	l := &life{t: t, c: c, ns: c.Namespace(t, "")}
	c.Apply(t, l.ns, lasting("web", replicas)+"---"+Client("client"))
	c.Ready(t, l.ns, "deployment/web", "pod/client")
	c.Serving(t, l.ns, "client", "http://web/")
	l.from = c.inside(t, l.ns, "client")
	if target == "pod" {
		target = "pod/" + l.pods()[0].Name
	}
	l.begin(target)
	l.asks = l.from.ask(t, l.url(), 50*time.Millisecond, 10*time.Second, true)
	return l
}

// url is the Service's, by its address.
func (l *life) url() string { return "http://" + l.c.service(l.t, l.ns, "web") + "/" }

func (l *life) begin(target string) {
	t := l.t
	t.Helper()
	program, err := debuggee()
	if err != nil {
		t.Fatal(err)
	}
	l.a = Stepin{Kubeconfig: l.c.Kubeconfig, Env: WithDelve(t)}.DAP(t)
	go l.listen()
	talk.Begin(t, l.a.Client, Configuration(l.ns, target, program, map[string]any{
		"debugger": map[string]any{"mode": "exec", "args": []string{"serve", "-name=debuggee", "-http=:8080"}},
		"agent":    map[string]any{"ttl": "3s"},
	}))
	for _, p := range l.pods() {
		if target == "deployment/web" || target == "pod/"+p.Name {
			l.said("tcp port 8080 of pod "+p.Name+" now sends", backTime)
		}
	}
}

func (l *life) pods() []corev1.Pod { return l.c.Pods(l.t, l.ns, "app=web") }

// console is what the developer has read.
func (l *life) console() string { return l.a.Output("console") }

func (l *life) said(text string, within time.Duration) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := l.a.WaitOutput(ctx, "console", text); err != nil {
		l.t.Fatal(err)
	}
}

// listen notes when each line of the console's came, until the adapter has ended.
func (l *life) listen() {
	const often = 5 * time.Millisecond
	tick := time.NewTicker(often)
	defer tick.Stop()
	for known := 0; ; {
		all := l.console()
		for line := range strings.Lines(all[known:]) {
			l.mu.Lock()
			l.heard = append(l.heard, heard{time.Now(), strings.TrimSpace(line)})
			l.mu.Unlock()
		}
		known = len(all)
		select {
		case <-tick.C:
		case <-l.a.Ended:
			return
		}
	}
}

// began are the times at which a steal may have begun, with which the connections that the pod's own process had end:
// shortly before or after the developer has read of it.
func (l *life) began() []time.Time {
	return l.read("now sends its new connections", "the agent is back after")
}

// read is when the developer has read a line with one of the texts.
func (l *life) read(texts ...string) (all []time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.heard {
		if slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(h.line, text) }) {
			all = append(all, h.at)
		}
	}
	return all
}

// lives fails the test if the debuggee has ended.
func (l *life) lives() {
	l.t.Helper()
	if of(family(l.a.Cmd.Process.Pid), "debuggee") == 0 {
		l.t.Error("the debuggee has gone")
	}
}

// all waits until a number of pods is ready and each sends its requests to the debuggee.
func (l *life) all(n int) {
	l.t.Helper()
	l.c.Ready(l.t, l.ns, "deployment/web") // a rollout has been seen
	var pods []corev1.Pod
	Eventually(l.t, backTime, fmt.Sprintf("%d pods are ready", n), func() bool {
		pods = l.pods()
		return len(pods) == n
	})
	for _, p := range pods {
		one := l.from.ask(l.t, "http://"+p.Status.PodIP+":8080/", 50*time.Millisecond, time.Second, true)
		if _, err := one.first(time.Now(), backTime, "debuggee"); err != nil {
			l.t.Errorf("pod %s: %v", p.Name, err)
		}
		one.stop()
	}
	l.lives()
}

// lines are what the developer has read since the console held so much, without Delve's own.
func (l *life) lines(since int) (lines []string) {
	for line := range strings.Lines(l.console()[since:]) {
		lines = append(lines, strings.TrimSpace(line))
	}
	return lines
}

// lost are the requests without an answer: those that were under way at one of the times, each of which lasts for so
// long; those whose connection was ended because a steal began; and others.
func (l *life) lost(replies []reply, within time.Duration, at ...time.Time) (underWay, ended, others []reply) {
	const clock = 20 * time.Millisecond  // between what is done and when it is done
	const before = 2 * time.Second       // between a steal's beginning and the line that tells of it, at most
	const after = 500 * time.Millisecond // the same where the line is first
	// What hung for long before is no matter of that moment.
	during := func(r reply, from, to time.Time) bool {
		return r.asked.Before(to) && r.answered.After(from) && r.asked.After(from.Add(-quickTime))
	}
	for _, r := range replies {
		switch {
		case r.err == nil:
		case slices.ContainsFunc(at, func(m time.Time) bool { return during(r, m.Add(-clock), m.Add(within+clock)) }):
			underWay = append(underWay, r)
		case reset(r.err) && slices.ContainsFunc(l.began(), func(m time.Time) bool { return during(r, m.Add(-before), m.Add(after)) }):
			ended = append(ended, r)
		default:
			others = append(others, r)
		}
	}
	return underWay, ended, others
}

// reset says that a connection was ended from the other side.
func reset(err error) bool { return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF) }

// ends checks what all have in common: every request is answered but those that may be lost.
func (l *life) ends(within time.Duration, at ...time.Time) {
	l.t.Helper()
	l.asks.stop()
	l.tells(within, at...)
}

func (l *life) tells(within time.Duration, at ...time.Time) {
	l.t.Helper()
	l.tell(l.asks.so(), within, at...)
}

func (l *life) tell(replies []reply, within time.Duration, at ...time.Time) {
	l.t.Helper()
	by, slowest := map[string]int{}, time.Duration(0)
	for _, r := range replies {
		if r.err == nil {
			by[r.who]++
			slowest = max(slowest, r.answered.Sub(r.asked))
		}
	}
	underWay, ended, others := l.lost(replies, within, at...)
	l.t.Logf("answered %v, the slowest after %v; lost: %d under way on what was killed, %d on connections that a steal ended, %d others",
		by, slowest.Round(time.Millisecond), len(underWay), len(ended), len(others))
	for _, r := range slices.Concat(underWay, ended) {
		l.t.Logf("lost: %v", r)
	}
	for _, r := range others {
		l.t.Errorf("lost: %v", r)
	}
	if len(others) > 0 {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, h := range l.heard {
			l.t.Logf("%s: %s", h.at.Format("15:04:05.000"), h.line)
		}
	}
}

// delete deletes a pod as kubectl does.
func (l *life) delete(pod string) time.Time {
	l.t.Helper()
	at := time.Now()
	if err := l.c.Client.CoreV1().Pods(l.ns).Delete(Limit(l.t), pod, metav1.DeleteOptions{}); err != nil {
		l.t.Fatal(err)
	}
	return at
}

func (l *life) patch(patch string) {
	l.t.Helper()
	if _, err := l.c.Client.AppsV1().Deployments(l.ns).Patch(Limit(l.t), "web", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		l.t.Fatal(err)
	}
}

func (l *life) scale(n int) { l.patch(fmt.Sprintf(`{"spec":{"replicas":%d}}`, n)) }

func (l *life) rollout() {
	l.patch(fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"rolled":%q}}}}}`, time.Now().String()))
}

// restart kills the first process of a pod's container.
func (l *life) restart(p corev1.Pod) time.Time {
	l.t.Helper()
	return l.kill(l.c.Node(l.t).In(l.t, p.Status.ContainerStatuses[0].ContainerID)[0].Pid)
}

func (l *life) kill(pid int) time.Time {
	l.t.Helper()
	if pid == 0 {
		l.t.Fatal("nobody to kill")
	}
	at := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		l.t.Fatal(err)
	}
	return at
}

// TestLife: whatever becomes of the pods, the way to them and the agents, the debuggee lives, the service is served, the
// session is in the place of what there is now, and the developer reads a line.
func TestLife(t *testing.T) {
	Up(t).NeedsNode(t, "a pod's life")
	if _, err := debuggee(); err != nil {
		t.Fatal(err)
	}
	t.Run("at once", func(t *testing.T) {
		for name, test := range map[string]func(*testing.T){
			"container restart":        containerRestart,
			"pod at a breakpoint":      podAtBreakpoint,
			"home among two":           homeAmongTwo,
			"rollout":                  rollout,
			"scaling":                  scaling,
			"laptop asleep":            laptopAsleep,
			"agent's Job deleted":      agentsJob,
			"agent killed":             agentKilled,
			"target pod deleted":       targetPod,
			"target workload deleted":  targetWorkload,
			"scaled to nothing and up": scaledToNothing,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t)
			})
		}
	})
	t.Run("network cut", func(t *testing.T) { networkCut(t) })
}

// containerRestart asks the pod itself: a Service whose only pod is not ready refuses, whoever would answer there.
func containerRestart(t *testing.T) {
	l := living(t, 1, "deployment/web")
	before, pod := len(l.console()), l.pods()[0]
	l.asks.stop()
	l.asks = l.from.ask(t, "http://"+pod.Status.PodIP+":8080/", 50*time.Millisecond, 10*time.Second, true)
	at := l.restart(pod)
	l.said("container web of pod "+pod.Name+" was restarted", backTime)
	l.all(1)
	l.ends(quickTime, at)
	t.Logf("%q", l.lines(before))
	if fresh := l.pods()[0]; fresh.UID != pod.UID || fresh.Status.ContainerStatuses[0].RestartCount != 1 {
		t.Errorf("%d restarts", fresh.Status.ContainerStatuses[0].RestartCount)
	}
}

// podAtBreakpoint: home goes while the debuggee stands; a new pod takes its place.
func podAtBreakpoint(t *testing.T) {
	l := living(t, 1, "deployment/web")
	l.asks.stop()
	line := where(t)
	talk.SetBreakpoints(t, l.a.Client, line)
	held := l.from.ask(t, "http://"+l.pods()[0].Status.PodIP+":8080/", time.Hour, 10*time.Second, true)
	stopped := talk.Event(t, l.a.Client, "stopped")
	before, pod := len(l.console()), l.pods()[0]
	l.delete(pod.Name)
	l.said("takes the place of the one that ended", backTime)
	if at, _ := talk.At(t, l.a.Client, stopped); at != line {
		t.Errorf("stopped at %s, and not at %s", at, line)
	}
	held.stop()
	talk.Must(t, l.a.Client, "setBreakpoints", map[string]any{"source": map[string]string{"path": strings.Split(line, ":")[0]}})
	talk.Must(t, l.a.Client, "continue", map[string]int{"threadId": 1})
	l.all(1)
	t.Logf("%q", l.lines(before))
	if l.pods()[0].UID == pod.UID {
		t.Error("it is the same pod")
	}
}

func homeAmongTwo(t *testing.T) {
	l := living(t, 2, "deployment/web")
	before := len(l.console())
	home := ""
	for _, p := range l.pods() {
		if strings.Contains(l.console(), "(pod "+p.Name+",") {
			home = p.Name
		}
	}
	l.delete(home)
	l.said("takes the place of the one that ended", backTime)
	l.all(2)
	l.ends(0)
	t.Logf("%q", l.lines(before))
}

func rollout(t *testing.T) {
	l := living(t, 2, "deployment/web")
	before := len(l.console())
	old := map[types.UID]bool{}
	for _, p := range l.pods() {
		old[p.UID] = true
	}
	l.rollout()
	l.all(2)
	l.ends(0)
	t.Logf("%q", l.lines(before))
	for _, p := range l.pods() {
		if old[p.UID] {
			t.Errorf("pod %s was there before", p.Name)
		}
	}
}

func scaling(t *testing.T) {
	l := living(t, 1, "deployment/web")
	before := len(l.console())
	l.scale(3)
	l.all(3)
	l.scale(1)
	l.all(1)
	l.ends(0)
	t.Logf("%q", l.lines(before))
}

// laptopAsleep: the session and its port-forward, which are one process, stand still for ten seconds.
func laptopAsleep(t *testing.T) {
	l := living(t, 1, "deployment/web")
	before := len(l.console())
	const asleep = 10 * time.Second
	at := time.Now()
	if err := syscall.Kill(-l.a.Cmd.Process.Pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	_, err := l.asks.first(at, silentTime, "web")
	time.Sleep(time.Until(at.Add(asleep)))
	if err := syscall.Kill(-l.a.Cmd.Process.Pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Error(err)
	}
	l.said("the agent is back after", backTime)
	l.all(1)
	l.ends(silentTime, at)
	t.Logf("%q", l.lines(before))
}

func agentsJob(t *testing.T) {
	l := living(t, 1, "deployment/web")
	before := len(l.console())
	jobs, err := l.c.Client.BatchV1().Jobs(l.ns).List(Limit(t), metav1.ListOptions{})
	if err != nil || len(jobs.Items) != 1 {
		t.Fatal(jobs, err)
	}
	at, background := time.Now(), metav1.DeletePropagationBackground
	if err := l.c.Client.BatchV1().Jobs(l.ns).Delete(Limit(t), jobs.Items[0].Name, metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
		t.Fatal(err)
	}
	l.said("the agent is back after", backTime)
	l.all(1)
	ended := at
	for _, heard := range l.read("the agent was ended") {
		ended = heard
	}
	l.ends(ended.Sub(at)+quickTime, at) // the agent learns of it when the node does
	t.Logf("%q", l.lines(before))
}

func agentKilled(t *testing.T) {
	l := living(t, 1, "deployment/web")
	before := len(l.console())
	parent, _ := agents(l.pods()[0])
	at := l.kill(parent)
	if _, err := l.asks.first(at, quickTime, "web"); err != nil {
		t.Error(err)
	}
	l.said("the agent is back after", backTime)
	l.all(1)
	l.ends(0, at)
	t.Logf("%q", l.lines(before))
}

func targetPod(t *testing.T) {
	l := living(t, 2, "pod")
	before := len(l.a.Output("console") + l.a.Output("stderr"))
	target := ""
	for _, p := range l.pods() {
		if strings.Contains(l.console(), "(pod "+p.Name+",") {
			target = p.Name
		}
	}
	l.delete(target)
	l.over(before, "pod/"+target+" has ended, and nothing takes a single pod's place")
	l.ends(0)
}

func targetWorkload(t *testing.T) {
	l := living(t, 1, "deployment/web")
	l.asks.stop()
	before := len(l.a.Output("console") + l.a.Output("stderr"))
	if err := l.c.Client.AppsV1().Deployments(l.ns).Delete(Limit(t), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	l.over(before, "deployment/web was deleted")
}

// over: the debugging has ended, in one sentence.
func (l *life) over(before int, sentence string) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), backTime)
	defer cancel()
	if _, err := l.a.Event(ctx, "terminated"); err != nil {
		l.t.Error(err)
	}
	all := l.a.Output("console") + l.a.Output("stderr")
	if strings.Count(all, sentence) != 1 {
		l.t.Errorf("the developer does not read %q once:\n%s", sentence, all)
	}
	l.t.Logf("%q", all[min(before, len(all)):])
}

func scaledToNothing(t *testing.T) {
	l := living(t, 1, "deployment/web")
	l.asks.stop()
	before := len(l.console())
	l.scale(0)
	l.said("no pod of deployment/web is ready; waiting for one", backTime)
	l.lives()
	l.scale(1)
	l.said("takes the place of the one that ended", backTime)
	l.all(1)
	t.Logf("%q", l.lines(before))
}

// networkCut: nothing passes between this machine and the cluster, for as long as a train is in a tunnel.
func networkCut(t *testing.T) {
	l := living(t, 2, "deployment/web")
	var cuts []time.Time
	for _, cut := range []time.Duration{3 * time.Second, 30 * time.Second} {
		t.Run(cut.String(), func(t *testing.T) {
			before := len(l.console())
			at := time.Now()
			l.c.Cut(t, cut)
			over := time.Now()
			if cut > silentTime {
				if _, err := l.asks.first(at, silentTime, "web"); err != nil {
					t.Error(err)
				}
			}
			for _, p := range l.pods() {
				one := l.from.ask(t, "http://"+p.Status.PodIP+":8080/", 50*time.Millisecond, time.Second, true)
				r, err := one.first(over, backTime, "debuggee")
				if err != nil {
					t.Errorf("pod %s: %v", p.Name, err)
				}
				t.Logf("pod %s: back %v after the cut", p.Name, r.answered.Sub(over).Round(time.Millisecond))
				one.stop()
			}
			l.lives()
			cuts = append(cuts, at)
			l.tells(silentTime, cuts...)
			t.Logf("%q", l.lines(before))
		})
	}
}
