package kube

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gwebsocket "github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/apimachinery/pkg/util/httpstream/spdy"
	upstream "k8s.io/apimachinery/pkg/util/portforward"
	"k8s.io/client-go/tools/portforward"

	"github.com/stepin-dev/stepin/pkg/fail"
)

const (
	forwardPath = "/api/v1/namespaces/shop/pods/orders/portforward"
	bySocket    = "GET " + forwardPath
	bySPDY      = "POST " + forwardPath
)

// node is the far end of port-forwards: it pairs the streams as a node does, and hands each pair to serve.
func node(serve func(data, failed httpstream.Stream)) httpstream.NewStreamHandler {
	var mu sync.Mutex
	var data, failed httpstream.Stream
	var replies []<-chan struct{}
	return func(s httpstream.Stream, replied <-chan struct{}) error {
		mu.Lock()
		defer mu.Unlock()
		if s.Headers().Get(corev1.PortHeader) != "7071" || s.Headers().Get(corev1.PortForwardRequestIDHeader) == "" {
			return fmt.Errorf("headers %v", s.Headers())
		}
		if s.Headers().Get(corev1.StreamType) == corev1.StreamTypeError {
			failed = s
		} else {
			data = s
		}
		replies = append(replies, replied)
		if data != nil && failed != nil {
			d, f, wait := data, failed, replies
			data, failed, replies = nil, nil, nil
			go func() {
				for _, r := range wait { // spdystream lets nobody write before
					<-r
				}
				serve(d, f)
			}()
		}
		return nil
	}
}

// overWebSocket is an API server since 1.31.
func overWebSocket(t *testing.T, serve func(data, failed httpstream.Stream)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		up := gwebsocket.Upgrader{Subprotocols: []string{upstream.WebsocketsSPDYTunnelingPortForwardV1}}
		ws, err := up.Upgrade(w, r, nil)
		if err != nil {
			t.Errorf("upgrade: %v", err)
			return
		}
		conn, err := spdy.NewServerConnection(portforward.NewTunnelingConnection("server", ws), node(serve))
		if err != nil {
			t.Errorf("spdy: %v", err)
			return
		}
		<-conn.CloseChan()
	}
}

// overSPDY is an API server before 1.31.
func overSPDY(serve func(data, failed httpstream.Stream)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if _, err := httpstream.Handshake(r, w, []string{upstream.PortForwardV1Name}); err != nil {
			return
		}
		if conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, node(serve)); conn != nil {
			<-conn.CloseChan()
		}
	}
}

// echo sends everything back, upper case, and then ends.
func echo(data, failed httpstream.Stream) {
	all, _ := io.ReadAll(data)
	_, _ = data.Write(bytes.ToUpper(all))
	_ = failed.Close()
	_ = data.Close()
}

func TestForward(t *testing.T) {
	refuse := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", code) }
	}
	for name, handlers := range map[string]map[string]http.HandlerFunc{
		"WebSocket":       {bySocket: overWebSocket(t, echo)},
		"SPDY, after 400": {bySocket: refuse(400), bySPDY: overSPDY(echo)},
		"SPDY, after 502": {bySocket: refuse(502), bySPDY: overSPDY(echo)},
		"SPDY, no right":  {bySocket: forbid("get", "pods/portforward"), bySPDY: overSPDY(echo)},
		"SPDY, no protocol": {bySocket: func(w http.ResponseWriter, r *http.Request) {
			up := gwebsocket.Upgrader{}
			c, _ := up.Upgrade(w, r, nil)
			_ = c.Close()
		}, bySPDY: overSPDY(echo)},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, handlers)
			c := open(t, s)
			for round := range 2 {
				conn, err := c.Forward(within(t, 10*time.Second), "shop", "orders", 7071)
				if err != nil {
					t.Fatal(err)
				}
				_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
				if _, err := io.WriteString(conn, "hello"); err != nil {
					t.Fatal(err)
				}
				if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
					t.Fatal(err)
				}
				have, err := io.ReadAll(conn)
				if err != nil || string(have) != "HELLO" {
					t.Errorf("round %d: %q, %v", round, have, err)
				}
				_ = conn.Close()
				if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
					t.Errorf("a read after the end: %v", err)
				}
			}
			if strings.HasPrefix(name, "SPDY") && s.count(bySocket) != 1 {
				t.Errorf("a WebSocket was tried %d times, want once", s.count(bySocket))
			}
		})
	}
}

