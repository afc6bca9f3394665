package kube

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	gwebsocket "github.com/gorilla/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/transport"
)

const (
	// socketBuffer is what client-go takes for a WebSocket that carries SPDY, in bytes.
	socketBuffer = 33 << 10
	// maxStatus bounds what is read of a refusal.
	maxStatus = 64 << 10
	// spareLife is how long a connection that was made ahead is kept: an API server ends one that has asked nothing for
	// 32 s (apiserver/pkg/server/secure_serving.go, ReadHeaderTimeout).
	spareLife = 20 * time.Second
)

// spare are connections to the API server, TLS included, that nothing has been asked on yet. A stream takes a connection of
// its own, which costs two round trips; they pass while something else is waited for.
type spare struct {
	mu     sync.Mutex
	conns  []kept
	coming int           // how many are under way
	change chan struct{} // closed when one of them is there, or has failed; nil: none is
}

// kept is a connection and what ends it if nobody takes it.
type kept struct {
	net.Conn
	until *time.Timer
}

// Prepare makes spare connections until there are as many, unless a proxy leads to the cluster. It does not wait. A
// connection runs an exec plugin, too, so the first request of a session comes before: nobody wants to sign in twice.
func (c *Cluster) Prepare(ctx context.Context, wanted int) {
	if c.proxied() || c.spdyOnly.Load() || c.plugin != nil && !c.plugin.worked.Load() {
		return
	}
	s := &c.spare
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.conns)+s.coming < wanted {
		if s.coming++; s.change == nil {
			s.change = make(chan struct{})
		}
		go c.prepare(context.WithoutCancel(ctx))
	}
}

func (c *Cluster) prepare(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, upgradeTimeout)
	defer cancel()
	conn, err := c.dialTLS(traced(ctx, c.log, "spare: "))
	s := &c.spare
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil { // whoever needs one makes it, and has the error
		c.log.Debug("kube: a spare connection", "err", err)
	} else {
		s.put(conn)
	}
	close(s.change)
	s.change = nil
	if s.coming--; s.coming > 0 {
		s.change = make(chan struct{})
	}
}

// put is called with mu held.
func (s *spare) put(conn net.Conn) {
	s.conns = append(s.conns, kept{conn, time.AfterFunc(spareLife, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.conns = slices.DeleteFunc(s.conns, func(k kept) bool { return k.Conn == conn })
		_ = conn.Close()
	})})
}

// take returns a spare connection, waiting for one that is under way; nil where there is none.
func (s *spare) take(ctx context.Context) net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.conns) == 0 && s.coming > 0 {
		change := s.change
		s.mu.Unlock()
		select {
		case <-change:
		case <-ctx.Done():
		}
		s.mu.Lock()
		if ctx.Err() != nil {
			return nil
		}
	}
	for len(s.conns) > 0 {
		first := s.conns[0]
		s.conns = s.conns[1:]
		if first.until.Stop() { // else it is being closed
			return first.Conn
		}
	}
	return nil
}

// proxied says that a proxy leads to the cluster, or that nobody knows.
func (c *Cluster) proxied() bool {
	host, err := url.Parse(c.config.Host)
	if err != nil || host.Scheme != "https" {
		return true
	}
	at, err := c.proxier()(&http.Request{URL: host})
	return err != nil || at != nil
}

// proxier is how client-go finds the proxy.
func (c *Cluster) proxier() func(*http.Request) (*url.URL, error) {
	if c.config.Proxy != nil {
		return c.config.Proxy
	}
	return utilnet.NewProxierWithNoProxyCIDR(http.ProxyFromEnvironment)
}

// tlsConfig is for connections of our own.
func (c *Cluster) tlsConfig() (*tls.Config, *transport.Config, error) {
	tc, err := c.config.TransportConfig()
	if err != nil {
		return nil, nil, fmt.Errorf("kube: preparing a connection: %w", err)
	}
	conf, err := transport.TLSConfigFor(tc)
	if err != nil {
		return nil, nil, fmt.Errorf("kube: preparing a connection: %w", err)
	}
	return conf, tc, nil
}

