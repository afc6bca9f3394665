package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/stepin-dev/stepin/pkg/e2e/pki"
)

// Meddler stands between stepin and the API server, as an administrator's admission webhook would: each Job that is
// created is first shown to change. It returns the kubeconfig that leads there.
func (c *Cluster) Meddler(t testing.TB, change func(*batchv1.Job)) (kubeconfig string) {
	t.Helper()
	server, err := url.Parse(c.Config.Host)
	if err != nil {
		t.Fatal(err)
	}
	config := rest.CopyConfig(c.Config)
	config.NextProtos = []string{"http/1.1"} // HTTP/2 knows no upgrade
	transport, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Transport: transport, FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(server)
		r.Out.Header.Del("Authorization") // the transport has the administrator's
	}}
	meddler := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/jobs") {
			if err := meddle(r, change); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { meddler.CloseClientConnections(); meddler.Close() })
	text, err := pki.Access{Server: meddler.URL, Token: "none"}.Kubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func meddle(r *http.Request, change func(*batchv1.Job)) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	object, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil) // of whatever kind of bytes
	if err != nil {
		return err
	}
	job, ok := object.(*batchv1.Job)
	if !ok {
		return fmt.Errorf("e2e: a %T among the Jobs", object)
	}
	change(job)
	if body, err = json.Marshal(job); err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	r.Header.Set("Content-Length", strconv.Itoa(len(body)))
	return nil
}
