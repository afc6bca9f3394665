package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

// Answer is what the workload answers to a request: who has served whom.
type Answer struct {
	Who, Host, Caller, Method, Path, Query, Asked, Body string
	Pid                                                 int
}

// Run is a command run in a container, "" being the pod's default one.
func (c *Cluster) Run(ctx context.Context, namespace, pod, container string, stdin io.Reader, command ...string) (stdout, stderr string, err error) {
	request := c.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{
			Container: container, Command: command, Stdin: stdin != nil, Stdout: true, Stderr: true,
		}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(c.Config, http.MethodGet, request.URL().String())
	if err != nil {
		return "", "", err
	}
	var out, errs bytes.Buffer
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: stdin, Stdout: &out, Stderr: &errs})
	return out.String(), errs.String(), err
}

// Exec runs a command that has to succeed in a pod and returns what it has printed.
func (c *Cluster) Exec(t testing.TB, namespace, pod string, command ...string) string {
	t.Helper()
	out, errs, err := c.Run(Limit(t), namespace, pod, "", nil, command...)
	if err != nil {
		t.Fatalf("%s in %s: %v: %s%s", strings.Join(command, " "), pod, err, out, errs)
	}
	return out
}

// Status is a command's exit status as Run's error tells it, -1 for another error.
func Status(err error) int {
	var code exec.CodeExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return code.Code
	}
	return -1
}

// Ask has one pod of the workload ask a URL and returns what the answering workload says.
func (c *Cluster) Ask(t testing.TB, namespace, pod, url string) Answer {
	t.Helper()
	a, err := c.TryAsk(Limit(t), namespace, pod, url)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TryAsk is Ask for requests that may fail. Any status but 200 is an error.
func (c *Cluster) TryAsk(ctx context.Context, namespace, pod, url string) (Answer, error) {
	var a Answer
	out, errs, err := c.Run(ctx, namespace, pod, "", nil, "/workload", "get", url)
	if err != nil {
		return a, fmt.Errorf("%s asks %s: %w: %s", pod, url, err, errs)
	}
	text, ok := strings.CutPrefix(out, "200 ")
	if !ok {
		return a, fmt.Errorf("%s asks %s: %s", pod, url, out)
	}
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		return a, fmt.Errorf("%s asks %s: %w in %s", pod, url, err, text)
	}
	return a, nil
}

// Serving waits until a pod gets an answer: kube-proxy learns of a Service's pods later than their own state tells.
func (c *Cluster) Serving(t testing.TB, namespace, pod, url string) {
	t.Helper()
	var err error
	for end := time.Now().Add(Patience); ; time.Sleep(pace) {
		if _, err = c.TryAsk(Limit(t), namespace, pod, url); err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// Forward forwards a port of a pod by client-go's own port-forward, as kubectl does, and returns the address on this
// machine. It ends with the test.
func (c *Cluster) Forward(t testing.TB, namespace, pod string, port int) string {
	t.Helper()
	target := c.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
	dialer, err := portforward.NewSPDYOverWebsocketDialer(target, c.Config)
	if err != nil {
		t.Fatal(err)
	}
	return forward(t, dialer, port)
}

// ForwardSPDY is Forward over SPDY.
func (c *Cluster) ForwardSPDY(t testing.TB, namespace, pod string, port int) string {
	t.Helper()
	target := c.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
	return forward(t, c.spdy(t, target), port)
}

func forward(t testing.TB, dialer httpstream.Dialer, port int) string {
	t.Helper()
	stop, ready, failed := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	f, err := portforward.New(dialer, []string{fmt.Sprintf("0:%d", port)}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	go func() { failed <- f.ForwardPorts() }()
	t.Cleanup(func() { close(stop) })
	select {
	case <-ready:
	case err := <-failed:
		t.Fatal(err)
	}
	ports, err := f.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", ports[0].Local)
}

// Ephemeral adds an ephemeral container to a pod and waits until it runs.
func (c *Cluster) Ephemeral(t testing.TB, namespace, pod string, container corev1.EphemeralContainer) {
	t.Helper()
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"ephemeralContainers": []any{container}}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Client.CoreV1().Pods(namespace).Patch(Limit(t), pod, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "ephemeralcontainers")
	if err != nil {
		t.Fatal(err)
	}
	Eventually(t, Patience, "the ephemeral container runs", func() bool {
		p, err := c.Client.CoreV1().Pods(namespace).Get(Limit(t), pod, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range p.Status.EphemeralContainerStatuses {
			if s.Name == container.Name && s.State.Running != nil {
				return true
			}
		}
		return false
	})
}

func (c *Cluster) spdy(t testing.TB, target *url.URL) httpstream.Dialer {
	t.Helper()
	transport, upgrader, err := spdy.RoundTripperFor(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	return spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, target)
}