// dialTLS makes a connection to the API server itself.
func (c *Cluster) dialTLS(ctx context.Context) (net.Conn, error) {
	host, err := url.Parse(c.config.Host)
	if err != nil {
		return nil, fmt.Errorf("kube: the address of the cluster: %w", err)
	}
	conf, _, err := c.tlsConfig()
	if err != nil {
		return nil, err
	}
	if conf == nil { // a certificate that the system's authorities have signed
		conf = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	port := host.Port()
	if port == "" {
		port = "443"
	}
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(host.Hostname(), port))
	if err != nil {
		return nil, err
	}
	if conf.ServerName == "" {
		conf = conf.Clone()
		conf.ServerName = host.Hostname()
	}
	conn := tls.Client(raw, conf)
	trace := httptrace.ContextClientTrace(ctx)
	if trace != nil {
		trace.TLSHandshakeStart()
	}
	err = conn.HandshakeContext(ctx)
	if trace != nil {
		trace.TLSHandshakeDone(conn.ConnectionState(), err)
	}
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	return conn, nil
}

// socket opens a WebSocket, over the spare connection where there is one. It is client-go's RoundTripper of
// transport/websocket, which dials by itself.
func (c *Cluster) socket(ctx context.Context, where *url.URL, protocol string) (*gwebsocket.Conn, error) {
	conf, tc, err := c.tlsConfig()
	if err != nil {
		return nil, err
	}
	opener := &opener{c: c, dialer: gwebsocket.Dialer{Proxy: c.proxier(), TLSClientConfig: conf, Subprotocols: []string{protocol},
		ReadBufferSize: socketBuffer, WriteBufferSize: socketBuffer}}
	spared := false
	if !c.proxied() {
		opener.dialer.NetDialTLSContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			if !spared {
				if conn := c.spare.take(ctx); conn != nil {
					spared = true
					return conn, nil
				}
			}
			return c.dialTLS(ctx)
		}
	}
	chain, err := transport.HTTPWrappersForConfig(tc, opener)
	if err != nil {
		return nil, fmt.Errorf("kube: preparing a WebSocket: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, where.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("kube: preparing a WebSocket: %w", err)
	}
	_, err = chain.RoundTrip(req)
	var refused *httpstream.UpgradeFailureError
	if err != nil && spared && !errors.As(err, &refused) && ctx.Err() == nil { // it was no good any more
		_, err = chain.RoundTrip(req)
	}
	if err != nil {
		return nil, err
	}
	return opener.conn, nil
}

// opener is the innermost http.RoundTripper of an upgrade: what is around it adds the credentials.
type opener struct {
	c      *Cluster
	dialer gwebsocket.Dialer
	conn   *gwebsocket.Conn
}

// RoundTrip is http.RoundTripper's. A refused upgrade is an httpstream.UpgradeFailureError with the API server's own
// status within, where it has sent one.
func (o *opener) RoundTrip(req *http.Request) (*http.Response, error) {
	to := *req.URL
	to.Scheme = map[string]string{"https": "wss", "http": "ws"}[to.Scheme]
	begun := time.Now()
	ctx := traced(req.Context(), o.c.log, "")
	conn, resp, err := o.dialer.DialContext(ctx, to.String(), req.Header)
	o.c.log.Debug(roundTrip, "what", "WebSocket "+req.URL.Path, "took", time.Since(begun), "err", err)
	if errors.Is(err, gwebsocket.ErrBadHandshake) {
		return nil, &httpstream.UpgradeFailureError{Cause: refusalOf(err, resp)}
	}
	if err != nil {
		return nil, err
	}
	if len(o.dialer.Subprotocols) > 0 && conn.Subprotocol() != o.dialer.Subprotocols[0] {
		_ = conn.Close()
		return nil, &httpstream.UpgradeFailureError{Cause: fmt.Errorf("the protocol %q was not taken", o.dialer.Subprotocols[0])}
	}
	o.conn = conn
	return resp, nil
}

// refusalOf is what the API server, or a proxy before it, says of an upgrade that it does not make.
func refusalOf(err error, resp *http.Response) error {
	if resp == nil {
		return err
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxStatus))
	var status metav1.Status
	if json.Unmarshal(text, &status) == nil && status.Kind == "Status" {
		return &apierrors.StatusError{ErrStatus: status}
	}
	words := strings.TrimSpace(strings.ToValidUTF8(string(text), ""))
	if resp.StatusCode >= 500 && startsText.MatchString(words) { // the node's own, which come as they are
		return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: int32(resp.StatusCode), Message: words}}
	}
	if words != "" {
		err = fmt.Errorf("%w: %s", err, words)
	}
	return fmt.Errorf("%w (%s)", err, resp.Status)
}
