package cluster

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"

	"github.com/stepin-dev/stepin/pkg/e2e/node"
)

// connected tells whether the machine has its end of the veth pair.
func connected() bool {
	_, err := netlink.LinkByName(Link)
	return err == nil
}

// connect makes a veth pair between this machine and the network namespace of a process.
func connect(pid int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = Link
	err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: node.Link, PeerNamespace: netlink.NsPid(pid)})
	if err != nil {
		return fmt.Errorf("cluster: making %s: %w", Link, err)
	}
	link, err := netlink.LinkByName(Link)
	if err != nil {
		return fmt.Errorf("cluster: %s: %w", Link, err)
	}
	addr, err := netlink.ParseAddr(fmt.Sprintf("%s/%d", node.Machine, node.Prefix))
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("cluster: address of %s: %w", Link, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("cluster: %s: %w", Link, err)
	}
	return nil
}

// disconnect removes the pair, if the end of the other namespace has not yet.
func disconnect() error {
	link, err := netlink.LinkByName(Link)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cluster: %s: %w", Link, err)
	}
	if err := netlink.LinkDel(link); err != nil && connected() {
		return fmt.Errorf("cluster: removing %s: %w", Link, err)
	}
	return nil
}

// free refuses a machine where the cluster's own network already leads somewhere: it would be cut off.
func free() error {
	_, subnet, err := net.ParseCIDR(node.Subnet)
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("cluster: reading routes: %w", err)
	}
	for _, r := range routes {
		if ones, _ := mask(r.Dst); ones == 0 {
			continue // the default route
		}
		if subnet.Contains(r.Dst.IP) || r.Dst.Contains(subnet.IP) {
			return fmt.Errorf("cluster: %s, which it wants for itself, has a route on this machine: %s\nhint: remove the route, or run the tests elsewhere", node.Subnet, r)
		}
	}
	return nil
}

func mask(n *net.IPNet) (ones, bits int) {
	if n == nil {
		return 0, 0
	}
	return n.Mask.Size()
}
