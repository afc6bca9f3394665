package e2e

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// Upload is how long a plain client takes, on a connection that it has already, for what a cold start sends: the ConfigMaps
// of the last one, which must be there still.
func (c *Cluster) Upload(t testing.TB, kubeconfig, namespace string) time.Duration {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.Dial = (&net.Dialer{}).DialContext                  // a connection of its own: an old one has learnt how fast it may send
	config.ContentType = "application/vnd.kubernetes.protobuf" // bytes as they are
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx := Limit(t)
	sent, err := client.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/managed-by=stepin"})
	if err != nil || len(sent.Items) == 0 {
		t.Fatalf("nothing was sent: %v", err)
	}
	for range 3 { // as many round trips as a start has made until then
		if _, err := client.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	begun := time.Now()
	var all sync.WaitGroup
	for i, m := range sent.Items {
		all.Go(func() {
			err := create(ctx, client, namespace, fmt.Sprintf("plain-%d", i), m.BinaryData)
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	took := time.Since(begun)
	for i := range sent.Items {
		if err := c.Client.CoreV1().ConfigMaps(namespace).Delete(ctx, fmt.Sprintf("plain-%d", i), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	}
	return took
}

func create(ctx context.Context, client kubernetes.Interface, namespace, name string, data map[string][]byte) error {
	return client.CoreV1().RESTClient().Post().Namespace(namespace).Resource("configmaps").
		SetHeader("Accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"). // the answer has it all again otherwise
		Body(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, BinaryData: data}).Do(ctx).Error()
}