// TestForwardRenews: a token that has expired is renewed for a port-forward and a command, too, although a WebSocket's
// 401 tells client-go nothing.
func TestForwardRenews(t *testing.T) {
	plugin := script(t, "login", `
echo x >> "$0.count"
printf '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"token-%d"}}' $(wc -l < "$0.count")
`)
	var mu sync.Mutex
	accepted := "Bearer token-1"
	guard := func(h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			ok := r.Header.Get("Authorization") == accepted
			mu.Unlock()
			if !ok {
				status(w, 401, "Unauthorized", "Unauthorized")
				return
			}
			h(w, r)
		}
	}
	s := newServer(t, map[string]http.HandlerFunc{"GET /version": guard(answer(struct{}{})), bySocket: guard(overWebSocket(t, func(_, _ httpstream.Stream) {}))})
	c := openFile(t, kubeconfig(t, s.URL, execUser(plugin, "Never"), s.ca()), nil)
	for round := 1; round <= 3; round++ {
		mu.Lock()
		accepted = fmt.Sprintf("Bearer token-%d", round)
		mu.Unlock()
		conn, err := c.Forward(within(t, 10*time.Second), "shop", "orders", 7071)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		_ = conn.Close()
	}
}

// TestEnding: of a node's words the end is what says something.
func TestEnding(t *testing.T) {
	long := strings.Repeat("failed to do something: ", 20)
	for words, want := range map[string]string{
		"":                       "",
		"the container has gone": "the container has gone",
		`error forwarding port 7071 to pod 2f1c, uid : failed to execute portforward in network namespace "/var/run/netns/cni-5": failed to connect to localhost:7071 inside namespace "2f1c", IPv4: dial tcp4 127.0.0.1:7071: connect: connection refused IPv6 dial tcp6: address localhost: no suitable address found`: "127.0.0.1:7071: connection refused",
		long + "it is late": "… " + strings.Repeat("failed to do something: ", 6) + "it is late",
	} {
		if got := ending(words); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestForwardAgain: where nothing listens yet, the next try goes over the same connection as long as the far end's workers
// allow; what was written to a stream that was refused stays untaken there.
func TestForwardAgain(t *testing.T) {
	var refusals atomic.Int32
	serve := func(data, failed httpstream.Stream) {
		if refusals.Add(-1) >= 0 {
			_, _ = io.WriteString(failed, "connection refused")
			_ = failed.Close()
			return
		}
		echo(data, failed)
	}
	s := newServer(t, map[string]http.HandlerFunc{bySocket: overWebSocket(t, serve)})
	c := open(t, s)
	for refused := range maxPairs + 1 {
		refusals.Store(int32(refused))
		conn, err := c.Forward(within(t, 10*time.Second), "shop", "orders", 7071)
		if err != nil {
			t.Fatal(err)
		}
		at := conn.(*stream)
		for i := range refused {
			_, _ = io.WriteString(at, "hello") // may find it refused already
			if _, err := at.Read(make([]byte, 1)); !errors.Is(err, ErrNotYet) {
				t.Fatalf("try %d: %v", i, err)
			}
			next, err := at.again()
			if last := i == maxPairs-1; last != (err != nil) {
				t.Fatalf("after try %d: %v", i, err)
			}
			at = next
		}
		if at == nil {
			continue
		}
		_, _ = io.WriteString(at, "hello")
		_ = at.CloseWrite()
		if have, err := io.ReadAll(at); string(have) != "HELLO" || err != nil {
			t.Errorf("after %d refusals: %q, %v", refused, have, err)
		}
		_ = at.Close()
	}
	if n := s.count(bySocket); n != maxPairs+1 {
		t.Errorf("%d connections", n)
	}
}

// TestForwardStarting: a pod that the node does not know yet is no reason to give WebSockets up.
func TestForwardStarting(t *testing.T) {
	s := newServer(t, map[string]http.HandlerFunc{
		bySocket: func(w http.ResponseWriter, _ *http.Request) { http.Error(w, `pod not found ("orders_shop")`, 500) },
		bySPDY:   overSPDY(echo),
	})
	c := open(t, s)
	if _, err := c.Forward(within(t, 10*time.Second), "shop", "orders", 7071); !errors.Is(err, ErrNotYet) || s.count(bySPDY) != 0 || c.spdyOnly.Load() {
		t.Errorf("%v, SPDY tried %d times, for good: %v", err, s.count(bySPDY), c.spdyOnly.Load())
	}
}

// TestForwardPrepared: a connection that was made ahead is taken, and one that has gone bad meanwhile is replaced.
func TestForwardPrepared(t *testing.T) {
	serve, from := overWebSocket(t, echo), make(chan string, 1)
	c := open(t, newServer(t, map[string]http.HandlerFunc{bySocket: func(w http.ResponseWriter, r *http.Request) {
		from <- r.RemoteAddr
		serve(w, r)
	}}))
	for _, bad := range []bool{false, true} {
		c.Prepare(t.Context(), 1)
		c.Prepare(t.Context(), 1) // one is enough
		ahead := c.spare.take(t.Context())
		if ahead == nil {
			t.Fatal("nothing was prepared")
		}
		if bad {
			_ = ahead.Close()
		}
		c.spare.mu.Lock()
		c.spare.put(ahead)
		c.spare.mu.Unlock()
		conn, err := c.Forward(within(t, 10*time.Second), "shop", "orders", 7071)
		if err != nil {
			t.Fatal(err)
		}
		// To its end: spdystream's server races with a reset of a stream that it is about to write to.
		_ = conn.(interface{ CloseWrite() error }).CloseWrite()
		_, _ = io.ReadAll(conn)
		_ = conn.Close()
		if got := <-from; (got == ahead.LocalAddr().String()) == bad {
			t.Errorf("bad: %v, and it was %s of %s", bad, got, ahead.LocalAddr())
		}
	}
}

// TestForwardBulk: frames are put together rightly whatever their size, in both directions at once.
func TestForwardBulk(t *testing.T) {
	serve := func(data, failed httpstream.Stream) {
		_, _ = io.Copy(data, data)
		_ = failed.Close()
		_ = data.Close()
	}
	c := open(t, newServer(t, map[string]http.HandlerFunc{bySocket: overWebSocket(t, serve)}))
	conn, err := c.Forward(within(t, 10*time.Second), "shop", "orders", 7071)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	want := make([]byte, 3<<20)
	_, _ = rand.Read(want)
	go func() {
		for sent, size := 0, 1; sent < len(want); size = size*3 + 1 {
			n, err := conn.Write(want[sent:min(sent+min(size, 900_000), len(want))])
			if err != nil {
				t.Error(err)
			}
			sent += n
		}
		_ = conn.(*stream).CloseWrite()
	}()
	have, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(have, want) {
		t.Errorf("%d of %d bytes, %v", len(have), len(want), err)
	}
}

func TestForwardErrors(t *testing.T) {
	refuse := func(data, failed httpstream.Stream) {
		_, _ = io.WriteString(failed, "dial tcp4 127.0.0.1:7071: connect: connection refused")
		_ = failed.Close()
		_ = data.Close()
	}
	breaks := func(data, failed httpstream.Stream) {
		_, _ = io.WriteString(data, "x")
		time.Sleep(20 * time.Millisecond) // as a real one does: first bytes, then a failure
		_, _ = io.WriteString(failed, "the container has gone")
		_ = failed.Close() // and data is forgotten
	}
	say := func(code int, message string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { status(w, code, "", message) }
	}
	for name, handler := range map[string]func(func(data, failed httpstream.Stream)) map[string]http.HandlerFunc{
		"WebSocket": func(f func(data, failed httpstream.Stream)) map[string]http.HandlerFunc {
			return map[string]http.HandlerFunc{bySocket: overWebSocket(t, f)}
		},
		"SPDY": func(f func(data, failed httpstream.Stream)) map[string]http.HandlerFunc {
			return map[string]http.HandlerFunc{bySocket: say(400, "no WebSockets here"), bySPDY: overSPDY(f)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := open(t, newServer(t, handler(refuse))).Forward(within(t, 10*time.Second), "shop", "orders", 7071)
			if err != nil {
				t.Fatal(err)
			}
			if _, err = conn.Read(make([]byte, 10)); !errors.Is(err, ErrNotYet) || !strings.Contains(err.Error(), "connection refused") {
				t.Errorf("refused: %v", err)
			}
			_ = conn.Close()

			conn, err = open(t, newServer(t, handler(breaks))).Forward(within(t, 10*time.Second), "shop", "orders", 7071)
			if err != nil {
				t.Fatal(err)
			}
			have, err := io.ReadAll(conn)
			if string(have) != "x" || err == nil || errors.Is(err, ErrNotYet) || !strings.Contains(err.Error(), "the container has gone") {
				t.Errorf("broken: %q, %v", have, err)
			}
			_ = conn.Close()

			conn, err = open(t, newServer(t, handler(func(_, _ httpstream.Stream) {}))).Forward(within(t, 10*time.Second), "shop", "orders", 7071)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a deadline: %v", err)
			}
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	for name, c := range map[string]struct {
		handlers map[string]http.HandlerFunc
		is       error
		code     fail.Code
		words    string
	}{
		"gone":      {map[string]http.HandlerFunc{}, ErrPodGone, fail.Internal, "the pod is gone"},
		"not yet":   {map[string]http.HandlerFunc{bySocket: say(500, "container not running")}, ErrNotYet, fail.Internal, "container not running"},
		"forbidden": {map[string]http.HandlerFunc{bySocket: forbid("get", "pods/portforward"), bySPDY: forbid("create", "pods/portforward")}, nil, fail.ClusterForbidden, "create pods/portforward in namespace shop"},
		"expired":   {map[string]http.HandlerFunc{bySocket: say(401, "Unauthorized")}, nil, fail.ClusterCredentials, "no longer accepts"},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := open(t, newServer(t, c.handlers)).Forward(within(t, 10*time.Second), "shop", "orders", 7071)
			if conn != nil || err == nil || c.is != nil && !errors.Is(err, c.is) || fail.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v, %v (%d)", conn, err, fail.CodeOf(err))
			}
		})
	}
	t.Run("silent", func(t *testing.T) {
		s := newServer(t, map[string]http.HandlerFunc{bySocket: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if conn, err := open(t, s).Forward(ctx, "shop", "orders", 7071); conn != nil || err == nil {
			t.Errorf("%v, %v", conn, err)
		}
	})
}
