package bench

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/stepin-dev/stepin/adapter/dap/talk"
	"github.com/stepin-dev/stepin/pkg/e2e"
	"github.com/stepin-dev/stepin/pkg/e2e/bench/drive"
)

// mirrorPods are the one that is mirrored, its like, and the client.
const mirrorPods = `
apiVersion: v1
kind: Pod
metadata: {name: target}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - {name: web, image: "stepin.test/workload:1", imagePullPolicy: Never, args: [serve, -name=pod, "-http=:8080"]}
---
apiVersion: v1
kind: Pod
metadata: {name: alone}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - {name: web, image: "stepin.test/workload:1", imagePullPolicy: Never, args: [serve, -name=pod, "-http=:8080"]}
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

const (
	// mirrorPause is what a caller waits after an answer; where times are compared, times as many as there are callers.
	mirrorPause = 5 * time.Millisecond
	// copiesPatience bounds the wait for the copies, which come after the answers, and for the line that tells of those that
	// are lost, which is said every ten seconds at most.
	copiesPatience = 20 * time.Second
	// settle is how long more than all might still come.
	settle = 200 * time.Millisecond
)

// mirrorBed has what the rows of a mirror need.
type mirrorBed struct {
	c             *e2e.Cluster
	namespace     string
	client        *driver
	target, alone string       // http://HOST:PORT
	debuggee      string       // the same, on this machine
	said          *talk.Buffer // by stepin
}

func (b *run) mirrorBed(s *scope, c *e2e.Cluster) bed {
	dir := s.TempDir()
	workload, program := build(s, dir, "./workload"), build(s, dir, "./bench/driver")
	ns := c.Namespace(s, "")
	c.Apply(s, ns, mirrorPods)
	at := map[string]string{}
	for _, name := range []string{"target", "alone", "client"} {
		c.Ready(s, ns, "pod/"+name)
		at[name] = fmt.Sprintf("http://%s:8080", podOf(s, c, ns, name).Status.PodIP)
	}
	port := freePort(s)
	bed := &mirrorBed{c: c, namespace: ns, client: inPod(s, c, ns, "client", program), target: at["target"], alone: at["alone"],
		debuggee: fmt.Sprintf("http://127.0.0.1:%d", port)}
	bed.said = process(s, e2e.Stepin{Kubeconfig: c.Kubeconfig}.Exec(s.Context(), s, map[string]any{
		"target": "pod/target", "namespace": ns,
		"incoming": map[string]any{"mode": "mirror", "map": map[string]any{fmt.Sprint(port): 8080}},
	}, workload, "serve", "-name=debuggee", fmt.Sprintf("-http=:%d", port)))
	e2e.Eventually(s, copiesPatience, "requests are copied", func() bool {
		bed.client.until(s, bed.target+"/", `"Who":"pod"`)
		n, err := bed.copied()
		return err == nil && n > 0
	})
	time.Sleep(settle)
	return bed
}

// copied is how many requests the debuggee has answered.
func (b *mirrorBed) copied() (int, error) {
	resp, err := http.Get(b.debuggee + "/served")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(text))
}

// served is how many requests the other pod has answered.
func (b *mirrorBed) served(s *scope) (int, error) {
	text, errs, err := b.c.Run(e2e.Limit(s), b.namespace, "alone", "", nil, "/workload", "get", "http://127.0.0.1:8080/served")
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, errs)
	}
	return strconv.Atoi(strings.TrimPrefix(strings.TrimSpace(text), "200 "))
}

// ways are none: what a mirror adds is not on the callers' way.
func (*mirrorBed) ways() []string                        { return nil }
func (*mirrorBed) sum(Row, map[string]float64) (p Parts) { return p }

func (b *mirrorBed) measure(s *scope, r Row, way string, slice time.Duration, slow bool) Measure {
	base := map[string]string{"stepin": b.target, "plain": b.alone}[way]
	order := drive.Order{URL: base + "/", At: r.at, For: slice, Pause: mirrorPause, Expect: `"Who":"pod"`}
	if r.Exact {
		order.Fresh = true
		return Measure{Value: b.share(s, order, way, slow)}
	}
	order.Pause *= time.Duration(r.at)
	order.Slow = slow
	before := must(s, b.copied)
	report := b.ask(s, order)
	if way == "stepin" {
		e2e.Eventually(s, copiesPatience, "the debuggee has every copy", func() bool {
			return must(s, b.copied)-before == report.Requests+r.at
		})
	}
	return Measure{Value: r.took(report), P50: report.P50, P99: report.P99}
}

// ask has the client ask. What is sent are the requests that count, and each caller's first.
func (b *mirrorBed) ask(s *scope, o drive.Order) drive.Report {
	report := b.client.do(s, o)
	if report.Err != "" {
		s.Fatal(report.Err)
	}
	return report
}

// share is which part of the requests came to whom they were to come to. A connection of which the kernel has shown
// nothing at all is in no other count than that of the frames that it has dropped. Broken on purpose is asking as often
// again where nobody copies.
func (b *mirrorBed) share(s *scope, o drive.Order, way string, broken bool) float64 {
	count := func() (arrived, dropped int) { return must(s, func() (int, error) { return b.served(s) }), 0 }
	if way == "stepin" {
		count = func() (arrived, dropped int) {
			lost, dropped := e2e.Losses(b.said.String())
			if arrived = must(s, b.copied); o.At == 1 { // nothing may be lost
				return arrived, 0
			}
			return arrived + lost, dropped
		}
	}
	arrived, dropped := count()
	sent := b.ask(s, o).Requests + o.At
	if broken {
		o.URL = b.alone + "/"
		sent += b.ask(s, o).Requests + o.At
	}
	for end := time.Now().Add(copiesPatience); ; time.Sleep(pace) {
		if now, _ := count(); now-arrived >= sent || time.Now().After(end) {
			break
		}
	}
	time.Sleep(settle)
	now, frames := count()
	all := now - arrived
	if missing := sent - all; missing > 0 {
		all += min(missing, frames-dropped)
	}
	return float64(all) / float64(sent)
}

func must(s *scope, f func() (int, error)) int {
	n, err := f()
	if err != nil {
		s.Fatal(err)
	}
	return n
}
