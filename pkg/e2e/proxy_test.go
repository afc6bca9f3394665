package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/stepin-dev/stepin/adapter/dap/talk"
)

// farName is what the API server is called where only the proxy knows it: nobody who goes by another way gets there.
const farName = "api.behind.test"

// proxy is a CONNECT proxy that knows farName and nothing else.
type proxy struct {
	t       testing.TB
	address string
	to      string // where farName is
	refuse  int    // a status; 0: it lets through

	mu      sync.Mutex
	tunnels []net.Conn
	made    int
}

func newProxy(t testing.TB, c *Cluster, refuse int) *proxy {
	t.Helper()
	host, err := url.Parse(c.Config.Host)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, to: host.Host, refuse: refuse}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.address = "http://" + l.Addr().String()
	server := &http.Server{Handler: http.HandlerFunc(p.serve)}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close(); p.drop() })
	return p
}

func (p *proxy) serve(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method != http.MethodConnect || !strings.HasPrefix(r.Host, farName+":"):
		http.Error(w, "nothing but "+farName, http.StatusForbidden)
		return
	case p.refuse != 0:
		w.Header().Set("Proxy-Authenticate", "Basic")
		http.Error(w, http.StatusText(p.refuse), p.refuse)
		return
	}
	there, err := net.Dial("tcp", p.to)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	here, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		p.t.Error(err)
		there.Close()
		return
	}
	p.mu.Lock()
	p.tunnels = append(p.tunnels, here, there)
	p.made++
	p.mu.Unlock()
	_, _ = io.WriteString(here, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() { _, _ = io.Copy(there, buffered); there.Close() }()
	_, _ = io.Copy(here, there)
	here.Close()
}

// drop ends every connection there is.
func (p *proxy) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.tunnels {
		c.Close()
	}
	p.tunnels = nil
}

func (p *proxy) connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.made
}

// changed is a kubeconfig with something changed.
func changed(t testing.TB, kubeconfig string, change func(cluster *clientcmdapi.Cluster, user *clientcmdapi.AuthInfo)) string {
	t.Helper()
	config, err := clientcmd.LoadFromFile(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	now := config.Contexts[config.CurrentContext]
	change(config.Clusters[now.Cluster], config.AuthInfos[now.AuthInfo])
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	return file
}

// behind has the API server known by farName only; by is proxy-url, "" for the environment's.
func (p *proxy) behind(t testing.TB, kubeconfig, by string) string {
	t.Helper()
	return changed(t, kubeconfig, func(cluster *clientcmdapi.Cluster, _ *clientcmdapi.AuthInfo) {
		host, port, err := net.SplitHostPort(p.to)
		if err != nil {
			t.Fatal(err)
		}
		cluster.Server, cluster.TLSServerName, cluster.ProxyURL = "https://"+net.JoinHostPort(farName, port), host, by
	})
}

// shellSession is a session whose debuggee is a shell that asks the Service web for each line it is given.
type shellSession struct {
	t      testing.TB
	in     io.WriteCloser
	out    *bufio.Reader
	stderr talk.Buffer
}

func (s Stepin) shell(t testing.TB, ns string) *shellSession {
	t.Helper()
	const script = `while read -r _; do { exec 3<>/dev/tcp/web/80 && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && tr -d '\r\n' <&3; } 2>&1; echo; done`
	s.Dir = t.TempDir()
	s.Env = append(s.Env, "XDG_RUNTIME_DIR="+s.Dir)
	cmd := s.Exec(context.Background(), t, map[string]any{"target": "deployment/web", "namespace": ns, "incoming": map[string]any{"mode": "off"},
		"agent": map[string]any{"ttl": "1s"}}, "bash", "-c", script)
	x := &shellSession{t: t}
	cmd.Stderr = &x.stderr
	var err error
	if x.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	x.out = bufio.NewReader(out)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		x.in.Close()
		end := time.AfterFunc(ending, func() { _ = cmd.Process.Kill() })
		defer end.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the session ended with %v", err)
		}
		if t.Failed() {
			t.Logf("stepin said:\n%s", x.stderr.String())
		}
	})
	return x
}

// ask has the debuggee ask, and returns the answer.
func (x *shellSession) ask() string {
	x.t.Helper()
	answer := make(chan string, 1)
	go func() {
		_, _ = io.WriteString(x.in, "go\n")
		line, _ := x.out.ReadString('\n')
		answer <- line
	}()
	select {
	case line := <-answer:
		return line
	case <-time.After(Patience):
		x.t.Fatalf("no answer; stepin said:\n%s", x.stderr.String())
		return ""
	}
}

func (x *shellSession) works() {
	x.t.Helper()
	if got := x.ask(); !strings.Contains(got, `"Who":"web"`) {
		x.t.Fatalf("the debuggee asked web and got %q; stepin said:\n%s", got, x.stderr.String())
	}
}

// says waits for a line of stepin's.
func (x *shellSession) says(what string) {
	x.t.Helper()
	Eventually(x.t, Patience, "stepin says "+what, func() bool { return strings.Contains(x.stderr.String(), what) })
}

// tokenLife is what a token of TestProxy's plugin lives; API servers grant some leeway on top.
const tokenLife = 20 * time.Second

