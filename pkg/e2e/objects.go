package e2e

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"
)

// manager is who the server notes to have applied an object.
const manager = "stepin-e2e"

// Namespace makes a namespace for the test, which is deleted with the test (see Keep). The level is one of PodSecurity's
// (privileged, baseline, restricted), enforced; "" is privileged.
func (c *Cluster) Namespace(t testing.TB, level string) string {
	t.Helper()
	if level == "" {
		level = "privileged"
	}
	name := regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(t.Name()), "-")
	made, err := c.Client.CoreV1().Namespaces().Create(Limit(t), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: fmt.Sprintf("%.40s-", name), Labels: map[string]string{"pod-security.kubernetes.io/enforce": level},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if os.Getenv(Keep) != "" {
			t.Logf("kept: namespace %s", made.Name)
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), Patience)
		defer cancel()
		if err := c.Client.CoreV1().Namespaces().Delete(ctx, made.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	Eventually(t, Patience, "the namespace's service account, which pods need", func() bool {
		_, err := c.Client.CoreV1().ServiceAccounts(made.Name).Get(Limit(t), "default", metav1.GetOptions{})
		return err == nil
	})
	return made.Name
}

// Apply applies YAML documents, server-side. Objects that name no namespace go into the one given.
func (c *Cluster) Apply(t testing.TB, namespace, documents string) {
	t.Helper()
	for _, u := range objects(t, documents) {
		data, err := u.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.resource(t, namespace, u).Patch(Limit(t), u.GetName(), "application/apply-patch+yaml", data,
			metav1.PatchOptions{FieldManager: manager, Force: new(true)})
		if err != nil {
			t.Fatalf("%s %s: %v", u.GetKind(), u.GetName(), err)
		}
	}
}

// Delete deletes what YAML documents name, as if it had crashed: without grace.
func (c *Cluster) Delete(t testing.TB, namespace, documents string) {
	t.Helper()
	for _, u := range objects(t, documents) {
		err := c.resource(t, namespace, u).Delete(Limit(t), u.GetName(), metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))})
		if err != nil {
			t.Fatalf("%s %s: %v", u.GetKind(), u.GetName(), err)
		}
	}
}

func objects(t testing.TB, documents string) []*unstructured.Unstructured {
	t.Helper()
	var all []*unstructured.Unstructured
	for _, document := range regexp.MustCompile(`(?m)^---\s*$`).Split(documents, -1) {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(document), &u.Object); err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		if len(u.Object) > 0 {
			all = append(all, u)
		}
	}
	return all
}

func (c *Cluster) resource(t testing.TB, namespace string, u *unstructured.Unstructured) dynamic.ResourceInterface {
	t.Helper()
	kind := u.GroupVersionKind()
	mapping, err := c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		t.Fatal(err)
	}
	if mapping.Scope.Name() == "root" {
		return c.dynamic.Resource(mapping.Resource)
	}
	if u.GetNamespace() != "" {
		namespace = u.GetNamespace()
	}
	return c.dynamic.Resource(mapping.Resource).Namespace(namespace)
}

// Ready waits for workloads, named as in `deployment/web` or `pod/client`, and tells what holds them up if they are not
// ready in time.
func (c *Cluster) Ready(t testing.TB, namespace string, names ...string) {
	t.Helper()
	for _, name := range names {
		var err error
		end := time.Now().Add(Patience)
		for {
			var ready bool
			if ready, err = c.ready(t, namespace, name); ready {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s is not ready (%v):\n%s", name, err, c.Describe(t, namespace))
			}
			time.Sleep(pace)
		}
	}
}

func (c *Cluster) ready(t testing.TB, namespace, name string) (bool, error) {
	kind, name, _ := strings.Cut(name, "/")
	ctx, options := Limit(t), metav1.GetOptions{}
	switch kind {
	case "pod":
		p, err := c.Client.CoreV1().Pods(namespace).Get(ctx, name, options)
		return err == nil && PodReady(p), err
	case "deployment":
		d, err := c.Client.AppsV1().Deployments(namespace).Get(ctx, name, options)
		return err == nil && rolledOut(d), err
	case "statefulset":
		s, err := c.Client.AppsV1().StatefulSets(namespace).Get(ctx, name, options)
		return err == nil && s.Status.ObservedGeneration >= s.Generation && s.Status.ReadyReplicas == *s.Spec.Replicas &&
			s.Status.UpdatedReplicas == *s.Spec.Replicas, err
	case "daemonset":
		d, err := c.Client.AppsV1().DaemonSets(namespace).Get(ctx, name, options)
		return err == nil && d.Status.ObservedGeneration >= d.Generation && d.Status.DesiredNumberScheduled > 0 &&
			d.Status.NumberReady == d.Status.DesiredNumberScheduled, err
	}
	t.Fatalf("Ready knows no %s", kind)
	return false, nil
}

func rolledOut(d *appsv1.Deployment) bool {
	want := *d.Spec.Replicas
	s := d.Status
	return s.ObservedGeneration >= d.Generation && s.UpdatedReplicas == want && s.Replicas == want && s.AvailableReplicas == want
}

// PodReady tells whether its Ready condition holds.
func PodReady(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// Pods are the ready pods with a label, as in `app=web`, the oldest first.
func (c *Cluster) Pods(t testing.TB, namespace, label string) []corev1.Pod {
	t.Helper()
	list, err := c.Client.CoreV1().Pods(namespace).List(Limit(t), metav1.ListOptions{LabelSelector: label})
	if err != nil {
		t.Fatal(err)
	}
	pods := slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return !PodReady(&p) })
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	return pods
}

// Describe tells what pods of a namespace wait for, and the namespace's events.
func (c *Cluster) Describe(t testing.TB, namespace string) string {
	t.Helper()
	var b strings.Builder
	if pods, err := c.Client.CoreV1().Pods(namespace).List(Limit(t), metav1.ListOptions{}); err == nil {
		for _, p := range pods.Items {
			fmt.Fprintf(&b, "pod %s: %s %s\n", p.Name, p.Status.Phase, p.Status.Message)
			for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses) {
				state, _ := yaml.Marshal(s.State)
				fmt.Fprintf(&b, "  %s: ready %v, %d restarts, %s", s.Name, s.Ready, s.RestartCount, state)
			}
		}
	}
	if events, err := c.Client.CoreV1().Events(namespace).List(Limit(t), metav1.ListOptions{}); err == nil {
		for _, e := range events.Items {
			fmt.Fprintf(&b, "%s %s/%s: %s: %s\n", e.Type, e.InvolvedObject.Kind, e.InvolvedObject.Name, e.Reason, e.Message)
		}
	}
	return b.String()
}
