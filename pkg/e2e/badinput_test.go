package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/stepin-dev/stepin/adapter/dap/talk"
	"github.com/stepin-dev/stepin/pkg/fail"
)

// bad is what TestBadInput gives stepin. In what and hint NS stands for the namespace.
type bad struct {
	name       string
	kubeconfig string          // "" is a user's who may do everything in the namespace
	target     string          // "" is deployment/web
	level      string          // of another namespace, for what is bound to one; "" is the common one
	more       map[string]any  // laid over the configuration
	prepare    func(ns string) // before
	id         fail.Code
	what, hint string        // parts of what is read
	within     time.Duration // of each way to start; 0: soon
}

// soon is what a refusal may take on a busy machine; no time-out of stepin's is as short.
const soon = 12 * time.Second

// rejected is a policy as an administrator writes one: no pods in the node's PID namespace.
const rejected = `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: %[1]s}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
  validations: [{expression: "!has(object.spec.hostPID) || !object.spec.hostPID", message: "no pod of this team looks at a node"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: %[1]s}
spec:
  policyName: %[1]s
  validationActions: [Deny]
  matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %[1]s}}}
`

// oddPods are pods that cannot be a target, each for another reason.
const oddPods = `
apiVersion: v1
kind: Pod
metadata: {name: unready, labels: {app: unready}}
spec:
  terminationGracePeriodSeconds: 1
  initContainers: [{name: never, image: "stepin.test/workload:1", imagePullPolicy: Never, args: [pause]}]
  containers: [{name: web, image: "stepin.test/workload:1", imagePullPolicy: Never, args: [pause]}]
---
apiVersion: v1
kind: Pod
metadata: {name: onnode, labels: {app: onnode}}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers: [{name: web, image: "stepin.test/workload:1", imagePullPolicy: Never, args: [pause]}]
---
apiVersion: v1
kind: Pod
metadata: {name: lost, labels: {app: lost}}
spec:
  nodeName: gone
  terminationGracePeriodSeconds: 0
  containers: [{name: web, image: "stepin.test/workload:1", imagePullPolicy: Never, args: [pause]}]
`

// pit is where TestBadInput throws things.
type pit struct {
	c        *Cluster
	ns, user string
	program  string
}

// TestBadInput: what cannot be is said in one sentence and a hint, by an editor's error and by `stepin exec` with status
// 125; it leaves nothing in the cluster, and the pod serves.
func TestBadInput(t *testing.T) {
	c := Up(t)
	p := &pit{c: c, ns: c.Namespace(t, "")}
	c.Apply(t, p.ns, Web("web", 1)+"---"+Client("client")+"---"+oddPods)
	c.Ready(t, p.ns, "deployment/web", "pod/client", "pod/onnode")
	c.Serving(t, p.ns, "client", "http://web/")
	p.seemsReady(t, "lost")
	p.user = c.User(t, p.ns, "dev", Allow([]string{"*"}, "*", "*"))
	p.program = t.TempDir()
	for name, text := range map[string]string{"go.mod": "module bad\n\ngo 1.22\n", "main.go": "package main\n\nfunc main() {}\n"} {
		if err := os.WriteFile(filepath.Join(p.program, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("refused", func(t *testing.T) {
		for _, b := range p.all(t) {
			t.Run(b.name, func(t *testing.T) {
				t.Parallel()
				p.refuse(t, b)
			})
		}
	})
	t.Run("expired in mid-session", func(t *testing.T) { p.expires(t) })
	c.LeavesNothing(t, p.ns, Patience)
	if a := c.Ask(t, p.ns, "client", "http://web/"); a.Who != "web" {
		t.Errorf("web answers %+v", a)
	}
	if pods := c.Pods(t, p.ns, "app=web"); len(pods) != 1 || pods[0].Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("web's pods: %+v", pods)
	}
}

// seemsReady has a pod look as its node has left it: it ran, and nobody has heard of it since.
func (p *pit) seemsReady(t *testing.T, name string) {
	t.Helper()
	status, err := json.Marshal(map[string]any{"status": corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "192.0.2.9",
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		ContainerStatuses: []corev1.ContainerStatus{{Name: "web", Ready: true, ContainerID: "containerd://" + strings.Repeat("0", 64), Image: "x", ImageID: "x",
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}}}}})
	if err == nil {
		_, err = p.c.Client.CoreV1().Pods(p.ns).Patch(Limit(t), name, "application/merge-patch+json", status, metav1.PatchOptions{}, "status")
	}
	if err != nil {
		t.Fatal(err)
	}
}

