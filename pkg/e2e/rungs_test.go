package e2e

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
)

// What a session says of the rungs.
const (
	asPod     = "the agent is a pod on the node: requests, variables, files, names, outgoing connections and the host name are the pod's"
	asNet     = "the agent is an ephemeral container with NET_ADMIN and BPF: requests, variables, files, names, outgoing connections and the host name are the pod's"
	asPlain   = "the agent is an ephemeral container with the default capabilities: copies of requests, variables, files, names, outgoing connections and the host name are the pod's"
	asBare    = "the agent is an ephemeral container without capabilities: variables, files, names, outgoing connections and the host name are the pod's"
	noSteal   = "requests stay with the pod: to take them the agent needs NET_ADMIN and BPF, which this namespace does not admit"
	noMirror  = "nor can requests be mirrored: for that the agent needs NET_RAW, which this namespace does not admit"
	staysThen = "the agent's entry stays in the pod's list of ephemeral containers after its end"
)

// rungCase is one way for the agent to get to a pod, by a user who has just the rights for it.
type rungCase struct {
	name, level, image string
	roles              []string // of docs/cluster.md, beside "stepin"
	own                bool     // with agent.image
	mode               string
	says               []string
	refused            string // no session, with these words
	steals, mirrors    bool
}

var rungCases = []rungCase{
	{name: "pod", level: "privileged", image: scratch, roles: []string{"stepin-pod"}, says: []string{asPod}, steals: true},
	{name: "pod-image", level: "privileged", image: scratch, roles: []string{"stepin-pod"}, own: true, says: []string{asPod}, steals: true},
	{name: "net-image", level: "privileged", image: scratch, roles: []string{"stepin-ephemeral"}, own: true,
		says: []string{"the right to create jobs.batch in namespace", asNet, staysThen}, steals: true},
	{name: "net-shell", level: "privileged", image: shell, roles: []string{"stepin-ephemeral", "stepin-ephemeral-without-image"}, mode: "ephemeral",
		says: []string{asNet, staysThen}, steals: true},
	{name: "plain-image", level: "baseline", image: scratch, roles: []string{"stepin-ephemeral"}, own: true, says: []string{asPlain, noSteal, staysThen}, mirrors: true},
	{name: "plain-shell", level: "baseline", image: shell, roles: []string{"stepin-ephemeral", "stepin-ephemeral-without-image"},
		says: []string{asPlain, noSteal, staysThen}, mirrors: true},
	{name: "plain-scratch", level: "baseline", image: scratch, roles: []string{"stepin-ephemeral", "stepin-ephemeral-without-image"},
		refused: "the agent cannot be brought into the image of container shop: it lacks sh, cat or chmod, or a directory that may be written to and executed from"},
	{name: "bare-image", level: "restricted", image: scratch, roles: []string{"stepin-ephemeral"}, own: true, says: []string{asBare, noSteal, noMirror, staysThen}},
	{name: "bare-shell", level: "restricted", image: shell, roles: []string{"stepin-ephemeral", "stepin-ephemeral-without-image"},
		says: []string{asBare, noSteal, noMirror, staysThen}},
	{name: "bare-scratch", level: "restricted", image: scratch, roles: []string{"stepin-ephemeral", "stepin-ephemeral-without-image"},
		refused: "the agent cannot be brought into the image of container shop: it lacks sh, cat or chmod, or a directory that may be written to and executed from"},
}

// TestRungs: the same program at each level of PodSecurity, enforced, by users who may do what docs/cluster.md says that
// they need and nothing else: each rung does what its start message says, no more and no less.
func TestRungs(t *testing.T) {
	c := Up(t)
	image := c.agentImage(t)
	roles := documented(t)
	for _, level := range []string{"privileged", "baseline", "restricted"} {
		t.Run(level, func(t *testing.T) {
			cases := slices.DeleteFunc(slices.Clone(rungCases), func(r rungCase) bool { return r.level != level })
			shops := map[string]string{"explicit": scratch}
			for _, r := range cases {
				shops[r.name] = r.image
			}
			m := newMarket(t, c, level, shops)
			for _, r := range cases {
				t.Run(r.name, func(t *testing.T) {
					if r.own {
						m.rung(t, r, roles, map[string]any{"image": image})
					} else {
						m.rung(t, r, roles, map[string]any{})
					}
				})
			}
			if level != "privileged" {
				t.Run("asked for", func(t *testing.T) { m.askedFor(t, image) })
			}
		})
	}
}

