package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/moby/spdystream"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/httpstream"
	upstream "k8s.io/apimachinery/pkg/util/portforward"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
)

// upgradeTimeout bounds the way to a connection: TCP, TLS, perhaps a proxy, and the upgrade, which the API server answers
// when the node has.
const upgradeTimeout = 15 * time.Second

// pingPeriod keeps proxies and load balancers from ending an idle connection. A session's own heartbeat does that
// already; this is for what speaks no heartbeat.
const pingPeriod = 10 * time.Second

// Forward opens one stream to 127.0.0.1:port in a pod's network, on a connection of its own to the API server. Half-close
// is carried (CloseWrite).
//
// Nobody tells a client whether the pod accepted: the node answers the streams first and connects then. So a refusal
// comes from the first Read, as ErrNotYet with the node's own words. Forward itself returns ErrNotYet for a container
// that has not started, ErrPodGone for a pod that does not exist, and a fail.Error for what patience will not cure.
//
// A deadline that passes ends the connection for good; it is there for handshakes.
func (c *Cluster) Forward(ctx context.Context, namespace, pod string, port uint16) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, upgradeTimeout)
	defer cancel()
	where := c.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
	conn, err := c.forward(ctx, where, port)
	if c.plugin != nil && apierrors.IsUnauthorized(err) {
		c.renew(ctx)
		conn, err = c.forward(ctx, where, port)
	}
	if err == nil {
		return conn, nil
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		switch code := status.Status().Code; {
		case code == http.StatusNotFound:
			return nil, fmt.Errorf("kube: pod %s/%s: %w", namespace, pod, ErrPodGone)
		case overloaded(code):
			return nil, overload{c.explain(err, "forwarding a port of pod %s", pod)}
		case code >= 500:
			return nil, fmt.Errorf("kube: pod %s/%s: %w: %s", namespace, pod, ErrNotYet, status.Status().Message)
		}
	}
	return nil, c.explain(err, "forwarding a port of pod %s", pod)
}

func hangUp(s *stream) { _ = s.Close() }

// forward tries a WebSocket, then SPDY.
func (c *Cluster) forward(ctx context.Context, where *url.URL, port uint16) (net.Conn, error) {
	if !c.spdyOnly.Load() {
		conn, err := await(ctx, func() (*stream, error) { return c.tunnel(ctx, where, port) }, hangUp)
		if err == nil || !refusedUpgrade(err) {
			return conn.orNil(), err
		}
		c.log.Debug("kube: no WebSocket", "err", err)
	}
	conn, err := await(ctx, func() (*stream, error) { return c.spdy(ctx, where, port) }, hangUp)
	if err == nil {
		c.spdyOnly.Store(true)
	}
	return conn.orNil(), err
}

// refusedUpgrade says that SPDY may work where a WebSocket did not: servers before 1.31 and proxies know only one of the
// two. A 403 is no answer either, because a WebSocket is a GET and SPDY a POST, and a role may allow just one of them
// (create pods/portforward, which kubectl's documentation names).
func refusedUpgrade(err error) bool {
	if httpstream.IsHTTPSProxyError(err) {
		return true
	}
	var refused *httpstream.UpgradeFailureError
	if !errors.As(err, &refused) {
		return false
	}
	var status apierrors.APIStatus
	if errors.As(refused.Cause, &status) {
		code := status.Status().Code
		return code != http.StatusNotFound && code != http.StatusUnauthorized && !overloaded(code) && code < 500
	}
	return true
}

// upgradeError is a refused upgrade; the cause within UpgradeFailureError is hidden from errors.As.
func upgradeError(err error) error {
	var refused *httpstream.UpgradeFailureError
	if errors.As(err, &refused) {
		return fmt.Errorf("%w: %w", err, refused.Cause)
	}
	return err
}

// tunnel opens the streams through a WebSocket.
func (c *Cluster) tunnel(ctx context.Context, where *url.URL, port uint16) (*stream, error) {
	conn, err := c.socket(ctx, where, upstream.WebsocketsSPDYTunnelingPortForwardV1)
	if err != nil {
		return nil, upgradeError(err)
	}
	frames := &framed{Conn: portforward.NewTunnelingConnection("stepin", conn)}
	session, err := spdystream.NewConnection(frames, false)
	if err != nil {
		_ = frames.Close()
		return nil, fmt.Errorf("kube: starting SPDY: %w", err)
	}
	go session.Serve(spdystream.NoOpStreamHandler)
	return (&tunnel{frames: frames, session: session, port: port}).open()
}

