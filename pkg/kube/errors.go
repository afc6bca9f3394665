package kube

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// explain makes one sentence and a hint of whatever a call to the API server failed with. What is not understood keeps
// its own words. doing says what was tried: "listing pods". A fail.Error and a context's end pass as they are.
func (c *Cluster) explain(err error, doing string, args ...any) error {
	if err == nil {
		return nil
	}
	var ours *fail.Error
	if errors.As(err, &ours) {
		return err
	}
	doing = fmt.Sprintf(doing, args...)
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("kube: %s: %w", doing, err)
	}
	if known := c.credentials(err); known != nil {
		return known
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return c.refused(err, status, doing)
	}
	if known := c.unreachable(err); known != nil {
		return known
	}
	return fail.Wrap(fail.ClusterFailed, err, "kubectl get pods -n "+c.namespace+" shows whether the cluster answers", "%s failed", doing)
}

// refused explains what the API server itself said no to.
func (c *Cluster) refused(err error, status apierrors.APIStatus, doing string) error {
	switch {
	case apierrors.IsForbidden(err):
		right := missingRight(status.Status().Message)
		if right == "" {
			return fail.New(fail.ClusterForbidden, "ask the cluster's owner", "%s is forbidden: %s", doing, status.Status().Message)
		}
		return fail.New(fail.ClusterForbidden, "ask the cluster's owner for that right; stepin doctor -t TARGET lists all that are missing",
			"%s is forbidden: the right to %s is missing", doing, right)
	case apierrors.IsUnauthorized(err):
		hint := "log in to the cluster again"
		if c.plugin != nil {
			hint = "log in again with " + c.plugin.name + "; then kubectl get pods must work"
		}
		return fail.New(fail.ClusterCredentials, hint, "the cluster %s no longer accepts the credentials of context %q: they have expired or are wrong", c.config.Host, c.contextName)
	case apierrors.IsTooManyRequests(err):
		return fail.New(fail.ClusterFailed, "try again in a minute", "%s failed: the API server is overloaded: %s", doing, status.Status().Message)
	}
	return fail.New(fail.ClusterFailed, "kubectl get pods -n "+c.namespace+" shows whether the cluster answers",
		"%s failed: %s", doing, status.Status().Message)
}

// forbiddenText is how the API server's authorizers say no (apiserver/pkg/endpoints/handlers/responsewriters/errors.go):
// `pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "shop": …`.
var forbiddenText = regexp.MustCompile(`cannot (\S+) resource "([^"]+)" in API group "([^"]*)"(?: in the namespace "([^"]*)")?`)

// missingRight names verb and resource of a refusal, "" where its text says neither.
func missingRight(message string) string {
	m := forbiddenText.FindStringSubmatch(message)
	if m == nil {
		return ""
	}
	what := m[1] + " " + m[2]
	if m[3] != "" {
		what += "." + m[3]
	}
	if m[4] != "" {
		return what + " in namespace " + m[4]
	}
	return what + " in all namespaces"
}

// credentials explains an exec plugin that failed; client-go gives it no type of its own.
func (c *Cluster) credentials(err error) error {
	_, cause, found := strings.Cut(err.Error(), "getting credentials: ")
	if !found {
		return nil
	}
	if c.plugin == nil {
		return fail.New(fail.ClusterCredentials, "log in to the cluster again", "no credentials for context %q: %s", c.contextName, cause)
	}
	name := c.plugin.name
	if strings.Contains(cause, "interactive mode") {
		return fail.New(fail.ClusterCredentials, "log in once in a terminal, by kubectl get pods, and start again",
			"the kubeconfig's exec plugin %q wants to ask something, and there is no terminal", name)
	}
	hint := "log in again with " + name + "; then kubectl get pods must work"
	words := c.plugin.words()
	if words == "" {
		words = strings.ReplaceAll(strings.TrimPrefix(cause, "exec: "), "executable /bin/sh", name)
	}
	return fail.New(fail.ClusterCredentials, hint, "the kubeconfig's exec plugin %q failed: %s", name, words)
}

// unreachable explains what happened on the way to the API server; nil for anything else.
func (c *Cluster) unreachable(err error) error {
	text := err.Error()
	if strings.Contains(text, http.StatusText(http.StatusProxyAuthRequired)) {
		return fail.New(fail.ClusterProxy, "put user and password into the proxy's address: http://USER:PASSWORD@HOST:PORT",
			"the proxy%s on the way to the cluster wants a login (407)", c.proxy())
	}
	var op *net.OpError
	var dns *net.DNSError
	dialled := errors.As(err, &dns) || errors.As(err, &op) && op.Op == "dial" // with a proxy nobody else is dialled
	if dialled && c.proxy() != "" || strings.Contains(text, "proxyconnect") || strings.Contains(text, "CONNECT request to") || strings.Contains(text, "socks connect") {
		return fail.New(fail.ClusterProxy, "see proxy-url in the kubeconfig, HTTPS_PROXY and NO_PROXY",
			"the proxy%s on the way to the cluster failed: %s", c.proxy(), cause(err))
	}
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	if errors.As(err, &unknown) || errors.As(err, &name) || errors.As(err, &invalid) {
		return fail.New(fail.ClusterUnreachable, "see certificate-authority in the kubeconfig",
			"the certificate of the cluster %s is not trusted: %s", c.config.Host, cause(err))
	}
	var late net.Error
	hint := "is the VPN up, and the cluster running? kubectl --context " + c.contextName + " get pods must work"
	switch {
	case errors.As(err, &dns):
		return fail.New(fail.ClusterUnreachable, hint, "the cluster %s cannot be reached: its name cannot be resolved", c.config.Host)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &late) && late.Timeout(): // TLS has a time-out of its own
		return fail.New(fail.ClusterUnreachable, hint, "the cluster %s does not answer", c.config.Host)
	case errors.As(err, &op):
		return fail.New(fail.ClusterUnreachable, hint, "the cluster %s cannot be reached: %v", c.config.Host, op.Err)
	}
	var at *url.Error
	if errors.As(err, &at) {
		if c.proxy() != "" && isStatus(at.Err.Error()) { // net/http says no more of what a proxy answers to CONNECT
			return fail.New(fail.ClusterProxy, "see proxy-url in the kubeconfig, HTTPS_PROXY and NO_PROXY",
				"the proxy%s on the way to the cluster refuses to lead there: %v", c.proxy(), at.Err)
		}
		return fail.New(fail.ClusterUnreachable, hint, "the cluster %s cannot be reached: %v", c.config.Host, at.Err)
	}
	return nil
}

// isStatus says that a text is that of an HTTP error.
func isStatus(text string) bool {
	for code := 400; code < 600; code++ {
		if known := http.StatusText(code); known != "" && known == text {
			return true
		}
	}
	return false
}

// proxy is the address of the proxy with a space before, without its password; "" where none is known.
func (c *Cluster) proxy() string {
	find := c.config.Proxy
	if find == nil {
		find = http.ProxyFromEnvironment
	}
	host, err := url.Parse(c.config.Host)
	if err != nil {
		return ""
	}
	at, err := find(&http.Request{URL: host})
	if err != nil || at == nil {
		return ""
	}
	return " " + at.Host
}

// cause is the innermost part of an error's text that still says something: url.Error repeats the request.
func cause(err error) string {
	var at *url.Error
	for errors.As(err, &at) {
		err = at.Err
	}
	return err.Error()
}
