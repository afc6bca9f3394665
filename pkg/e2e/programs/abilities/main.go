// Command abilities is a debuggee that says what it has of a pod: one line each, a name, a tab, and what it got or the
// error; then it serves, until its standard input ends. It must never know of stepin, nor decide what is right: the test
// knows the pod.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// patience bounds each single thing.
const patience = 10 * time.Second

func main() {
	log.SetFlags(0)
	for _, a := range []struct {
		name string
		get  func() (string, error)
	}{
		{"variable", variable},
		{"ConfigMap", file("/etc/shop/config/region")},
		{"Secret", file("/etc/shop/secret/password")},
		{"token", file("/var/run/secrets/kubernetes.io/serviceaccount/token")},
		{"name", name},
		{"outgoing", outgoing},
		{"host name", os.Hostname},
		{"own address", ownAddress},
	} {
		got, err := a.get()
		if err != nil {
			got = "error: " + err.Error()
		}
		fmt.Printf("%s\t%s\n", a.name, strings.ReplaceAll(strings.TrimSpace(got), "\n", " "))
	}
	if err := serve(); err != nil {
		log.Fatal(err)
	}
	fmt.Println("serving\t")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func variable() (string, error) {
	v, ok := os.LookupEnv("PASSWORD")
	if !ok {
		return "", errors.New("not set")
	}
	return v, nil
}

func file(path string) func() (string, error) {
	return func() (string, error) {
		text, err := os.ReadFile(path)
		return string(text), err
	}
}

func name() (string, error) {
	addrs, err := net.LookupHost("stock")
	return strings.Join(addrs, " "), err
}

// outgoing is what the other workload says of whom it has served.
func outgoing() (string, error) {
	response, err := (&http.Client{Timeout: patience}).Get("http://stock/")
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return string(text), err
}

// ownAddress is the address that this program would call from.
func ownAddress() (string, error) {
	conn, err := net.Dial("udp", "192.0.2.1:9") // TEST-NET-1, RFC 5737; nothing is sent
	if err != nil {
		return "", err
	}
	defer conn.Close()
	host, _, err := net.SplitHostPort(conn.LocalAddr().String())
	return host, err
}

// serve answers on the ports that the pod serves: HTTP, lines of TCP, datagrams.
func serve() error {
	web, err := net.Listen("tcp", ":8080")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"Who":"debuggee","Caller":%q,"Path":%q}`, r.RemoteAddr, r.URL.Path)
	})
	go func() { log.Fatal((&http.Server{Handler: mux, ReadHeaderTimeout: patience}).Serve(web)) }()
	lines, err := net.Listen("tcp", ":9000")
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := lines.Accept()
			if err != nil {
				log.Fatal(err)
			}
			go func() {
				defer conn.Close()
				for in := bufio.NewScanner(conn); in.Scan(); {
					_, _ = fmt.Fprintln(conn, "debuggee", in.Text())
				}
			}()
		}
	}()
	datagrams, err := net.ListenPacket("udp", ":9001")
	if err != nil {
		return err
	}
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := datagrams.ReadFrom(b)
			if err != nil {
				log.Fatal(err)
			}
			_, _ = datagrams.WriteTo(append([]byte("debuggee "), b[:n]...), from)
		}
	}()
	return nil
}
