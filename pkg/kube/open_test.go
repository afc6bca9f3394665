package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
)

const podPath = "GET /api/v1/namespaces/shop/pods/orders"

var podTarget = config.Target{Kind: "pod", Name: "orders"}

func TestOpen(t *testing.T) {
	good := kubeconfig(t, "http://127.0.0.1:1", "", "")
	c := openFile(t, good, nil)
	if c.Namespace() != "shop" || c.Context() != "dev" || c.Server() != "http://127.0.0.1:1" {
		t.Errorf("%s, %s, %s", c.Namespace(), c.Context(), c.Server())
	}
	if c, err := Open(Options{Kubeconfig: good, Namespace: "other"}); err != nil || c.Namespace() != "other" {
		t.Errorf("%v, %v", c, err)
	}
	_, err := Open(Options{Kubeconfig: good, Context: "dve"})
	refused(t, err, fail.ClusterContext, `no context "dve"; did you mean "dev"?`, "the contexts are dev")

	t.Run("list", func(t *testing.T) {
		other := filepath.Join(t.TempDir(), "other")
		text := "apiVersion: v1\nkind: Config\ncontexts: [{name: far, context: {cluster: here, user: ann}}]\n"
		if err := os.WriteFile(other, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("KUBECONFIG", other+":/nowhere:"+good)
		c, err := Open(Options{Context: "far"})
		if err != nil || c.Namespace() != "default" || c.Context() != "far" {
			t.Errorf("%v, %v", c, err)
		}
	})
	for name, text := range map[string]string{
		"empty":        "",
		"no current":   "apiVersion: v1\nkind: Config\ncontexts: [{name: far, context: {cluster: a}}]\n",
		"gone current": "apiVersion: v1\nkind: Config\ncurrent-context: x\n",
		"no cluster":   "apiVersion: v1\nkind: Config\ncurrent-context: far\ncontexts: [{name: far, context: {cluster: a}}]\n",
		"no YAML":      "{",
		"no file":      "-",
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config")
			if text != "-" {
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for _, o := range []Options{{Kubeconfig: path}, {}} {
				t.Setenv("KUBECONFIG", path)
				_, err := Open(o)
				want := fail.ClusterConfig
				if name == "no current" {
					want = fail.ClusterContext
				}
				refused(t, err, want, "kubeconfig")
			}
		})
	}
}

func TestRefused(t *testing.T) {
	s := newServer(t, map[string]http.HandlerFunc{podPath: forbid("get", "pods")})
	c := open(t, s)
	_, err := c.Resolve(within(t, 10*time.Second), podTarget)
	refused(t, err, fail.ClusterForbidden, "looking for pod/orders is forbidden: the right to get pods in namespace shop is missing")

	s.handlers[podPath] = func(w http.ResponseWriter, _ *http.Request) { status(w, 401, "Unauthorized", "Unauthorized") }
	_, err = c.Resolve(within(t, 10*time.Second), podTarget)
	refused(t, err, fail.ClusterCredentials, "no longer accepts the credentials", `context "dev"`)

	s.handlers[podPath] = func(w http.ResponseWriter, _ *http.Request) { status(w, 500, "InternalError", "etcd is on fire") }
	_, err = c.Resolve(within(t, 10*time.Second), podTarget)
	refused(t, err, fail.ClusterFailed, "etcd is on fire")

	s.handlers[podPath] = func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	_, err = c.Resolve(within(t, 50*time.Millisecond), podTarget)
	refused(t, err, fail.ClusterUnreachable, "does not answer", s.URL)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = c.Resolve(ctx, podTarget); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled start: %v", err)
	}
}

