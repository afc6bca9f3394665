package e2e

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// TestCluster proves what all other tests take for granted.
func TestCluster(t *testing.T) {
	c := Up(t)
	ns := c.Namespace(t, "")
	c.Apply(t, ns, Web("web", 2)+"---"+ClientShell("client"))
	c.Ready(t, ns, "deployment/web", "pod/client")
	pods := c.Pods(t, ns, "app=web")
	if len(pods) != 2 {
		t.Fatalf("%d pods", len(pods))
	}

	t.Run("node", func(t *testing.T) {
		nodes, err := c.Client.CoreV1().Nodes().List(Limit(t), metav1.ListOptions{})
		if err != nil || len(nodes.Items) == 0 {
			t.Fatal(nodes, err)
		}
	})
	t.Run("service", func(t *testing.T) {
		client, err := c.Client.CoreV1().Pods(ns).Get(Limit(t), "client", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c.Serving(t, ns, "client", "http://web/")
		by := map[string]bool{}
		Eventually(t, Patience, "both replicas have answered", func() bool {
			a := c.Ask(t, ns, "client", "http://web/path?q=1")
			if caller, _, _ := strings.Cut(a.Caller, ":"); a.Who != "web" || a.Path != "/path" || caller != client.Status.PodIP {
				t.Fatalf("%+v, asked by %s", a, client.Status.PodIP)
			}
			by[a.Host] = true
			return len(by) == 2
		})
	})
	t.Run("a pod by its own Service", func(t *testing.T) {
		for range 8 { // one in two comes back to where it started
			c.Exec(t, ns, pods[0].Name, "/workload", "get", "http://web/")
		}
	})
	t.Run("names", func(t *testing.T) {
		service, err := c.Client.CoreV1().Services(ns).Get(Limit(t), "web", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"web", "web." + ns, "web." + ns + ".svc.cluster.local"} {
			if got := strings.TrimSpace(c.Exec(t, ns, "client", "/workload", "lookup", name)); got != service.Spec.ClusterIP {
				t.Errorf("%s is %s, not %s", name, got, service.Spec.ClusterIP)
			}
		}
		if _, _, err := c.Run(Limit(t), ns, "client", "", nil, "/workload", "lookup", "nobody."+ns); err == nil {
			t.Error("a name without a Service resolves")
		}
	})
	t.Run("exec", func(t *testing.T) {
		out, _, err := c.Run(Limit(t), ns, "client", "", strings.NewReader("hello"), "/workload", "copy")
		if err != nil || out != "hello" {
			t.Errorf("%q, %v", out, err)
		}
		_, _, err = c.Run(Limit(t), ns, "client", "", nil, "/bin/sh", "-c", "exit 7")
		if got := Status(err); got != 7 {
			t.Errorf("status %d: %v", got, err)
		}
	})
	t.Run("port-forward", func(t *testing.T) {
		for name, forward := range map[string]func(testing.TB, string, string, int) string{"WebSocket": c.Forward, "SPDY": c.ForwardSPDY} {
			response, err := http.Get("http://" + forward(t, ns, pods[0].Name, 8080) + "/")
			if err != nil {
				t.Fatal(name, err)
			}
			text, err := io.ReadAll(response.Body)
			response.Body.Close()
			if err != nil || !strings.Contains(string(text), pods[0].Name) {
				t.Errorf("%s: %s %v", name, text, err)
			}
		}
		conn, err := net.Dial("tcp", c.Forward(t, ns, pods[0].Name, 9000))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.HasPrefix(line, "web 127.0.0.1:") {
			t.Errorf("%q, %v", line, err)
		}
	})
	t.Run("ephemeral container", func(t *testing.T) {
		c.Ephemeral(t, ns, pods[0].Name, corev1.EphemeralContainer{
			TargetContainerName: "web",
			EphemeralContainerCommon: corev1.EphemeralContainerCommon{
				Name: "look", Image: "stepin.test/shell:1", ImagePullPolicy: corev1.PullNever, Args: []string{"pause"},
			},
		})
		out, _, err := c.Run(Limit(t), ns, pods[0].Name, "look", nil, "/bin/sh", "-c", "tr '\\0' ' ' </proc/1/cmdline; wget -qO- http://127.0.0.1:8080/")
		if err != nil || !strings.Contains(out, "/workload serve") || !strings.Contains(out, `"Host":"`+pods[0].Name) {
			t.Errorf("%q, %v", out, err)
		}
	})
}

// TestUsers: rights are enforced, tokens expire, PodSecurity refuses.
func TestUsers(t *testing.T) {
	c := Up(t)
	ns := c.Namespace(t, "restricted")
	as := func(t *testing.T, kubeconfig string) kubernetes.Interface {
		t.Helper()
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			t.Fatal(err)
		}
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		return client
	}
	list := func(client kubernetes.Interface, ns string) error {
		_, err := client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
		return err
	}
	t.Run("rights", func(t *testing.T) {
		begun := time.Now()
		user := as(t, c.User(t, ns, "reader", Allow([]string{"get", "list"}, "", "pods")))
		if err := list(user, ns); err != nil {
			t.Error(err)
		}
		if err := list(user, "kube-system"); !apierrors.IsForbidden(err) {
			t.Errorf("in another namespace: %v", err)
		}
		if c.own == nil {
			return
		}
		var codes []int
		for _, r := range c.Node(t).Requests(t, "system:serviceaccount:"+ns+":reader", begun) {
			codes = append(codes, r.Response.Code)
		}
		if len(codes) != 2 || codes[0] != 200 || codes[1] != 403 {
			t.Errorf("the audit log has %v", codes)
		}
	})
	t.Run("another role", func(t *testing.T) {
		user := as(t, c.User(t, ns, "nobody"))
		if err := list(user, ns); !apierrors.IsForbidden(err) {
			t.Error(err)
		}
		c.Bind(t, ns, "nobody", rbacv1.RoleRef{Kind: "ClusterRole", Name: "view"})
		Eventually(t, Patience, "the role takes effect", func() bool { return list(user, ns) == nil })
	})
	t.Run("a token that expires", func(t *testing.T) {
		c.User(t, ns, "brief", Allow([]string{"list"}, "", "pods"))
		user := as(t, c.TokenConfig(t, ns, c.Token(t, ns, "brief", 2*time.Second)))
		if err := list(user, ns); err != nil {
			t.Error(err)
		}
		Eventually(t, Patience, "it has expired", func() bool { return apierrors.IsUnauthorized(list(user, ns)) })
	})
	t.Run("a certificate", func(t *testing.T) {
		user := as(t, c.CertificateConfig(t, ns, "somebody", nil, time.Hour))
		if err := list(user, ns); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `"somebody"`) {
			t.Error(err)
		}
	})
	t.Run("PodSecurity", func(t *testing.T) {
		_, err := c.Client.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "pod"},
			Spec:       corev1.PodSpec{HostPID: true, Containers: []corev1.Container{{Name: "c", Image: "stepin.test/workload:1"}}},
		}, metav1.CreateOptions{})
		if err == nil || !strings.Contains(err.Error(), "violates PodSecurity") {
			t.Error(err)
		}
		c.Apply(t, ns, Client("client"))
		c.Ready(t, ns, "pod/client")
	})
}

