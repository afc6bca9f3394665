//lint:file-ignore SA1019 net/http speaks h2c to who knows of it, but takes no Upgrade (RFC 7540, 3.2); x/net's h2c does.

package requests

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	//lint:ignore SA1019 the only server that upgrades to h2c; programs have it
	"golang.org/x/net/http2/h2c"
	"golang.org/x/net/http2/hpack"
)

// heard gathers what a feed tells.
type heard struct {
	mu  sync.Mutex
	all []Request
	new chan struct{}
}

func (h *heard) tell(r Request) {
	h.mu.Lock()
	h.all = append(h.all, r)
	h.mu.Unlock()
	h.new <- struct{}{}
}

// listen returns a feed and what it has told.
func listen(t *testing.T) (*Feed, *heard) {
	h := &heard{new: make(chan struct{}, 1<<16)}
	f := NewFeed(h.tell)
	t.Cleanup(func() {
		f.Close()
		if n := f.held.Load(); n != 0 {
			t.Errorf("%d bytes are still booked", n)
		}
	})
	return f, h
}

// first waits for n requests.
func (h *heard) first(t *testing.T, n int) []Request {
	t.Helper()
	for {
		h.mu.Lock()
		if len(h.all) >= n {
			defer h.mu.Unlock()
			return h.all
		}
		h.mu.Unlock()
		select {
		case <-h.new:
		case <-time.After(30 * time.Second):
			t.Fatalf("%d requests were told, want %d: %+v", len(h.all), n, h.all)
		}
	}
}

// relay stands between clients and a server at addr, shows the flows to the feed, and reads at most size bytes at a time.
func relay(t *testing.T, f *Feed, addr string, size int) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var flows sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { l.Close(); cancel(); flows.Wait() })
	flows.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", addr)
			if err != nil {
				t.Error(err)
				c.Close()
				return
			}
			flow := f.Follow(About{Pod: "orders", Port: 8080, From: netip.MustParseAddrPort(c.RemoteAddr().String()), Mode: "steal"})
			flows.Go(func() {
				defer flow.End("")
				defer context.AfterFunc(ctx, func() { c.Close(); s.Close() })()
				both := make(chan struct{})
				go func() {
					defer close(both)
					pass(c, s, size, flow.Debuggee)
					flow.DebuggeeEnd()
				}()
				pass(s, c, size, flow.Client)
				<-both
				c.Close()
				s.Close()
			})
		}
	})
	return l.Addr().String()
}

func pass(to, from net.Conn, size int, show func([]byte)) {
	buf := make([]byte, size)
	for {
		n, err := from.Read(buf)
		show(buf[:n])
		if _, werr := to.Write(buf[:n]); werr != nil || err != nil {
			_ = to.(*net.TCPConn).CloseWrite()
			return
		}
	}
}

// each runs a test with whole reads and with pieces of them.
func each(t *testing.T, test func(t *testing.T, size int)) {
	for _, size := range []int{64 << 10, 7, 1} {
		t.Run(fmt.Sprint(size), func(t *testing.T) { test(t, size) })
	}
}

// serve starts a server and returns its address.
func serve(t *testing.T, h http.Handler, more func(*http.Server)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	if more != nil {
		more(s)
	}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return l.Addr().String()
}

// shop is a handler with an answer of each kind.
func shop() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/plain", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
	mux.HandleFunc("/chunked", func(w http.ResponseWriter, r *http.Request) {
		for range 3 {
			io.WriteString(w, strings.Repeat("x", 100))
			w.(http.Flusher).Flush()
		}
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Sum")
		body, _ := io.ReadAll(r.Body)
		w.Write(body)
		w.Header().Set("Sum", "7")
	})
	mux.HandleFunc("/none", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("/same", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNotModified) })
	mux.HandleFunc("/early", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusEarlyHints) })
	return mux
}

