package child

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/agent/probe"
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
			verdict, read := greet(conn.(*net.TCPConn))
			verdicts <- verdict
			to, err := net.Dial("tcp", behind.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := to.Write(read); err != nil {
				t.Error(err)
			}
			go splice(conn.(*net.TCPConn), to.(*net.TCPConn))
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
		if got := <-verdicts; got != c.want || len(verdicts) != 0 {
			t.Errorf("%s by %s: %v, want %v; %d more", c.path, c.who, got, c.want, len(verdicts))
		}
	}
}
