package e2e

import (
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// agent is the name that every process of stepin's agent goes by on a node.
const agent = "stepin-agent"

// leavings are what a session makes in a cluster: Jobs, their pods and ConfigMaps by name, processes, programs and
// tables on the node. Ephemeral containers stay in a pod's spec for ever; their processes do not.
func (c *Cluster) leavings(t testing.TB, namespace string) []string {
	t.Helper()
	ctx, all := Limit(t), metav1.ListOptions{}
	var left []string
	add := func(kind string, objects ...string) {
		for _, name := range objects {
			if strings.HasPrefix(name, "stepin-") {
				left = append(left, kind+"/"+name)
			}
		}
	}
	jobs, err := c.Client.BatchV1().Jobs(namespace).List(ctx, all)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range jobs.Items {
		add("job", o.Name)
	}
	pods, err := c.Client.CoreV1().Pods(namespace).List(ctx, all)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range pods.Items {
		add("pod", o.Name)
	}
	maps, err := c.Client.CoreV1().ConfigMaps(namespace).List(ctx, all)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range maps.Items {
		add("configmap", o.Name)
	}
	if c.own == nil {
		return left
	}
	n := c.Node(t)
	others := c.foreign(t, namespace)
	nets := map[string]bool{} // of pods in other namespaces, by path
	for _, p := range n.Processes(t) {
		switch ours := strings.HasPrefix(p.Command, agent); {
		case ours && !others(p.Cgroup):
			left = append(left, "process "+p.Command)
		case !ours && others(p.Cgroup): // an agent is in its target's network, wherever its own pod is
			nets[n.network(t, p.Pid)] = true
		}
	}
	delete(nets, n.network(t, n.pid)) // some pods have the node's own
	for _, line := range slices.Concat(n.Attached(t), n.Tables(t)) {
		if _, path, _ := strings.Cut(line, " in "); !nets[path] {
			left = append(left, line)
		}
	}
	return left
}

// foreign tells whether a process's cgroup is that of a pod of another namespace that still exists: what such a one holds
// is another test's business. An agent in a pod of its own is in that pod's cgroup.
func (c *Cluster) foreign(t testing.TB, namespace string) func(cgroup string) bool {
	t.Helper()
	pods, err := c.Client.CoreV1().Pods(metav1.NamespaceAll).List(Limit(t), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var uids []string
	for _, p := range pods.Items {
		if p.Namespace != namespace {
			uids = append(uids, string(p.UID), strings.ReplaceAll(string(p.UID), "-", "_")) // the latter by the systemd driver
		}
	}
	return func(cgroup string) bool {
		return slices.ContainsFunc(uids, func(uid string) bool { return strings.Contains(cgroup, "pod"+uid) })
	}
}
