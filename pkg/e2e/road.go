package e2e

import (
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/pkg/e2e/node"
	"github.com/stepin-dev/stepin/pkg/e2e/road"
)

// Road is what lies between this machine and the API server.
type Road = road.State

// Road makes the road another until the test ends or until it is set again; Road{} is the plain one. All tests share
// it, so those that use it cannot be parallel.
func (c *Cluster) Road(t testing.TB, state Road) {
	t.Helper()
	n := c.Node(t)
	t.Cleanup(c.straight)
	c.road.Lock()
	defer c.road.Unlock()
	switch {
	case c.road.open != nil:
		c.road.open.Set(state)
	case state != Road{}:
		open, err := n.pave(state)
		if err != nil {
			t.Fatal(err)
		}
		c.road.open = open
	}
}

// straight takes the road away.
func (c *Cluster) straight() {
	c.road.Lock()
	defer c.road.Unlock()
	if c.road.open != nil {
		c.road.open.Close()
		c.road.open = nil
	}
}

// Cut loses everything between this machine and the API server for a while, and returns when it is over.
func (c *Cluster) Cut(t testing.TB, d time.Duration) {
	t.Helper()
	c.Road(t, Road{Loss: 1})
	time.Sleep(d)
	c.Road(t, Road{})
}

func (n *Node) pave(state Road) (*road.Road, error) {
	there, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", n.pid))
	if err != nil {
		return nil, fmt.Errorf("e2e: %w", err)
	}
	defer there.Close()
	return road.Open([2]road.End{
		{Device: "stepin-road", Address: net.ParseIP(node.Machine)},
		{Device: "road0", Address: net.ParseIP(node.Address), Netns: there},
	}, state)
}
