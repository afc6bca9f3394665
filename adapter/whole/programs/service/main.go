// Command service is the pod's program and the debuggee of the tests: an HTTP service that says who it is and who asks.
// It must never depend on the machine it runs on.
package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
)

// answer is what every request gets.
type answer struct {
	Who      string // WHO of the environment
	Hostname string
	Client   string // the peer's address
	Local    string // the address that was called
	Path     string
	Sum      string // of the body, SHA-256
}

func main() {
	addr := os.Getenv("LISTEN")
	if addr == "" {
		addr = ":8080"
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("listening on", l.Addr())
	http.HandleFunc("/", serve)
	fmt.Fprintln(os.Stderr, http.Serve(l, nil))
}

func serve(w http.ResponseWriter, r *http.Request) {
	sum := sha256.New()
	_, _ = io.Copy(sum, r.Body) // else the connection may end, by how much of it has come
	host, _ := os.Hostname()
	a := answer{Who: os.Getenv("WHO"), Hostname: host, Client: r.RemoteAddr, Path: r.URL.Path, Sum: fmt.Sprintf("%x", sum.Sum(nil))}
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		a.Local = local.String()
	}
	body, _ := json.Marshal(a) // the breakpoint of the tests
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
}
