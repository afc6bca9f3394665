package e2e

import (
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/stepin-dev/stepin/adapter/dap/talk"
)

// TestScratch: where the target's image has nothing but its program, and the cluster no image of stepin's and no
// registry, the agent comes through the API, and F5 works: a request stops at a breakpoint.
func TestScratch(t *testing.T) {
	c := Up(t)
	m := newMarket(t, c, "privileged", map[string]string{"shop": scratch})
	if _, _, err := c.Run(Limit(t), m.ns, "shop", "", nil, "/bin/sh", "-c", ":"); err == nil {
		t.Fatal("the image has a shell")
	}
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(root, "pkg", "e2e", "workload")
	line := talk.Mark(t, filepath.Join(program, "serve.go"), "a breakpoint's line")
	a := Stepin{Kubeconfig: c.Kubeconfig, Env: append(WithDelve(t), "CGO_ENABLED=0", "XDG_RUNTIME_DIR="+t.TempDir())}.DAP(t)
	begun := time.Now()
	talk.Begin(t, a.Client, Configuration(m.ns, "pod/shop", program, map[string]any{
		"debugger": map[string]any{"args": []string{"serve", "-name=debuggee", "-http=:8080"}},
		"agent":    map[string]any{"ttl": "0s"},
	}), line)
	if err := a.WaitOutput(Limit(t), "console", "tcp port 8080 of pod shop now sends"); err != nil {
		t.Fatal(err)
	}
	t.Logf("F5 to the pod's traffic: %.1f s", time.Since(begun).Seconds())
	var agent corev1.Pod
	Eventually(t, Patience, "the agent's pod is ready", func() bool {
		pods := c.Pods(t, m.ns, "stepin.dev/pod="+string(c.Pods(t, m.ns, "app=shop")[0].UID))
		if len(pods) == 1 {
			agent = pods[0]
		}
		return len(pods) == 1
	})
	if got := agent.Spec.Containers[0].Image; got != scratch || len(agent.Spec.Containers) != 1 {
		t.Errorf("the agent's image is %s", got)
	}

	answered := c.asking(t, m.ns, "client", "http://"+c.Pods(t, m.ns, "app=shop")[0].Status.PodIP+":8080/orders/7")
	stopped := talk.Event(t, a.Client, "stopped")
	if at, locals := talk.At(t, a.Client, stopped); at != line || !slices.Contains(locals, `path="/orders/7"`) {
		t.Errorf("stopped at %s with %v, not at %s", at, locals, line)
	}
	goOn(t, a.Client, stopped)
	if got := <-answered; got.err != nil || got.Who != "debuggee" || !strings.HasPrefix(got.Caller, m.client+":") || got.Method != http.MethodGet {
		t.Errorf("%+v", got)
	}
	talk.Must(t, a.Client, "disconnect", map[string]any{"terminateDebuggee": true})
	Eventually(t, handBack, "the pod serves again", func() bool { return m.asks(t, "shop").Who == "pod" })
}
