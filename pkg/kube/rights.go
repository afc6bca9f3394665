package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"

	authv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
)

// need is a right of the API that stepin uses, and what for.
type need struct {
	group, resource string
	verbs           []string
	use             use
	why             string
}

// use says who needs a right.
type use string

const (
	forAll       use = "every session"
	forTarget    use = "targets of that kind"
	forJob       use = "the agent as a pod on the node"
	forEphemeral use = "the agent as an ephemeral container"
	forCarried   use = "the agent as an ephemeral container without agent.image"
	forJoining   use = "joining the agent of somebody else's"
	forComfort   use = "nothing but comfort"
)

// needs is the one list of rights: doctor, its manifests and docs/cluster.md come from it. That a session gets along with
// just these is tested on a real cluster (pkg/e2e, rungs).
var needs = []need{
	{"", "pods", []string{"get", "list", "watch"}, forAll, "finding the target's pods and following them"},
	{"", "pods/portforward", []string{"get", "create"}, forAll, "the way to the agent: by WebSocket, by SPDY"},
	{"apps", "deployments", []string{"get"}, forTarget, "deployment/NAME"},
	{"apps", "replicasets", []string{"get"}, forTarget, "replicaset/NAME, and whose pods a deployment's are"},
	{"apps", "statefulsets", []string{"get"}, forTarget, "statefulset/NAME"},
	{"apps", "daemonsets", []string{"get"}, forTarget, "daemonset/NAME"},
	{"batch", "cronjobs", []string{"get"}, forTarget, "cronjob/NAME"},
	{"batch", "jobs", []string{"get"}, forTarget, "job/NAME, and whose pods a cronjob's are"},
	{"", "services", []string{"get"}, forTarget, "service/NAME"},
	{"batch", "jobs", []string{"get", "create", "delete"}, forJob, "the agent's Job"},
	{"", "configmaps", []string{"get", "list", "create", "patch", "delete"}, forJob, "carrying the agent there, unless agent.image names one"},
	{"", "pods/ephemeralcontainers", []string{"patch"}, forEphemeral, "adding the agent to the pod"},
	{"", "pods/attach", []string{"get", "create"}, forCarried, "carrying the agent there"},
	{"", "pods/exec", []string{"get", "create"}, forJoining, "a token of one's own"},
	{"", "configmaps", []string{"get"}, forJoining, "seeing that the agent's pod runs nothing else, unless agent.image names one"},
	{"", "pods", []string{"create"}, forComfort, "asking beforehand whether a policy admits the agent's pod; none is created"},
	{"", "events", []string{"list", "watch"}, forComfort, "saying why an agent does not start"},
	{"batch", "jobs", []string{"patch"}, forComfort, "noting on the agent's Job who uses it, for what and since when: lists of targets show that"},
}

// Right is one right and whether the user has it.
type Right struct {
	Verb      string `json:"verb"`
	Resource  string `json:"resource"` // with its group: "jobs.batch"
	Namespace string `json:"namespace"`
	For       string `json:"for"`
	Why       string `json:"why"`
	Allowed   bool   `json:"allowed"`
}

// Step is one way for the agent to get to the pod.
type Step struct {
	Name     string   `json:"name"`
	Admitted bool     `json:"admitted"`
	Why      string   `json:"why,omitempty"`   // it is not: the kinds of what a policy has against it, or the missing right
	Words    string   `json:"words,omitempty"` // the same as the cluster said it, with every detail
	Steals   bool     `json:"steals"`          // it could take requests
	Mirrors  bool     `json:"mirrors"`         // it could copy them
	Lacks    []string `json:"lacks,omitempty"` // what does not work there
	Taken    bool     `json:"taken,omitempty"` // the one that a session would take
}

// Report says what works with one target, for doctor.
type Report struct {
	Server    string  `json:"server"`
	Context   string  `json:"context,omitempty"`
	Target    string  `json:"target"`
	Pods      int     `json:"pods"` // ready ones
	Home      string  `json:"home"`
	Container string  `json:"container"`
	Steps     []Step  `json:"steps"`
	Problem   string  `json:"problem,omitempty"` // why no session would start
	Hint      string  `json:"hint,omitempty"`
	Rights    []Right `json:"rights"`
	Role      string  `json:"role,omitempty"` // what to ask the cluster's owner for; "" where nothing is missing
}