// plugin is a kubeconfig whose user logs in by a script.
func (p *pit) plugin(t *testing.T, mode clientcmdapi.ExecInteractiveMode, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "login")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return changed(t, p.user, func(_ *clientcmdapi.Cluster, user *clientcmdapi.AuthInfo) {
		user.Token, user.Exec = "", &clientcmdapi.ExecConfig{Command: path, APIVersion: "client.authentication.k8s.io/v1", InteractiveMode: mode}
	})
}

// at is the user's kubeconfig with another server.
func (p *pit) at(t *testing.T, server string) string {
	t.Helper()
	return changed(t, p.user, func(cluster *clientcmdapi.Cluster, _ *clientcmdapi.AuthInfo) { cluster.Server = server })
}

// silent is an address that takes connections and says nothing.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return "https://" + l.Addr().String()
}

// deserted is an address where nobody listens.
func deserted(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return "https://" + l.Addr().String()
}

func (p *pit) all(t *testing.T) []bad {
	c := p.c
	aPod := map[string]any{"agent": map[string]any{"mode": "pod"}}
	nobody := c.User(t, p.ns, "nobody")
	reader := c.User(t, p.ns, "reader", Allow([]string{"get"}, "apps", "deployments"))
	looker := c.User(t, p.ns, "looker", Allow([]string{"get"}, "apps", "deployments"), Allow([]string{"get", "list", "watch"}, "", "pods"))
	proxied := func(refuse int) string {
		through := newProxy(t, c, refuse)
		return through.behind(t, p.user, through.address)
	}
	none := filepath.Join(t.TempDir(), "none")
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return []bad{
		{name: "no kubeconfig", kubeconfig: none, id: fail.ClusterConfig, what: "names no cluster", hint: "kubeconfig"},
		{name: "no such kubeconfig", more: map[string]any{"kubeconfig": none}, id: fail.ClusterConfig, what: none + " does not exist", hint: "kubeconfig"},
		{name: "empty kubeconfig", more: map[string]any{"kubeconfig": empty}, id: fail.ClusterConfig, what: empty, hint: "kubeconfig"},
		{name: "unknown context", more: map[string]any{"context": "stepin-e2f"}, id: fail.ClusterContext,
			what: `no context "stepin-e2f"; did you mean "stepin-e2e"?`, hint: "stepin-e2e"},
		{name: "no such deployment", target: "deployment/wbe", id: fail.TargetUnknown, what: `there is no deployment wbe in namespace NS; did you mean "web"?`, hint: "has web"},
		{name: "no such pod", target: "pod/web", id: fail.TargetUnknown, what: `there is no pod web in namespace NS; did you mean "web-`, hint: "client"},
		{name: "no such label", target: "label/app=none", id: fail.TargetNotReady, what: "no pod in namespace NS has the labels app=none", hint: "kubectl get pods -n NS"},
		{name: "no right to the target", kubeconfig: nobody, id: fail.ClusterForbidden, what: "the right to get deployments.apps in namespace NS is missing", hint: "doctor"},
		{name: "no right to pods", kubeconfig: reader, id: fail.ClusterForbidden, what: "the right to list pods in namespace NS is missing", hint: "doctor"},
		{name: "no right to any agent", kubeconfig: looker, id: fail.ClusterForbidden,
			what: "the right to create jobs.batch in namespace NS is missing; the agent as an ephemeral container with NET_ADMIN and BPF is refused: the right to patch pods/ephemeralcontainers in namespace NS is missing", hint: "doctor"},
		{name: "PodSecurity", level: "baseline", more: aPod, id: fail.AgentStart, what: `is refused: violates PodSecurity "baseline:latest": `, hint: `"agent": {"mode": "auto"}`},
		{name: "policy", level: "privileged", more: aPod, prepare: func(ns string) { p.policy(t, ns) }, id: fail.AgentStart, what: "no pod of this team looks at a node", hint: "cluster's owner"},
		{name: "policy, next rung", level: "baseline", prepare: func(ns string) { p.policy(t, ns) }, id: fail.AgentStart,
			what: "the agent cannot be brought into the image of container web", hint: "agent.image"},
		{name: "quota", level: "privileged", more: aPod, prepare: func(ns string) { p.quota(t, ns) }, id: fail.AgentStart, what: "exceeded quota: small", hint: "cluster's owner"},
		{name: "image", level: "privileged", more: map[string]any{"agent": map[string]any{"mode": "pod", "image": "registry.test.invalid/agent:1"}}, id: fail.AgentStart,
			what: "registry.test.invalid/agent:1", hint: "kubectl get events -n NS", within: 40 * time.Second},
		{name: "not ready", target: "pod/unready", id: fail.TargetNotReady, what: "pod unready is not ready: ", hint: "kubectl describe pod unready -n NS"},
		{name: "wrong container", target: "deployment/web/container/wbe", id: fail.TargetContainer, what: `has no container "wbe"; did you mean "web"?`, hint: "web"},
		{name: "hostNetwork", target: "pod/onnode", id: fail.TargetHostNetwork, what: "the node's own network", hint: "a network of its own"},
		{name: "node gone", kubeconfig: c.Kubeconfig, target: "pod/lost", id: fail.TargetNotReady, what: "node gone, where pod lost is, does not exist any more", hint: "kubectl get pods"},
		{name: "expired token", kubeconfig: c.TokenConfig(t, p.ns, "eyJhbGciOiJSUzI1NiJ9.e30.x"), id: fail.ClusterCredentials, what: "no longer accepts the credentials", hint: "log in"},
		{name: "plugin fails", kubeconfig: p.plugin(t, "Never", "echo sign in at https://login.test/1234 >&2; exit 1"), id: fail.ClusterCredentials,
			what: "failed: sign in at https://login.test/1234", hint: "log in again"},
		{name: "plugin prompts", kubeconfig: p.plugin(t, "Always", "read -r password"), id: fail.ClusterCredentials, what: "there is no terminal", hint: "log in once in a terminal"},
		{name: "no plugin", kubeconfig: changed(t, p.user, func(_ *clientcmdapi.Cluster, user *clientcmdapi.AuthInfo) {
			user.Token, user.Exec = "", &clientcmdapi.ExecConfig{Command: "no-such-login", APIVersion: "client.authentication.k8s.io/v1", InteractiveMode: "Never"}
		}), id: fail.ClusterCredentials, what: `"no-such-login" is not installed`, hint: "PATH"},
		{name: "proxy wants a login", kubeconfig: proxied(407), id: fail.ClusterProxy, what: "wants a login (407)", hint: "USER:PASSWORD"},
		{name: "proxy refuses", kubeconfig: proxied(403), id: fail.ClusterProxy, what: "on the way to the cluster refuses to lead there: Forbidden", hint: "proxy-url"},
		{name: "nobody listens", kubeconfig: p.at(t, deserted(t)), id: fail.ClusterUnreachable, what: "connection refused", hint: "VPN"},
		{name: "cluster gone", kubeconfig: p.at(t, silent(t)), id: fail.ClusterUnreachable, what: "does not answer", hint: "VPN", within: 40 * time.Second},
		{name: "no such name", kubeconfig: p.at(t, "https://no-such-cluster.test.invalid:6443"), id: fail.ClusterUnreachable, what: "its name cannot be resolved", hint: "VPN"},
	}
}

