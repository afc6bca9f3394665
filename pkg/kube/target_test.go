package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
)

const (
	podsPath       = "GET /api/v1/namespaces/shop/pods"
	deploymentPath = "GET /apis/apps/v1/namespaces/shop/deployments"
)

var (
	ordersMeta     = metav1.ObjectMeta{Name: "orders", Namespace: "shop", UID: "d"}
	ordersSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "orders"}}
	labelled       = map[string]string{"app": "orders", "pod-template-hash": "1a"}
)

// owned makes an object the controller of a pod.
func owned(p *corev1.Pod, kind, name, uid string) *corev1.Pod {
	yes := true
	p.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: name, UID: types.UID(uid), Controller: &yes}}
	return p
}

func podList(version string, pods ...*corev1.Pod) *corev1.PodList {
	l := &corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, ListMeta: metav1.ListMeta{ResourceVersion: version}}
	for _, p := range pods {
		l.Items = append(l.Items, *p)
	}
	return l
}

func podNames(pods []Pod) string {
	var out []string
	for _, p := range pods {
		out = append(out, p.Name)
	}
	return strings.Join(out, " ")
}

func parse(t *testing.T, s string) config.Target {
	t.Helper()
	target, err := config.ParseTarget(s)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func TestResolve(t *testing.T) {
	list := podList("9",
		owned(readyPod("young", "1", 0, labelled), "ReplicaSet", "orders-1a", "r"),
		owned(readyPod("old", "2", time.Hour, labelled), "ReplicaSet", "orders-1a", "r"),
		owned(readyPod("stranger", "3", 2*time.Hour, map[string]string{"app": "orders"}), "ReplicaSet", "other", "r2"),
		owned(readyPod("direct", "4", 3*time.Hour, labelled), "StatefulSet", "orders", "d"))
	unready := readyPod("starting", "5", 4*time.Hour, labelled)
	unready.Status.Conditions = nil
	list.Items = append(list.Items, *unready)
	cron := &batchv1.CronJob{ObjectMeta: ordersMeta}
	cron.Status.Active = []corev1.ObjectReference{{Name: "first"}, {Name: "second"}, {Name: "ended"}}
	job := func(name, uid string, age time.Duration) *batchv1.Job {
		j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(uid)}}
		j.CreationTimestamp = metav1.NewTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(-age))
		j.Spec.Selector = ordersSelector
		return j
	}
	list.Items = append(list.Items, *owned(readyPod("of-second", "6", 0, labelled), "Job", "second", "j2"))
	const apps, batch = "GET /apis/apps/v1/namespaces/shop/", "GET /apis/batch/v1/namespaces/shop/"
	s := newServer(t, map[string]http.HandlerFunc{
		podsPath: func(w http.ResponseWriter, r *http.Request) {
			if q := r.URL.Query().Get("labelSelector"); q != "app=orders" {
				t.Errorf("selector %q", q)
			}
			answer(list)(w, r)
		},
		podPath:                                         answer(readyPod("orders", "1", 0, nil)),
		deploymentPath + "/orders":                      answer(&appsv1.Deployment{ObjectMeta: ordersMeta, Spec: appsv1.DeploymentSpec{Selector: ordersSelector}}),
		apps + "statefulsets/orders":                    answer(&appsv1.StatefulSet{ObjectMeta: ordersMeta, Spec: appsv1.StatefulSetSpec{Selector: ordersSelector}}),
		apps + "daemonsets/orders":                      answer(&appsv1.DaemonSet{ObjectMeta: ordersMeta, Spec: appsv1.DaemonSetSpec{Selector: ordersSelector}}),
		apps + "replicasets/orders":                     answer(&appsv1.ReplicaSet{ObjectMeta: ordersMeta, Spec: appsv1.ReplicaSetSpec{Selector: ordersSelector}}),
		apps + "replicasets/other":                      answer(&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "other"}}),
		batch + "jobs/orders":                           answer(&batchv1.Job{ObjectMeta: ordersMeta, Spec: batchv1.JobSpec{Selector: ordersSelector}}),
		batch + "cronjobs/orders":                       answer(cron),
		batch + "jobs/first":                            answer(job("first", "j1", time.Hour)),
		batch + "jobs/second":                           answer(job("second", "j2", time.Minute)),
		"GET /api/v1/namespaces/shop/services/orders":   answer(&corev1.Service{ObjectMeta: ordersMeta, Spec: corev1.ServiceSpec{Selector: ordersSelector.MatchLabels}}),
		"GET /api/v1/namespaces/shop/services/headless": answer(&corev1.Service{ObjectMeta: ordersMeta}),
	})
	c := open(t, s)
	for written, want := range map[string]string{
		"deployment/orders":        "old young",
		"statefulset/orders":       "direct",
		"daemonset/orders":         "direct",
		"replicaset/orders":        "direct",
		"job/orders":               "direct",
		"cronjob/orders":           "of-second",
		"service/orders":           "direct stranger old of-second young",
		"label/app=orders":         "direct stranger old of-second young",
		"pod/orders":               "orders",
		"pod/orders/container/app": "orders",
	} {
		w, err := c.Resolve(within(t, 10*time.Second), parse(t, written))
		if err != nil {
			t.Errorf("%s: %v", written, err)
			continue
		}
		if have := podNames(w.Pods()); have != want {
			t.Errorf("%s: %s, want %s", written, have, want)
		}
		if w.Pods()[0].Target != written {
			t.Errorf("%s: target %q", written, w.Pods()[0].Target)
		}
	}
	_, err := c.Resolve(within(t, 10*time.Second), parse(t, "service/headless"))
	refused(t, err, fail.TargetUnknown, "service headless in namespace shop has no selector")
	_, err = c.Resolve(within(t, 10*time.Second), parse(t, "deployment/orders/container/ap"))
	refused(t, err, fail.TargetContainer, `has no container "ap"; did you mean "app"?`)

	cron.Status.Active = nil
	s.handlers[batch+"cronjobs/orders"] = answer(cron)
	_, err = c.Resolve(within(t, 10*time.Second), parse(t, "cronjob/orders"))
	refused(t, err, fail.TargetNotReady, "cronjob orders has no job running now", "kubectl create job -n shop --from=cronjob/orders")

	s.handlers[podsPath] = answer(podList("10"))
	_, err = c.Resolve(within(t, 10*time.Second), parse(t, "deployment/orders"))
	refused(t, err, fail.TargetNotReady, "deployment/orders in namespace shop has no pod")
	_, err = c.Resolve(within(t, 10*time.Second), parse(t, "service/orders"))
	refused(t, err, fail.TargetNotReady, "no pod in namespace shop has the labels app=orders (service/orders)")

	unready.Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "Back-off pulling image"}}
	s.handlers[podsPath] = answer(podList("11", owned(unready, "ReplicaSet", "orders-1a", "r")))
	_, err = c.Resolve(within(t, 10*time.Second), parse(t, "deployment/orders"))
	refused(t, err, fail.TargetNotReady, "deployment/orders has no pod that is ready: pod starting: container app: ImagePullBackOff (Back-off pulling image)")

	// A single pod may be unready as long as its container runs.
	shaky := readyPod("orders", "1", 0, nil)
	shaky.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, Reason: "ContainersNotReady"}}
	s.handlers[podPath] = answer(shaky)
	w, err := c.Resolve(within(t, 10*time.Second), podTarget)
	if err != nil || len(w.Pods()[0].Notices) != 1 || !strings.Contains(w.Pods()[0].Notices[0], "pod orders is not ready: Running: ContainersNotReady") {
		t.Errorf("%v, %v", w, err)
	}
}