// Examine asks what a session on the target would find, and changes nothing. incoming is steal
// or mirror where it must be able to do that to requests. The error is one of finding the target.
func (c *Cluster) Examine(ctx context.Context, target config.Target, agent config.Agent, incoming string) (*Report, error) {
	w, err := c.Resolve(ctx, target)
	if err != nil {
		return nil, err
	}
	pods := w.Pods()
	home := pods[0]
	r := &Report{Server: c.Server(), Context: c.Context(), Target: target.String(), Pods: len(pods), Home: home.Name, Container: home.Container}
	_, hash := newToken()
	var answers *probed
	err = each(2, func(i int) (err error) {
		if i == 0 {
			answers, err = c.probe(ctx, jobOptions{pod: home, config: agent, who: "doctor", tokenHash: hash})
		} else {
			r.Rights, err = c.rights(ctx, home.Namespace, agentNamespace(agent, home), target.Kind)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if answers.exists { // whoever made it, it was admitted
		answers.answers[rungJob].admitted = true
	}
	chosen, _, err := decide(wish{mode: agent.Mode, incoming: incoming}, answers.answers)
	if err != nil {
		r.Problem, r.Hint = err.Error(), fail.Hint(err)
	}
	for n := range rungsCount {
		a := answers.answers[n]
		s := Step{Name: rungTable[n].title, Admitted: a.admitted, Steals: rungTable[n].steals, Mirrors: rungTable[n].mirrors, Lacks: rungTable[n].lacks, Taken: err == nil && n == chosen}
		if !a.admitted {
			s.Words = a.why()
			s.Why = detail.ReplaceAllString(s.Words, "")
		}
		r.Steps = append(r.Steps, s)
	}
	r.Role = role(r.Rights, chosen, err == nil)
	return r, nil
}

// rights asks about each right that matters for this kind of target, all at once.
func (c *Cluster) rights(ctx context.Context, target, agent, kind string) ([]Right, error) {
	var all []Right
	for _, n := range needs {
		if n.use == forTarget && !n.matters(kind) {
			continue
		}
		namespace := target
		if n.use == forJob || n.use == forComfort {
			namespace = agent
		}
		for _, v := range n.verbs {
			resource := n.resource
			if n.group != "" {
				resource += "." + n.group
			}
			all = append(all, Right{Verb: v, Resource: resource, Namespace: namespace, For: string(n.use), Why: n.why})
		}
	}
	return all, each(len(all), func(i int) error {
		name, group, _ := strings.Cut(all[i].Resource, ".")
		name, sub, _ := strings.Cut(name, "/")
		answer, err := c.client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authv1.SelfSubjectAccessReview{
			Spec: authv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authv1.ResourceAttributes{
				Namespace: all[i].Namespace, Verb: all[i].Verb, Group: group, Resource: name, Subresource: sub}}}, metav1.CreateOptions{})
		if err != nil {
			return c.explain(err, "asking whether you may %s %s", all[i].Verb, all[i].Resource)
		}
		all[i].Allowed = answer.Status.Allowed
		return nil
	})
}

// matters says whether a right to get objects is needed for targets of a kind.
func (n need) matters(kind string) bool {
	switch kind {
	case "deployment":
		return n.resource == "deployments" || n.resource == "replicasets"
	case "cronjob":
		return n.resource == "cronjobs" || n.resource == "jobs"
	}
	return n.resource == kind+"s"
}

// role is the manifest of what is missing: for every session and its target, and for the agent's way that is taken or,
// where there is none, the one that can do everything.
func role(rights []Right, chosen rung, taken bool) string {
	if !taken {
		chosen = rungJob
	}
	wanted := []string{string(forAll), string(forTarget), string(forJob)}
	if chosen != rungJob {
		wanted[2] = string(forEphemeral)
		wanted = append(wanted, string(forCarried))
	}
	missing := slices.DeleteFunc(slices.Clone(rights), func(r Right) bool { return r.Allowed || !slices.Contains(wanted, r.For) })
	return manifest(missing)
}

// manifest writes one Role for each namespace that the rights are in.
func manifest(rights []Right) string {
	type rule struct {
		APIGroups []string `json:"apiGroups"`
		Resources []string `json:"resources"`
		Verbs     []string `json:"verbs"`
	}
	var order []string
	rules := map[string][]*rule{}
	for _, r := range rights {
		name, group, _ := strings.Cut(r.Resource, ".")
		if rules[r.Namespace] == nil {
			order = append(order, r.Namespace)
		}
		var into *rule
		for _, have := range rules[r.Namespace] {
			if have.Resources[0] == name && have.APIGroups[0] == group {
				into = have
			}
		}
		if into == nil {
			into = &rule{APIGroups: []string{group}, Resources: []string{name}}
			rules[r.Namespace] = append(rules[r.Namespace], into)
		}
		into.Verbs = append(into.Verbs, r.Verb)
	}
	var out []string
	for _, namespace := range order {
		raw, err := yaml.Marshal(map[string]any{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
			"metadata": map[string]string{"name": "stepin", "namespace": namespace}, "rules": rules[namespace]})
		if err != nil {
			return fmt.Sprintf("# %v\n", err)
		}
		out = append(out, string(raw))
	}
	return strings.Join(out, "---\n")
}
