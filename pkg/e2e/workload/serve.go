package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"
)

// Answer is what a request to any path but those of routes gets: who has served whom with what.
type Answer struct {
	Who    string // the program's name: -name
	Host   string // os.Hostname
	Pid    int
	Caller string // ADDRESS:PORT, as the program sees it
	Method string
	Path   string
	Query  string
	Asked  string // the Host header
	Body   string
}

// biggest bounds a body that is read whole.
const biggest = 1 << 20

// server is one program that serves. Its readiness and its liveness can be set by whoever asks, as its state would.
type server struct {
	name        string
	ready, live atomic.Int32 // HTTP statuses
	served      atomic.Int64 // answers
}

// serve listens where it is told to until ctx ends. A port "" is not served.
//
// Goroutines: one per port, ended by the listeners' end; one per connection.
func serve(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	name := flags.String("name", "pod", "who says to have answered")
	httpAt := flags.String("http", ":8080", "HTTP: paths see routes; HTTP/2 without TLS as well, with gRPC's health check")
	tcpAt := flags.String("tcp", "", "TCP: says its name in a line, then echoes")
	after := flags.Duration("after", 0, "listen this much later")
	if err := flags.Parse(args); err != nil {
		return err
	}
	s := &server{name: *name}
	s.ready.Store(http.StatusOK)
	s.live.Store(http.StatusOK)
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(*after):
	}
	failed := make(chan error, 2)
	if *tcpAt != "" {
		l, err := net.Listen("tcp", *tcpAt)
		if err != nil {
			return err
		}
		defer l.Close()
		go func() { failed <- s.echo(l) }()
	}
	if *httpAt != "" {
		l, err := net.Listen("tcp", *httpAt)
		if err != nil {
			return err
		}
		defer l.Close()
		go func() { failed <- s.http(l) }()
	}
	log.Printf("%s serves: http %q, tcp %q", *name, *httpAt, *tcpAt)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

func (s *server) http(l net.Listener) error {
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	h := &http.Server{Handler: s.routes(), Protocols: protocols, ReadHeaderTimeout: patience}
	return h.Serve(l)
}

func (s *server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", s.answer)
	mux.HandleFunc("/ready", state(&s.ready))
	mux.HandleFunc("/live", state(&s.live))
	mux.HandleFunc("/env", func(w http.ResponseWriter, r *http.Request) {
		value, ok := os.LookupEnv(r.FormValue("name"))
		tell(w, value, map[bool]error{false: errors.New("not set")}[ok])
	})
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		text, err := os.ReadFile(r.FormValue("path"))
		tell(w, string(text), err)
	})
	mux.HandleFunc("/fetch", func(w http.ResponseWriter, r *http.Request) {
		text, err := fetch(r.Context(), r.FormValue("url"))
		tell(w, text, err)
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		d, err := time.ParseDuration(r.FormValue("for"))
		if err == nil {
			select {
			case <-time.After(d):
			case <-r.Context().Done():
			}
		}
		tell(w, s.name, err)
	})
	mux.HandleFunc("/served", func(w http.ResponseWriter, r *http.Request) {
		tell(w, strconv.FormatInt(s.served.Load(), 10), nil)
	})
	mux.HandleFunc("/bytes", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.FormValue("n"), 10, 64)
		if err != nil {
			tell(w, "", err)
			return
		}
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		_, _ = io.CopyN(w, zeros{}, n) // the client may go
	})
	mux.HandleFunc("/count", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		tell(w, strconv.FormatInt(n, 10), err)
	})
	mux.HandleFunc("/grpc.health.v1.Health/Check", s.grpcHealth)
	return mux
}

func (s *server) answer(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, biggest))
	if err != nil {
		return // the client has gone
	}
	s.served.Add(1)
	host, _ := os.Hostname()
	path := r.URL.Path
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(Answer{ // a breakpoint's line: path and r are in scope
		Who: s.name, Host: host, Pid: os.Getpid(), Caller: r.RemoteAddr, Method: r.Method, Path: path,
		Query: r.URL.RawQuery, Asked: r.Host, Body: string(body),
	})
}

// state answers with a status, and sets it if the request brings one: /ready?status=503.
func state(status *atomic.Int32) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if n, err := strconv.Atoi(r.FormValue("status")); err == nil && n >= 200 && n < 600 {
			status.Store(int32(n))
		}
		w.WriteHeader(int(status.Load()))
	}
}

// grpcHealth is gRPC's health check (grpc/health/v1/health.proto) by hand: one message of one field, SERVING or
// NOT_SERVING by the liveness, and the status as a trailer.
func (s *server) grpcHealth(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	serving := byte(1)
	if s.live.Load() != http.StatusOK {
		serving = 2
	}
	_, _ = w.Write([]byte{0, 0, 0, 0, 2, 0x08, serving}) // not compressed, 2 bytes: field 1, a varint
	w.Header().Set("Grpc-Status", "0")
}

// echo serves the TCP port.
func (s *server) echo(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			if _, err := fmt.Fprintln(conn, s.name, conn.RemoteAddr()); err == nil {
				_, _ = io.Copy(conn, conn)
			}
		}()
	}
}

func fetch(ctx context.Context, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := (&http.Client{Timeout: patience}).Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, biggest))
	return string(text), err
}

// tell answers with a text, or with an error and status 500.
func tell(w http.ResponseWriter, text string, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = io.WriteString(w, text)
}

// zeros never end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