// asked are the requests that TestHTTP1 and TestHTTP2 send, and what they are told as.
var asked = []struct {
	method, path, body string
	unsized, expect    bool
	status             int
}{
	{method: "GET", path: "/plain?id=7", status: 200},
	{method: "GET", path: "/chunked", status: 200},
	{method: "HEAD", path: "/plain", status: 200},
	{method: "POST", path: "/echo", body: strings.Repeat("body ", 1000), status: 200},
	{method: "PUT", path: "/echo", body: strings.Repeat("body ", 1000), unsized: true, status: 200},
	{method: "POST", path: "/echo", body: "wait", expect: true, status: 200},
	{method: "GET", path: "/none", status: 204},
	{method: "GET", path: "/same", status: 304},
	{method: "GET", path: "/early", status: 200},
	{method: "GET", path: "/missing/%1b%5b", status: 404},
}

func askAll(t *testing.T, c *http.Client, addr, protocol string, h *heard) {
	t.Helper()
	for i, a := range asked {
		var body io.Reader = strings.NewReader(a.body)
		if a.unsized {
			body = struct{ io.Reader }{body}
		}
		req, err := http.NewRequest(a.method, "http://"+addr+a.path, body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer SECRET")
		if a.expect {
			req.Header.Set("Expect", "100-continue")
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatalf("%s %s: %v", a.method, a.path, err)
		}
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != a.status || strings.HasPrefix(a.path, "/echo") && string(answer) != a.body {
			t.Fatalf("%s %s: %s, %d bytes, %v", a.method, a.path, resp.Status, len(answer), err)
		}
		r := h.first(t, i+1)[i]
		if r.Protocol != protocol || r.Method != a.method || r.Path != a.path || r.Status != a.status || r.Error != "" || r.HasGRPC() {
			t.Errorf("told %+v, want %+v", r, a)
		}
		if r.In < int64(len(a.body))+10 || r.In > int64(len(a.body))+1500 || r.Out < int64(len(answer))+9 || r.Out > int64(len(answer))+1500 {
			t.Errorf("%s: %d bytes in with a body of %d, %d bytes out with one of %d", a.path, r.In, len(a.body), r.Out, len(answer))
		}
		if r.About.Pod != "orders" || r.About.Port != 8080 || !r.About.From.Addr().IsLoopback() || r.Took <= 0 || time.Since(r.At) < r.Took {
			t.Errorf("told %+v", r)
		}
	}
	c.CloseIdleConnections()
}

func TestHTTP1(t *testing.T) {
	each(t, func(t *testing.T, size int) {
		f, h := listen(t)
		addr := relay(t, f, serve(t, shop(), nil), size)
		askAll(t, &http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Minute}}, addr, "HTTP/1.1", h)
	})
}

func TestHTTP2(t *testing.T) {
	each(t, func(t *testing.T, size int) {
		f, h := listen(t)
		var both http.Protocols
		both.SetHTTP1(true)
		both.SetUnencryptedHTTP2(true)
		addr := relay(t, f, serve(t, shop(), func(s *http.Server) { s.Protocols = &both }), size)
		var only http.Protocols
		only.SetUnencryptedHTTP2(true)
		askAll(t, &http.Client{Transport: &http.Transport{Protocols: &only}}, addr, "HTTP/2", h)
	})
}

// TestTogether has many streams of one connection under way at once, some of which are cancelled.
func TestTogether(t *testing.T) {
	f, h := listen(t)
	var only http.Protocols
	only.SetUnencryptedHTTP2(true)
	arrived, release := make(chan bool, 100), make(chan bool)
	addr := relay(t, f, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrived <- true
		select {
		case <-release:
			w.Header().Set("Grpc-Status", "5") // in the header, as an answer without a body has it
		case <-r.Context().Done():
		}
	}), func(s *http.Server) { s.Protocols = &only }), 64<<10)
	c := &http.Client{Transport: &http.Transport{Protocols: &only}}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			of := ctx
			if i%2 == 0 {
				of = context.Background()
			}
			req, _ := http.NewRequestWithContext(of, "POST", fmt.Sprintf("http://%s/shop.Orders/%d", addr, i), nil)
			if resp, err := c.Do(req); err == nil {
				resp.Body.Close()
			}
		})
	}
	for range 20 {
		<-arrived
	}
	cancel()
	h.first(t, 10)
	close(release)
	all.Wait()
	for i, r := range h.first(t, 20) {
		if r.Error != "cancelled by the client" && i < 10 || i >= 10 && (r.Status != 200 || r.GRPC != 5 || r.Error != "") {
			t.Errorf("%d: %+v", i, r)
		}
	}
	c.CloseIdleConnections()
}