func (m *market) rung(t *testing.T, r rungCase, roles map[string][]rbacv1.PolicyRule, agent map[string]any) {
	rules := slices.Clone(roles["stepin"])
	for _, name := range r.roles {
		if roles[name] == nil {
			t.Fatalf("docs/cluster.md has no Role %s", name)
		}
		rules = append(rules, roles[name]...)
	}
	user := m.c.User(t, m.ns, "dev-"+r.name, rules...)
	if r.mode != "" {
		agent["mode"] = r.mode
	}
	begun := time.Now()
	var incoming map[string]any // mirror is the default, and left out where it cannot be
	if r.steals {
		incoming = map[string]any{"mode": "steal"}
	}
	v, serving := m.visit(t, user, "pod/"+r.name, agent, incoming)
	said := v.Stderr.String()
	if r.refused != "" {
		if lines := strings.Split(strings.TrimSpace(said), "\n"); serving || v.status() != 125 || !strings.Contains(said, r.refused) ||
			!strings.Contains(lines[len(lines)-1], "agent.image") {
			t.Errorf("status %d, want the refusal %q and agent.image as a hint", v.status(), r.refused)
		}
		t.Logf("refused after %.1f s: %s", time.Since(begun).Seconds(), strings.TrimSpace(said))
		return
	}
	if !serving {
		t.Fatal("no session")
	}
	t.Logf("served after %.1f s", time.Since(begun).Seconds())
	for _, line := range r.says {
		if !strings.Contains(said, line) {
			t.Errorf("stepin does not say %q", line)
		}
	}
	for _, line := range []string{asPod, asNet, asPlain, asBare, noSteal, noMirror, staysThen, "out of reach"} {
		if strings.Contains(said, line) && !slices.Contains(r.says, line) {
			t.Errorf("stepin says %q", line)
		}
	}
	m.got(t, v, r.name, nil)
	want := "pod"
	if r.steals {
		want = "debuggee"
		v.said(t, "tcp port 8080 of pod "+r.name+" now sends")
	}
	if r.mirrors {
		v.said(t, "tcp port 8080 of pod "+r.name+" now sends copies")
	}
	if a := m.asks(t, r.name); a.Who != want || !strings.HasPrefix(a.Caller, m.client+":") {
		t.Errorf("answered by %s to %s", a.Who, a.Caller)
	}
	if !r.steals && !r.mirrors && strings.Contains(v.Stderr.String(), "now send") {
		t.Error("stepin says that it has taken a port")
	}
	m.joined(t, r, slices.Concat(rules, roles["stepin-join"]), agent)
	v.end()
	if v.status() != 0 {
		t.Errorf("status %d", v.status())
	}
	Eventually(t, handBack, "the pod serves again", func() bool { return m.asks(t, r.name).Who == "pod" })
}

// joined: somebody who may run a command in the agent's container joins it, on every rung.
func (m *market) joined(t *testing.T, r rungCase, rules []rbacv1.PolicyRule, agent map[string]any) {
	user := Stepin{Kubeconfig: m.c.User(t, m.ns, "second-"+r.name, rules...), Env: []string{"XDG_RUNTIME_DIR=" + t.TempDir()}}
	cmd := user.Exec(Limit(t), t, map[string]any{"target": "pod/" + r.name, "namespace": m.ns, "agent": agent}, "/bin/cat", "/etc/shop/config/region")
	var said strings.Builder
	cmd.Stderr = &said
	if out, err := cmd.Output(); err != nil || string(out) != "north" {
		t.Errorf("joining: %q, %v: %s", out, err, said.String())
	}
	if p := m.c.Pods(t, m.ns, "app="+r.name)[0]; len(p.Spec.EphemeralContainers) > 1 {
		t.Errorf("%d agents", len(p.Spec.EphemeralContainers))
	}
}

// askedFor: what the user wrote cannot be left out.
func (m *market) askedFor(t *testing.T, image string) {
	v, serving := m.visit(t, m.c.Kubeconfig, "pod/explicit", map[string]any{"image": image}, map[string]any{"mode": "steal"})
	said := v.Stderr.String()
	if serving || v.status() != 125 || !strings.Contains(said, "requests cannot be taken here") || !strings.Contains(said, "NET_ADMIN") ||
		!strings.Contains(said, "hint: ") || len(strings.Split(strings.TrimSpace(said), "\n")) != 2 {
		t.Errorf("status %d", v.status())
	}
	t.Log(strings.TrimSpace(said))
	if p := m.c.Pods(t, m.ns, "app=explicit")[0]; len(p.Spec.EphemeralContainers) > 0 {
		t.Error("the pod has an ephemeral container", fmt.Sprint(p.Spec.EphemeralContainers))
	}
}

// rightCase is what a session finds without one right of a Role.
type rightCase struct {
	role, verb, resource string
	outcome              string // stepin's words where there is no session; "" where it goes on without
	later                string // it is not used in a plain start, but then
	also                 string // another verb that is taken away, in whose place it is
	reviewed             bool   // stepin asks beforehand whether it has it: what it would do without cannot be undone
}

