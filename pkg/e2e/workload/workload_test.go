package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// served starts a server of the workload on loopback.
func served(t *testing.T) (*server, string) {
	t.Helper()
	s := &server{name: "test"}
	s.ready.Store(http.StatusOK)
	s.live.Store(http.StatusOK)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = s.http(l)
		close(ended)
	}()
	t.Cleanup(func() {
		l.Close()
		<-ended
	})
	return s, "http://" + l.Addr().String()
}

func TestRoutes(t *testing.T) {
	_, base := served(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("WORKLOAD_TEST", "value")
	for _, test := range []struct {
		path   string
		status int
		has    string
	}{
		{"/some/path?q=1", 200, `"Path":"/some/path","Query":"q=1"`},
		{"/ready", 200, ""}, {"/ready?status=503", 503, ""}, {"/ready", 503, ""}, {"/ready?status=200", 200, ""},
		{"/live?status=9999", 200, ""},
		{"/env?name=WORKLOAD_TEST", 200, "value"}, {"/env?name=WORKLOAD_NONE", 500, "not set"},
		{"/file?path=" + file, 200, "text"}, {"/file?path=/none", 500, "no such file"},
		{"/fetch?url=" + url.QueryEscape(base+"/inner"), 200, `"Path":"/inner"`},
		{"/slow?for=1ms", 200, "test"}, {"/slow?for=long", 500, "invalid duration"},
		{"/bytes?n=5", 200, "\x00\x00\x00\x00\x00"}, {"/bytes?n=x", 500, "invalid syntax"},
	} {
		response, err := http.Get(base + test.path)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != test.status || !strings.Contains(string(text), test.has) {
			t.Errorf("%s: %d %q %v", test.path, response.StatusCode, text, err)
		}
	}
	response, err := http.Post(base+"/count", "", strings.NewReader("12345"))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if text, err := io.ReadAll(response.Body); err != nil || string(text) != "5" {
		t.Errorf("counted %q, %v", text, err)
	}
}

// TestGRPC: HTTP/2 without TLS, and the status as a trailer.
func TestGRPC(t *testing.T) {
	s, base := served(t)
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	defer transport.CloseIdleConnections()
	for status, want := range map[int32]byte{http.StatusOK: 1, http.StatusServiceUnavailable: 2} {
		s.live.Store(status)
		response, err := (&http.Client{Transport: transport}).Post(base+"/grpc.health.v1.Health/Check", "application/grpc", bytes.NewReader(make([]byte, 5)))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || !bytes.Equal(text, []byte{0, 0, 0, 0, 2, 8, want}) || response.Trailer.Get("Grpc-Status") != "0" || response.ProtoMajor != 2 {
			t.Errorf("%x %v %v", text, response.Trailer, err)
		}
	}
}

// TestAsk: what load counts as lost.
func TestAsk(t *testing.T) {
	s, _ := served(t)
	for name, test := range map[string]struct {
		handler http.Handler
		lost    bool
	}{
		"the workload":  {s.routes(), false},
		"an error":      {http.NotFoundHandler(), true},
		"somebody else": {http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }), true},
		"another's answer": {http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"Who":"x","Query":"n=6"}`)
		}), true},
	} {
		front := httptest.NewServer(test.handler)
		var out bytes.Buffer
		d := &driver{url: front.URL, client: front.Client(), sum: Sum{By: map[string]int{}}, lines: json.NewEncoder(&out)}
		who, err := d.ask(7)
		front.Close()
		if (err != nil) != test.lost || (err == nil) != strings.HasPrefix(who, "test@") {
			t.Errorf("%s: %q %v", name, who, err)
		}
	}
}

func TestRun(t *testing.T) {
	for _, args := range [][]string{{"nothing"}, {"get", "http://127.0.0.1:1/"}, {"cat", "/none"}, {"load"}, {"serve", "-http=nowhere:x"}} {
		if err := run(context.Background(), args[0], args[1:]); err == nil {
			t.Errorf("%q succeeded", args)
		}
	}
}
