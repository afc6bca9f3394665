package kube

import (
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// TestAskNode: a node that is gone, or that nobody hears of, is said before an agent is sent there.
func TestAskNode(t *testing.T) {
	node := func(arch string, ready corev1.ConditionStatus) http.HandlerFunc {
		return answer(&corev1.Node{TypeMeta: metav1.TypeMeta{Kind: "Node", APIVersion: "v1"}, Status: corev1.NodeStatus{
			NodeInfo:   corev1.NodeSystemInfo{Architecture: arch},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready, Reason: "NodeStatusUnknown", Message: "Kubelet stopped posting node status."}}}})
	}
	for _, test := range []struct {
		name string
		h    http.HandlerFunc
		arch string
		what string
	}{
		{"ready", node("arm64", corev1.ConditionTrue), "arm64", ""},
		{"no right", forbid("get", "nodes"), "amd64", ""},
		{"silent", node("arm64", corev1.ConditionUnknown), "", "is not ready: Kubelet stopped posting node status."},
		{"gone", nil, "", "node node-1, where pod orders-7d4b9-x2x5q is, does not exist any more"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := open(t, newServer(t, map[string]http.HandlerFunc{"GET /api/v1/nodes/node-1": test.h}))
			arch, err := c.askNode(limited15(t), exampleTarget())
			if arch != test.arch || (err != nil) != (test.what != "") {
				t.Fatalf("%q, %v", arch, err)
			}
			if err != nil && (fail.CodeOf(err) != fail.TargetNotReady || !strings.Contains(err.Error(), test.what) || fail.Hint(err) == "") {
				t.Errorf("%v (%d)", err, fail.CodeOf(err))
			}
		})
	}
}