var rightCases = []rightCase{
	{role: "stepin", verb: "get", resource: "pods", outcome: "the right to get pods in namespace"},
	{role: "stepin", verb: "list", resource: "pods", outcome: "the right to list pods in namespace"},
	{role: "stepin", verb: "watch", resource: "pods", outcome: "the right to watch pods in namespace"},
	{role: "stepin", verb: "get", resource: "pods/portforward"}, // SPDY is next
	{role: "stepin", verb: "create", resource: "pods/portforward", also: "get", outcome: "the right to create pods/portforward in namespace"},
	{role: "stepin-pod", verb: "create", resource: "jobs", outcome: "the right to create jobs.batch in namespace"},
	{role: "stepin-pod", verb: "get", resource: "jobs", later: "joining"},
	{role: "stepin-pod", verb: "delete", resource: "jobs", later: "failing"},
	{role: "stepin-pod", verb: "create", resource: "configmaps", outcome: "the right to create configmaps in namespace"},
	{role: "stepin-pod", verb: "get", resource: "configmaps", later: "failing"},
	{role: "stepin-pod", verb: "list", resource: "configmaps"},  // what killed sessions left stays
	{role: "stepin-pod", verb: "patch", resource: "configmaps"}, // they stay when the Job goes
	{role: "stepin-pod", verb: "delete", resource: "configmaps", also: "patch", later: "failing"},
	{role: "stepin-ephemeral", verb: "patch", resource: "pods/ephemeralcontainers", outcome: "the right to patch pods/ephemeralcontainers in namespace"},
	{role: "stepin-ephemeral-without-image", verb: "get", resource: "pods/attach"}, // SPDY is next
	{role: "stepin-ephemeral-without-image", verb: "create", resource: "pods/attach", also: "get", outcome: "the right to create pods/attach in namespace", reviewed: true},
}

// TestRights: each right that docs/cluster.md asks for is one that stepin uses: without it stepin is refused.
func TestRights(t *testing.T) {
	c := Up(t)
	image, roles := c.agentImage(t), documented(t)
	c.Node(t)
	images := map[string]string{"stepin-ephemeral-without-image": shell}
	shops, count := map[string]string{}, 0
	for i, r := range rightCases {
		shops[fmt.Sprint("right-", i)] = cmp.Or(images[r.role], scratch)
	}
	for _, role := range []string{"stepin", "stepin-pod", "stepin-ephemeral", "stepin-ephemeral-without-image"} {
		for _, rule := range roles[role] {
			for _, verb := range rule.Verbs {
				if count++; !slices.ContainsFunc(rightCases, func(r rightCase) bool { return r.role == role && r.verb == verb && r.resource == rule.Resources[0] }) {
					t.Errorf("nothing shows what the right to %s %s is for", verb, rule.Resources[0])
				}
			}
		}
	}
	if count != len(rightCases) {
		t.Errorf("%d rights are documented, %d are looked at", count, len(rightCases))
	}
	m := newMarket(t, c, "", shops)
	for i, r := range rightCases {
		t.Run(r.role+" without "+r.verb+" "+r.resource, func(t *testing.T) {
			t.Parallel()
			rules := slices.Concat(roles["stepin"], roles["stepin-ephemeral"], roles["stepin-ephemeral-without-image"])
			agent := map[string]any{"mode": "ephemeral"}
			switch r.role {
			case "stepin", "stepin-pod":
				rules, agent["mode"] = slices.Concat(roles["stepin"], roles["stepin-pod"]), "pod"
			case "stepin-ephemeral":
				agent["image"] = image
			}
			m, pod := m, fmt.Sprint("right-", i)
			if r.resource == "configmaps" && r.later != "" { // others here would own the same ones
				m = newMarket(t, c, "", map[string]string{pod: scratch})
			}
			m.missing(t, r, pod, without(without(rules, r.verb, r.resource), r.also, r.resource), agent)
		})
	}
}

func (m *market) missing(t *testing.T, r rightCase, pod string, rules []rbacv1.PolicyRule, agent map[string]any) {
	begun, name := time.Now(), "dev-"+pod
	kubeconfig := m.c.User(t, m.ns, name, rules...)
	target := "pod/" + pod
	switch {
	case r.verb == "list" && r.resource == "pods": // what one pod is not needed for
		target = "label/app=" + pod
	case r.later == "failing": // an agent without the memory that it needs
		agent["resources"] = map[string]any{"requests": map[string]any{"memory": "10Mi"}, "limits": map[string]any{"memory": "10Mi"}}
	case r.later == "joining":
		other, serving := m.visit(t, m.c.Kubeconfig, "pod/"+pod, agent, nil)
		if !serving {
			t.Fatal("no session to join")
		}
		defer other.end()
	}
	v, serving := m.visit(t, kubeconfig, target, agent, nil)
	v.end()
	said := v.Stderr.String()
	if r.later == "" && serving != (r.outcome == "") || !strings.Contains(said, r.outcome) {
		t.Errorf("serving %v, want %q", serving, r.outcome)
	}
	asked := func() bool {
		for _, q := range m.c.Node(t).Requests(t, "system:serviceaccount:"+m.ns+":"+name, begun) {
			resource := q.ObjectRef.Resource
			if q.ObjectRef.Subresource != "" {
				resource += "/" + q.ObjectRef.Subresource
			}
			if q.Verb == r.verb && resource == r.resource && q.Response.Code == 403 || r.reviewed && resource == "selfsubjectaccessreviews" {
				return true
			}
		}
		return false
	}
	Eventually(t, handBack, "the right has been asked for", asked) // the log is written a moment later
	t.Log(strings.TrimSpace(said))
}
