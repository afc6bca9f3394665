package parent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
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

// A target in the agent's own network is none unless that is meant. Then there is nothing to enter, which would take rights,
// and no other program of that network is ever taken for the one that has ended.
func TestOwnNetwork(t *testing.T) {
	const stays = "STEPIN_TEST_STAYS"
	if os.Getenv(stays) != "" { // another process of the same executable, as long as its input lasts
		_, _ = io.Copy(io.Discard, os.Stdin)
		return
	}
	p := &Parent{Options: Options{Pod: fmt.Sprintf("local/%d", os.Getpid())}}
	if err := p.find(); err == nil || !strings.Contains(err.Error(), "shares this machine's own network") {
		t.Fatal(err)
	}
	p.target.close()
	p.HostNetwork = true
	if err := p.find(); err != nil {
		t.Fatal(err)
	}
	defer p.target.close()
	if netns, uts := p.target.elsewhere(); netns != nil || uts != nil {
		t.Error("own namespaces are to be entered")
	}
	again := exec.Command("/proc/self/exe", "-test.run=^TestOwnNetwork$")
	again.Env = append(os.Environ(), stays+"=1")
	in, err := again.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = in.Close(), again.Wait() }()
	if found := p.target.successor("", ticks()); found.pid != 0 {
		t.Errorf("process %d is taken for the target's successor", found.pid)
	}
}
