package namespaces

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Priorities of the routing rules, in the order in which the kernel asks them, and the tables they name. The table of local
// addresses, first by default, comes last here: else nothing could be taken out of it.
const (
	priorityOwnPort = 1  // loopback and the pod's addresses, to or from a port that the debuggee listens on: native
	priorityMarked  = 2  // what the session sends into lo itself (see Loopback6)
	priorityAnswer  = 4  // answers to clients that transparent sockets stand for
	priorityLoop    = 5  // the rest of the loopback and of the pod's addresses: to the session
	priorityLocal   = 10 // the namespaces' own addresses

	tableAnswer = 101 // everything is local
	tableLoop   = 102 // loopback and the pod's addresses go out by the TUN device
)

var (
	loopback4 = netip.MustParsePrefix("127.0.0.0/8")
	loopback6 = netip.MustParsePrefix("::1/128")
)

// ownPort is a port that the debuggee listens on.
type ownPort struct {
	protocol uint8
	port     uint16
}

// rules keep the port's traffic between the namespaces' own addresses inside: the loopback and addrs. For TCP they also keep the answers to transparent clients inside, whatever
// address they go to; a listening port sends nothing else. A UDP socket may well ask others from the port on which it is
// asked (gossip, QUIC), and nobody stands for its clients.
func (p ownPort) rules(addrs []netip.Addr) []rule {
	var rules []rule
	here := []netip.Prefix{loopback4, loopback6}
	for _, a := range addrs {
		here = append(here, netip.PrefixFrom(a, a.BitLen()))
	}
	for _, to := range here {
		own := rule{v6: to.Addr().Is6(), priority: priorityOwnPort, table: unix.RT_TABLE_LOCAL, to: to, fromHere: true, protocol: p.protocol}
		there, back := own, own
		there.dport, back.sport = p.port, p.port
		rules = append(rules, there, back)
	}
	for _, v6 := range []bool{false, true} {
		if p.protocol == unix.IPPROTO_TCP {
			rules = append(rules, rule{v6: v6, priority: priorityAnswer, table: tableAnswer, protocol: p.protocol, sport: p.port})
		}
	}
	return rules
}

// OwnPort says that the debuggee listens on the port: what goes there from inside stays inside, and answers from it to the clients of
// transparent sockets find them. Network is "tcp" or "udp". Doing it twice is doing it once.
func (n *Namespaces) OwnPort(network string, port uint16) error { return n.setOwn(network, port, true) }

// DisownPort undoes OwnPort. Connections that are open to the port lose their way (see Connected).
func (n *Namespaces) DisownPort(network string, port uint16) error {
	return n.setOwn(network, port, false)
}

func (n *Namespaces) setOwn(network string, port uint16, own bool) error {
	protocol, err := protocolOf(network)
	if err != nil {
		return err
	}
	if port == noPort {
		return fmt.Errorf("namespaces: port 0 is no port")
	}
	p := ownPort{protocol, port}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.own[p] == own {
		return nil
	}
	rules := n.kernelHas(p.rules(n.addrs))
	if !own {
		delete(n.own, p)
		return n.route.delRules(rules...)
	}
	n.own[p] = true
	if err := n.route.addRules(rules...); err != nil {
		delete(n.own, p)
		n.route.delRules(rules...)
		return err
	}
	return nil
}

// kernelHas leaves out the IPv6 rules where the machine has no IPv6.
func (n *Namespaces) kernelHas(rules []rule) []rule {
	if n.ipv6 {
		return rules
	}
	var out []rule
	for _, r := range rules {
		if !r.v6 {
			out = append(out, r)
		}
	}
	return out
}