// TestProxy: what lies between the developer and the API server in companies.
func TestProxy(t *testing.T) {
	c := Up(t)
	c.NeedsNode(t, "tokens of "+tokenLife.String())
	ns := c.Namespace(t, "")
	c.Apply(t, ns, Web("web", 1))
	c.Ready(t, ns, "deployment/web")
	t.Cleanup(func() { c.LeavesNothing(t, ns, Patience) })
	user := c.User(t, ns, "dev", Allow([]string{"*"}, "*", "*"))

	t.Run("proxy-url", func(t *testing.T) {
		p := newProxy(t, c, 0)
		Stepin{Kubeconfig: p.behind(t, user, p.address)}.shell(t, ns).works()
		t.Logf("%d connections", p.connections())
	})
	t.Run("HTTPS_PROXY", func(t *testing.T) {
		p := newProxy(t, c, 0)
		Stepin{Kubeconfig: p.behind(t, user, ""), Env: []string{"HTTPS_PROXY=" + p.address, "NO_PROXY="}}.shell(t, ns).works()
		t.Logf("%d connections", p.connections())
	})
	t.Run("exec plugin", func(t *testing.T) { briefTokens(t, c, ns, user) })
	t.Run("WebSocket refused", func(t *testing.T) { noWebSockets(t, c, ns, user) })
}

// briefTokens: a session outlives its token, and when its way is cut after that it comes back with another.
func briefTokens(t *testing.T, c *Cluster, ns, user string) {
	p := newProxy(t, c, 0)
	dir := t.TempDir()
	plugin, issued, runs := filepath.Join(dir, "login"), filepath.Join(dir, "token"), filepath.Join(dir, "runs")
	issue := func() string {
		token := c.Token(t, ns, "dev", tokenLife)
		text, err := json.Marshal(map[string]any{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
			"status": map[string]string{"token": token}})
		if err == nil {
			err = os.WriteFile(issued+".new", text, 0o600)
		}
		if err == nil {
			err = os.Rename(issued+".new", issued)
		}
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	first := issue()
	script := fmt.Sprintf("#!/bin/sh\necho run >>%s\nexec cat %s\n", runs, issued)
	if err := os.WriteFile(plugin, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	x := Stepin{Kubeconfig: changed(t, p.behind(t, user, p.address), func(_ *clientcmdapi.Cluster, user *clientcmdapi.AuthInfo) {
		user.Token, user.Exec = "", &clientcmdapi.ExecConfig{Command: plugin, APIVersion: "client.authentication.k8s.io/v1", InteractiveMode: "Never"}
	})}.shell(t, ns)
	x.works()
	time.Sleep(time.Until(begun.Add(tokenLife + 2*time.Second)))
	x.works() // on the connection that it has
	if !refusesToken(t, c, first) {
		t.Error("the first token is still accepted")
	}
	issue()
	p.drop()
	x.says("the agent is back after")
	x.works()
	count, err := os.ReadFile(runs)
	if err != nil || strings.Count(string(count), "run") < 2 {
		t.Errorf("the plugin ran %d times, %v", strings.Count(string(count), "run"), err)
	}
}

// refusesToken says that the API server takes a token no more.
func refusesToken(t testing.TB, c *Cluster, token string) bool {
	t.Helper()
	request, err := http.NewRequestWithContext(Limit(t), http.MethodGet, c.Config.Host+"/api/v1/namespaces", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: trusting(t, c), DisableKeepAlives: true}}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode == http.StatusUnauthorized
}

func trusting(t testing.TB, c *Cluster) *tls.Config {
	t.Helper()
	authority := c.Config.CAData
	if len(authority) == 0 {
		var err error
		if authority, err = os.ReadFile(c.Config.CAFile); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}

// noWebSockets: a gateway in front of the API server that knows SPDY and refuses WebSockets.
func noWebSockets(t *testing.T, c *Cluster, ns, user string) {
	host, err := url.Parse(c.Config.Host)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	upgrades := map[string]int{}
	pass := httputil.NewSingleHostReverseProxy(host)
	pass.Transport, pass.FlushInterval = &http.Transport{TLSClientConfig: trusting(t, c)}, -1
	gateway := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind := strings.ToLower(r.Header.Get("Upgrade"))
		mu.Lock()
		upgrades[kind]++
		mu.Unlock()
		if kind == "websocket" {
			http.Error(w, "Upgrade Required", http.StatusUpgradeRequired)
			return
		}
		if kind == "" { // net/http's server closes a body that its transport may not have read to its end yet
			body, err := io.ReadAll(r.Body)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		pass.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { gateway.CloseClientConnections(); gateway.Close() })
	x := Stepin{Kubeconfig: changed(t, user, func(cluster *clientcmdapi.Cluster, _ *clientcmdapi.AuthInfo) {
		cluster.Server, cluster.CertificateAuthority = gateway.URL, ""
		cluster.CertificateAuthorityData = []byte("-----BEGIN CERTIFICATE-----\n" + base64.StdEncoding.EncodeToString(gateway.Certificate().Raw) + "\n-----END CERTIFICATE-----\n")
	})}.shell(t, ns)
	x.works()
	mu.Lock()
	defer mu.Unlock()
	if upgrades["websocket"] == 0 || upgrades["spdy/3.1"] == 0 {
		t.Errorf("upgrades %v", upgrades)
	}
	t.Logf("upgrades %v", upgrades)
}
