package child

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/stepin-dev/stepin/agent/probe"
	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

func TestWatched(t *testing.T) {
	p := probes{all: []wire.Probe{{Kind: probeHTTP, Port: 80, Path: "/a"}, {Kind: probeHTTP, Port: 80, Path: "/b"}, {Kind: probeGRPC, Port: 90}, {Kind: probeTCP, Port: 70},
		{Kind: probeHTTPS, Port: 443}, {Kind: probeExec, Port: 60}, {Kind: "later", Port: 80}}, nodes: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
	for _, c := range []struct {
		client, local string
		want          watched
	}{
		{"10.0.0.1:1000", "10.0.0.9:80", watched{targets: []string{"/a", "/b"}}},
		{"10.0.0.2:1000", "10.0.0.9:80", watched{}},
		{"127.0.0.6:1000", "10.0.0.9:80", watched{targets: []string{"/a", "/b"}}}, // a mesh
		{"10.0.0.9:1000", "10.0.0.9:90", watched{grpc: true}},
		{"10.0.0.1:1000", "10.0.0.9:70", watched{empty: true}},
		{"10.0.0.9:1000", "10.0.0.9:70", watched{}},
		{"10.0.0.1:1000", "10.0.0.9:443", watched{tls: true}},
		{"127.0.0.1:1000", "127.0.0.1:443", watched{}},
		{"[::1]:1000", "[::1]:60", watched{exec: true}},
		{"10.0.0.1:1000", "10.0.0.9:60", watched{}},
		{"10.0.0.1:1000", "10.0.0.9:81", watched{}},
	} {
		got := p.of(netip.MustParseAddrPort(c.client), netip.MustParseAddrPort(c.local))
		if strings.Join(got.targets, " ") != strings.Join(c.want.targets, " ") || got.tls != c.want.tls || got.grpc != c.want.grpc || got.empty != c.want.empty || got.exec != c.want.exec {
			t.Errorf("%s to %s: %+v, want %+v", c.client, c.local, got, c.want)
		}
	}
	if !(probes{all: []wire.Probe{{Kind: probeExec}}}).of(netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("127.0.0.1:5")).exec {
		t.Error("an exec probe of no port is of every port")
	}
}

// TestGreet: a real HTTP/2 server gets along with a real client that somebody else has greeted: nothing is lost, and
// nothing comes that it would end the connection for.
func TestGreet(t *testing.T) {
	var h2c http.Protocols
	h2c.SetUnencryptedHTTP2(true)
	server := &http.Server{Protocols: &h2c, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = io.WriteString(w, r.Proto+" "+r.URL.Path+" "+string(body))
	})}
	behind, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	go func() { _ = server.Serve(behind) }()
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { front.Close() })
	verdicts := make(chan probe.Verdict, 10)
	go func() {
		for {
			conn, err := front.Accept()
			if err != nil {
				return
			}
			verdict, http2 := watched{grpc: true}.peek(conn.(*net.TCPConn))
			if !http2 {
				verdicts <- verdict
				conn.Close()
				continue
			}
			client := &greeted{TCP: mux.TCP{TCPConn: conn.(*net.TCPConn)}}
			verdict, read := greet(client)
			verdicts <- verdict
			to, err := net.Dial("tcp", behind.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := to.Write(read); err != nil {
				t.Error(err)
			}
			go splice(client, to.(*net.TCPConn))
		}
	}()
	for _, c := range []struct {
		path, who string
		want      probe.Verdict
	}{
		{"/grpc.health.v1.Health/Check", "kube-probe/1.34 grpc-go/1.72", probe.Probe},
		{"/grpc.health.v1.Health/Check", "somebody", probe.Other}, {"/orders.Orders/Get", "kube-probe/1.34", probe.Other},
	} {
		transport := &http.Transport{Protocols: &h2c}
		client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
		for i := range 3 { // the connection is decided once and lives on
			body := strings.Repeat("x", 1+i*100000)
			r, err := http.NewRequestWithContext(context.Background(), "POST", "http://"+front.Addr().String()+c.path, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("User-Agent", c.who)
			answer, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(answer.Body)
			answer.Body.Close()
			if string(got) != "HTTP/2.0 "+c.path+" "+body || err != nil {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		}
		transport.CloseIdleConnections()
		for seen := false; !seen || len(verdicts) > 0; seen = true { // net/http may dial twice where the first takes its time
			if got := <-verdicts; got != c.want {
				t.Errorf("%s by %s: %v, want %v", c.path, c.who, got, c.want)
			}
		}
	}
}

// TestLongGreeting: an HTTP/2 client that sends more than is looked at before it has read a thing, and acknowledges our
// settings only then, is served by the real server all the same: at once, and by whoever it is for.
func TestLongGreeting(t *testing.T) {
	var h2c http.Protocols
	h2c.SetUnencryptedHTTP2(true)
	server := &http.Server{Protocols: &h2c, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprint(w, r.URL.Path, " ", n)
	})}
	behind := listen(t)
	t.Cleanup(func() { server.Close() })
	go func() { _ = server.Serve(behind) }()
	for _, path := range []string{"/orders.Orders/Put", "/grpc.health.v1.Health/Check"} {
		for _, body := range []int{10, probe.MaxGreeting - 1000, probe.MaxGreeting, 60000} { // 65535 may come before the server has read any
			t.Run(fmt.Sprint(path, body), func(t *testing.T) {
				front := listen(t)
				defer front.Close()
				probes := make(chan bool, 1)
				go func() {
					conn, err := front.AcceptTCP()
					if err != nil {
						t.Error(err)
						return
					}
					st := &steal{session: &session{}, probes: probes1(conn)}
					yes, read, rest := (&Child{}).isProbe(st, conn, addrOf(conn.RemoteAddr()), addrOf(conn.LocalAddr()))
					probes <- yes
					to, err := net.Dial("tcp", behind.Addr().String())
					if err != nil {
						t.Error(err)
						return
					}
					_, _ = to.Write(read)
					splice(rest, to.(*net.TCPConn))
				}()
				conn, err := net.Dial("tcp", front.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
				if got, want := post(t, conn, path, body, probes), fmt.Sprint(path, " ", body); got != want {
					t.Errorf("%q, want %q", got, want)
				}
			})
		}
	}
}

func probes1(conn *net.TCPConn) probes {
	return probes{all: []wire.Probe{{Kind: probeGRPC, Port: addrOf(conn.LocalAddr()).Port()}}}
}

func listen(t *testing.T) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// post is a client that sends all that it may before it reads, waits until it was decided whose it is, and acknowledges
// each settings frame that it reads. It returns the answer's body.
func post(t *testing.T, conn net.Conn, path string, body int, decided <-chan bool) string {
	t.Helper()
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", path}, {":authority", "orders"}, {"user-agent", "kube-probe/1.34"}} {
		_ = e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	if _, err := io.WriteString(conn, probe.Preface); err != nil {
		t.Fatal(err)
	}
	f := http2.NewFramer(conn, conn)
	err := errors.Join(f.WriteSettings(), f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}))
	const part = 16 << 10
	for left := body; left > 0 && err == nil; left -= part {
		err = f.WriteData(1, left <= part, make([]byte, min(part, left)))
	}
	if err != nil {
		t.Fatal(err)
	}
	if body >= probe.MaxGreeting {
		if <-decided {
			t.Error("it was taken for a probe without an acknowledgement")
		}
	}
	var answer []byte
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return fmt.Sprint(err)
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				if err := f.WriteSettingsAck(); err != nil {
					t.Fatal(err)
				}
			}
		case *http2.DataFrame:
			answer = append(answer, frame.Data()...)
			if frame.StreamEnded() { // has the connection outlived the acknowledgements?
				if err := f.WritePing(false, [8]byte{}); err != nil {
					t.Fatal(err)
				}
			}
		case *http2.PingFrame:
			return string(answer)
		case *http2.GoAwayFrame:
			return fmt.Sprint("the server ends the connection: ", frame.ErrCode)
		}
	}
}
