package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/stepin-dev/stepin/pkg/config"
)

// Where is where a flow leaves from.
type Where uint8

// The verdicts.
const (
	Pod         Where = iota // through the agent
	Host                     // from this machine
	HostThenPod              // loopback: from this machine, and where that refuses, through the agent
	Deny                     // not at all, with an errno
)

// String returns the word for logs.
func (w Where) String() string {
	return [...]string{"pod", "host", "host, then pod", "deny"}[w&3]
}

// Verdict is one decision.
type Verdict struct {
	Where Where
	Errno syscall.Errno // of Deny, else 0
	Rule  string        // the user's rule that decided, "" if none did
}

// Outgoing is the table of config.Outgoing. It does not change and may be used by any number of goroutines.
type Outgoing struct {
	tcp, udp bool
	loopback Where
	rules    []ranked // the most exact first
}

type ranked struct {
	config.Rule
	where Where
}

// NewOutgoing reads the rules. The error is about the first that cannot be read.
func NewOutgoing(c config.Outgoing) (*Outgoing, error) {
	o := &Outgoing{tcp: c.TCP, udp: c.UDP}
	switch c.Loopback {
	case "host":
		o.loopback = Host
	case "pod":
		o.loopback = Pod
	default:
		o.loopback = HostThenPod
	}
	for _, set := range []struct {
		where   Where
		entries []string
	}{{Pod, c.Pod}, {Host, c.Host}} {
		for _, entry := range set.entries {
			r, err := config.ParseRule(entry)
			if err != nil {
				return nil, fmt.Errorf("policy: reading outgoing rule %q: %w", entry, err)
			}
			o.rules = append(o.rules, ranked{r, set.where})
		}
	}
	slices.SortStableFunc(o.rules, func(a, b ranked) int { return slices.Compare(rank(b.Rule), rank(a.Rule)) })
	return o, nil
}

// rank orders rules by how exact they are: a name, an address, *.suffix (longer first), a CIDR (longer first), *;
// then with a port, then with a protocol. Among equals the pod's come first, because NewOutgoing reads them first.
func rank(r config.Rule) []int {
	port, network := 0, 0
	if r.Port != 0 {
		port = 1
	}
	if r.Network != "" {
		network = 1
	}
	switch {
	case r.Name != "":
		return []int{4, 0, port, network}
	case r.Prefix.IsValid() && r.Prefix.IsSingleIP():
		return []int{3, 0, port, network}
	case r.Suffix != "":
		return []int{2, len(r.Suffix), port, network}
	case r.Prefix.IsValid():
		return []int{1, r.Prefix.Bits(), port, network}
	default:
		return []int{0, 0, port, network}
	}
}

// NeedNames says whether a rule goes by name, so that the session must remember which name led to which address.
func (o *Outgoing) NeedNames() bool {
	return slices.ContainsFunc(o.rules, func(r ranked) bool { return r.Name != "" || r.Suffix != "" })
}

// Name says whose resolver answers for name: that of the place its flows will leave from. A rule with a port counts
// although the port is not known yet, so that a name only the host knows is found there.
func (o *Outgoing) Name(name string) Verdict {
	name = canonical(name)
	for _, r := range o.rules {
		if r.All && r.Port == 0 && r.Network == "" || matchName(r.Rule, name) {
			return Verdict{Where: r.where, Rule: r.Text}
		}
	}
	return Verdict{Where: Pod}
}

// Verdict decides on a flow. Network is "tcp" or "udp"; names are those that lately led to dst's address, in any
// order.
func (o *Outgoing) Verdict(network string, dst netip.AddrPort, names ...string) Verdict {
	if network == "tcp" && !o.tcp || network == "udp" && !o.udp {
		return Verdict{Where: Host}
	}
	addr := dst.Addr().Unmap().WithZone("")
	known := make([]string, len(names))
	for i, n := range names {
		known[i] = canonical(n)
	}
	for _, r := range o.rules {
		if r.Network != "" && r.Network != network || r.Port != 0 && r.Port != dst.Port() {
			continue
		}
		if r.All && !addr.IsLoopback() || r.Prefix.IsValid() && r.Prefix.Contains(addr) ||
			slices.ContainsFunc(known, func(n string) bool { return matchName(r.Rule, n) }) {
			return Verdict{Where: r.where, Rule: r.Text}
		}
	}
	if addr.IsLoopback() {
		return Verdict{Where: o.loopback}
	}
	return Verdict{Where: Pod}
}

func matchName(r config.Rule, name string) bool {
	return r.Name != "" && r.Name == name ||
		r.Suffix != "" && len(name) > len(r.Suffix) && strings.HasSuffix(name, r.Suffix)
}

func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// Lost is the verdict on new flows and look-ups while the pod cannot be reached; onLost is config.Launch's. The errno
// is that of a machine whose network is gone.
func Lost(onLost string) Verdict {
	if onLost == "host" {
		return Verdict{Where: Host}
	}
	return Verdict{Where: Deny, Errno: syscall.ENETUNREACH}
}
