// Command orders is what the developer of the editor's end-to-end tests debugs: orders VARIABLE FILE tells whoever asks what
// it sees of its pod. orders.py and orders.js do the same.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"
)

const place = "desk" // this is edited, and the program restarted

func main() {
	http.HandleFunc("/", order)
	log.Fatal(http.ListenAndServe(":8080", nil))
}

func order(w http.ResponseWriter, r *http.Request) {
	caller := r.RemoteAddr
	given := os.Getenv("GIVEN")
	variable := os.Getenv(os.Args[1])
	text, _ := os.ReadFile(os.Args[2])
	file := strings.TrimSpace(string(text))
	host, _ := os.Hostname()

	fmt.Fprintf(w, "Order on your %s: %s, %s, %s, %s, to %s\n", place, host, variable, file, given, caller) // a breakpoint's line
}
