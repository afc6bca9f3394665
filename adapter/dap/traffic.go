package dap

import (
	"math"
	"time"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/requests"
)

// requestEvent tells the editor of a request to the debuggee; its body is a requestBody.
const requestEvent = ownPrefix + "request"

// requestBody is what docs/protocol.md says.
type requestBody struct {
	ID         uint64    `json:"id"`
	Pod        string    `json:"pod"`
	Port       uint16    `json:"port"`
	Protocol   string    `json:"protocol"`
	Method     string    `json:"method,omitempty"`
	Path       string    `json:"path,omitempty"`
	From       string    `json:"from"`
	Status     *int      `json:"status,omitempty"`
	GRPCStatus *int      `json:"grpcStatus,omitempty"`
	MS         float64   `json:"ms"`
	BytesIn    int64     `json:"bytesIn"`
	BytesOut   int64     `json:"bytesOut"`
	Mode       string    `json:"mode"`
	At         time.Time `json:"at"`
	Error      string    `json:"error,omitempty"`
	Skipped    uint64    `json:"skipped,omitempty"`
}

func newRequestBody(r requests.Request) requestBody {
	b := requestBody{ID: r.ID, Pod: r.About.Pod, Port: r.About.Port, Protocol: r.Protocol, Method: r.Method, Path: r.Path,
		From: r.About.From.String(), MS: math.Round(float64(r.Took)/float64(time.Microsecond)) / 1000, BytesIn: r.In, BytesOut: r.Out,
		Mode: r.About.Mode, At: r.At.UTC().Truncate(time.Millisecond), Error: r.Error, Skipped: r.Skipped}
	if r.Protocol != requests.TCP {
		b.Status = &r.Status
	}
	if r.HasGRPC() {
		b.GRPCStatus = &r.GRPC
	}
	return b
}

// traffic tells the editor of each request, and prints a line of it if the configuration says so.
func (c *conversation) traffic(cfg *config.Launch) func(requests.Request) {
	line := func(requests.Request) {}
	if cfg.Incoming.Log {
		line = requests.NewLines(func(text string) {
			c.reply(newEvent("output", outputBody{Category: "console", Output: text + "\n"}))
		}).Tell
	}
	return func(r requests.Request) {
		c.reply(newEvent(requestEvent, newRequestBody(r)))
		line(r)
	}
}
