// Command service answers HTTP on a port of its own choice, which it prints.
package main

import (
	"fmt"
	"net"
	"net/http"
)

func main() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println("listening", l.Addr())
	panic(http.Serve(l, http.HandlerFunc(handle)))
}

func handle(w http.ResponseWriter, r *http.Request) {
	answer := "version 1"
	fmt.Fprintln(w, answer) // stop here
}
