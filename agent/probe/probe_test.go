package probe

import (
	"bytes"
	"crypto/tls"
	"net"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
)

func TestTarget(t *testing.T) {
	for path, want := range map[string]string{"": "/", "/healthz": "/healthz", "healthz": "/healthz", "/a?b=c&d": "/a?b=c&d", "/a b": "/a%20b", "/a%2fb": "/a%2fb",
		"/x#y": "/x", "/%zz": "/%25zz"} {
		if got := Target(path); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
}

const kubelet = "GET /healthz HTTP/1.1\r\nHost: 10.0.0.1:8080\r\nUser-Agent: kube-probe/1.34\r\nAccept: */*\r\nConnection: close\r\n\r\n"

func TestHTTP1(t *testing.T) {
	targets := []string{"/healthz", "/ready?full=1"}
	for _, c := range []struct {
		head string
		want Verdict
	}{
		{kubelet, Probe},
		{strings.Replace(kubelet, "/healthz", "/ready?full=1", 1), Probe},
		{"GET /healthz HTTP/1.1\r\nuser-agent:kube-probe/1.34\r\n", Probe},
		{"GET /healthz HTTP/1.1\nUser-Agent: kube-probe/1.34\n", Probe},
		{"GET /healthz HTTP/1.1\r\nUser-Agent: curl/8\r\nX: User-Agent: kube-probe/1\r\n\r\n", Other},
		{"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nUser-Agent: kube-probe/1.34\r\n", Other},
		{"GET /healthz HTTP/2.0\r\n", Other},
		{"GET /healthz2 HTTP/1.1\r\nUser-Agent: kube-probe/1.34\r\n\r\n", Other},
		{"GET /ready HTTP/1.1\r\nUser-Agent: kube-probe/1.34\r\n\r\n", Other},
		{"POST /healthz HTTP/1.1\r\n", Other},
		{"G", More}, {"", More}, {"GET /healthz HTTP/1.1\r\nUser-Agent: kube-pr", More}, {"GET /h", More}, {"GET /x", Other}, {"SSH-2.0-x\r\n", Other},
		{"GET /healthz HTTP/1.1\r\nX: " + strings.Repeat("x", MaxHead), Other},
	} {
		if got := HTTP1([]byte(c.head), targets); got != c.want {
			t.Errorf("%.60q: %v, want %v", c.head, got, c.want)
		}
	}
	for n := range strings.Index(kubelet, "Accept") {
		if got := HTTP1([]byte(kubelet[:n]), targets); got != More {
			t.Fatalf("%q: %v", kubelet[:n], got)
		}
	}
}

// headers makes HEADERS, in as many frames as there are cuts.
func headers(path, who string, pad bool, cut int) []byte {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", path}, {":authority", "10.0.0.1:9000"},
		{"content-type", "application/grpc"}, {"user-agent", who}, {"te", "trailers"}} {
		_ = e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	raw := block.Bytes()
	first, rest := raw, []byte(nil)
	if cut > 0 {
		first, rest = raw[:cut], raw[cut:]
	}
	flags := byte(0)
	if pad {
		first, flags = append(append([]byte{4, 0, 0, 0, 0, 16}, first...), 0, 0, 0, 0), flagPadded|flagPriority
	}
	if rest == nil {
		return frame(frameHeaders, flags|flagEndHeaders, first)
	}
	return append(frame(frameHeaders, flags, first), frame(frameContinuation, flagEndHeaders, rest)...)
}

func frame(kind, flags byte, payload []byte) []byte {
	return append([]byte{0, byte(len(payload) >> 8), byte(len(payload)), kind, flags, 0, 0, 0, 1}, payload...)
}

func greeting(parts ...[]byte) []byte {
	return append([]byte(Preface), bytes.Join(append([][]byte{frame(frameSettings, 0, make([]byte, 6))}, parts...), nil)...)
}

var ack = frame(frameSettings, flagAck, nil)

func TestHTTP2(t *testing.T) {
	const kube = "kube-probe/1.34 grpc-go/1.72.1"
	window := frame(8, 0, make([]byte, 4))
	for name, c := range map[string]struct {
		in   []byte
		want Verdict
	}{
		"kubelet":             {greeting(ack, headers(healthCheck, kube, false, 0), frame(0, 1, []byte("body"))), Probe},
		"in another order":    {greeting(window, headers(healthCheck, kube, true, 0), ack), Probe},
		"in two frames":       {greeting(ack, headers(healthCheck, kube, false, 7)), Probe},
		"in two, padded":      {greeting(ack, headers(healthCheck, kube, true, 9)), Probe},
		"another method":      {greeting(ack, headers("/orders.Orders/Get", kube, false, 0)), Other},
		"another client":      {greeting(ack, headers(healthCheck, "grpc-go/1.72.1", false, 0)), Other},
		"not acknowledged":    {greeting(headers(healthCheck, kube, false, 0)), More},
		"nothing asked":       {greeting(ack), More},
		"half a frame":        {greeting(ack, headers(healthCheck, kube, false, 0)[:20]), More},
		"half a preface":      {[]byte(Preface[:5]), More},
		"HTTP/1":              {[]byte(kubelet), Other},
		"too large a frame":   {greeting([]byte{255, 0, 0, 0, 0, 0, 0, 0, 0}), Other},
		"no end":              {greeting(frame(6, 0, make([]byte, maxFrame-1)), frame(6, 0, make([]byte, maxFrame-1))), Other},
		"broken compression":  {greeting(ack, frame(frameHeaders, flagEndHeaders, []byte{0xff, 0xff, 0xff, 0xff, 0xff})), Other},
		"padding beyond":      {greeting(ack, frame(frameHeaders, flagEndHeaders|flagPadded, []byte{200, 1})), Other},
		"the second request":  {greeting(ack, headers("/x", "y", false, 0), headers(healthCheck, kube, false, 0)), Other},
		"nothing":             {nil, More},
		"an empty head":       {greeting(ack, frame(frameHeaders, flagEndHeaders, nil)), Other},
		"continuation at odd": {greeting(ack, frame(frameContinuation, flagEndHeaders, nil)), More},
	} {
		got, at := HTTP2(c.in)
		if got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		if at >= 0 && !bytes.Equal(c.in[at:at+AckLen], ack) {
			t.Errorf("%s: no acknowledgement at %d", name, at)
		}
	}
}

// hello is what crypto/tls says first.
func hello(t *testing.T, name string) []byte {
	t.Helper()
	a, b := net.Pipe()
	go func() { _ = tls.Client(a, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake() }()
	defer a.Close()
	buf := make([]byte, MaxHead)
	n, err := b.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	return buf[:n]
}

func TestTLS(t *testing.T) {
	byNumber, byName := hello(t, "10.0.0.1"), hello(t, "orders.example")
	for n := range byNumber {
		if got := TLS(byNumber[:n]); got != More {
			t.Fatalf("%d bytes: %v", n, got)
		}
	}
	if TLS(byNumber) != Probe || TLS(byName) != Other || TLS([]byte("GET")) != Other || TLS([]byte{22, 3, 1, 255, 255}) != Other || TLS([]byte{22, 3, 1, 0, 1, 2}) != Other {
		t.Error("TLS")
	}
}

func Fuzz(f *testing.F) {
	f.Add([]byte(kubelet))
	f.Add(greeting(ack, headers(healthCheck, "kube-probe/1", true, 7)))
	f.Add([]byte{22, 3, 1, 0, 5, 1, 0, 0, 1, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		// More bytes never change a verdict that was given.
		_, at := HTTP2(b)
		if at >= 0 && at+AckLen > len(b) {
			t.Fatalf("acknowledged at %d of %d", at, len(b))
		}
		checks := map[string]func([]byte) Verdict{
			"1": func(b []byte) Verdict { return HTTP1(b, []string{"/healthz", "/"}) }, "2": func(b []byte) Verdict { v, _ := HTTP2(b); return v }, "tls": TLS,
		}
		for name, check := range checks {
			was := More
			for n := range len(b) + 1 {
				now := check(b[:n])
				if was != More && now != was {
					t.Fatalf("%s: %v at %d bytes, then %v", name, was, n-1, now)
				}
				was = now
			}
		}
	})
}

// FuzzUnacked: in whatever pieces it comes, all but one acknowledgement passes, in order.
func FuzzUnacked(f *testing.F) {
	f.Add(greeting(ack, headers(healthCheck, "kube-probe/1", true, 7)), 1)
	f.Add(append(greeting(frame(0, 1, bytes.Repeat([]byte("x"), 300)), ack), ack...), 5)
	f.Add(greeting(frame(frameSettings, flagAck, []byte{1}))[:40], 3)
	f.Fuzz(func(t *testing.T, b []byte, piece int) {
		var whole, parts Unacked
		want := append(whole.Filter(nil, b), whole.Held()...)
		var got []byte
		for rest := b; len(rest) > 0; {
			n := min(max(1, piece&0xff), len(rest))
			got, rest = parts.Filter(got, rest[:n]), rest[n:]
		}
		got = append(got, parts.Held()...)
		if !bytes.Equal(got, want) || whole.Done != parts.Done {
			t.Fatalf("%x in pieces, %x", got, want)
		}
		if _, at := HTTP2(b); whole.Done {
			if len(want) != len(b)-AckLen || at >= 0 && !bytes.Equal(want, append(bytes.Clone(b[:at]), b[at+AckLen:]...)) {
				t.Fatalf("%x of %x", want, b)
			}
		} else if !bytes.Equal(want, b) {
			t.Fatalf("%x of %x", want, b)
		}
	})
}
