package e2e

import (
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
	for _, p := range n.Processes(t) {
		if strings.HasPrefix(p.Command, agent) {
			left = append(left, "process "+p.Command)
		}
	}
	left = append(left, n.Attached(t)...)
	return append(left, n.Tables(t)...)
}
