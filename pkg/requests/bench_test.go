package requests

import (
	"strings"
	"testing"
)

// BenchmarkRequest is one request of HTTP/1 and its answer; BenchmarkBody what 64 KiB of a body cost.
func BenchmarkRequest(b *testing.B) {
	f := NewFeed(func(Request) {})
	defer f.Close()
	flow := f.Follow(About{})
	defer flow.End("")
	request := []byte("GET /orders/7?by=service HTTP/1.1\r\nHost: orders\r\nUser-Agent: Go-http-client/1.1\r\nAccept-Encoding: gzip\r\n\r\n")
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Tue, 24 Nov 2026 12:00:00 GMT\r\nContent-Length: 100\r\n\r\n" + strings.Repeat("x", 100))
	b.ReportAllocs()
	for b.Loop() {
		flow.Client(request)
		flow.Debuggee(answer)
	}
	if !flow.http || flow.lost {
		b.Error("it is not followed")
	}
}

func BenchmarkBody(b *testing.B) {
	f := NewFeed(func(Request) {})
	defer f.Close()
	flow := f.Follow(About{})
	defer flow.End("")
	flow.Client([]byte("PUT / HTTP/1.1\r\nContent-Length: 9000000000000000\r\n\r\n"))
	body := make([]byte, 64<<10)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		flow.Client(body)
	}
}
