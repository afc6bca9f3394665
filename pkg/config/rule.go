package config

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Rule is one entry of outgoing.pod or outgoing.host: [tcp://|udp://](NAME|*.SUFFIX|IP|CIDR|*)[:PORT], where an IPv6
// address or CIDR with a port stands in brackets. Exactly one of Name, Suffix, Prefix and All is set.
type Rule struct {
	Text    string       // as written
	Network string       // "tcp", "udp", or "" for both
	Name    string       // an exact name, lower-case, without the final dot
	Suffix  string       // ".shop.svc": every name that ends so
	Prefix  netip.Prefix // an address is a prefix of full length
	All     bool         // "*"
	Port    uint16       // 0: every port
}

// ParseRule reads one entry. The error says what is wrong, without the entry's path.
func ParseRule(s string) (Rule, error) {
	r := Rule{Text: s}
	rest := s
	if before, after, ok := strings.Cut(s, "://"); ok {
		if before != "tcp" && before != "udp" {
			return r, fmt.Errorf("%q is neither tcp:// nor udp://", before+"://")
		}
		r.Network, rest = before, after
	}
	host, port, err := splitPort(rest)
	if err != nil {
		return r, err
	}
	r.Port = port
	if host == "*" || host == "" && port != 0 {
		r.All = true
		return r, nil
	}
	if p, ok := parsePrefix(host); ok {
		r.Prefix = p
		return r, nil
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	suffix, wild := strings.CutPrefix(name, "*")
	if wild && !strings.HasPrefix(suffix, ".") || !validName(strings.TrimPrefix(suffix, ".")) {
		return r, fmt.Errorf("%q is no name, *.suffix, address, CIDR or *", host)
	}
	if wild {
		r.Suffix = suffix
	} else {
		r.Name = name
	}
	return r, nil
}

// splitPort cuts ":PORT" off. More than one colon outside brackets is an IPv6 address without a port.
func splitPort(s string) (host string, port uint16, err error) {
	host = s
	if inside, after, ok := strings.Cut(strings.TrimPrefix(s, "["), "]"); strings.HasPrefix(s, "[") {
		if !ok || after != "" && after[0] != ':' {
			return "", 0, fmt.Errorf("the bracket in %q does not end before the port", s)
		}
		if after == "" {
			return inside, 0, nil
		}
		host, s = inside, after
	} else if strings.Count(s, ":") != 1 {
		return s, 0, nil
	} else {
		host = s[:strings.IndexByte(s, ':')]
	}
	word := s[strings.LastIndexByte(s, ':')+1:]
	v, err := strconv.ParseUint(word, 10, 16)
	if err != nil || v == 0 {
		return "", 0, fmt.Errorf("port %q is not between 1 and 65535", word)
	}
	return host, uint16(v), nil
}

// parsePrefix reads an address or a CIDR; ::ffff:1.2.3.4 is 1.2.3.4, as flows have it.
func parsePrefix(s string) (netip.Prefix, bool) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, false
	}
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return p.Masked(), true
}

// validName accepts what resolvers look up: labels of at most 63 letters, digits, hyphens and underscores, 253
// octets in all (RFC 1035, section 2.3.4). A name of digits and dots only is a mistyped address.
func validName(name string) bool {
	if len(name) == 0 || len(name) > 253 || strings.Trim(name, "0123456789.") == "" {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if len(label) == 0 || len(label) > 63 {
			return false
		}
		for _, c := range []byte(label) {
			letter := c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_'
			if !letter {
				return false
			}
		}
	}
	return true
}
