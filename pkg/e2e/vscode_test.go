//go:build vscode

package e2e

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// editorTime is how long the whole gesture may take in the browser, the first build of net/http included.
const editorTime = 5 * time.Minute

// TestVSCode, which `./just e2e-vscode` builds and runs, is the gesture itself: F5 in a real VS Code in a real browser, with the packed extension. What the user does
// and sees is in editors/vscode/e2e; the pods and their caller are made here.
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
	c.Apply(t, ns, strings.Replace(orders, "replicas: 2", "replicas: 1", 1)+Client("client"))
	c.Ready(t, ns, "deployment/orders", "pod/client")
	c.Serving(t, ns, "client", "http://orders/")

	asker := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out, errs, err := c.Run(r.Context(), ns, "client", "", nil, "/workload", "get", "http://orders/orders/7")
		if err != nil {
			http.Error(w, err.Error()+": "+errs, http.StatusBadGateway)
			return
		}
		_, _ = io.WriteString(w, out)
	}))
	defer asker.Close()
	told, err := json.Marshal(map[string]string{"namespace": ns, "folder": desk(t), "ask": asker.URL})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), editorTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(root, ".tools/node/bin/node"), "editors/vscode/e2e/cluster.ts", string(told))
	cmd.Dir = root
	cmd.Env = append(append(os.Environ(), WithDelve(t)...), "KUBECONFIG="+c.Kubeconfig, "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

// desk is the developer's folder: a module of one file.
func desk(t *testing.T) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "orders")
	if err := os.CopyFS(folder, os.DirFS("testdata/desk")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "go.mod"), []byte("module orders\n\ngo 1.26\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return folder
}
