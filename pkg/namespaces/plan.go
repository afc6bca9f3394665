// Package namespaces is the front end that gives the debuggee user, mount, UTS and network namespaces of its own, shaped
// like the pod: the pod's addresses on a TUN device, its files at its own paths, its host name. Start makes them, through the
// holder (stepin itself, run again inside, see HolderMain); Wrap brings a program into them, through the stub.
//
// It holds no policy: which paths are covered, which ports are the debuggee's own and where a flow goes are the session's
// decisions. It must never change anything on the host that does not vanish with the last process inside (the mount points of
// makeMountPoints are the exception, and the keeper's to remove), follow the pod's symbolic links, nor ask for a right that an
// ordinary user lacks.
package namespaces

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
)

// Plan says what the holder is to build. It is plain data and travels as JSON.
type Plan struct {
	Hostname string       `json:"hostname,omitempty"` // "" = keep the machine's
	Addrs    []netip.Addr `json:"addrs,omitempty"`    // the pod's addresses; the first of each family is the default source
	Cover    []string     `json:"cover,omitempty"`    // absolute paths to take from the FUSE tree, from the same path there
	Hide     []string     `json:"hide,omitempty"`     // absolute host paths that are not to be seen
	Host     []string     `json:"host,omitempty"`     // absolute paths inside covered or hidden ones that stay the host's
	Blank    []string     `json:"blank,omitempty"`    // absolute host files that are empty inside, and so no programs
	Dir      string       `json:"dir"`                // the session's private directory, 0700; removed when all has ended, whoever ended it
	TunPath  string       `json:"tunPath,omitempty"`  // "" = /dev/net/tun
	FusePath string       `json:"fusePath,omitempty"` // "" = /dev/fuse
}

// Bounds of a plan. They keep it within one message of the control socket (see maxMessage) and the holder's start-up short.
const (
	maxAddrs = 16  // Kubernetes gives a pod one address per family; the rest is for multi-homed pods
	maxPaths = 512 // a pod with more mounts is not known
)

// The device nodes of every distribution.
const (
	usualTun  = "/dev/net/tun"
	usualFuse = "/dev/fuse"
)

// checked returns the plan with its defaults filled in, or says which of its values is wrong.
func (p Plan) checked() (Plan, error) {
	if p.TunPath == "" {
		p.TunPath = usualTun
	}
	if p.FusePath == "" {
		p.FusePath = usualFuse
	}
	if len(p.Addrs) > maxAddrs {
		return p, fmt.Errorf("namespaces: checking the plan: %d addresses, at most %d", len(p.Addrs), maxAddrs)
	}
	if n := len(p.Cover) + len(p.Hide) + len(p.Host) + len(p.Blank); n > maxPaths {
		return p, fmt.Errorf("namespaces: checking the plan: %d paths, at most %d", n, maxPaths)
	}
	for _, a := range p.Addrs {
		if !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.Is4In6() || a.Zone() != "" {
			return p, fmt.Errorf("namespaces: checking the plan: %v cannot be a pod's address", a)
		}
	}
	for _, f := range slices.Concat([]string{p.Dir, p.TunPath, p.FusePath}, p.Cover, p.Hide, p.Host, p.Blank) {
		if !path.IsAbs(f) || path.Clean(f) != f || f == "/" || strings.ContainsRune(f, 0) {
			return p, fmt.Errorf("namespaces: checking the plan: %q is not a clean absolute path below /", f)
		}
	}
	return p, nil
}

// first returns the first address of the family, or the zero Addr.
func (p Plan) first(is6 bool) netip.Addr {
	for _, a := range p.Addrs {
		if a.Is6() == is6 {
			return a
		}
	}
	return netip.Addr{}
}
