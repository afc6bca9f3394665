package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/stepin-dev/stepin/adapter/dap/talk"
)

// shop is the target of TestRungs and TestCapabilities, which every level of PodSecurity admits: a pod that has all the
// kinds of things that a debuggee may want. Its Secret is for its group alone. A format of name and image.
const shop = `
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, labels: {app: %[1]s}}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {runAsNonRoot: true, runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: shop
      image: %[2]s
      imagePullPolicy: Never
      args: [serve, -name=pod, "-http=:8080", "-tcp=:9000"]
      env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: shop, key: password}}}]
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
      volumeMounts:
        - {name: config, mountPath: /etc/shop/config}
        - {name: secret, mountPath: /etc/shop/secret}
  volumes:
    - {name: config, configMap: {name: shop}}
    - {name: secret, secret: {secretName: shop, defaultMode: 0440}}
---
`

// aroundShop is what shop needs and whom it calls.
const aroundShop = `
apiVersion: v1
kind: ConfigMap
metadata: {name: shop}
data: {region: north}
---
apiVersion: v1
kind: Secret
metadata: {name: shop}
stringData: {password: open sesame}
---
apiVersion: v1
kind: Pod
metadata: {name: stock, labels: {app: stock}}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: stock
      image: stepin.test/workload:1
      imagePullPolicy: Never
      args: [serve, -name=stock, "-http=:8080"]
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
---
`

// The images of shop's pods.
const (
	scratch = "stepin.test/workload:1"
	shell   = "stepin.test/shell:1"
)

// market is a namespace with a shop and those around it.
type market struct {
	c       *Cluster
	ns      string
	program string // the debuggee
	stock   string // the address of its Service
	client  string // the address of the pod that asks
}

// newMarket makes one at a level of PodSecurity, with the shops that are named by their images.
func newMarket(t *testing.T, c *Cluster, level string, shops map[string]string) *market {
	t.Helper()
	m := &market{c: c, ns: c.Namespace(t, level), program: program(t, "abilities")}
	documents := aroundShop + fmt.Sprintf(Service, "stock") + "---" + Client("client")
	names := []string{"pod/stock", "pod/client"}
	for name, image := range shops {
		documents += "---" + fmt.Sprintf(shop, name, image)
		names = append(names, "pod/"+name)
	}
	c.Apply(t, m.ns, documents)
	c.Ready(t, m.ns, names...)
	c.Serving(t, m.ns, "client", "http://stock/")
	m.stock, m.client = (&f5{c: c, ns: m.ns}).service(t, "stock", m.ns).Spec.ClusterIP, c.Pods(t, m.ns, "app=client")[0].Status.PodIP
	return m
}

// program builds a debuggee of programs/.
func program(t *testing.T, name string) string {
	t.Helper()
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), name)
	cmd := exec.CommandContext(Limit(t), "go", "build", "-trimpath", "-buildvcs=false", "-o", out, "./programs/"+name)
	cmd.Dir, cmd.Env = filepath.Join(root, "pkg", "e2e"), append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return out
}

// agentImages are the images of the agent that this process has made, by the binary's path.
var agentImages sync.Map

// agentImage makes the agent's image as a user would and gives it to the node. Its name is of its content: no node has
// another one by that name.
func (c *Cluster) agentImage(t *testing.T) string {
	t.Helper()
	c.NeedsNode(t, "giving an image to the node")
	binary := Binary(t)
	if name, ok := agentImages.Load(binary); ok {
		return name.(string)
	}
	data, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	archive, name := filepath.Join(t.TempDir(), "agent.tar"), fmt.Sprintf("stepin.test/agent:%.16x", sha256.Sum256(data))
	if r := (Stepin{Kubeconfig: c.Kubeconfig}).Run(t, "agent", "image", "save", archive, name); r.Status != 0 {
		t.Fatalf("stepin agent image save: %+v", r)
	}
	c.images(t, "import", archive)
	agentImages.Store(binary, name)
	return name
}

// visit is one session in the place of a shop: stepin exec with the program abilities.
type visit struct {
	Table  map[string]string // what the program got
	Stderr talk.Buffer       // what stepin says
	in     io.WriteCloser
	ended  chan struct{}
	err    error
}