func TestUnknown(t *testing.T) {
	names := &metav1.PartialObjectMetadataList{Items: []metav1.PartialObjectMetadata{
		{ObjectMeta: metav1.ObjectMeta{Name: "orders"}}, {ObjectMeta: metav1.ObjectMeta{Name: "billing-7d9f"}}}}
	s := newServer(t, map[string]http.HandlerFunc{deploymentPath: answer(names), podsPath: answer(names)})
	c := open(t, s)
	_, err := c.Resolve(within(t, 10*time.Second), parse(t, "deploy/oders"))
	refused(t, err, fail.TargetUnknown, `there is no deployment oders in namespace shop; did you mean "orders"?`, "namespace shop has billing-7d9f, orders")
	_, err = c.Resolve(within(t, 10*time.Second), parse(t, "pod/billing"))
	refused(t, err, fail.TargetUnknown, `there is no pod billing in namespace shop; did you mean "billing-7d9f"?`)

	s.handlers[podsPath] = forbid("list", "pods")
	_, err = c.Resolve(within(t, 10*time.Second), parse(t, "pod/billing"))
	refused(t, err, fail.TargetUnknown, "there is no pod billing in namespace shop", "kubectl get pod -n shop")

	s.handlers[podsPath] = answer(&metav1.PartialObjectMetadataList{})
	s.handlers["GET /api/v1/namespaces"] = answer(&corev1.NamespaceList{Items: []corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "shops"}}}})
	_, err = c.Resolve(within(t, 10*time.Second), parse(t, "pod/billing"))
	refused(t, err, fail.TargetUnknown, `there is no namespace shop; did you mean "shops"?`)
	s.handlers["GET /api/v1/namespaces/shop"] = answer(&corev1.Namespace{})
	_, err = c.Resolve(within(t, 10*time.Second), parse(t, "pod/billing"))
	refused(t, err, fail.TargetUnknown, "there is no pod billing: namespace shop has no pod at all")
}

