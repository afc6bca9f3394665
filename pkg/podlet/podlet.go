// Package podlet makes a small pod out of namespaces on this machine: a program with addresses, files, volumes, a
// resolver and neighbours of its own, and a network outside of it from which clients call. The demo shows stepin with
// it, the end-to-end tests compare a debuggee in its place with what it gets itself.
//
// The pod looks like one of Kubernetes with an image FROM scratch: a root of its own, mounts at its volumes and at
// resolv.conf, hosts and hostname only, PID 1 in a PID namespace. Root may give the program any identity. For an
// ordinary user everything is in a user namespace in which his id is 0, since 0 keeps its rights over an exec and can
// mount, route and bind there; no other id exists, so UID, GID and Groups must be 0 and none.
//
// It must never touch the machine's own network, mounts or disk: whatever it makes is in namespaces, and the kernel takes it
// back with the last process in them, whoever killed what.
package podlet

import (
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"path"
	"strings"
	"time"
)

// Spec says what the pod is like. The zero Spec is a pod, too: it has addresses and a process that waits.
type Spec struct {
	Hostname string         // "" = "podlet"
	Addrs    []netip.Prefix // of eth0; none = DefaultAddrs. The first address of each network is the outside's (Gateway).
	Outside  []netip.Addr   // further addresses of the outside: clients, and services that the pod may call
	Routes   []Route
	Files    []File // of its image
	Volumes  []Volume
	Resolver *Resolver // nil: resolv.conf names a server that nobody runs
	Sidecars []Sidecar
	Main     Main
	Log      *slog.Logger // nil: none
}

// DefaultAddrs are a pod's in a usual cluster with both families.
var DefaultAddrs = []netip.Prefix{netip.MustParsePrefix("10.244.1.9/24"), netip.MustParsePrefix("fd00:10:244::9/64")}

// Gateway is the address of the outside in a pod's network: the first one.
func Gateway(p netip.Prefix) netip.Addr { return p.Masked().Addr().Next() }

// Fate is what happens to packets of a Route.
type Fate string

// The fates. A route of the pod's own fails at once (ip-route(8)). Else the outside's router answers, as routers do: by ICMP, five at once and
// one more each second (net.ipv4.route.error_cost, which no namespace has of its own); and TCP heeds an answer that comes
// while connect still holds the socket only at its next SYN, a second later. UDP is told of Prohibited only.
const (
	Silent      Fate = "silent"      // no answer. Own: EINVAL
	Unreachable Fate = "unreachable" // ICMP host unreachable: EHOSTUNREACH (v4), ENETUNREACH (v6). Own: EHOSTUNREACH
	Prohibited  Fate = "prohibited"  // ICMP administratively prohibited: EHOSTUNREACH (v4), EACCES (v6). Own: EACCES
)

// Route makes destinations fail. An address that refuses is any of the outside's without a listener; one without a
// route is any that is not named: ENETUNREACH.
type Route struct {
	To   netip.Prefix
	Fate Fate
	Own  bool // in the pod's own table, else behind the gateway
}

// File is one of the image's. Parents are made with mode 0755.
type File struct {
	Path     string      // in the pod, absolute
	Data     string      // its content
	Host     string      // else: the file of this machine to copy
	Link     string      // else: a symbolic link to here
	Mode     fs.FileMode // 0 = 0644
	UID, GID int
}

// Volume is something mounted into the pod. A path below another volume's is not supported.
type Volume struct {
	Path     string            // in the pod, absolute
	Files    map[string]string // name (or name/in/directories) to content
	Links    map[string]string // name to where a symbolic link leads; Plain only
	Patterns map[string]int64  // name to length, in bytes, of a content made by Pattern; Plain only
	Plain    bool              // a directory; else as kubelet makes ConfigMaps and Secrets, with a ..data link
	SubPath  string            // mount this one of Files at Path, as subPath does
	Mode     fs.FileMode       // of the files, 0 = 0644
	UID, GID int               // owner and, as fsGroup does, group
	Writable bool
}

// Pattern fills p with the bytes that a patterned file has from off on. They repeat at no power of two.
func Pattern(p []byte, off int64) {
	for i := range p {
		at := off + int64(i)
		p[i] = byte(at%251) ^ byte(at>>16)
	}
}

// Sidecar is a neighbour in the pod's network.
type Sidecar struct {
	Network string // "tcp" or "udp"
	Addr    netip.AddrPort
	Serve   func(net.Conn) // one TCP connection; it is closed afterwards. nil: echo, as for UDP
}

// Main is the pod's program, started by Start and Restart.
type Main struct {
	Argv   []string // Argv[0] in the pod; the program must be static, since the image has no libraries. None: one that waits
	Env    []string // nothing is added
	Dir    string   // "" = /
	UID    int
	GID    int
	Groups []int
	Caps   uint64    // which capabilities it has, as a bit set (capabilities(7))
	Stdout io.Writer // nil: nowhere
	Stderr io.Writer
}

// Bounds. They keep a typing error from filling the machine's memory; the pod's files are there.
const (
	maxPattern = 4 << 30 // bytes
	maxRoutes  = 1000
)

// startTime bounds Start; it takes 60 ms on a quiet machine.
const startTime = 30 * time.Second

// checked fills in what was left out, and refuses what cannot be.
func (s Spec) checked() (Spec, error) {
	if s.Hostname == "" {
		s.Hostname = "podlet"
	}
	if len(s.Addrs) == 0 {
		s.Addrs = DefaultAddrs
	}
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	if s.Main.Dir == "" {
		s.Main.Dir = "/"
	}
	for _, a := range s.Addrs {
		if !a.IsValid() || a.Addr() == Gateway(a) || !a.Contains(Gateway(a)) {
			return s, fmt.Errorf("podlet: checking the spec: %v leaves no room for a gateway", a)
		}
	}
	if len(s.Routes) > maxRoutes {
		return s, fmt.Errorf("podlet: checking the spec: %d routes, at most %d", len(s.Routes), maxRoutes)
	}
	paths := []string{s.Main.Dir}
	for _, f := range s.Files {
		paths = append(paths, f.Path)
	}
	for _, v := range s.Volumes {
		if err := v.check(); err != nil {
			return s, err
		}
		paths = append(paths, v.Path)
	}
	for _, p := range paths {
		if !path.IsAbs(p) || path.Clean(p) != p {
			return s, fmt.Errorf("podlet: checking the spec: %q is not a clean absolute path", p)
		}
	}
	return s, nil
}

func (v Volume) check() error {
	if !v.Plain && len(v.Links)+len(v.Patterns) > 0 {
		return fmt.Errorf("podlet: checking the spec: volume %s: links and patterns are for plain ones", v.Path)
	}
	if _, ok := v.Files[v.SubPath]; v.SubPath != "" && !ok {
		return fmt.Errorf("podlet: checking the spec: volume %s has no file %s", v.Path, v.SubPath)
	}
	for name, n := range v.Patterns {
		if n < 0 || n > maxPattern {
			return fmt.Errorf("podlet: checking the spec: volume %s: %s of %d bytes", v.Path, name, n)
		}
	}
	return checkNames(v.Path, v.Files)
}

// checkNames refuses names that would leave the volume or be taken for the writer's own.
func checkNames(volume string, files map[string]string) error {
	for name := range files {
		if name == "" || path.IsAbs(name) || path.Clean(name) != name || strings.HasPrefix(name, "..") {
			return fmt.Errorf("podlet: checking the spec: volume %s cannot have a file %q", volume, name)
		}
	}
	return nil
}
