package kube

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"
)

// roundTrip is the line of the debug log that each round trip to the cluster has, those that make a connection included:
// on a cluster 100 ms away they are all that a start costs. "took" is how long it was waited for.
const roundTrip = "round trip"

// traced tells the debug log of the connections that are made on behalf of the context; whose begins their names.
func traced(ctx context.Context, log *slog.Logger, whose string) context.Context {
	if !log.Enabled(ctx, slog.LevelDebug) {
		return ctx
	}
	var mu sync.Mutex
	begun := map[string]time.Time{} // both families may be tried at once
	var shaking time.Time
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		ConnectStart: func(_, addr string) {
			mu.Lock()
			defer mu.Unlock()
			begun[addr] = time.Now()
		},
		ConnectDone: func(_, addr string, err error) {
			mu.Lock()
			defer mu.Unlock()
			log.Debug(roundTrip, "what", whose+"TCP to "+addr, "took", time.Since(begun[addr]), "err", err)
		},
		TLSHandshakeStart: func() {
			mu.Lock()
			defer mu.Unlock()
			shaking = time.Now()
		},
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
			mu.Lock()
			defer mu.Unlock()
			log.Debug(roundTrip, "what", whose+"TLS", "took", time.Since(shaking), "err", err)
		},
	})
}

// tracing tells the debug log of each request. The bodies are nobody's business.
type tracing struct {
	base http.RoundTripper
	log  *slog.Logger
}

// RoundTrip is http.RoundTripper's.
func (t tracing) RoundTrip(req *http.Request) (*http.Response, error) {
	if !t.log.Enabled(req.Context(), slog.LevelDebug) {
		return t.base.RoundTrip(req)
	}
	begun := time.Now()
	resp, err := t.base.RoundTrip(req.WithContext(traced(req.Context(), t.log, "")))
	status := 0
	if err == nil {
		status = resp.StatusCode
	}
	t.log.Debug(roundTrip, "what", req.Method+" "+req.URL.RequestURI(), "took", time.Since(begun), "status", status, "err", err)
	return resp, err
}
