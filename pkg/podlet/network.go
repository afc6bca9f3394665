package podlet

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The two ends of the wire between pod and outside.
const (
	insideName  = "eth0"
	outsideName = "pod0"
)

// network makes the pod's network namespace, joined to the warden's own, which is the outside and its router.
func (w *warden) network() error {
	var err error
	w.inside, err = newThread(func() error { return failed(unix.Unshare(unix.CLONE_NEWNET), "unshare(CLONE_NEWNET)") })
	if err != nil {
		return err
	}
	var pod int
	err = w.inside.do(func() (err error) {
		pod, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return failed(err, "open(/proc/thread-self/ns/net)")
	})
	if err != nil {
		return err
	}
	defer unix.Close(pod)
	ipv6 := hasIPv6()
	if !ipv6 {
		w.note("this kernel has no IPv6, and so the pod has none")
	}
	w.sysctls(shape(ipv6))
	w.sysctls(again)
	wire := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: insideName, PeerNamespace: netlink.NsFd(pod)}
	wire.Name = outsideName
	if err := netlink.LinkAdd(wire); err != nil {
		return failed(err, "RTM_NEWLINK veth")
	}
	if err := w.outsideEnd(ipv6); err != nil {
		return err
	}
	return w.inside.do(func() error {
		w.sysctls(shape(ipv6))
		return w.insideEnd(ipv6)
	})
}

// hasIPv6 says whether the kernel has IPv6 at all (ipv6.disable=1 or no module: it has not).
func hasIPv6() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

// again lets a client of the outside take the port of a connection that it has just closed (ip-sysctl, tcp_tw_reuse; the
// delay of 1 s before is to be had shorter since kernel 6.14), as many clients behind one address do.
var again = [][2]string{{"ipv4/tcp_tw_reuse", "1"}, {"ipv4/tcp_tw_reuse_delay", "1"}}

// shape is what both networks need.
func shape(ipv6 bool) [][2]string {
	set := [][2]string{
		{"ipv4/ip_forward", "1"},                                                   // the outside is a router, so that its routes can answer with ICMP
		{"ipv4/icmp_ratemask", "0"},                                                // none is rationed: a test asks often
		{"ipv4/ip_unprivileged_port_start", "0"}, {"ipv4/conf/all/rp_filter", "0"}, // as container runtimes do
	}
	if ipv6 {
		set = append(set, [2]string{"ipv6/conf/all/disable_ipv6", "0"}, // Docker's default is 1
			[2]string{"ipv6/conf/default/disable_ipv6", "0"}, [2]string{"ipv6/conf/default/accept_dad", "0"},
			[2]string{"ipv6/conf/all/forwarding", "1"}, [2]string{"ipv6/icmp/ratelimit", "0"})
	}
	return set
}

// sysctls shapes the calling thread's network. What cannot be set is noted; where /proc/sys is read-only, as in a container,
// once.
func (w *warden) sysctls(set [][2]string) {
	for _, kv := range set {
		err := os.WriteFile("/proc/sys/net/"+kv[0], []byte(kv[1]), 0)
		if errors.Is(err, unix.EROFS) {
			if note := "/proc/sys is read-only here, so the pod's network keeps the kernel's own settings"; !slices.Contains(w.notes, note) {
				w.note("%s", note)
			}
			return
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			w.note("%s stays as it is: %v", kv[0], errors.Unwrap(err))
		}
	}
}

// up brings a device up and returns it.
func up(name string) (netlink.Link, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return nil, failed(err, "RTM_GETLINK %s", name)
	}
	return l, failed(netlink.LinkSetUp(l), "RTM_NEWLINK %s up", name)
}

func (w *warden) outsideEnd(ipv6 bool) error {
	lo, err := up("lo")
	if err != nil {
		return err
	}
	dev, err := up(outsideName)
	if err != nil {
		return err
	}
	for _, p := range w.plan.Addrs {
		if err := addAddr(dev, netip.PrefixFrom(Gateway(p), p.Bits()), ipv6); err != nil {
			return err
		}
	}
	for _, a := range w.plan.Outside {
		if err := addAddr(lo, netip.PrefixFrom(a, a.BitLen()), ipv6); err != nil {
			return err
		}
	}
	return addFates(w.plan.Routes, false, ipv6)
}

func (w *warden) insideEnd(ipv6 bool) error {
	if _, err := up("lo"); err != nil {
		return err
	}
	dev, err := up(insideName)
	if err != nil {
		return err
	}
	routed := map[bool]bool{} // by family: the first address has the default route
	for _, p := range w.plan.Addrs {
		if err := addAddr(dev, p, ipv6); err != nil {
			return err
		}
		six := p.Addr().Is6()
		if routed[six] || six && !ipv6 {
			continue
		}
		routed[six] = true
		all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if six {
			all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		r := &netlink.Route{LinkIndex: dev.Attrs().Index, Dst: ipNet(all), Gw: Gateway(p).AsSlice(), Src: p.Addr().AsSlice()}
		if err := netlink.RouteAdd(r); err != nil {
			return failed(err, "RTM_NEWROUTE default via %v", Gateway(p))
		}
	}
	return addFates(w.plan.Routes, true, ipv6)
}

// addAddr adds an address that is usable at once, without asking whether somebody else has it.
func addAddr(dev netlink.Link, p netip.Prefix, ipv6 bool) error {
	if p.Addr().Is6() && !ipv6 {
		return nil
	}
	a := &netlink.Addr{IPNet: ipNet(p), Flags: unix.IFA_F_NODAD}
	return failed(netlink.AddrAdd(dev, a), "RTM_NEWADDR %v", p)
}

// addFates adds the routes of one side.
func addFates(routes []Route, own, ipv6 bool) error {
	types := map[Fate]int{Silent: unix.RTN_BLACKHOLE, Unreachable: unix.RTN_UNREACHABLE, Prohibited: unix.RTN_PROHIBIT}
	for _, r := range routes {
		if r.Own != own || r.To.Addr().Is6() && !ipv6 {
			continue
		}
		kind, ok := types[r.Fate]
		if !ok {
			return &Failure{Call: "route to " + r.To.String(), Text: "no such fate: " + string(r.Fate)}
		}
		if err := netlink.RouteAdd(&netlink.Route{Dst: ipNet(r.To), Type: kind}); err != nil {
			return failed(err, "RTM_NEWROUTE %s %v", r.Fate, r.To)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
