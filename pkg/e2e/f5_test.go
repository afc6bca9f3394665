package e2e

import (
	"debug/elf"
	"encoding/json"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepin-dev/stepin/adapter/dap/client"
	"github.com/stepin-dev/stepin/adapter/dap/talk"
)

// handBack is how long the pod may take to serve again after a session's end.
const handBack = time.Second

// orders is what TestF5 takes the place of: two replicas with a ConfigMap, a Secret and variables, and a Service that
// nobody answers.
const orders = `
apiVersion: v1
kind: ConfigMap
metadata: {name: orders}
data: {limits.yaml: "most: 12\n", region: north}
---
apiVersion: v1
kind: Secret
metadata: {name: orders}
stringData: {password: "open sesame"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: orders, labels: {app: orders}}
spec:
  replicas: 2
  selector: {matchLabels: {app: orders}}
  template:
    metadata: {labels: {app: orders}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: orders
          image: stepin.test/workload:1
          imagePullPolicy: Never
          args: [serve, -name=orders, "-http=:8080"]
          ports: [{name: http, containerPort: 8080}]
          env:
            - {name: PLAIN, value: of the pod}
            - {name: REGION, valueFrom: {configMapKeyRef: {name: orders, key: region}}}
            - {name: PASSWORD, valueFrom: {secretKeyRef: {name: orders, key: password}}}
            - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
          readinessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 1}
          livenessProbe: {httpGet: {path: /live, port: http}, periodSeconds: 2}
          volumeMounts:
            - {name: config, mountPath: /etc/orders/config}
            - {name: secret, mountPath: /etc/orders/secret}
      volumes:
        - {name: config, configMap: {name: orders}}
        - {name: secret, secret: {secretName: orders}}
---
apiVersion: v1
kind: Service
metadata: {name: orders}
spec:
  selector: {app: orders}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec:
  selector: {app: nobody}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
`

// f5 is one F5: the debuggee is the workload's own program, built statically by stepin, which says to be "debuggee".
type f5 struct {
	c       *Cluster
	t       *testing.T
	ns      string
	adapter *Adapter
	home    corev1.Pod // whose place the debuggee takes
	client  corev1.Pod // a pod that asks
}