// refuse throws it in by both ways and reads what comes back.
func (p *pit) refuse(t *testing.T, b bad) {
	ns := p.ns
	if b.level != "" {
		ns = p.c.Namespace(t, b.level)
		p.c.Apply(t, ns, Web("web", 1))
		p.c.Ready(t, ns, "deployment/web")
		b.kubeconfig = p.c.User(t, ns, "dev", Allow([]string{"*"}, "*", "*"))
	}
	if b.prepare != nil {
		b.prepare(ns)
	}
	if b.kubeconfig == "" {
		b.kubeconfig = p.user
	}
	if b.target == "" {
		b.target = "deployment/web"
	}
	if b.within == 0 {
		b.within = soon
	}
	dir := t.TempDir()
	s := Stepin{Kubeconfig: b.kubeconfig, Dir: p.program, Env: append(WithDelve(t), "XDG_RUNTIME_DIR="+dir)}
	configuration := Configuration(ns, b.target, p.program, lay(map[string]any{"incoming": map[string]any{"mode": "off"}}, b.more))
	check := func(way string, id fail.Code, what, hint string, took time.Duration) {
		t.Helper()
		want := strings.NewReplacer("NS", ns).Replace
		if id != b.id || !strings.Contains(what, want(b.what)) || !strings.Contains(hint, want(b.hint)) || strings.Contains(what, "\n") {
			t.Errorf("%s: (%d) %s\nhint: %s\nwant (%d) %s, hint: %s", way, id, what, hint, b.id, want(b.what), want(b.hint))
		}
		if took > b.within {
			t.Errorf("%s: after %v", way, took)
		}
		t.Logf("%s, %.1f s: %s; hint: %s", way, took.Seconds(), what, hint)
	}
	var both sync.WaitGroup
	both.Go(func() {
		begun := time.Now()
		what, hint := execRefused(t, s, configuration)
		check("exec", b.id, what, hint, time.Since(begun))
	})
	begun := time.Now()
	id, what, hint := dapRefused(t, s, configuration)
	check("dap", id, what, hint, time.Since(begun))
	both.Wait()
	if b.level != "" {
		p.c.LeavesNothing(t, ns, Patience)
	}
}

