package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepin-dev/stepin/adapter/dap/talk"
)

const (
	standing    = time.Minute // how long the debuggee stands at its breakpoint
	probePeriod = 2 * time.Second
	stopWait    = 20 * time.Second // for a request to stop, on a busy machine
)

// probed is a pod whose health is looked at in one way, every two seconds, and which is given up after two failures.
const probed = `
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, labels: {app: probed}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: web
      image: stepin.test/workload:1
      imagePullPolicy: Never
      args: [serve, -name=%[1]s, "-http=:8080"]
      ports: [{name: http, containerPort: 8080}]
      readinessProbe: {%[2]s, periodSeconds: 2, failureThreshold: 2}
      livenessProbe: {%[2]s, periodSeconds: 2, failureThreshold: 2}
---
`

// ways are the ways of a probe. What the debuggee says to each when it runs is in TestTenMinutes.
var ways = map[string]string{
	"http": "httpGet: {path: /live, port: http}",
	"grpc": "grpc: {port: 8080}",
	"tcp":  "tcpSocket: {port: 8080}",
	"exec": `timeoutSeconds: 5, exec: {command: [/workload, get, "http://127.0.0.1:8080/"]}`, // starting a process takes its time
}

// TestTenMinutes: whoever thinks for long at a breakpoint has no pod restarted, nor taken from its Service, however its
// health is looked at. The debuggee's own health is bad all the time: it answers 404 on the path of the HTTP probe and
// NOT_SERVING to gRPC's.
func TestTenMinutes(t *testing.T) {
	c := Up(t)
	ns := c.Namespace(t, "")
	documents := ClientShell("client")
	names := []string{"pod/client"}
	for name, way := range ways {
		documents += "---" + fmt.Sprintf(probed, name, way)
		names = append(names, "pod/"+name)
	}
	c.Apply(t, ns, documents)
	c.Ready(t, ns, names...)
	watched := c.watchHealth(t, ns, "app=probed")
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(root, "pkg", "e2e", "workload")
	line := talk.Mark(t, filepath.Join(program, "serve.go"), "int(status.Load())")
	a := Stepin{Kubeconfig: c.Kubeconfig, Env: WithDelve(t)}.DAP(t)
	talk.Begin(t, a.Client, Configuration(ns, "label/app=probed", program, map[string]any{
		"debugger": map[string]any{"args": []string{"serve", "-name=debuggee", "-http=:8080"}},
		"agent":    map[string]any{"ttl": "2s"},
	}), line)
	for name := range ways {
		if err := a.WaitOutput(Limit(t), "console", "tcp port 8080 of pod "+name+" now sends"); err != nil {
			t.Fatal(err)
		}
	}

	pods := c.Pods(t, ns, "app=probed")
	at := map[string]string{}
	for _, p := range pods {
		at[p.Name] = p.Status.PodIP + ":8080"
	}
	user := func(what string, ask func(ctx context.Context) (string, error), think time.Duration) {
		t.Helper()
		answered := make(chan string, 1)
		ctx := Limit(t)
		go func() {
			text, err := ask(ctx)
			answered <- fmt.Sprintf("%s %v", text, err)
		}()
		stop, cancel := context.WithTimeout(ctx, stopWait)
		defer cancel()
		stopped, err := a.Event(stop, "stopped")
		if err != nil {
			select {
			case got := <-answered:
				t.Fatalf("%s did not stop, and was answered %q", what, got)
			default:
				t.Fatalf("%s did not stop, and was not answered", what)
			}
		}
		if where, _ := talk.At(t, a.Client, stopped); where != line {
			t.Errorf("%s stopped at %s, not at %s", what, where, line)
		}
		time.Sleep(think)
		goOn(t, a.Client, stopped)
		if got := <-answered; !strings.HasPrefix(got, "404") {
			t.Errorf("%s got %q from the debuggee that answers 404", what, got)
		}
	}
	pod := func(command ...string) func(context.Context) (string, error) {
		return func(ctx context.Context) (string, error) {
			out, errs, err := c.Run(ctx, ns, "client", "", nil, command...)
			if strings.Contains(errs, "404 Not Found") { // wget's way to say it
				return "404", nil
			}
			return out + errs, err
		}
	}
	path := "http://" + at["http"] + "/live"
	user("a GET of the probe's path, which makes the debuggee ill,", pod("/workload", "get", path+"?status=404"), 0)
	user("a GET of the probe's path", pod("/workload", "get", path), 0)
	user("a GET that only says to be kubelet's", pod("/bin/busybox", "wget", "-qO-", "-U", "kube-probe/1.34", path), 0)
	if c.own != nil {
		n := c.Node(t)
		user("a GET from the node", func(context.Context) (string, error) {
			return n.Run(t, "/bin/busybox", "sh", "-c", "busybox wget -qO- "+path+" 2>&1 | sed 's/.*404.*/404/'"), nil
		}, 0)
	}
	checked := c.checks(t, ns)
	user("a GET of the probe's path, thought about for a minute,",
		pod("/bin/busybox", "wget", "-qO-", path), standing)
	talk.Must(t, a.Client, "disconnect", map[string]any{"terminateDebuggee": true})
	watched()
	c.checkedBy(t, ns, checked)
}

