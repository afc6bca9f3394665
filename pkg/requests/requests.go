// Package requests reads the flows between a pod's clients and the debuggee along, and tells of each request of HTTP/1 and
// h2c once it has been answered: what was asked, by whom, the status and how long it took. Of what is not HTTP it tells how
// many bytes went each way.
//
// It is shown the bytes as they pass. It must never hold, delay or change one, nor fail whoever shows them to it: what it
// cannot follow (or has no memory left for) it only counts. It must never keep or log a header's value or a body: only the
// method, the path with its query, the status and gRPC's. (HPACK's tables hold values while a connection of HTTP/2 lives.)
package requests

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// About says whose flow it is.
type About struct {
	Pod  string
	Port uint16 // the debuggee's
	From netip.AddrPort
	Mode string // steal or mirror
}

// TCP is the protocol of a flow that is not HTTP, or cannot be read as such.
const TCP = "TCP"

// Request is one request of HTTP, or one connection of another protocol that has ended. One that is not HTTP has neither
// method nor path nor status.
type Request struct {
	ID       uint64 // ascending; what was skipped has one, too
	About    About
	Protocol string // HTTP/1.1, HTTP/1.0, HTTP/2 or TCP
	Method   string
	Path     string // with the query as it was sent; what is not printable is percent-encoded, what is too long ends with …
	Status   int    // 0: never answered
	GRPC     int    // gRPC's status, or noGRPC
	At       time.Time
	Took     time.Duration // from its first byte to the last of its answer; at a breakpoint that is long
	In, Out  int64         // bytes, with header and framing: of the request, and of the answer
	Error    string        // why there is no answer, or no whole one
	Skipped  uint64        // how many requests before this one were not told
}

// noGRPC is Request.GRPC where there is none: 0 means that all went well.
const noGRPC = -1

// HasGRPC says whether the answer had a status of gRPC's.
func (r *Request) HasGRPC() bool { return r.GRPC != noGRPC }

// Line is the request in one line: `GET /orders?id=7  200  12 ms  from 10.0.0.7:4711`.
func (r *Request) Line() string {
	var parts []string
	if r.Protocol == TCP {
		parts = append(parts, fmt.Sprintf("TCP port %d", r.About.Port), fmt.Sprintf("%d bytes in, %d out", r.In, r.Out))
	} else {
		parts = append(parts, strings.TrimSpace(r.Method+" "+r.Path))
	}
	if r.Status != 0 {
		parts = append(parts, strconv.Itoa(r.Status))
	}
	if r.HasGRPC() {
		parts = append(parts, "grpc-status "+strconv.Itoa(r.GRPC))
	}
	if r.Error != "" {
		parts = append(parts, r.Error)
	}
	return strings.Join(append(parts, duration(r.Took), "from "+r.About.From.String()), "  ")
}

// duration rounds to what a reader compares.
func duration(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	default:
		return d.Round(time.Second).String()
	}
}

// maxPath bounds a path with its query, in bytes as they were sent: what is longer says no more to a reader.
const maxPath = 2 << 10

// printable is a path as Request has it: nothing in it can move a terminal's cursor or turn its text around.
func printable[T string | []byte](path T, cut bool) string {
	if len(path) > maxPath {
		path, cut = path[:maxPath], true
	}
	var b strings.Builder
	b.Grow(len(path) + 3)
	for rest := string(path); rest != ""; {
		r, size := utf8.DecodeRuneInString(rest)
		if r == ' ' || r == utf8.RuneError && size == 1 || !unicode.IsPrint(r) {
			for _, c := range []byte(rest[:size]) {
				fmt.Fprintf(&b, "%%%02X", c)
			}
		} else {
			b.WriteString(rest[:size])
		}
		rest = rest[size:]
	}
	if cut {
		b.WriteString("…")
	}
	return b.String()
}