// execRefused runs a session that must not begin.
func execRefused(t *testing.T, s Stepin, configuration map[string]any) (what, hint string) {
	t.Helper()
	cmd := s.Exec(Limit(t), t, configuration, "true")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != 125 || out.Len() > 0 {
		t.Errorf("exec: %v, %q", err, out.String())
	}
	lines := strings.Split(strings.TrimSpace(errs.String()), "\n")
	if len(lines) < 2 {
		t.Errorf("exec said %q", errs.String())
		return errs.String(), ""
	}
	last := lines[len(lines)-2:] // before them may come what was noticed on the way
	return strings.TrimPrefix(last[0], "stepin: "), strings.TrimPrefix(strings.TrimSpace(last[1]), "hint: ")
}

// dapRefused is a launch that must not succeed.
func dapRefused(t *testing.T, s Stepin, configuration map[string]any) (id fail.Code, what, hint string) {
	t.Helper()
	a := s.DAP(t)
	talk.Must(t, a.Client, "initialize", map[string]any{"adapterID": "stepin"})
	m, err := a.Do(Limit(t), "launch", configuration)
	if err != nil {
		t.Errorf("dap: %v", err)
		return 0, "", ""
	}
	var body struct {
		Error struct {
			ID       int
			Format   string
			ShowUser bool
		}
	}
	if m.Success || json.Unmarshal(m.Body, &body) != nil || !body.Error.ShowUser {
		t.Errorf("the launch got %v %s", m.Success, m.Body)
	}
	what, hint, _ = strings.Cut(body.Error.Format, "\nhint: ")
	return fail.Code(body.Error.ID), what, hint
}

// policy has the API server refuse the agent's pod in a namespace, and waits until it does.
func (p *pit) policy(t *testing.T, ns string) {
	t.Helper()
	documents := fmt.Sprintf(rejected, ns)
	p.c.Apply(t, "", documents)
	t.Cleanup(func() { p.c.Delete(t, "", documents) })
	Eventually(t, Patience, "the policy is in force", func() bool {
		_, err := p.c.Client.CoreV1().Pods(ns).Create(Limit(t), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "try"},
			Spec: corev1.PodSpec{HostPID: true, Containers: []corev1.Container{{Name: "c", Image: "stepin.test/workload:1"}}}},
			metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err != nil
	})
}

// quota leaves no room for another pod.
func (p *pit) quota(t *testing.T, ns string) {
	t.Helper()
	p.c.Apply(t, ns, `
apiVersion: v1
kind: ResourceQuota
metadata: {name: small}
spec: {hard: {pods: "1"}}
`)
	Eventually(t, Patience, "the quota counts", func() bool {
		q, err := p.c.Client.CoreV1().ResourceQuotas(ns).Get(Limit(t), "small", metav1.GetOptions{})
		used := q.Status.Used[corev1.ResourcePods]
		return err == nil && used.Value() == 1
	})
}

// expires: a session whose token ends goes on with the connection that it has; when that is lost, it says that it is
// the credentials, and lives.
func (p *pit) expires(t *testing.T) {
	p.c.NeedsNode(t, "a short-lived token")
	const life = 10 * time.Second
	through := newProxy(t, p.c, 0)
	token := p.c.Token(t, p.ns, "dev", life)
	begun := time.Now()
	x := Stepin{Kubeconfig: through.behind(t, p.c.TokenConfig(t, p.ns, token), through.address)}.shell(t, p.ns)
	x.works()
	Eventually(t, Patience, "the token has expired", func() bool { return time.Since(begun) > life && refusesToken(t, p.c, token) })
	x.works()
	through.drop()
	x.says("no longer accepts the credentials")
	x.says("hint: log in")
	if got := x.ask(); strings.Contains(got, `"Who"`) || got == "" {
		t.Errorf("without a way to the agent the debuggee got %q", got)
	}
}