// TestF5 is the main job in a real cluster, from the editor's side and from that of everybody whom the debuggee meets.
func TestF5(t *testing.T) {
	f := &f5{c: Up(t), t: t}
	f.ns = f.c.Namespace(t, "")
	f.c.Apply(t, f.ns, orders+Web("stock", 1)+"---"+Client("client"))
	f.c.Ready(t, f.ns, "deployment/orders", "deployment/stock", "pod/client")
	f.c.Serving(t, f.ns, "client", "http://orders/")
	f.c.Serving(t, f.ns, "client", "http://stock/")
	f.client = f.pod("client")
	pods := f.c.Pods(t, f.ns, "app=orders")
	if len(pods) != 2 {
		t.Fatalf("%d pods", len(pods))
	}

	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(root, "pkg", "e2e", "workload")
	line := talk.Mark(t, filepath.Join(program, "serve.go"), "a breakpoint's line")
	f.adapter = Stepin{Kubeconfig: f.c.Kubeconfig, Env: append(WithDelve(t), "CGO_ENABLED=0")}.DAP(t)
	begun := time.Now()
	talk.Begin(t, f.adapter.Client, Configuration(f.ns, "deployment/orders", program, map[string]any{
		"debugger": map[string]any{"args": []string{"serve", "-name=debuggee", "-http=:8080"}},
		"agent":    map[string]any{"ttl": "2s"},
	}), line)
	for _, p := range pods {
		if err := f.adapter.WaitOutput(Limit(t), "console", "tcp port 8080 of pod "+p.Name+" now sends"); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("F5 to both replicas' traffic: %.1f s", time.Since(begun).Seconds())

	f.breakpoint(line, "http://orders/orders/7?by=service", "/orders/7")
	for _, p := range pods {
		f.breakpoint(line, "http://"+p.Status.PodIP+":8080/by/"+p.Name, "/by/"+p.Name)
	}
	talk.Must(t, f.adapter.Client, "setBreakpoints", map[string]any{"source": map[string]string{"path": strings.Split(line, ":")[0]}})
	host := ""
	for i := range 12 { // one in two thousand times only one replica is asked, and each has been asked already
		a := f.c.Ask(t, f.ns, "client", fmt.Sprintf("http://orders/%d", i))
		f.fromDebuggee(a)
		host = a.Host
	}
	i := slices.IndexFunc(pods, func(p corev1.Pod) bool { return p.Name == host })
	if i < 0 {
		t.Fatalf("os.Hostname is %q, which is none of the pods", host)
	}
	f.home = pods[i]
	f.t.Run("static", f.static)
	f.t.Run("files and variables", f.filesAndVariables)
	f.t.Run("outgoing", f.outgoing)

	talk.Must(t, f.adapter.Client, "disconnect", map[string]any{"terminateDebuggee": true})
	f.handedBack(pods)
}

// handedBack: each pod serves itself after the session, as if nothing had been.
func (f *f5) handedBack(pods []corev1.Pod) {
	f.t.Helper()
	for _, p := range pods {
		Eventually(f.t, handBack, "the pod serves again", func() bool {
			return f.c.Ask(f.t, f.ns, "client", "http://"+p.Status.PodIP+":8080/").Who == "orders"
		})
	}
	for _, p := range pods {
		if now := f.pod(p.Name); !PodReady(&now) || now.Status.ContainerStatuses[0].RestartCount != 0 {
			f.t.Errorf("pod %s after the session: %+v", p.Name, now.Status)
		}
	}
}

func (f *f5) pod(name string) corev1.Pod {
	f.t.Helper()
	p, err := f.c.Client.CoreV1().Pods(f.ns).Get(Limit(f.t), name, metav1.GetOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	return *p
}

// fromDebuggee checks whose answer it is, and whom the answering program saw.
func (f *f5) fromDebuggee(a Answer) {
	f.t.Helper()
	if a.Who != "debuggee" || !strings.HasPrefix(a.Caller, f.client.Status.PodIP+":") {
		f.t.Errorf("answered %+v; the caller is %s", a, f.client.Status.PodIP)
	}
}

// breakpoint has the client pod ask, looks at where that request stops, and has the same request answered.
func (f *f5) breakpoint(line, url, path string) {
	f.t.Helper()
	answered := f.c.asking(f.t, f.ns, "client", url)
	stopped := talk.Event(f.t, f.adapter.Client, "stopped")
	at, locals := talk.At(f.t, f.adapter.Client, stopped)
	if at != line || !slices.Contains(locals, `path="`+path+`"`) {
		f.t.Errorf("%s stopped at %s with %v, not at %s with the path %s", url, at, locals, line, path)
	}
	select {
	case got := <-answered:
		f.t.Errorf("%s was answered at the breakpoint: %+v", url, got)
	default:
	}
	goOn(f.t, f.adapter.Client, stopped)
	if got := <-answered; got.err != nil {
		f.t.Error(got.err)
	} else if f.fromDebuggee(got.Answer); got.Path != path {
		f.t.Errorf("%s was answered %+v", url, got)
	}
	f.told(url, path)
}

// told checks what the editor hears of a request that was answered.
func (f *f5) told(url, path string) {
	f.t.Helper()
	var r struct {
		Pod, Method, Path, From, Mode string
		Port, Status                  int
	}
	if err := talk.Event(f.t, f.adapter.Client, "stepin.request").Decode(&r); err != nil {
		f.t.Fatal(err)
	}
	if !strings.HasSuffix(url, r.Path) || !strings.HasPrefix(r.Path, path) || r.Method != "GET" || r.Status != 200 || r.Port != 8080 || r.Mode != "steal" ||
		!strings.HasPrefix(r.From, f.client.Status.PodIP+":") || !strings.HasPrefix(r.Pod, "orders-") || strings.HasPrefix(path, "/by/") && path != "/by/"+r.Pod {
		f.t.Errorf("the editor is told %+v of %s", r, url)
	}
}

// ask asks the debuggee for something it does, in the words of its answer.
func (f *f5) ask(t *testing.T, what string, key, value string) string {
	t.Helper()
	out := f.c.Exec(t, f.ns, "client", "/workload", "get", "http://orders/"+what+"?"+url.Values{key: {value}}.Encode())
	_, text, _ := strings.Cut(strings.TrimSuffix(out, "\n"), " ")
	return text
}

// static: the debuggee has no loader, so nothing could have been put into it.
func (f *f5) static(t *testing.T) {
	a := f.c.Ask(t, f.ns, "client", "http://orders/")
	exe, err := elf.Open(fmt.Sprintf("/proc/%d/exe", a.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	for _, p := range exe.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("the debuggee has a %v", p.Type)
		}
	}
}

func (f *f5) filesAndVariables(t *testing.T) {
	const token = "/var/run/secrets/kubernetes.io/serviceaccount/token"
	inPod := f.c.Exec(t, f.ns, f.home.Name, "/workload", "cat", token)
	if len(strings.Split(inPod, ".")) != 3 {
		t.Fatal("the pod has no token")
	}
	for path, want := range map[string]string{
		"/etc/orders/config/limits.yaml": "most: 12",
		"/etc/orders/secret/password":    "open sesame",
		token:                            inPod,
		"/var/run/secrets/kubernetes.io/serviceaccount/namespace": f.ns,
		"/etc/hostname": f.home.Name,
	} {
		if got := f.ask(t, "file", "path", path); got != want {
			t.Errorf("%s has %d bytes that are not the pod's %d", path, len(got), len(want))
		}
	}
	for name, want := range map[string]string{
		"PLAIN": "of the pod", "REGION": "north", "PASSWORD": "open sesame", "POD_NAME": f.home.Name,
		"KUBERNETES_SERVICE_HOST": strings.TrimSpace(f.service(t, "kubernetes", "default").Spec.ClusterIP),
	} {
		if got := f.ask(t, "env", "name", name); got != want {
			t.Errorf("variable %s is %q, not %q", name, got, want)
		}
	}
}

func (f *f5) service(t *testing.T, name, namespace string) *corev1.Service {
	t.Helper()
	s, err := f.c.Client.CoreV1().Services(namespace).Get(Limit(t), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// outgoing: whom the debuggee calls sees the pod, and what the debuggee gets is what the pod itself gets.
func (f *f5) outgoing(t *testing.T) {
	var a Answer
	text := f.ask(t, "fetch", "url", "http://stock/shelf")
	if err := json.Unmarshal([]byte(text), &a); err != nil || a.Who != "stock" || a.Path != "/shelf" || a.Asked != "stock" ||
		!strings.HasPrefix(a.Caller, f.home.Status.PodIP+":") {
		t.Errorf("http://stock answers %s (%v); the pod is %s", text, err, f.home.Status.PodIP)
	}
	stock := f.c.Pods(t, f.ns, "app=stock")[0].Status.PodIP
	for what, to := range map[string]string{
		"a port nobody listens on":              "http://" + stock + ":81/",
		"a Service without endpoints":           "http://nobody/",
		"a port nobody listens on, of its own":  "http://" + f.home.Status.PodIP + ":81/",
		"a port nobody listens on, on loopback": "http://127.0.0.1:81/",
	} {
		inPod := f.inPod(t, to)
		if got := f.ask(t, "fetch", "url", to); got != inPod {
			t.Errorf("%s: the debuggee gets %q, the pod %q", what, got, inPod)
		}
		if refused := strings.HasSuffix(inPod, ": connection refused"); !refused && strings.Contains(what, "nobody listens") {
			t.Errorf("%s: %q", what, inPod)
		}
		t.Logf("%s: %s", what, inPod)
	}
}

// inPod is the error that the pod itself gets.
func (f *f5) inPod(t *testing.T, to string) string {
	t.Helper()
	_, said, err := f.c.Run(Limit(t), f.ns, f.home.Name, "", nil, "/workload", "get", to)
	if Status(err) != 1 {
		t.Fatalf("%s in the pod: %v %s", to, err, said)
	}
	return strings.TrimSpace(strings.TrimPrefix(said, "workload: "))
}

// asked is an answer that may not have come.
type asked struct {
	Answer
	err error
}

// asking has a pod ask, and returns where the answer will come.
func (c *Cluster) asking(t *testing.T, namespace, pod, url string) <-chan asked {
	answered := make(chan asked, 1)
	ctx := Limit(t)
	go func() {
		a, err := c.TryAsk(ctx, namespace, pod, url)
		answered <- asked{a, err}
	}()
	return answered
}

// goOn lets what has stopped run.
func goOn(t testing.TB, c *client.Client, stopped *client.Message) {
	t.Helper()
	var at struct{ ThreadID int }
	if err := stopped.Decode(&at); err != nil {
		t.Fatal(err)
	}
	talk.Must(t, c, "continue", map[string]any{"threadId": at.ThreadID})
}