func TestMissingRight(t *testing.T) {
	for text, want := range map[string]string{
		`deployments.apps "x" is forbidden: User "ann" cannot get resource "deployments" in API group "apps" in the namespace "shop": RBAC: none`: "get deployments.apps in namespace shop",
		`pods is forbidden: User "ann" cannot list resource "pods" in API group "" at the cluster scope`:                                          "list pods in all namespaces",
		`pods "x" is forbidden: User "ann" cannot create resource "pods/portforward" in API group "" in the namespace "a"`:                        "create pods/portforward in namespace a",
		`pods "x" is forbidden: violates PodSecurity "restricted"`:                                                                                "",
	} {
		if have := missingRight(text); have != want {
			t.Errorf("%s: %q", text, have)
		}
	}
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := l.Addr().String()
	_ = l.Close()
	for name, c := range map[string]struct {
		server, more string
		code         fail.Code
		words        []string
	}{
		"refused": {"http://" + free, "", fail.ClusterUnreachable, []string{"cannot be reached", "connection refused", free}},
		"no name": {"https://cluster.invalid", "", fail.ClusterUnreachable, []string{"cluster.invalid", "its name cannot be resolved"}},
		"proxy":   {"https://10.0.0.1", "proxy-url: http://" + free, fail.ClusterProxy, []string{"the proxy " + free}},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := openFile(t, kubeconfig(t, c.server, "", c.more), nil)
			_, err := cluster.Resolve(within(t, 10*time.Second), podTarget)
			refused(t, err, c.code, c.words...)
			conn, err := cluster.Forward(within(t, 10*time.Second), "shop", "orders", 80)
			if conn != nil {
				t.Error("a connection")
			}
			refused(t, err, c.code, c.words...)
		})
	}
	secure := newServer(t, nil)
	_, err = openFile(t, kubeconfig(t, secure.URL, "", ""), nil).Resolve(within(t, 10*time.Second), podTarget)
	refused(t, err, fail.ClusterUnreachable, "the certificate of the cluster", "not trusted")
}

