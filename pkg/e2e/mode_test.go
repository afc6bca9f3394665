package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepin-dev/stepin/adapter/dap/talk"
)

// notes are what sessions say of themselves on the Jobs of a namespace, one element each.
func (c *Cluster) notes(t *testing.T, namespace string) (all []string) {
	t.Helper()
	list, err := c.Client.BatchV1().Jobs(namespace).List(Limit(t), metav1.ListOptions{LabelSelector: "app.kubernetes.io/managed-by=stepin"})
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range list.Items {
		for key, text := range j.Annotations {
			if strings.HasPrefix(key, "session.stepin.dev/") {
				all = append(all, text)
			}
		}
	}
	return all
}

// TestMode switches what becomes of two replicas' requests while a session runs; who it is and what it does stands on both
// agents' Jobs, and in the list of targets, until it ends.
func TestMode(t *testing.T) {
	f := &f5{c: Up(t), t: t}
	f.ns = f.c.Namespace(t, "")
	f.c.Apply(t, f.ns, Web("web", 2)+"---"+Client("client"))
	f.c.Ready(t, f.ns, "deployment/web", "pod/client")
	pods := f.c.Pods(t, f.ns, "app=web")
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	developer := Stepin{Kubeconfig: f.c.Kubeconfig, Env: append(WithDelve(t), "CGO_ENABLED=0")}
	f.adapter = developer.DAP(t)
	configuration := Configuration(f.ns, "deployment/web", filepath.Join(root, "pkg", "e2e", "workload"), map[string]any{
		"debugger": map[string]any{"args": []string{"serve", "-name=debuggee", "-http=:8081"}},
		"agent":    map[string]any{"ttl": "30s"}, // its Job is there for a while after the session
	})
	configuration["incoming"] = map[string]any{"map": map[string]any{"8081": 8080}}
	talk.Begin(t, f.adapter.Client, configuration)
	for _, p := range pods {
		if err := f.adapter.WaitOutput(Limit(t), "console", "tcp port 8080 (here 8081) of pod "+p.Name+" now sends copies"); err != nil {
			t.Fatal(err)
		}
	}
	var state struct {
		Mode, Namespace, Who string
		Pods                 []struct {
			Name            string
			Home, Connected bool
		}
		Ports []struct{ Port, Pod int }
	}
	noted := func(mode string) {
		t.Helper()
		Eventually(t, Patience, "both Jobs say "+mode, func() bool {
			all := f.c.notes(t, f.ns)
			return len(all) == 2 && !slices.ContainsFunc(all, func(text string) bool {
				return !strings.Contains(text, fmt.Sprintf(`"mode":%q`, mode)) || mode != "off" && !strings.Contains(text, `"port":8080}`)
			})
		})
	}
	noted("mirror")
	for _, mode := range []string{"steal", "mirror", "steal", "off"} {
		if err := talk.Must(t, f.adapter.Client, "stepin.setMode", map[string]any{"mode": mode}).Decode(&state); err != nil || state.Mode != mode {
			t.Fatalf("%+v, %v", state, err)
		}
		who := map[bool]string{true: "debuggee", false: "web"}[mode == "steal"]
		for _, p := range pods {
			if a := f.c.Ask(t, f.ns, "client", "http://"+p.Status.PodIP+":8080/"); a.Who != who {
				t.Errorf("mode %s: %s is served by %s", mode, p.Name, a.Who)
			}
		}
		if mode != "steal" {
			continue
		}
		if len(state.Pods) != 2 || !state.Pods[0].Home || !state.Pods[0].Connected || !state.Pods[1].Connected || state.Namespace != f.ns ||
			len(state.Ports) != 1 || state.Ports[0].Port != 8081 || state.Ports[0].Pod != 8080 {
			t.Errorf("%+v", state)
		}
	}
	noted("off")
	if err := talk.Must(t, f.adapter.Client, "stepin.setMode", map[string]any{"mode": "steal"}).Decode(&state); err != nil {
		t.Fatal(err)
	}
	noted("steal")

	var list struct {
		Items []struct {
			Target   string
			Sessions []struct {
				Who, Mode string
				Ports     []struct{ Port int }
			}
		}
	}
	r := developer.Run(t, "targets", "-n", f.ns, "-o", "json")
	if err := json.Unmarshal([]byte(r.Stdout), &list); err != nil {
		t.Fatalf("%v: %+v", err, r)
	}
	for _, i := range list.Items {
		used := i.Target != "pod/client"
		if strings.Contains(i.Target, "stepin") || (len(i.Sessions) == 1) != used ||
			used && (i.Sessions[0].Who != state.Who || i.Sessions[0].Mode != "steal" || len(i.Sessions[0].Ports) != 1 || i.Sessions[0].Ports[0].Port != 8080) {
			t.Errorf("%+v", i)
		}
	}
	var here struct {
		Sessions []struct {
			Pod, Mode string
			Own, Mine bool
		}
	}
	if err := talk.Must(t, f.adapter.Client, "stepin.sessions", nil).Decode(&here); err != nil || len(here.Sessions) != 2 {
		t.Fatalf("%+v, %v", here, err)
	}
	for _, s := range here.Sessions {
		if !s.Own || !s.Mine || s.Mode != "steal" || !slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.Name == s.Pod }) {
			t.Errorf("%+v", s)
		}
	}

	talk.Must(t, f.adapter.Client, "disconnect", nil)
	Eventually(t, Patience, "nobody is noted any more", func() bool { return len(f.c.notes(t, f.ns)) == 0 })
}