// conversation sends raw bytes through a relay to a server that answers raw bytes, and returns what was told.
func conversation(t *testing.T, size int, said, answer string) []Request {
	t.Helper()
	f, h := listen(t)
	flow := f.Follow(About{})
	show := func(s string, to func([]byte)) {
		for b := []byte(s); len(b) > 0; {
			n := min(size, len(b))
			piece := bytes.Clone(b[:n])
			to(piece)
			clear(piece) // it is not ours to keep
			b = b[n:]
		}
	}
	show(said, flow.Client)
	show(answer, flow.Debuggee)
	flow.DebuggeeEnd()
	flow.End("")
	f.Close()
	return h.all
}

func TestConversations(t *testing.T) {
	const get = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	long := "/" + strings.Repeat("a", 5000)
	for _, c := range []struct{ name, client, debuggee, want string }{
		{"pipelined", get + "POST /b HTTP/1.1\r\nContent-Length: 3\r\n\r\nGETHEAD /c HTTP/1.1\r\n\r\n" + get,
			ok + "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n" + ok,
			"HTTP/1.1 GET /a 200|HTTP/1.1 POST /b 201|HTTP/1.1 HEAD /c 200|HTTP/1.1 GET /a 200"},
		{"until the end", "GET / HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\nwhatever", "HTTP/1.0 GET / 200"},
		{"bare line ends", "\r\nGET / HTTP/1.1\nHost: x\n\n", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", "HTTP/1.1 GET / 200"},
		{"never answered", get, "", "HTTP/1.1 GET /a 0 " + whyDebuggee},
		{"half an answer", get, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", "HTTP/1.1 GET /a 200 " + whyPart},
		{"continue", "PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx", "HTTP/1.1 100 Continue\r\n\r\n" + ok, "HTTP/1.1 PUT / 200"},
		{"chunked request", "PUT / HTTP/1.1\r\nTransfer-Encoding: gzip, Chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n" + get, ok + ok, "HTTP/1.1 PUT / 200|HTTP/1.1 GET /a 200"},
		{"WebSocket", "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x02hi", "HTTP/1.1 GET /ws 101"},
		{"upgrade not taken", "GET /ws HTTP/1.1\r\nUpgrade: h2c\r\n\r\n" + get, ok + ok, "HTTP/1.1 GET /ws 200|HTTP/1.1 GET /a 200"},
		{"CONNECT", "CONNECT x:1 HTTP/1.1\r\n\r\nwhatever\n\n", "HTTP/1.1 200 OK\r\n\r\nwhatever", "HTTP/1.1 CONNECT x:1 200"},
		{"CONNECT refused", "CONNECT x:1 HTTP/1.1\r\n\r\n", "HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 CONNECT x:1 405"},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "\x16\x03\x03", "TCP   0"},
		{"server first", "", "220 mail\r\n", "TCP   0"},
		{"words", "HELO there\r\n", "250 yes\r\n", "TCP   0"},
		{"binary behind a letter", "*1\r\n$4\r\nPING\r\n", "+PONG\r\n", "TCP   0"},
		{"no whole line", "hello", "", "TCP   0"},
		{"nothing", "", "", ""},
		{"lost later", get + "garbage\r\n", ok, "HTTP/1.1 GET /a 0 " + whyUnread + "|TCP   0"},
		{"two lengths", "PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "", "HTTP/1.1 PUT / 0 " + whyUnread + "|TCP   0"},
		{"answer that is none", get, "ICY 200 OK\r\n\r\n", "HTTP/1.1 GET /a 0 " + whyUnread + "|TCP   0"},
		{"control characters", "GET /\x1b[31m\xe2\x80\xaeé\xff?q=\x07 HTTP/1.1\r\n\r\n", ok, "HTTP/1.1 GET /%1B[31m%E2%80%AEé%FF?q=%07 200"},
		{"long", "GET " + long + " HTTP/1.1\r\nCookie: " + long + "\r\n\r\n" + get, ok + ok, "HTTP/1.1 GET " + long[:maxPath] + "… 200|HTTP/1.1 GET /a 200"},
		{"no preface in the middle", get + "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ok, "HTTP/1.1 GET /a 0 " + whyUnread + "|TCP   0"},
		{"preface only", wholePreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00", "\x00\x00\x00\x04\x00\x00\x00\x00\x00", ""},
		{"half a preface", wholePreface[:20] + "xx", "", "TCP   0"},
		{"bad frames", wholePreface + "\x00\x00\x01\x01\x05\x00\x00\x00\x01\xff", "", "TCP   0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			each(t, func(t *testing.T, size int) {
				var got []string
				var in, out int64
				for _, r := range conversation(t, size, c.client, c.debuggee) {
					got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s %s %d %s", r.Protocol, r.Method, r.Path, r.Status, r.Error)))
					in, out = in+r.In, out+r.Out
				}
				if text := strings.Join(got, "|"); text != c.want {
					t.Errorf("told\n%s, want\n%s", text, c.want)
				}
				if len(got) > 0 && !strings.Contains(c.name, "lost") && (in != int64(len(c.client)) || out != int64(len(c.debuggee))) {
					t.Errorf("%d bytes in, %d out; want %d and %d", in, out, len(c.client), len(c.debuggee))
				}
			})
		})
	}
}

// TestUpgrade goes from HTTP/1.1 to h2c on one connection (RFC 7540, 3.2).
func TestUpgrade(t *testing.T) {
	each(t, func(t *testing.T, size int) {
		f, h := listen(t)
		//lint:ignore SA1019 as above
		addr := relay(t, f, serve(t, h2c.NewHandler(shop(), &http2.Server{}), nil), size)
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET /plain HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")
		in := bufio.NewReader(conn)
		resp, err := http.ReadResponse(in, nil)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatal(resp, err)
		}
		io.WriteString(conn, http2.ClientPreface)
		fr := http2.NewFramer(conn, in)
		if err := fr.WriteSettings(); err != nil {
			t.Fatal(err)
		}
		var block bytes.Buffer
		enc := hpack.NewEncoder(&block)
		for _, hf := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":authority", "x"}, {":path", "/echo"}, {"cookie", strings.Repeat("c", 300)}} {
			enc.WriteField(hpack.HeaderField{Name: hf[0], Value: hf[1]})
		}
		// In two frames, with padding and a priority.
		b := block.Bytes()
		if err := fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: b[:5], PadLength: 9, Priority: http2.PriorityParam{Weight: 3}}); err != nil {
			t.Fatal(err)
		}
		fr.WriteContinuation(3, true, b[5:])
		fr.WriteDataPadded(3, true, []byte("hello"), make([]byte, 3))
		all := h.first(t, 2)
		for i, want := range []string{"GET /plain", "POST /echo"} {
			if r := all[i]; r.Protocol != "HTTP/2" || r.Method+" "+r.Path != want || r.Status != 200 || r.Error != "" {
				t.Errorf("told %+v, want %s", r, want)
			}
		}
	})
}