// connectProxy is an HTTP proxy that knows CONNECT only, with a login if one is given.
func connectProxy(t *testing.T, login string) (addr string, used func() int) {
	t.Helper()
	var mu sync.Mutex
	n := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if login != "" {
			user, password, _ := (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth()
			if user+":"+password != login {
				http.Error(w, "log in", http.StatusProxyAuthRequired)
				return
			}
		}
		up, err := net.Dial("tcp", r.Host)
		if err != nil || r.Method != http.MethodConnect {
			http.Error(w, fmt.Sprint(err), http.StatusBadGateway)
			return
		}
		down, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		n++
		mu.Unlock()
		fmt.Fprint(down, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(up, down); _ = up.Close() }()
		_, _ = io.Copy(down, up)
		_ = down.Close()
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://"), func() int { mu.Lock(); defer mu.Unlock(); return n }
}

func TestProxy(t *testing.T) {
	secure := httptest.NewTLSServer(answer(readyPod("orders", "1", 0, nil)))
	defer secure.Close()
	const skip = "insecure-skip-tls-verify: true\nproxy-url: http://"
	addr, used := connectProxy(t, "ann:secret")
	for _, login := range []string{"", "ann:wrong@"} {
		c := openFile(t, kubeconfig(t, secure.URL, "", skip+login+addr), nil)
		_, err := c.Resolve(within(t, 10*time.Second), podTarget)
		refused(t, err, fail.ClusterProxy, "the proxy "+addr, "407", "http://USER:PASSWORD@HOST:PORT")
		if strings.Contains(err.Error(), "wrong") {
			t.Errorf("the password: %v", err)
		}
		_, err = c.Forward(within(t, 10*time.Second), "shop", "orders", 80)
		refused(t, err, fail.ClusterProxy, "the proxy "+addr, "407")
	}
	c := openFile(t, kubeconfig(t, secure.URL, "", skip+"ann:secret@"+addr), nil)
	if w, err := c.Resolve(within(t, 10*time.Second), podTarget); err != nil || len(w.Pods()) != 1 || used() == 0 {
		t.Errorf("%v, %v, the proxy was used %d times", w, err, used())
	}
}

// script writes an executable.
func script(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func execUser(command, mode string) string {
	return "exec:\n  apiVersion: client.authentication.k8s.io/v1\n  interactiveMode: " + mode + "\n  installHint: see the wiki\n  command: " + command
}

// TestPlugin: a token that is refused in mid-session is fetched anew; what the plugin says is shown; how it fails is said.
func TestPlugin(t *testing.T) {
	count := filepath.Join(t.TempDir(), "count")
	plugin := script(t, "login", `
echo x >> `+count+`
n=$(wc -l < `+count+`)
echo "open https://login.example to sign in" >&2
[ -t 0 ] && echo "a terminal" >&2
read -r line && echo "input" >&2
printf '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"token-%d"}}' $n
`)
	var mu sync.Mutex
	accepted := "Bearer token-1"
	pod := answer(readyPod("orders", "1", 0, nil))
	s := newServer(t, map[string]http.HandlerFunc{podPath: func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		ok := r.Header.Get("Authorization") == accepted
		mu.Unlock()
		if !ok {
			status(w, 401, "Unauthorized", "Unauthorized")
			return
		}
		pod(w, r)
	}})
	var lines []string
	c := openFile(t, kubeconfig(t, s.URL, execUser(plugin, "IfAvailable"), s.ca()), func(line string) {
		mu.Lock()
		lines = append(lines, line)
		mu.Unlock()
	})
	if _, err := c.Resolve(within(t, 10*time.Second), podTarget); err != nil {
		t.Fatal(err)
	}
	if words := c.plugin.words(); words != "open https://login.example to sign in" {
		t.Errorf("said %q", words)
	}
	mu.Lock()
	if len(lines) != 1 || lines[0] != "open https://login.example to sign in" {
		t.Errorf("shown %q", lines)
	}
	accepted = "Bearer token-2" // the former has expired
	mu.Unlock()
	if _, err := c.Resolve(within(t, 10*time.Second), podTarget); err != nil {
		t.Errorf("after the token expired: %v", err)
	}
	mu.Lock()
	accepted = "nothing"
	mu.Unlock()
	_, err := c.Resolve(within(t, 10*time.Second), podTarget)
	refused(t, err, fail.ClusterCredentials, "no longer accepts", "log in again with "+plugin)
}

func TestPluginFails(t *testing.T) {
	s := newServer(t, nil)
	t.Run("status", func(t *testing.T) {
		plugin := script(t, "login", "echo 'your session has ended' >&2\nprintf 'run login again' >&2\nexit 3\n")
		c := openFile(t, kubeconfig(t, s.URL, execUser(plugin, "Never"), s.ca()), nil)
		_, err := c.Resolve(within(t, 10*time.Second), podTarget)
		refused(t, err, fail.ClusterCredentials, "exec plugin", "failed: your session has ended; run login again")
		_, err = c.Forward(within(t, 10*time.Second), "shop", "orders", 80)
		refused(t, err, fail.ClusterCredentials, "your session has ended")
	})
	t.Run("silent", func(t *testing.T) {
		plugin := script(t, "login", "exit 3\n")
		_, err := openFile(t, kubeconfig(t, s.URL, execUser(plugin, "Never"), s.ca()), nil).Resolve(within(t, 10*time.Second), podTarget)
		refused(t, err, fail.ClusterCredentials, plugin, "exit code 3")
	})
	t.Run("prompt", func(t *testing.T) {
		plugin := script(t, "login", "exit 0\n")
		_, err := openFile(t, kubeconfig(t, s.URL, execUser(plugin, "Always"), s.ca()), nil).Resolve(within(t, 10*time.Second), podTarget)
		refused(t, err, fail.ClusterCredentials, "wants to ask something, and there is no terminal", "in a terminal")
	})
	t.Run("hangs", func(t *testing.T) {
		plugin := script(t, "login", "exec sleep 3\n")
		c := openFile(t, kubeconfig(t, s.URL, execUser(plugin, "Never"), s.ca()), nil)
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		begin := time.Now()
		_, err := c.Resolve(ctx, podTarget)
		if err == nil || time.Since(begin) > 2*time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
	})
	t.Run("missing", func(t *testing.T) {
		_, err := Open(Options{Kubeconfig: kubeconfig(t, s.URL, execUser("no-such-login", "Never"), s.ca())})
		refused(t, err, fail.ClusterCredentials, `exec plugin "no-such-login" is not installed`, "see the wiki")
	})
	t.Run("login shell", func(t *testing.T) {
		dir := filepath.Dir(script(t, "only-there", "exit 3\n"))
		t.Setenv("SHELL", script(t, "shell", "echo welcome\nPATH="+dir+":$PATH\nshift\neval \"$1\"\n"))
		c, err := Open(Options{Kubeconfig: kubeconfig(t, s.URL, execUser("only-there", "Never"), s.ca())})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Resolve(within(t, 10*time.Second), podTarget)
		refused(t, err, fail.ClusterCredentials, `exec plugin "only-there" failed`)
	})
}
