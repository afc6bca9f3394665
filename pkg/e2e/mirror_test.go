package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

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
	talk.Begin(t, f.adapter.Client, configuration, line)
	for _, p := range pods {
		if err := f.adapter.WaitOutput(Limit(t), "console", fmt.Sprintf("tcp port 8080 (here %d) of pod %s now sends copies", mirrorPort, p.Name)); err != nil {
			t.Fatal(err)
		}
	}

	for _, p := range pods {
		path := "/by/" + p.Name
		if a := f.c.Ask(t, f.ns, "client", "http://"+p.Status.PodIP+":8080"+path); a.Who != "web" || a.Host != p.Name {
			t.Errorf("answered by %+v, not by the pod", a)
		}
		stopped := talk.Event(t, f.adapter.Client, "stopped")
		if at, locals := talk.At(t, f.adapter.Client, stopped); at != line || !slices.Contains(locals, `path="`+path+`"`) {
			t.Errorf("stopped at %s with %v", at, locals)
		}
		if sum := f.load(t, 100, 2*time.Second); sum.Lost != 0 || sum.By["debuggee@"+p.Name] != 0 {
			t.Errorf("while the debuggee stands: %+v", sum)
		}
		talk.Must(t, f.adapter.Client, "setBreakpoints", map[string]any{"source": map[string]string{"path": strings.Split(line, ":")[0]}})
		goOn(t, f.adapter.Client, stopped)
		if p.Name != pods[len(pods)-1].Name {
			f.settled(t)
			file, number, _ := strings.Cut(line, ":")
			n, err := strconv.Atoi(number)
			if err != nil {
				t.Fatal(err)
			}
			talk.Must(t, f.adapter.Client, "setBreakpoints", map[string]any{"source": map[string]string{"path": file}, "breakpoints": []map[string]int{{"line": n}}})
		}
	}
	f.settled(t)

	// Every request is the debuggee's, or counted as lost; at a moderate pace none is.
	for _, rate := range []int{100, 400, 1600} {
		served := f.settled(t)
		lost, before := f.lost()
		sum := f.load(t, rate, 3*time.Second)
		// A connection is in no count where the kernel dropped every frame that told of it, each of which it counts.
		copied, missing, dropped := 0, 0, 0
		for end := time.Now().Add(time.Minute); copied+missing < sum.Asked && time.Now().Before(end); { // losses are said every ten seconds
			copied = f.settled(t) - served
			missing, dropped = f.lost()
			missing, dropped = missing-lost, dropped-before
			if dropped > 0 && copied+missing+dropped >= sum.Asked && time.Now().After(end.Add(-40*time.Second)) {
				break
			}
		}
		text := fmt.Sprintf("%d/s: %d sent, of which %d were not answered; %d copied, %d lost; %d frames dropped", rate, sum.Asked, sum.Lost, copied, missing, dropped)
		t.Log(text)
		all := copied + missing
		if sum.Lost != 0 || all > sum.Asked || all+dropped < sum.Asked || rate == 100 && missing+dropped != 0 {
			t.Errorf("%s: that is not all", text)
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

var lossLine = regexp.MustCompile(`of pod (\S+): (\d+) of \d+ connections were not copied.*?(?:dropped (\d+) frames.*)?\n`)

// lost is how many copies were lost, and how many frames dropped, as stepin has said last of each pod.
func (f *f5) lost() (n, dropped int) {
	last := map[string][2]int{}
	for _, m := range lossLine.FindAllStringSubmatch(f.adapter.Output("console"), -1) {
		flows, _ := strconv.Atoi(m[2])
		frames, _ := strconv.Atoi(m[3])
		last[m[1]] = [2]int{flows, frames}
	}
	for _, k := range last {
		n, dropped = n+k[0], dropped+k[1]
	}
	return n, dropped
}
