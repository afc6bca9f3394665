// Command orders is what the developer of TestVSCode debugs.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
)

func main() {
	http.HandleFunc("/", order)
	log.Print("orders listens on port 8080")
	log.Fatal(http.ListenAndServe(":8080", nil))
}

func order(w http.ResponseWriter, r *http.Request) {
	caller := r.RemoteAddr
	region := os.Getenv("REGION")
	limits, err := os.ReadFile("/etc/orders/config/limits.yaml")
	host, _ := os.Hostname()

	fmt.Fprintf(w, "%s on your desk, %s, %s %v, to %s\n", host, region, limits, err, caller) // a breakpoint's line
}