// TestLost: a mirrored copy ends with a gap, and whoever knows says why.
func TestLost(t *testing.T) {
	f, h := listen(t)
	flow := f.Follow(About{Mode: "mirror"})
	flow.Client([]byte("GET / HTTP/1.1\r\n\r\n"))
	flow.End("bytes are missing")
	flow.End("")
	flow.Client([]byte("GET / HTTP/1.1\r\n\r\n"))
	flow.Debuggee([]byte("HTTP/1.1 200 OK\r\n\r\n"))
	if r := h.first(t, 1)[0]; r.Error != "bytes are missing" || r.Status != 0 {
		t.Errorf("%+v", r)
	}
}

func TestNobodyListens(t *testing.T) {
	var f *Feed = NewFeed(nil)
	flow := f.Follow(About{})
	if f != nil || flow != nil {
		t.Fatal("something is followed")
	}
	flow.Client([]byte("x"))
	flow.Debuggee([]byte("x"))
	flow.DebuggeeEnd()
	flow.End("")
	f.Close()
}

// TestPanic: what goes wrong in reading is not the relay's.
func TestPanic(t *testing.T) {
	f, h := listen(t)
	flow := f.Follow(About{})
	flow.language = broken{}
	flow.Client([]byte("abc"))
	flow.Debuggee([]byte("defg"))
	flow.End("")
	if r := h.first(t, 1)[0]; r.Protocol != TCP || r.In != 3 || r.Out != 4 {
		t.Errorf("%+v", r)
	}
}