// watcher is the server's side of watches: each connection is a script.
type watcher struct {
	t       *testing.T
	mu      sync.Mutex
	scripts []func(w http.ResponseWriter, version string)
}

func (s *watcher) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	if len(s.scripts) == 0 {
		s.mu.Unlock()
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return
	}
	next := s.scripts[0]
	s.scripts = s.scripts[1:]
	s.mu.Unlock()
	next(w, r.URL.Query().Get("resourceVersion"))
}

func event(w http.ResponseWriter, kind string, o any) {
	raw, _ := json.Marshal(o)
	fmt.Fprintf(w, `{"type":%q,"object":%s}`+"\n", kind, raw)
	w.(http.Flusher).Flush()
}

// TestWatch: a watch that ends goes on where it was, one whose version has expired lists anew, one that fails is tried
// again; the set is told at each change and at no other time.
func TestWatch(t *testing.T) {
	one := readyPod("one", "1", time.Hour, labelled)
	lists := []*corev1.PodList{podList("10", one), podList("10", one)}
	version := func(want string, then func(http.ResponseWriter)) func(http.ResponseWriter, string) {
		return func(w http.ResponseWriter, have string) {
			if have != want {
				t.Errorf("watches from version %q, want %q", have, want)
			}
			w.Header().Set("Content-Type", "application/json")
			then(w)
		}
	}
	two := readyPod("two", "11", 0, labelled)
	starting := readyPod("two", "11", 0, labelled)
	starting.Status.Conditions, starting.Status.ContainerStatuses = nil, nil
	restarting := readyPod("two", "13", 0, labelled)
	restarting.Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
	restarted := readyPod("two", "14", 0, labelled)
	restarted.Status.ContainerStatuses[0].ContainerID = "containerd://again"
	leaving := readyPod("one", "15", time.Hour, labelled)
	leaving.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	scripts := &watcher{t: t, scripts: []func(http.ResponseWriter, string){
		version("10", func(w http.ResponseWriter) {
			event(w, "ADDED", starting)
			two.ResourceVersion = "12"
			event(w, "MODIFIED", two)
			event(w, "BOOKMARK", &corev1.Pod{TypeMeta: two.TypeMeta, ObjectMeta: metav1.ObjectMeta{ResourceVersion: "20"}})
		}),
		version("20", func(w http.ResponseWriter) { event(w, "MODIFIED", restarting); event(w, "MODIFIED", restarted) }),
		version("14", func(w http.ResponseWriter) { status(w, http.StatusGatewayTimeout, "", "a proxy is tired") }),
		version("14", func(w http.ResponseWriter) {
			event(w, "ERROR", metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure", Code: http.StatusGone, Reason: metav1.StatusReasonExpired})
		}),
		version("30", func(w http.ResponseWriter) { event(w, "MODIFIED", leaving); event(w, "DELETED", leaving) }),
	}}
	lists = append(lists, podList("30", one, restarted, readyPod("three", "25", time.Minute, labelled)))
	var mu sync.Mutex
	s := newServer(t, map[string]http.HandlerFunc{podsPath: func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("watch") != "" {
			scripts.serve(w, r)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		l := lists[0]
		lists = lists[1:]
		answer(l)(w, r)
	}})
	w, err := open(t, s).Resolve(within(t, 10*time.Second), parse(t, "label/app=orders"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes := make(chan []Pod, 100)
	ended := make(chan error, 1)
	go func() { ended <- w.Watch(ctx, func(p []Pod) { changes <- p }) }()
	for i, want := range []string{"one two", "one two", "one three two", "three two"} {
		select {
		case have := <-changes:
			if podNames(have) != want || podNames(w.Pods()) == "" {
				t.Fatalf("change %d: %s, want %s", i, podNames(have), want)
			}
			if i == 1 && have[1].ContainerID != "again" {
				t.Errorf("after a restart: %s", have[1].ContainerID)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("change %d did not come", i)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	if len(changes) > 0 {
		t.Errorf("told of what is no change: %s", podNames(<-changes))
	}
}

// TestWatchForbidden: without the right to watch the pods are listed again and again; without any it ends in words.
func TestWatchForbidden(t *testing.T) {
	var mu sync.Mutex
	list := answer(podList("1", readyPod("one", "1", time.Hour, labelled)))
	s := newServer(t, map[string]http.HandlerFunc{podsPath: func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.URL.Query().Get("watch") != "" {
			forbid("watch", "pods")(w, r)
			return
		}
		list(w, r)
	}})
	said := make(chan string, 10)
	c := openFile(t, kubeconfig(t, s.URL, "", s.ca()), func(line string) { said <- line })
	w, err := c.Resolve(within(t, 10*time.Second), parse(t, "label/app=orders"))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- w.Watch(t.Context(), func([]Pod) {}) }()
	if line := <-said; !strings.Contains(line, "watching pods is not allowed here") {
		t.Errorf("said %q", line)
	}
	mu.Lock()
	list = forbid("list", "pods")
	mu.Unlock()
	refused(t, <-ended, fail.ClusterForbidden, "the right to list pods in namespace shop is missing")
}

func TestTargets(t *testing.T) {
	three := int32(3)
	template := corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "istio-proxy"}, {Name: "app"}}}}
	empty := answer(map[string]any{"items": []any{}})
	s := newServer(t, map[string]http.HandlerFunc{
		deploymentPath: answer(&appsv1.DeploymentList{Items: []appsv1.Deployment{{ObjectMeta: ordersMeta,
			Spec: appsv1.DeploymentSpec{Replicas: &three, Template: template}, Status: appsv1.DeploymentStatus{ReadyReplicas: 2}}}}),
		"GET /apis/apps/v1/namespaces/shop/statefulsets": forbid("list", "statefulsets"),
		"GET /apis/apps/v1/namespaces/shop/daemonsets":   empty,
		"GET /apis/apps/v1/namespaces/shop/replicasets": answer(&appsv1.ReplicaSetList{Items: []appsv1.ReplicaSet{{ObjectMeta: metav1.ObjectMeta{
			Name: "orders-1a", Namespace: "shop", OwnerReferences: owned(&corev1.Pod{}, "Deployment", "orders", "d").OwnerReferences}}}}),
		"GET /apis/batch/v1/namespaces/shop/jobs":     empty,
		"GET /apis/batch/v1/namespaces/shop/cronjobs": answer(&batchv1.CronJobList{Items: []batchv1.CronJob{{ObjectMeta: metav1.ObjectMeta{Name: "nightly", Namespace: "shop"}}}}),
		"GET /api/v1/namespaces/shop/services":        answer(&corev1.ServiceList{Items: []corev1.Service{{ObjectMeta: ordersMeta, Spec: corev1.ServiceSpec{Selector: ordersSelector.MatchLabels}}}}),
		podsPath:                                      answer(podList("1", readyPod("orders-1a-x", "1", 0, labelled))),
	})
	c := open(t, s)
	have, err := c.Targets(within(t, 10*time.Second), false)
	if err != nil {
		t.Fatal(err)
	}
	want := []Item{
		{Namespace: "shop", Target: "deployment/orders", Ready: 2, Of: 3, Containers: []string{"istio-proxy", "app"}, Default: "app"},
		{Namespace: "shop", Target: "cronjob/nightly", Note: "no pod is ready"},
		{Namespace: "shop", Target: "service/orders", Ready: 1, Of: 1},
		{Namespace: "shop", Target: "pod/orders-1a-x", Ready: 1, Of: 1, Containers: []string{"app"}, Default: "app"},
	}
	if !slices.EqualFunc(have.Items, want, func(a, b Item) bool { return fmt.Sprint(a) == fmt.Sprint(b) }) {
		t.Errorf("have %+v", have.Items)
	}
	if len(have.Missing) != 1 || !strings.Contains(have.Missing[0], "listing statefulsets is forbidden") {
		t.Errorf("missing %q", have.Missing)
	}
	for at := range s.handlers {
		s.handlers[at] = forbid("list", "things")
	}
	_, err = c.Targets(within(t, 10*time.Second), false)
	refused(t, err, fail.ClusterForbidden, "the right to list things")
}
