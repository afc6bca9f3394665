package drive

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestServe: orders are carried out with as many connections as they say, which are kept, and what is wrong is told.
func TestServe(t *testing.T) {
	var mu sync.Mutex
	callers := map[string]bool{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		callers[r.RemoteAddr] = true
		mu.Unlock()
		switch r.URL.Path {
		case "/gone":
			w.WriteHeader(http.StatusNotFound)
		case "/count":
			n, _ := io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, strconv.FormatInt(n, 10))
		case "/bytes":
			_, _ = w.Write(make([]byte, 1000))
		default:
			_, _ = io.WriteString(w, "hello")
		}
	}))
	defer server.Close()
	for _, test := range []struct {
		order Order
		wrong string
	}{
		{Order{URL: "/", At: 3, Expect: "hell"}, ""},
		{Order{URL: "/", At: 2, Pause: time.Millisecond, Fresh: true, Expect: "hell"}, ""},
		{Order{URL: "/", At: 1, Expect: "goodbye"}, "does not contain"},
		{Order{URL: "/gone", At: 2}, "404"},
		{Order{URL: "/count", At: 1, Upload: 12345, Expect: "12345"}, ""},
		{Order{URL: "/bytes", At: 1, Bytes: 1000}, ""},
		{Order{URL: "/bytes", At: 1, Bytes: 1001}, "1000 bytes, not 1001"},
	} {
		clear(callers)
		test.order.URL = server.URL + test.order.URL
		test.order.For = 50 * time.Millisecond
		text, err := json.Marshal(test.order)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		var r Report
		if err := Serve(bytes.NewReader(text), &out); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(out.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		conns := test.order.At
		if test.order.Fresh {
			conns += r.Requests
		}
		switch {
		case test.wrong != "":
			if !strings.Contains(r.Err, test.wrong) {
				t.Errorf("%+v: %+v", test.order, r)
			}
		case r.Err != "" || r.Requests == 0 || r.P50 > r.P99 || r.Took <= 0 || len(callers) != conns:
			t.Errorf("%+v: %+v, %d connections", test.order, r, len(callers))
		}
	}
}
