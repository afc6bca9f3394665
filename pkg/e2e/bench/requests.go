package bench

import (
	"fmt"
	"net"
	"os/exec"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepin-dev/stepin/pkg/e2e"
)

// pods are the target, whose second container is the same program on another port and is never stolen from; its like
// for the session without a cluster between; the Service and its one pod; and the client.
const pods = `
apiVersion: v1
kind: Pod
metadata: {name: target}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - {name: web, image: "stepin.test/workload:1", imagePullPolicy: Never, args: [serve, -name=pod, "-http=:8080"]}
    - {name: plain, image: "stepin.test/workload:1", imagePullPolicy: Never, args: [serve, -name=pod, "-http=:8081"]}
---
apiVersion: v1
kind: Pod
metadata: {name: local}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - {name: web, image: "stepin.test/workload:1", imagePullPolicy: Never, args: [serve, -name=pod, "-http=:8080"]}
---
apiVersion: v1
kind: Pod
metadata: {name: upstream, labels: {app: upstream}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - {name: web, image: "stepin.test/workload:1", imagePullPolicy: Never, args: [serve, -name=upstream, "-http=:8080"]}
---
apiVersion: v1
kind: Service
metadata: {name: upstream}
spec:
  selector: {app: upstream}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: client
      image: stepin.test/shell:1
      imagePullPolicy: Never
      args: [pause]
      volumeMounts: [{name: bench, mountPath: /bench}]
  volumes: [{name: bench, emptyDir: {}}]
`

// way is who asks whom, and what the answer to a small request says.
type way struct {
	by     *driver
	base   string // http://HOST:PORT
	expect string
}

// requestBed has everything that the rows of requests need; it lives as long as its scope.
type requestBed struct {
	stolen, out map[string]way
}

func (b *run) requestBed(s *scope, c *e2e.Cluster) bed {
	dir := s.TempDir()
	workload, program := build(s, dir, "./workload"), build(s, dir, "./bench/driver")
	ns := c.Namespace(s, "")
	c.Apply(s, ns, pods)
	names := []string{"target", "local", "upstream", "client"}
	at := map[string]string{}
	for _, name := range names {
		c.Ready(s, ns, "pod/"+name)
		at[name] = podOf(s, c, ns, name).Status.PodIP
	}
	client := inPod(s, c, ns, "client", program)
	machine := command(s, exec.Command(program))
	stepin := e2e.Stepin{Kubeconfig: c.Kubeconfig}

	// The debuggees that serve, one per pod, and the same program without stepin.
	serving := func(target string) (port int) {
		port = freePort(s)
		process(s, stepin.Exec(s.Context(), s, map[string]any{
			"target": target, "namespace": ns,
			"incoming": map[string]any{"mode": "steal", "map": map[string]any{fmt.Sprint(port): 8080}},
		}, workload, "serve", "-name=debuggee", fmt.Sprintf("-http=:%d", port)))
		return port
	}
	local := fmt.Sprintf("local/%d", mainPid(s, c, ns, "local"))
	fronted, _ := serving("pod/target/container/web"), serving(local)
	bare := freePort(s)
	process(s, exec.Command(workload, "serve", "-name=bare", fmt.Sprintf("-http=127.0.0.1:%d", bare)))

	// The debuggees that ask.
	asking := func(target string) *driver {
		return command(s, stepin.Exec(s.Context(), s, map[string]any{
			"target": target, "namespace": ns, "incoming": map[string]any{"mode": "off"},
		}, program))
	}
	inside, insideLocal := asking("pod/target/container/web"), asking(local)

	here := func(port int) string { return fmt.Sprintf("http://127.0.0.1:%d", port) }
	bed := &requestBed{
		stolen: map[string]way{
			"stepin": {client, "http://" + at["target"] + ":8080", `"Who":"debuggee"`},
			"plain":  {machine, "http://" + c.Forward(s, ns, "target", 8081), `"Who":"pod"`},
			"direct": {client, "http://" + at["target"] + ":8081", `"Who":"pod"`},
			"local":  {client, "http://" + at["local"] + ":8080", `"Who":"debuggee"`},
			"front":  {machine, here(fronted), `"Who":"debuggee"`},
			"bare":   {machine, here(bare), `"Who":"bare"`},
		},
		out: map[string]way{
			"stepin": {inside, "http://upstream", `"Who":"upstream"`},
			"plain":  {machine, "http://" + c.Forward(s, ns, "upstream", 8080), `"Who":"upstream"`},
			"direct": {client, "http://upstream", `"Who":"upstream"`},
			"local":  {insideLocal, "http://upstream", `"Who":"upstream"`},
			"front":  {inside, here(bare), `"Who":"bare"`},
			"bare":   {machine, here(bare), `"Who":"bare"`},
		},
	}
	for _, ways := range []map[string]way{bed.stolen, bed.out} {
		for _, w := range ways {
			w.by.until(s, w.base+"/", w.expect)
		}
	}
	return bed
}

func podOf(s *scope, c *e2e.Cluster, ns, name string) *corev1.Pod {
	pod, err := c.Client.CoreV1().Pods(ns).Get(e2e.Limit(s), name, metav1.GetOptions{})
	if err != nil {
		s.Fatal(err)
	}
	return pod
}

// mainPid is the pod's own process by this machine's number.
func mainPid(s *scope, c *e2e.Cluster, ns, name string) int {
	in := c.Node(s).In(s, podOf(s, c, ns, name).Status.ContainerStatuses[0].ContainerID)
	if len(in) != 1 {
		s.Fatalf("pod %s has %d processes", name, len(in))
	}
	return in[0].Pid
}

// freePort is one that nobody has on this machine just now.
func freePort(s *scope) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (b *requestBed) ways() []string { return []string{"direct", "local", "front", "bare"} }

func (b *requestBed) measure(s *scope, r Row, name string, slice time.Duration, slow bool) Measure {
	ways := b.out
	if r.kind == stolen {
		ways = b.stolen
	}
	w := ways[name]
	order := r.order(slice)
	order.URL, order.Slow = w.base+r.path(), slow
	if order.Expect == "" {
		order.Expect = w.expect
	}
	report := w.by.do(s, order)
	if report.Err != "" {
		s.Fatal(report.Err)
	}
	return Measure{Value: r.rate(report), P50: report.P50, P99: report.P99}
}

func (b *requestBed) sum(r Row, medians map[string]float64) Parts {
	took := func(name string) time.Duration { return time.Duration(r.each(medians[name]) * float64(time.Second)) }
	front := took("front") - took("bare")
	per := "request"
	if r.bulk() > 0 {
		per = "MiB"
	}
	return Parts{
		Known: true, Per: per,
		Front: front, Agent: took("local") - took("direct") - front, Channel: took("stepin") - took("local"),
	}
}