// TestRoad: what lies between machine and API server can be made longer and cut.
func TestRoad(t *testing.T) {
	c := Up(t)
	c.Node(t)
	ask := func() (time.Duration, error) {
		begun := time.Now()
		conn, err := net.DialTimeout("tcp", strings.TrimPrefix(c.Config.Host, "https://"), time.Second)
		if err == nil {
			conn.Close()
		}
		return time.Since(begun), err
	}
	c.Road(t, Road{RoundTrip: 100 * time.Millisecond})
	if took, err := ask(); err != nil || took < 100*time.Millisecond {
		t.Errorf("a round trip of %v, %v", took, err)
	}
	c.Road(t, Road{Loss: 1})
	if took, err := ask(); err == nil {
		t.Errorf("the road is cut, and leads there in %v", took)
	}
	c.Road(t, Road{})
	if _, err := ask(); err != nil {
		t.Error(err)
	}
}

// TestNode: what tests of leavings look at would be seen there.
func TestNode(t *testing.T) {
	c := Up(t)
	n := c.Node(t)
	ns := c.Namespace(t, "")
	c.Apply(t, ns, Client("client"))
	c.Ready(t, ns, "pod/client")
	pod, err := c.Client.CoreV1().Pods(ns).Get(Limit(t), "client", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	in := n.In(t, pod.Status.ContainerStatuses[0].ContainerID)
	if len(in) != 1 || in[0].Command != "/workload pause" {
		t.Fatalf("in the container: %+v", in)
	}
	if got := n.Tables(t); len(got) > 0 {
		t.Errorf("tables %q", got)
	}
	if got := n.Attached(t); len(got) > 0 {
		t.Errorf("programs %q", got)
	}
	n.Run(t, "nft", "add", "table", "inet", "stepin_test")
	if got := n.Tables(t); len(got) != 1 || !strings.HasPrefix(got[0], "table inet stepin_test in ") {
		t.Errorf("tables %q", got)
	}
	n.Run(t, "nft", "delete", "table", "inet", "stepin_test")
}
