package kube

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// apiServer speaks HTTP as an API server does, as far as its test says.
type apiServer struct {
	*httptest.Server
	mu       sync.Mutex
	paths    []string // what was asked, as "GET /api/v1/…"
	handlers map[string]http.HandlerFunc
}

// newServer serves the handlers by "METHOD PATH"; everything else is 404 with a Status.
func newServer(t *testing.T, handlers map[string]http.HandlerFunc) *apiServer {
	t.Helper()
	s := &apiServer{handlers: handlers}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		at := r.Method + " " + r.URL.Path
		s.mu.Lock()
		s.paths = append(s.paths, at)
		h := s.handlers[at]
		s.mu.Unlock()
		if h == nil {
			status(w, http.StatusNotFound, "NotFound", at+" not found")
			return
		}
		h(w, r)
	}))
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// ca is the cluster's part of a kubeconfig that trusts the server and nobody else.
func (s *apiServer) ca() string {
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	return "certificate-authority-data: " + base64.StdEncoding.EncodeToString(block)
}

func (s *apiServer) count(at string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, p := range s.paths {
		if p == at {
			n++
		}
	}
	return n
}

func status(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   "Failure", Code: int32(code), Reason: reason, Message: message,
	})
}

func answer(v any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
}

func forbid(verb, resource string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		status(w, http.StatusForbidden, "Forbidden", fmt.Sprintf(
			`%s is forbidden: User "ann" cannot %s resource "%s" in API group "" in the namespace "shop"`, resource, verb, resource))
	}
}

// kubeconfig writes one with a single context "dev" and returns its path. user and more are YAML of the user and of the
// cluster, indented by nothing.
func kubeconfig(t *testing.T, server, user, more string) string {
	t.Helper()
	indent := func(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n    ") }
	if user == "" {
		user = "token: secret"
	}
	path := filepath.Join(t.TempDir(), "config")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: dev
contexts: [{name: dev, context: {cluster: here, user: ann, namespace: shop}}]
clusters:
- name: here
  cluster:
    server: %s
    %s
users:
- name: ann
  user:
    %s
`, server, indent(more), indent(user))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// open opens the cluster of a server.
func open(t *testing.T, s *apiServer) *Cluster {
	t.Helper()
	return openFile(t, kubeconfig(t, s.URL, "", s.ca()), nil)
}

func openFile(t *testing.T, path string, said func(string)) *Cluster {
	t.Helper()
	c, err := Open(Options{Kubeconfig: path, Version: "test", Said: said, Log: slog.New(slog.NewTextHandler(newLog(t), &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// testLog is a test's log for as long as the test lasts: what a start does beside itself may end later.
type testLog struct {
	mu   sync.Mutex
	out  io.Writer
	over bool
}

func newLog(t *testing.T) *testLog {
	l := &testLog{out: t.Output()}
	t.Cleanup(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.over = true
	})
	return l
}

func (l *testLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return len(b), nil
	}
	return l.out.Write(b)
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// readyPod is the smallest that is.
func readyPod(name, version string, age time.Duration, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{
		TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop", UID: types.UID("uid-" + name), ResourceVersion: version, Labels: labels,
			CreationTimestamp: metav1.NewTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(-age))},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "10.0.0.1",
			Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "app", ContainerID: "containerd://" + name, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}},
		},
	}
}
