//go:build vscode

package e2e

import (
	"context"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// editorTime is how long all of it may take in the browser, the first build of net/http included.
const editorTime = 9 * time.Minute

// TestVSCode, which `./just e2e-vscode` builds and runs, is the gesture itself: F5 in a real VS Code in a real browser, with the
// packed extension. What the user does and sees is in editors/vscode/e2e; the pods and their caller are made here. Arguments
// after -args -- are node's, such as --test-name-pattern=go.
func TestVSCode(t *testing.T) {
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{".tools/node/bin/node", ".tools/code-server", "editors/vscode/node_modules"} {
		if _, err := os.Stat(filepath.Join(root, part)); err != nil {
			t.Fatalf("%v: ./just e2e-vscode brings it", err)
		}
	}
	c := Up(t)
	ns := c.Namespace(t, "")
	one := strings.Replace(orders, "replicas: 2", "replicas: 1", 1)
	another := strings.NewReplacer("/etc/orders", "/etc/orders", "orders", "bills", "nobody", "no-one")
	c.Apply(t, ns, one+another.Replace(one)+Web("passing", 1)+"---"+Client("client"))
	c.Ready(t, ns, "deployment/orders", "deployment/bills", "deployment/passing", "pod/client")
	c.Serving(t, ns, "client", "http://orders/")
	c.Serving(t, ns, "client", "http://bills/")

	helper := httptest.NewServer(editorsHelper(c, ns))
	defer helper.Close()
	told, err := json.Marshal(map[string]string{
		"namespace": ns, "ask": helper.URL + "/ask/", "remove": helper.URL + "/remove/", "powerless": c.User(t, ns, "powerless"),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), editorTime)
	defer cancel()
	kept := filepath.Join(root, ".tools/build/e2e-vscode")
	if err := os.MkdirAll(kept, 0o755); err != nil {
		t.Fatal(err)
	}
	args := []string{
		"--test-reporter=spec", "--test-reporter-destination=stdout",
		"--test-reporter=tap", "--test-reporter-destination=" + filepath.Join(kept, "cluster.tap"),
	}
	args = append(append(args, flag.Args()...), "editors/vscode/e2e/cluster.ts", string(told))
	cmd := exec.CommandContext(ctx, filepath.Join(root, ".tools/node/bin/node"), args...)
	cmd.Dir = root
	cmd.Env = append(append(os.Environ(), WithDelve(t)...), "KUBECONFIG="+c.Kubeconfig, "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

// editorsHelper does what the browser's side cannot: /ask/NAME asks a Service from another pod, /remove/NAME removes a
// deployment.
func editorsHelper(c *Cluster, ns string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/ask/{name}", func(w http.ResponseWriter, r *http.Request) {
		out, errs, err := c.Run(r.Context(), ns, "client", "", nil, "/workload", "get", "http://"+r.PathValue("name")+"/orders/7")
		if err != nil {
			http.Error(w, err.Error()+": "+errs, http.StatusBadGateway)
			return
		}
		_, _ = io.WriteString(w, out)
	})
	mux.HandleFunc("/remove/{name}", func(w http.ResponseWriter, r *http.Request) {
		if err := c.Client.AppsV1().Deployments(ns).Delete(r.Context(), r.PathValue("name"), metav1.DeleteOptions{}); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
	})
	return mux
}
