package kube

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// podOf reads a pod as people write it.
func podOf(t *testing.T, text string) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{}
	if err := yaml.UnmarshalStrict([]byte(text), p); err != nil {
		t.Fatal(err)
	}
	return p
}

// refused checks the code and the words of an error for people.
func refused(t *testing.T, err error, code fail.Code, words ...string) {
	t.Helper()
	if err == nil || fail.CodeOf(err) != code {
		t.Fatalf("have %v (%d), want %d", err, fail.CodeOf(err), code)
	}
	text := err.Error() + "\nhint: " + fail.Hint(err)
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%q is missing in: %s", w, text)
		}
	}
	if fail.Hint(err) == "" || strings.Contains(err.Error(), "\n") {
		t.Errorf("no hint, or more than a line: %s", text)
	}
}

const wholePod = `
metadata:
  name: orders-1
  namespace: shop
  uid: u-1
  creationTimestamp: "2026-01-01T00:00:00Z"
spec:
  nodeName: n1
  containers:
  - name: istio-proxy
    volumeMounts: [{name: run, mountPath: /run/istio}]
  - name: app
    ports: [{name: web, containerPort: 8080}, {name: grpc, containerPort: 9000}]
    startupProbe: {exec: {command: ["true"]}}
    readinessProbe: {httpGet: {path: healthz, port: web}}
    livenessProbe: {grpc: {port: 9000, service: live}}
    volumeMounts:
    - {name: config, mountPath: /etc/app/}
    - {name: config, mountPath: /etc/app.yaml, subPath: app.yaml}
    - {name: deep, mountPath: /etc/deep, subPath: dir}
    - {name: deep, mountPath: /etc/one, subPath: dir/one}
    - {name: secret, mountPath: /secret}
    - {name: down, mountPath: /down}
    - {name: token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount}
    - {name: data, mountPath: /data}
    - {name: data, mountPath: /data.db, subPath: x/data.db}
    - {name: host, mountPath: /host}
    - {name: own, mountPath: /tmp/own}
    - {name: run, mountPath: /run/istio}
    - {name: vault, mountPath: /vault/secrets}
  initContainers:
  - name: vault-agent-init
    volumeMounts: [{name: vault, mountPath: /vault/secrets}]
  - name: log-tail
    restartPolicy: Always
  volumes:
  - {name: config, configMap: {name: c}}
  - {name: deep, configMap: {name: d, items: [{key: a, path: dir/one}]}}
  - {name: secret, secret: {secretName: s}}
  - {name: down, downwardAPI: {items: [{path: labels}]}}
  - {name: token, projected: {sources: [{serviceAccountToken: {path: token}}]}}
  - {name: data, persistentVolumeClaim: {claimName: p}}
  - {name: host, hostPath: {path: /x}}
  - {name: own, emptyDir: {}}
  - {name: run, emptyDir: {}}
  - {name: vault, emptyDir: {}}
status:
  phase: Running
  podIP: 10.0.0.7
  podIPs: [{ip: 10.0.0.7}, {ip: "fd00::7"}]
  hostIP: 192.168.0.1
  conditions: [{type: Ready, status: "True"}]
  containerStatuses:
  - {name: app, containerID: "containerd://abc", state: {running: {}}}
  - {name: istio-proxy, containerID: "containerd://def", state: {running: {}}}
`

func TestDescribe(t *testing.T) {
	p := podOf(t, wholePod)
	have, err := describe(p, config.Target{}, "pod/orders-1")
	if err != nil {
		t.Fatal(err)
	}
	if have.Container != "app" || have.ContainerID != "abc" || have.Node != "n1" || have.UID != "u-1" || have.Spec != p {
		t.Errorf("have %+v", have)
	}
	if len(have.Notices) != 1 || !strings.Contains(have.Notices[0], "container app of pod orders-1, the first; others: istio-proxy, log-tail") {
		t.Errorf("notices %q", have.Notices)
	}
	if len(have.Addrs) != 2 || have.Addrs[0].String() != "10.0.0.7" || have.Addrs[1].String() != "fd00::7" ||
		len(have.Nodes) != 1 || have.Nodes[0].String() != "192.168.0.1" {
		t.Errorf("addresses %v, node's %v", have.Addrs, have.Nodes)
	}
	small, file := true, true
	want := []wire.Volume{
		{Path: "/etc/app", Small: small}, {Path: "/etc/app.yaml", Small: small, File: file},
		{Path: "/etc/deep", Small: small}, {Path: "/etc/one", Small: small, File: file},
		{Path: "/secret", Small: small}, {Path: "/down", Small: small},
		{Path: "/var/run/secrets/kubernetes.io/serviceaccount", Small: small},
		{Path: "/data"}, {Path: "/data.db"}, {Path: "/host"}, {Path: "/run/istio"}, {Path: "/vault/secrets"},
	}
	if !reflect.DeepEqual(have.Volumes, want) {
		t.Errorf("volumes\nhave %v\nwant %v", have.Volumes, want)
	}
	probes := []wire.Probe{{Kind: "exec"}, {Kind: "http", Port: 8080, Path: "/healthz"}, {Kind: "grpc", Port: 9000, Service: "live"}}
	if !reflect.DeepEqual(have.Probes, probes) {
		t.Errorf("probes %v", have.Probes)
	}
}