// watchHealth watches pods until the function it returns is called, which tells whether one of them was ever not ready,
// or was restarted.
func (c *Cluster) watchHealth(t *testing.T, namespace, label string) func() {
	t.Helper()
	list, err := c.Client.CoreV1().Pods(namespace).List(Limit(t), metav1.ListOptions{LabelSelector: label})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	w, err := c.Client.CoreV1().Pods(namespace).Watch(ctx, metav1.ListOptions{LabelSelector: label, ResourceVersion: list.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	look := func(p *corev1.Pod) {
		if restarts := p.Status.ContainerStatuses[0].RestartCount; !PodReady(p) || restarts != 0 {
			t.Errorf("pod %s: ready %v, %d restarts", p.Name, PodReady(p), restarts)
		}
	}
	for i := range list.Items {
		look(&list.Items[i])
	}
	done := make(chan struct{})
	t.Cleanup(func() { // it tells of the test, so it ends before that
		cancel()
		<-done
	})
	go func() {
		defer close(done)
		for event := range w.ResultChan() {
			if p, ok := event.Object.(*corev1.Pod); ok {
				look(p)
			}
		}
		if ctx.Err() == nil {
			t.Error("the watch ended early")
		}
	}()
	return func() {
		t.Helper()
		cancel()
		<-done
		for _, p := range list.Items {
			now, err := c.Client.CoreV1().Pods(namespace).Get(Limit(t), p.Name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			look(now)
		}
	}
}

// check is one pod's health checks of one kind and result, as kubelet counts them.
type check struct{ pod, kind, result string }

var counted = regexp.MustCompile(`(?m)^prober_probe_total\{(.*)\} ([0-9.e+]+)$`)

// checks are kubelet's counts for a namespace.
func (c *Cluster) checks(t *testing.T, namespace string) map[check]int {
	t.Helper()
	nodes, err := c.Client.CoreV1().Nodes().List(Limit(t), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got := map[check]int{}
	for _, n := range nodes.Items {
		text, err := c.Client.CoreV1().RESTClient().Get().Resource("nodes").Name(n.Name).SubResource("proxy").Suffix("metrics", "probes").DoRaw(Limit(t))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range counted.FindAllStringSubmatch(string(text), -1) {
			labels := map[string]string{}
			for _, pair := range strings.Split(m[1], ",") {
				name, value, _ := strings.Cut(pair, "=")
				labels[name] = strings.Trim(value, `"`)
			}
			count, err := strconv.ParseFloat(m[2], 64)
			if err != nil {
				t.Fatal(err)
			}
			if labels["namespace"] == namespace {
				got[check{labels["pod"], labels["probe_type"], labels["result"]}] += int(count)
			}
		}
	}
	return got
}

// checkedBy: kubelet has gone on looking, and has found what only the pod itself answers. One look may fail: a command's
// may have met the debuggee in the instant in which it stopped, and the machine may be busy.
func (c *Cluster) checkedBy(t *testing.T, namespace string, before map[check]int) {
	t.Helper()
	const spare = 1
	least := int(standing/probePeriod) - 2 - spare // one at each end
	now := c.checks(t, namespace)
	for name := range ways {
		for _, kind := range []string{"Readiness", "Liveness"} {
			good, bad := check{name, kind, "successful"}, check{name, kind, "failed"}
			well, ill := now[good]-before[good], now[bad]-before[bad]
			if well < least || ill > spare {
				t.Errorf("%s: %d good %s checks, of at least %d, and %d bad ones", name, well, kind, least, ill)
			}
			t.Logf("%s: %s checks: %d good, %d bad", name, kind, well, ill)
		}
	}
}
