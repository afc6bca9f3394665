package parent

import (
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stepin-dev/stepin/agent/lease"
	"github.com/stepin-dev/stepin/agent/pair"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// An agent among the pod's own ports keeps its own; elsewhere that number is a port like any other.
func TestOwnPortStays(t *testing.T) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	own := uint16(l.Addr().(*net.TCPAddr).Port)
	p := &Parent{listener: l, table: lease.New(), target: &target{netns: netnsOf(os.Getpid())}}
	_, _, err = p.steal(pair.Steal{Ports: []wire.Port{{Network: "tcp", Port: 80}, {Network: "tcp", Port: own}}})
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "is where the agent itself listens in the pod") {
		t.Error(err)
	}
	if _, _, err = p.steal(pair.Steal{Ports: []wire.Port{{Network: "udp", Port: own}}}); !errors.Is(err, syscall.ESTALE) { // as far as one without a session gets
		t.Error(err)
	}
	p.target = &target{netns: 1}
	if _, _, err = p.steal(pair.Steal{Ports: []wire.Port{{Network: "tcp", Port: own}}}); !errors.Is(err, syscall.ESTALE) {
		t.Error(err)
	}
}
