// Command orders is the service of `stepin demo`: it tells what it knows of an order, and every part of the answer comes from
// somewhere that only its pod has. It must never know anything of stepin.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// by says who answers. What runs in the pod was built with another value; nothing else differs.
var by = "the program on your desk"

func main() {
	http.HandleFunc("GET /orders/{id}", order)
	log.Print("orders listens on port 8080")
	log.Fatal(http.ListenAndServe(":8080", nil))
}

func order(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	customer := r.RemoteAddr
	currency := os.Getenv("CURRENCY")
	greeting := read("/etc/orders/greeting")
	key := len(read("/var/run/secrets/orders/key")) // a secret: its length only
	warehouse := lookup(r.Context(), "warehouse")
	stock := get(r.Context(), "http://127.0.0.1:9000/stock/"+id)

	answer := fmt.Sprintf("%s Order %s: %s in stock at %s, 12.50 %s each.", greeting, id, stock, warehouse, currency)
	fmt.Fprintf(w, "%s (%s, to %s)\n", answer, by, customer) // the demo stops here
	log.Printf("answered %s, key of %d bytes", customer, key)
}

// read returns a file's text, without the end of its last line.
func read(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(data))
}

// lookup returns a name's first IPv4 address.
func lookup(ctx context.Context, name string) string {
	addrs, err := net.DefaultResolver.LookupIP(ctx, "ip4", name)
	if err != nil {
		return "?"
	}
	return addrs[0].String()
}

// get returns what another service says.
func get(ctx context.Context, url string) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "?"
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "?"
	}
	defer resp.Body.Close()
	const most = 1 << 10 // bytes
	text, err := io.ReadAll(io.LimitReader(resp.Body, most))
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(text))
}
