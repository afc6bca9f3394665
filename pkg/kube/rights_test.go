package kube

import (
	"slices"
	"testing"
)

func TestNeedsOfTarget(t *testing.T) {
	for kind, want := range map[string][]string{
		"deployment": {"deployments", "replicasets"}, "cronjob": {"cronjobs", "jobs"}, "job": {"jobs"}, "service": {"services"},
		"statefulset": {"statefulsets"}, "daemonset": {"daemonsets"}, "replicaset": {"replicasets"}, "pod": nil, "label": nil,
	} {
		var got []string
		for _, n := range needs {
			if n.use == forTarget && n.matters(kind) {
				got = append(got, n.resource)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", kind, got, want)
		}
	}
}

func TestRole(t *testing.T) {
	rights := []Right{
		{Verb: "get", Resource: "pods", Namespace: "shop", For: string(forAll), Allowed: true},
		{Verb: "watch", Resource: "pods", Namespace: "shop", For: string(forAll)},
		{Verb: "get", Resource: "deployments.apps", Namespace: "shop", For: string(forTarget)},
		{Verb: "create", Resource: "jobs.batch", Namespace: "agents", For: string(forJob)},
		{Verb: "delete", Resource: "jobs.batch", Namespace: "agents", For: string(forJob)},
		{Verb: "patch", Resource: "pods/ephemeralcontainers", Namespace: "shop", For: string(forEphemeral)},
		{Verb: "list", Resource: "events", Namespace: "agents", For: string(forComfort)},
	}
	const shop = `apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: stepin
  namespace: shop
rules:
- apiGroups:
  - ""
  resources:
  - pods
  verbs:
  - watch
- apiGroups:
  - apps
  resources:
  - deployments
  verbs:
  - get
`
	const job = shop + `---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: stepin
  namespace: agents
rules:
- apiGroups:
  - batch
  resources:
  - jobs
  verbs:
  - create
  - delete
`
	const ephemeral = shop + `- apiGroups:
  - ""
  resources:
  - pods/ephemeralcontainers
  verbs:
  - patch
`
	for _, c := range []struct {
		name   string
		chosen rung
		taken  bool
		want   string
	}{{"nothing is admitted", rungBare, false, job}, {"the Job is", rungJob, true, job}, {"a container is", rungPlain, true, ephemeral}} {
		if got := role(rights, c.chosen, c.taken); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, got, c.want)
		}
	}
	if got := role(rights[:1], rungJob, true); got != "" {
		t.Errorf("nothing is missing: %s", got)
	}
}
