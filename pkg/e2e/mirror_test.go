package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/stepin-dev/stepin/adapter/dap/talk"
)

// mirrorPort is the debuggee's own port: on this machine, too, where the test asks it how much it has served.
const mirrorPort = 18080

// TestMirror is the default mode in a real cluster: both replicas answer their callers as ever, and the debuggee gets the
// same requests.
func TestMirror(t *testing.T) {
	f := &f5{c: Up(t), t: t}
	f.ns = f.c.Namespace(t, "")
	f.c.Apply(t, f.ns, Web("web", 2)+"---"+Client("client"))
	f.c.Ready(t, f.ns, "deployment/web", "pod/client")
	f.c.Serving(t, f.ns, "client", "http://web/")
	pods := f.c.Pods(t, f.ns, "app=web")
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(root, "pkg", "e2e", "workload")
	line := talk.Mark(t, filepath.Join(program, "serve.go"), "a breakpoint's line")
	f.adapter = Stepin{Kubeconfig: f.c.Kubeconfig, Env: append(WithDelve(t), "CGO_ENABLED=0")}.DAP(t)
	configuration := Configuration(f.ns, "deployment/web", program, map[string]any{
		"debugger": map[string]any{"args": []string{"serve", "-name=debuggee", fmt.Sprintf("-http=:%d", mirrorPort)}},
		"agent":    map[string]any{"ttl": "2s"},
	})
	configuration["incoming"] = map[string]any{"map": map[string]any{fmt.Sprint(mirrorPort): 8080}}
	talk.Begin(t, f.adapter.Client, configuration)
	for _, p := range pods {
		if err := f.adapter.WaitOutput(Limit(t), "console", fmt.Sprintf("tcp port 8080 (here %d) of pod %s now sends copies", mirrorPort, p.Name)); err != nil {
			t.Fatal(err)
		}
	}

	for i, p := range pods {
		f.stands(t, p, line, i == 0)
	}
	for _, rate := range []int{100, 400, 1600} {
		before := f.copies(t)
		sum := f.load(t, rate, 3*time.Second)
		now := f.accounts(t, fmt.Sprintf("%d/s", rate), before, sum)
		if rate == 100 && (now.lost > before.lost || now.dropped > before.dropped) { // a moderate pace
			t.Errorf("%d/s: something is lost: %+v, before %+v", rate, now, before)
		}
	}

	t.Run("agent killed", func(t *testing.T) {
		f.c.NeedsNode(t, "killing")
		done := make(chan Sum, 1)
		go func() { done <- f.load(t, 200, 4*time.Second) }()
		time.Sleep(time.Second)
		for _, p := range pods {
			parent, _ := agents(p)
			if err := syscall.Kill(parent, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
		if sum := <-done; sum.Lost != 0 || len(sum.By) != 2 {
			t.Errorf("while the agents were killed: %+v", sum)
		}
	})
	talk.Must(t, f.adapter.Client, "disconnect", map[string]any{"terminateDebuggee": true})
	for _, p := range pods {
		if now := f.pod(p.Name); !PodReady(&now) || now.Status.ContainerStatuses[0].RestartCount != 0 {
			t.Errorf("pod %s after the session: %+v", p.Name, now.Status)
		}
	}
}

// stands has a request of a pod's stop, and its callers go on: for a minute, if long, in which more comes than is kept.
func (f *f5) stands(t *testing.T, p corev1.Pod, line string, long bool) {
	t.Helper()
	talk.SetBreakpoints(t, f.adapter.Client, line)
	before := f.copies(t)
	path, last := "/by/"+p.Name, 2*time.Second
	if long {
		last = standing
	}
	if a := f.c.Ask(t, f.ns, "client", "http://"+p.Status.PodIP+":8080"+path); a.Who != "web" || a.Host != p.Name {
		t.Errorf("answered by %+v, not by the pod", a)
	}
	stopped := talk.Event(t, f.adapter.Client, "stopped")
	if at, locals := talk.At(t, f.adapter.Client, stopped); at != line || !slices.Contains(locals, `path="`+path+`"`) {
		t.Errorf("stopped at %s with %v", at, locals)
	}
	rest := f.memory(t, p)
	sum := f.load(t, 100, last)
	if len(sum.By) != 2 || sum.By["debuggee@"+p.Name] != 0 {
		t.Errorf("while the debuggee stands: %+v", sum)
	}
	if grown := f.memory(t, p) - rest; grown > agentBudget {
		t.Errorf("the agent has grown by %d MiB, at most %d", grown>>20, agentBudget>>20)
	} else {
		t.Logf("the agent has grown by %d MiB in %v", grown>>20, last)
	}
	talk.Must(t, f.adapter.Client, "setBreakpoints", map[string]any{"source": map[string]string{"path": strings.Split(line, ":")[0]}})
	goOn(t, f.adapter.Client, stopped)
	sum.Asked++ // what has stood
	f.accounts(t, last.String()+" at a breakpoint", before, sum)
}

// agentBudget is what an agent may grow by, in bytes.
const agentBudget = 64 << 20

// memory is what a pod's agent has of its own, in bytes; 0 where there is no node to look at.
func (f *f5) memory(t *testing.T, p corev1.Pod) (sum int) {
	t.Helper()
	if f.c.own == nil {
		return 0
	}
	parent, child := agents(p)
	for _, pid := range []int{parent, child} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		_, text, _ = bytes.Cut(text, []byte("RssAnon:"))
		var kib int
		if _, err := fmt.Sscan(string(text), &kib); err != nil {
			t.Fatal(err)
		}
		sum += kib << 10
	}
	return sum
}

// copies are the requests that the debuggee has served, the connections that are counted as lost, and frames dropped.
type copies struct{ served, lost, dropped int }

func (f *f5) copies(t *testing.T) (c copies) {
	t.Helper()
	c.served = f.settled(t)
	c.lost, c.dropped = Losses(f.adapter.Output("console"))
	return c
}

// accounts holds that every caller is answered, and that each request is the debuggee's or counted as lost. A connection
// is in no count where the kernel dropped every frame that told of it, each of which it counts.
func (f *f5) accounts(t *testing.T, what string, before copies, sum Sum) (now copies) {
	t.Helper()
	all, dropped := 0, 0
	for begun := time.Now(); time.Since(begun) < time.Minute; { // losses are said every ten seconds
		now = f.copies(t)
		all, dropped = now.served-before.served+now.lost-before.lost, now.dropped-before.dropped
		if all >= sum.Asked || all+dropped >= sum.Asked && time.Since(begun) > 20*time.Second {
			break
		}
	}
	text := fmt.Sprintf("%s: %d sent, of which %d were not answered; %d copied, %d lost; %d frames dropped", what, sum.Asked, sum.Lost,
		now.served-before.served, now.lost-before.lost, dropped)
	if t.Log(text); sum.Lost != 0 || all > sum.Asked || all+dropped < sum.Asked {
		t.Errorf("%s: that is not all", text)
	}
	return now
}

// Sum is what the workload's load says in the end.
type Sum struct {
	Asked, Lost int
	By          map[string]int
}

// load has the client ask, each time by a connection of its own.
func (f *f5) load(t *testing.T, rate int, last time.Duration) (sum Sum) {
	t.Helper()
	out := f.c.Exec(t, f.ns, "client", "/workload", "load", "-fresh", "-rate", strconv.Itoa(rate), "-for", last.String(), "http://web/load")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &sum); err != nil {
		t.Fatal(err, out)
	}
	return sum
}

// settled waits until the debuggee has served all that has come, and says how many requests that were.
func (f *f5) settled(t *testing.T) (served int) {
	t.Helper()
	same := 0
	Eventually(t, time.Minute, "the debuggee has served all that came", func() bool {
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/served", mirrorPort))
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			return false
		}
		now, err := strconv.Atoi(string(text))
		if err == nil && now == served {
			same++
		} else {
			served, same = now, 0
		}
		time.Sleep(100 * time.Millisecond)
		return same > 5
	})
	return served
}
