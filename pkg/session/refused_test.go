package session

import (
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"testing"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// TestLackIsSaidOnce: what an agent has not the right to is said of its first port and not of each.
func TestLackIsSaidOnce(t *testing.T) {
	var mu sync.Mutex
	var lines []string
	s := &Session{config: &config.Launch{}, log: slog.New(slog.DiscardHandler)}
	s.options.Notice = func(line string) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, line)
	}
	p := newPorts(s)
	p.refused("tcp port 8080", "taken", "pod a", &wire.Refusal{Errno: syscall.EPERM, Message: "making a BPF map: operation not permitted"})
	p.refused("tcp port 9090", "taken", "pod a", &wire.Refusal{Errno: syscall.EPERM, Message: "making a BPF map: operation not permitted"})
	p.refused("tcp port 9090", "taken", "pod a", &wire.Refusal{Errno: syscall.EADDRINUSE, Message: "port 9090 is held by bob"})
	p.refused("tcp port 9090", "taken", "pod b", &wire.Refusal{Errno: syscall.EADDRINUSE, Message: "port 9090 is held by bob"})
	want := []string{"tcp port 8080 is not taken from pod a: making a BPF map: operation not permitted; so it is with every port",
		"tcp port 9090 is not taken from pod a: port 9090 is held by bob", "tcp port 9090 is not taken from pod b: port 9090 is held by bob"}
	if fmt.Sprint(lines) != fmt.Sprint(want) {
		t.Errorf("%q", lines)
	}
}