// maxPairs is how often a refused stream may be followed by another on one connection. A node's spdystream hands frames to
// five workers by the number of their stream, and one that was refused blocks the worker of its data for good, because nobody
// takes them. The numbers of three pairs, 1 3, 5 7 and 9 11, modulo 5, meet no worker that is blocked; a fourth would.
const maxPairs = 3

// tunnel is a WebSocket that carries one stream at a time.
type tunnel struct {
	frames  *framed
	session *spdystream.Connection
	port    uint16
	opened  int
}

// open opens the streams. Neither is waited for: that saves two round trips of five, and a node that refuses says so on
// either.
func (t *tunnel) open() (*stream, error) {
	s := newStream(t.session.CloseChan(), func() { _ = t.frames.Close() })
	id := strconv.Itoa(t.opened)
	t.opened++
	failed, err := t.session.CreateStream(headers(corev1.StreamTypeError, t.port, id), nil, true) // nothing is ever sent on it
	if err == nil {
		var data *spdystream.Stream
		data, err = t.session.CreateStream(headers(corev1.StreamTypeData, t.port, id), nil, false)
		go received(failed, data)
		s.failed, s.data = failed, data
	}
	if err != nil {
		_ = t.frames.Close()
		return nil, fmt.Errorf("kube: opening a stream: %w", err)
	}
	s.tunnel = t
	s.start(func() { _, _ = t.session.Ping() })
	return s, nil
}

// received takes the replies of streams that nobody waits for: a reset that comes before a reply would stop spdystream.
func received(streams ...*spdystream.Stream) {
	for _, s := range streams {
		if s != nil {
			_ = s.WaitTimeout(upgradeTimeout)
		}
	}
}

// spdy opens the streams the older way, through client-go's own connection, which waits for each.
func (c *Cluster) spdy(ctx context.Context, where *url.URL, port uint16) (*stream, error) {
	transport, upgrader, err := spdy.RoundTripperFor(c.config)
	if err != nil {
		return nil, fmt.Errorf("kube: preparing SPDY: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, where.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("kube: preparing SPDY: %w", err)
	}
	session, _, err := spdy.Negotiate(upgrader, &http.Client{Transport: transport}, req, upstream.PortForwardV1Name)
	if err != nil {
		return nil, upgradeError(err)
	}
	s := newStream(session.CloseChan(), func() { _ = session.Close() })
	failed, err := session.CreateStream(headers(corev1.StreamTypeError, port, "0"))
	if err == nil {
		_ = failed.Close() // our half only
		s.failed = failed
		s.data, err = session.CreateStream(headers(corev1.StreamTypeData, port, "0"))
	}
	if err != nil {
		_ = session.Close()
		return nil, fmt.Errorf("kube: opening a stream: %w", err)
	}
	s.start(nil) // client-go pings
	return s, nil
}

// headers name a stream of a pair.
func headers(kind string, port uint16, id string) http.Header {
	h := http.Header{}
	h.Set(corev1.StreamType, kind)
	h.Set(corev1.PortHeader, strconv.Itoa(int(port)))
	h.Set(corev1.PortForwardRequestIDHeader, id)
	return h
}

// await runs what does not always listen to its context, an exec plugin above all, and returns when the context ends.
// What comes too late is handed to late.
//
// Goroutines: one per call, which ends with work.
func await[T any](ctx context.Context, work func() (T, error), late func(T)) (T, error) {
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := work()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				late(r.v)
			}
		}()
		var none T
		return none, fmt.Errorf("kube: waiting for the cluster: %w", context.Cause(ctx))
	}
}

// renew has the exec plugin fetch a new token: client-go does that after a 401 to a plain request, and not after one to
// a WebSocket. Which request it is does not matter: a token that is no good is refused everywhere.
func (c *Cluster) renew(ctx context.Context) {
	if err := c.client.CoreV1().RESTClient().Get().AbsPath("/version").Do(ctx).Error(); err != nil {
		c.log.Debug("kube: renewing the token", "err", err)
	}
}
