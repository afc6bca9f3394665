// Command graceful is an HTTP service that ends as good services do: it stops listening and then finishes what it has
// begun. It must never end by itself before it is told to by its standard input.
//
// Its argument is the address to listen on. Each request prints "waiting" and is answered with 1 MiB when the line
// "answer" has come; the line "stop listening" closes the listener. It calls itself by its loopback, too.
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
)

func main() {
	l, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	answer := make(chan struct{})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Println("waiting")
		<-answer
		_, _ = io.WriteString(w, strings.Repeat("x", 1<<20))
	})}
	go func() { _ = server.Serve(l) }()
	own := make(chan string, 1)
	go func() {
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", l.Addr().(*net.TCPAddr).Port))
		if err != nil {
			own <- "own answer: " + err.Error()
			return
		}
		defer resp.Body.Close()
		n, err := io.Copy(io.Discard, resp.Body)
		own <- fmt.Sprintf("own answer: %d bytes, %v", n, err)
	}()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		switch lines.Text() {
		case "stop listening":
			_ = l.Close()
			fmt.Println("stopped listening")
		case "answer":
			close(answer)
			fmt.Println(<-own)
		}
	}
	_ = server.Shutdown(context.Background())
}
