package dap_test

import (
	"context"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/adapter/dap"
	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/requests"
)

// TestRequestEvents: each request of the session's is an event as docs/protocol.md has it, and a line unless the
// configuration says otherwise.
func TestRequestEvents(t *testing.T) {
	for _, log := range []bool{true, false} {
		var hooks dap.Hooks
		a := startAdapter(t, "/", func(o *dap.Options) {
			o.Debuggers["go"] = func(*config.Launch, bool, dap.Place) (dap.Debugger, error) { return scripted{}, nil }
			start := o.Start
			o.Start = func(ctx context.Context, c *config.Launch, h dap.Hints, k dap.Hooks) (dap.Runner, error) {
				hooks = k
				return start(ctx, c, h, k)
			}
		})
		args := launchArgs(map[string]any{})
		args["incoming"] = map[string]any{"log": log}
		begin(t, a.Client, args)
		at := time.Date(2026, 11, 24, 12, 0, 0, 123456789, time.UTC)
		about := requests.About{Pod: "orders-abc", Port: 8080, From: netip.MustParseAddrPort("10.0.0.7:4711"), Mode: "steal"}
		for _, r := range []requests.Request{
			{ID: 7, About: about, Protocol: "HTTP/1.1", Method: "GET", Path: "/x?y", Status: 200, GRPC: -1, At: at, Took: 12500 * time.Microsecond, In: 120, Out: 512},
			{ID: 8, About: about, Protocol: "HTTP/2", Method: "POST", Path: "/s.S/M", Status: 200, GRPC: 0, At: at, Skipped: 3},
			{ID: 9, About: about, Protocol: "HTTP/1.1", Method: "GET", Path: "/", GRPC: -1, At: at, Error: "why"},
			{ID: 10, About: about, Protocol: requests.TCP, GRPC: -1, At: at, In: 1},
		} {
			hooks.Request(r)
		}
		const both = `"pod":"orders-abc","port":8080,"protocol":`
		const rest = `,"mode":"steal","at":"2026-11-24T12:00:00.123Z"`
		for _, want := range []string{
			`{"id":7,` + both + `"HTTP/1.1","method":"GET","path":"/x?y","from":"10.0.0.7:4711","status":200,"ms":12.5,"bytesIn":120,"bytesOut":512` + rest + `}`,
			`{"id":8,` + both + `"HTTP/2","method":"POST","path":"/s.S/M","from":"10.0.0.7:4711","status":200,"grpcStatus":0,"ms":0,"bytesIn":0,"bytesOut":0` + rest + `,"skipped":3}`,
			`{"id":9,` + both + `"HTTP/1.1","method":"GET","path":"/","from":"10.0.0.7:4711","status":0,"ms":0,"bytesIn":0,"bytesOut":0` + rest + `,"error":"why"}`,
			`{"id":10,` + both + `"TCP","from":"10.0.0.7:4711","ms":0,"bytesIn":1,"bytesOut":0` + rest + `}`,
		} {
			var got, wanted any
			m := event(t, a.Client, "stepin.request")
			body(t, m.Body, &got)
			if err := json.Unmarshal([]byte(want), &wanted); err != nil || string(mustJSON(t, got)) != string(mustJSON(t, wanted)) {
				t.Errorf("told %s, want %s (%v)", m.Body, want, err)
			}
		}
		must(t, a.Client, "disconnect", nil)
		if shown := strings.Contains(a.Output("console"), "GET /x?y  200  12 ms  from 10.0.0.7:4711\n"); shown != log {
			t.Errorf("incoming.log %v: %s", log, a.Output("console"))
		}
	}
}

func mustJSON(t *testing.T, v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