func TestChoose(t *testing.T) {
	p := podOf(t, wholePod)
	for asked, want := range map[string]string{"": "app", "istio-proxy": "istio-proxy", "log-tail": "log-tail"} {
		if c, _, err := choose(p, asked); err != nil || c.Name != want {
			t.Errorf("%q: %v, %v", asked, c, err)
		}
	}
	_, _, err := choose(p, "ap")
	refused(t, err, fail.TargetContainer, `pod orders-1 has no container "ap"; did you mean "app"?`, "istio-proxy, app, log-tail")
	_, _, err = choose(p, "vault-agent-init") // it has ended
	refused(t, err, fail.TargetContainer)
	p.Annotations = map[string]string{defaultContainer: "log-tail"}
	if c, notice, err := choose(p, ""); err != nil || c.Name != "log-tail" || !strings.Contains(notice, "its default") {
		t.Errorf("%v, %q, %v", c, notice, err)
	}
	p.Annotations[defaultContainer] = "gone"
	if c, _, err := choose(p, ""); err != nil || c.Name != "app" {
		t.Errorf("%v, %v", c, err)
	}
	p.Spec.Containers, p.Spec.InitContainers = p.Spec.Containers[:1], nil
	if c, notice, err := choose(p, ""); err != nil || c.Name != "istio-proxy" || notice != "" {
		t.Errorf("%v, %q, %v", c, notice, err)
	}
}

func TestNoTarget(t *testing.T) {
	gvisor := "gvisor"
	for _, c := range []struct {
		name   string
		change func(*corev1.Pod)
		code   fail.Code
		words  string
	}{
		{"host network", func(p *corev1.Pod) { p.Spec.HostNetwork = true }, fail.TargetHostNetwork, "the node's own network (hostNetwork)"},
		{"sandbox", func(p *corev1.Pod) { p.Spec.RuntimeClassName = &gvisor }, fail.TargetSandboxed, "runtimeClassName: gvisor"},
		{"crash", func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{
				Reason: "CrashLoopBackOff", Message: "back-off 10s"}}
		}, fail.TargetNotReady, "pod orders-1 is not ready: container app: CrashLoopBackOff (back-off 10s)"},
		{"ended", func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"}}
		}, fail.TargetNotReady, "container app ended with status 137: OOMKilled"},
		{"no status", func(p *corev1.Pod) { p.Status.ContainerStatuses = nil }, fail.TargetNotReady, "its phase is Running"},
		{"pending", func(p *corev1.Pod) {
			p.Status = corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{
				{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/1 nodes"}}}
		}, fail.TargetNotReady, "Pending: Unschedulable (0/1 nodes)"},
		{"deleted", func(p *corev1.Pod) {
			p.Status.ContainerStatuses, p.DeletionTimestamp = nil, &metav1.Time{}
		}, fail.TargetNotReady, "it is being deleted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := podOf(t, wholePod)
			c.change(p)
			_, err := describe(p, config.Target{}, "pod/orders-1")
			refused(t, err, c.code, c.words)
		})
	}
}

func TestSandboxed(t *testing.T) {
	for class, want := range map[string]bool{"gvisor": true, "kata": true, "kata-qemu": true, "aks-kata": true, "Kata-FC": true,
		"runsc": true, "nvidia": false, "katana": false, "": false} {
		if sandboxed(class) != want {
			t.Errorf("%q: %v", class, !want)
		}
	}
}

func TestProbes(t *testing.T) {
	for text, want := range map[string]wire.Probe{
		"{httpGet: {port: 80, scheme: HTTPS, path: \"/a?b\"}}": {Kind: "https", Port: 80, Path: "/a?b"},
		"{httpGet: {port: 80, host: 10.0.0.7}}":                {Kind: "http", Port: 80, Path: "/"},
		"{httpGet: {port: 80, host: example.org}}":             {},
		"{httpGet: {port: nowhere}}":                           {},
		"{tcpSocket: {port: web}}":                             {Kind: "tcp", Port: 8080},
		"{grpc: {port: 1}}":                                    {Kind: "grpc", Port: 1},
		"{}":                                                   {},
	} {
		p := podOf(t, wholePod)
		probe := &corev1.Probe{}
		if err := yaml.Unmarshal([]byte(text), probe); err != nil {
			t.Fatal(err)
		}
		have, ok := resolveProbe(p, &p.Spec.Containers[1], probe)
		if ok != (want.Kind != "") || ok && have != want {
			t.Errorf("%s: %+v, %v", text, have, ok)
		}
	}
}

func TestOfDeployment(t *testing.T) {
	yes := true
	pod := func(set, uid, hash string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Labels:          map[string]string{"pod-template-hash": hash},
			OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: set, UID: types.UID(uid), Controller: &yes}},
		}}
	}
	asked := 0
	owns := ofDeployment("d", "orders", func(_ context.Context, _, name string) (types.UID, error) {
		asked++
		switch name {
		case "adopted":
			return "d", nil
		case "foreign":
			return "other", nil
		}
		return "", errors.New("no right")
	})
	for _, c := range []struct {
		pod   *corev1.Pod
		mine  bool
		asked int
	}{
		{pod("orders-1a", "r1", "1a"), true, 0},
		{pod("adopted", "r2", "2b"), true, 1},
		{pod("adopted", "r2", "2b"), true, 1},
		{pod("foreign", "r3", "3c"), false, 2},
		{pod("foreign", "r3", "3c"), false, 2},
		{pod("secret", "r4", "4d"), false, 3},
		{pod("secret", "r4", "4d"), false, 4},
		{&corev1.Pod{}, false, 4},
	} {
		if have := owns(context.Background(), c.pod); have != c.mine || asked != c.asked {
			t.Errorf("%v: %v after %d questions, want %v after %d", c.pod.OwnerReferences, have, asked, c.mine, c.asked)
		}
	}
}