// visit starts one and waits until its program serves; serving is false if it has ended instead.
func (m *market) visit(t *testing.T, kubeconfig, target string, agent, incoming map[string]any, env ...string) (v *visit, serving bool) {
	t.Helper()
	configuration := map[string]any{"target": target, "namespace": m.ns, "agent": lay(map[string]any{"ttl": "0s"}, agent)}
	if incoming != nil {
		configuration["incoming"] = incoming
	}
	v = &visit{Table: map[string]string{}, ended: make(chan struct{})}
	cmd := Stepin{Kubeconfig: kubeconfig, Env: append(env, "XDG_RUNTIME_DIR="+t.TempDir())}.Exec(context.Background(), t, configuration, m.program)
	var out bytes.Buffer
	lines, writer := io.Pipe()
	cmd.Stdout, cmd.Stderr = writer, &v.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	v.in = in
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		v.err = cmd.Wait()
		writer.Close()
		close(v.ended)
	}()
	t.Cleanup(func() {
		v.end()
		if t.Failed() {
			t.Logf("%s as %v: %v\n%s%s", target, agent, v.err, out.String(), v.Stderr.String())
		}
	})
	table := make(chan bool, 1)
	go func() {
		defer func() { _, _ = io.Copy(io.Discard, lines) }()
		b := make([]byte, 1)
		for line := ""; ; {
			if _, err := lines.Read(b); err != nil {
				table <- false
				return
			}
			if line += string(b); b[0] != '\n' {
				continue
			}
			out.WriteString(line)
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
			if line = ""; name == "serving" {
				table <- true
				return
			}
			v.Table[name] = value
		}
	}()
	select {
	case serving = <-table:
	case <-Limit(t).Done():
		_ = cmd.Process.Kill()
		t.Fatal("the session neither began nor ended:\n" + v.Stderr.String())
	}
	if !serving {
		<-v.ended
	}
	return v, serving
}

// end ends the program, and with it the session.
func (v *visit) end() {
	_ = v.in.Close()
	<-v.ended
}

// status is stepin's exit status.
func (v *visit) status() int {
	var exit *exec.ExitError
	if errors.As(v.err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

// said waits for a line of stepin's.
func (v *visit) said(t *testing.T, what string) {
	t.Helper()
	Eventually(t, Patience, "stepin says "+what, func() bool { return strings.Contains(v.Stderr.String(), what) })
}

// got checks each line of the program's table against the pod itself; different names the lines that differ, and how.
func (m *market) got(t *testing.T, v *visit, pod string, different map[string]string) {
	t.Helper()
	self := m.c.Pods(t, m.ns, "app="+pod)[0]
	want := map[string]string{"variable": "open sesame", "ConfigMap": "north", "Secret": "open sesame", "name": m.stock,
		"host name": pod, "own address": self.Status.PodIP,
		"token": strings.TrimSpace(m.c.Exec(t, m.ns, pod, "/workload", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token"))}
	for name, value := range want {
		got := v.Table[name]
		if how, ok := different[name]; ok {
			if !strings.Contains(got, how) {
				t.Errorf("%s: %q, not %q", name, got, how)
			}
		} else if got != value {
			if name == "token" {
				got, value = fmt.Sprint(len(got), " bytes"), "the pod's"
			}
			t.Errorf("%s: %q, not %q", name, got, value)
		}
	}
	var a Answer
	if err := json.Unmarshal([]byte(v.Table["outgoing"]), &a); err != nil || a.Who != "stock" || !strings.HasPrefix(a.Caller, self.Status.PodIP+":") {
		t.Errorf("outgoing: %q", v.Table["outgoing"])
	}
}

// asks has the client ask the shop, and says who answered whom.
func (m *market) asks(t *testing.T, pod string) Answer {
	t.Helper()
	return m.c.Ask(t, m.ns, "client", "http://"+m.c.Pods(t, m.ns, "app="+pod)[0].Status.PodIP+":8080/")
}

// documented are the Roles of docs/cluster.md by their names.
func documented(t *testing.T) map[string][]rbacv1.PolicyRule {
	t.Helper()
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "cluster.md"))
	if err != nil {
		t.Fatal(err)
	}
	roles := map[string][]rbacv1.PolicyRule{}
	for i, part := range strings.Split(string(page), "```") {
		text, ok := strings.CutPrefix(part, "yaml\n")
		if i%2 == 0 || !ok {
			continue
		}
		var role rbacv1.Role
		if err := yaml.Unmarshal([]byte(text), &role); err != nil {
			t.Fatal(err)
		}
		if role.Kind == "Role" {
			roles[role.Name] = role.Rules
		}
	}
	return roles
}

// without is a Role without one verb on one resource.
func without(rules []rbacv1.PolicyRule, verb, resource string) []rbacv1.PolicyRule {
	var left []rbacv1.PolicyRule
	for _, r := range rules {
		if r.Resources[0] == resource {
			r.Verbs = slices.DeleteFunc(slices.Clone(r.Verbs), func(v string) bool { return v == verb })
		}
		if len(r.Verbs) > 0 {
			left = append(left, r)
		}
	}
	return left
}