type broken struct{}

func (broken) client([]byte) error   { panic("client") }
func (broken) debuggee([]byte) error { panic("debuggee") }
func (broken) debuggeeEnd()          {}
func (broken) left() []*exchange     { return nil }

// TestBounds: many unanswered requests and many connections are only counted from some number on.
func TestBounds(t *testing.T) {
	f, h := listen(t)
	one := f.Follow(About{})
	for range maxWaiting + 1 {
		one.Client([]byte("GET / HTTP/1.1\r\n\r\n"))
	}
	if one.language != nil {
		t.Error("more requests wait than may")
	}
	one.End("")
	var flows []*Flow
	path := strings.Repeat("p", maxPath)
	for f.held.Load() < maxHeld-flowCost {
		l := f.Follow(About{})
		for range 10 {
			l.Client([]byte("GET /" + path + " HTTP/1.1\r\n\r\n"))
		}
		flows = append(flows, l)
	}
	if n := len(flows); n < 100 || f.held.Load() > maxHeld {
		t.Errorf("%d flows hold %d bytes", n, f.held.Load())
	}
	last := f.Follow(About{})
	for _, l := range append(flows, last) {
		l.End("")
	}
	f.Close()
	var n uint64
	for _, r := range h.all {
		n += 1 + r.Skipped
	}
	if n < maxWaiting || len(h.all) > 10*maxTold {
		t.Errorf("%d requests were told, and %d counted", len(h.all), n)
	}
}

// TestFeed: what is too much for a second is counted in what comes next, and nothing is lost from the count.
func TestFeed(t *testing.T) {
	f, h := listen(t)
	const sent = 5000
	for range sent {
		f.offer(Request{})
	}
	f.Close()
	var told uint64
	var last uint64
	for _, r := range h.all {
		told += 1 + r.Skipped
		if r.ID <= last {
			t.Errorf("%d came after %d", r.ID, last)
		}
		last = r.ID
	}
	if told+f.skipped.Load() != sent || len(h.all) < maxTold {
		t.Errorf("%d told, with %d skipped; %d sent", len(h.all), told, sent)
	}
}

func TestLines(t *testing.T) {
	var mu sync.Mutex
	var got []string
	l := NewLines(func(line string) { mu.Lock(); defer mu.Unlock(); got = append(got, line) })
	from := About{Port: 5432, From: netip.MustParseAddrPort("10.0.0.7:4711")}
	for _, c := range []struct {
		r    Request
		want string
	}{
		{Request{About: from, Protocol: "HTTP/1.1", Method: "GET", Path: "/orders?id=7", Status: 200, GRPC: noGRPC, Took: 12 * time.Millisecond},
			"GET /orders?id=7  200  12 ms  from 10.0.0.7:4711"},
		{Request{About: from, Protocol: "HTTP/2", Method: "POST", Path: "/shop.Orders/Get", Status: 200, GRPC: 5, Took: 1500 * time.Microsecond},
			"POST /shop.Orders/Get  200  grpc-status 5  1.5 ms  from 10.0.0.7:4711"},
		{Request{About: from, Protocol: "HTTP/1.1", Method: "GET", Path: "/", GRPC: noGRPC, Error: whyClient, Took: 3 * time.Minute},
			"GET /  the connection ended before the answer  3m0s  from 10.0.0.7:4711"},
		{Request{About: from, Protocol: TCP, GRPC: noGRPC, In: 120, Out: 512, Took: 2500 * time.Millisecond},
			"TCP port 5432  120 bytes in, 512 out  2.5 s  from 10.0.0.7:4711"},
	} {
		if l.Tell(c.r); got[len(got)-1] != c.want {
			t.Errorf("%q, want %q", got[len(got)-1], c.want)
		}
	}
	got = nil
	const sent = 300
	for range sent {
		l.Tell(Request{Skipped: 1, GRPC: noGRPC})
	}
	l.Flush()
	lines, counted := 0, 0
	for _, line := range got {
		var n int
		if _, err := fmt.Sscanf(line, "… and %d more", &n); err == nil {
			counted += n
		} else {
			lines++
		}
	}
	if lines+counted != 2*sent || lines > 10*maxLines {
		t.Errorf("%d lines, %d more; %d sent", lines, counted, 2*sent)
	}
}
