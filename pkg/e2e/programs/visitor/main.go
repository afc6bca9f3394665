// Command visitor is a debuggee that looks around once: for each argument a line, the argument, a tab, and what it got or
// the error. An argument is a URL to get, an address to listen on (it begins with a colon), or a file to read. It must
// never know of stepin, nor decide what is right.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// patience bounds each request.
const patience = 10 * time.Second

func main() {
	for _, what := range os.Args[1:] {
		got, err := look(what)
		if err != nil {
			got = "error: " + err.Error()
		}
		fmt.Printf("%s\t%s\n", what, strings.TrimSpace(got))
	}
}

func look(what string) (string, error) {
	switch {
	case strings.HasPrefix(what, "http://"):
		client := http.Client{Timeout: patience}
		response, err := client.Get(what)
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		return string(text), err
	case strings.HasPrefix(what, ":"):
		l, err := net.Listen("tcp", what)
		if err != nil {
			return "", err
		}
		return "listens", l.Close()
	}
	text, err := os.ReadFile(what)
	return string(text), err
}
