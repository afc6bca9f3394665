// Package resolv reads a resolv.conf and asks its name servers, over UDP and, where an answer is cut short, TCP: the
// pod's for the agent, the developer's for the session. It carries questions and answers as they are; it must never
// make up an answer, and does not walk the search list: that is for who asks.
package resolv

import (
	"bytes"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Limits of resolv.conf(5), the library's own.
const (
	maxServers     = 3
	defaultTimeout = 5 * time.Second
	maxTimeout     = 30 * time.Second
	defaultTries   = 2
	maxTries       = 5
	port           = 53
)

// Conf is what a resolv.conf says, as far as it concerns us.
type Conf struct {
	Servers []netip.Addr
	Search  []string      // of the last search or domain line
	Timeout time.Duration // of one question to one server
	Tries   int           // how often all servers are asked
	TCP     bool          // use-vc
}

// ParseConf reads a resolv.conf. Like the library it skips what it does not understand, and without a server asks
// this machine's.
func ParseConf(b []byte) Conf {
	c := Conf{Timeout: defaultTimeout, Tries: defaultTries}
	for line := range bytes.Lines(b) {
		fields := strings.Fields(string(line))
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(fields[1]); err == nil && len(c.Servers) < maxServers {
				c.Servers = append(c.Servers, a.Unmap())
			}
		case "domain":
			c.Search = fields[1:2]
		case "search":
			c.Search = fields[1:]
		case "options":
			for _, o := range fields[1:] {
				c.option(o)
			}
		}
	}
	if len(c.Servers) == 0 {
		c.Servers = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	return c
}

func (c *Conf) option(o string) {
	name, value, _ := strings.Cut(o, ":")
	n, err := strconv.Atoi(value)
	switch {
	case o == "use-vc":
		c.TCP = true
	case err != nil || n < 1:
	case name == "timeout":
		c.Timeout = min(maxTimeout, time.Duration(min(n, 1000))*time.Second)
	case name == "attempts":
		c.Tries = min(maxTries, n)
	}
}
