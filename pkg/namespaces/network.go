package namespaces

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	tunName = "tun0"
	// MTU of the TUN device, in bytes, and of the netstack at its other end: the largest IP packet less some room, since each
	// packet costs the same whatever its size.
	MTU = 65520

	loopMark = 0x57E9 // fwmark of what the session sends into lo; no other mark exists in these namespaces
)

// network makes the holder's network and returns the session's descriptors: TUN device, route socket, sock_diag socket and,
// where there is IPv6, the packet socket into lo.
func (h *holder) network() (files []int, err error) {
	ipv6 := hasIPv6()
	tun, err := openTun(h.plan.TunPath)
	if err != nil {
		return nil, err
	}
	files = append(files, tun)
	for _, protocol := range []int{unix.NETLINK_ROUTE, unix.NETLINK_INET_DIAG} {
		fd, err := openKernelSocket(protocol)
		if err != nil {
			return files, failedStep(stepNetwork, err, "socket(AF_NETLINK, %d)", protocol)
		}
		files = append(files, fd)
	}
	lo, dev, err := links()
	if err != nil {
		return files, err
	}
	h.settings(lo, dev, ipv6)
	if off, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + tunName + "/disable_ipv6"); err == nil && string(off) == "1\n" {
		ipv6 = false // and we could not switch it on
	}
	if err := bringUp(lo, dev); err != nil {
		return files, err
	}
	if err := h.addresses(dev, ipv6); err != nil {
		return files, err
	}
	if err := h.loopRoutes(lo, dev, ipv6); err != nil {
		return files, err
	}
	src := h.plan.first(true)
	if !ipv6 || !src.IsValid() {
		return files, h.rules(files[1], false, ipv6)
	}
	in6, err := openLoopback6(lo, dev, src)
	if err != nil {
		h.note("::1 stays inside: %v", err)
		return files, h.rules(files[1], false, true)
	}
	files = append(files, in6)
	return files, h.rules(files[1], true, true)
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

// openTun makes the device of this network namespace; it goes when the last descriptor does.
func openTun(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, failedStep(stepTun, err, "open(%s)", path)
	}
	ifr, err := unix.NewIfreq(tunName)
	if err == nil {
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		unix.Close(fd)
		return -1, failedStep(stepTun, err, "ioctl(%s, TUNSETIFF)", path)
	}
	return fd, nil
}

// What a device says of IPv4 addresses that are not its own: enum in include/uapi/linux/ip.h.
const (
	devconfRPFilter      = 8
	devconfAcceptLocal   = 23
	devconfRouteLocalnet = 26
)

// settings shapes the namespace's kernel, before its devices are up. Those of a device go by a message, since /proc/sys is
// read-only in most containers; what cannot be set there is noted.
func (h *holder) settings(lo, tun netlink.Link, ipv6 bool) {
	for _, dev := range []netlink.Link{lo, tun} {
		err := setDevice(dev, map[int]uint32{devconfRPFilter: 0, devconfAcceptLocal: 1, devconfRouteLocalnet: 1}) // 127/8 through the device
		if err != nil {
			h.note("%s stays as it is: %v", dev.Attrs().Name, err)
		}
	}
	set := [][2]string{
		{"ipv4/conf/all/rp_filter", "0"}, // the larger of all and the device's counts
		// Whoever has to give a flow up is the pod's kernel, which knows the way. (tcp_rto_max_ms, which would also mend a
		// long back-off here, shortens connect's time-out to some seconds.)
		{"ipv4/tcp_retries2", "255"},
	}
	if ipv6 {
		if err := netlink.LinkSetIP6AddrGenMode(tun, addressNone); err != nil {
			h.note("%s may have an IPv6 address of its own making: %v", tunName, err)
		}
		set = append(set,
			[2]string{"ipv6/conf/all/disable_ipv6", "0"}, // Docker's default is 1
			[2]string{"ipv6/conf/" + tunName + "/accept_ra", "0"},
			[2]string{"ipv6/conf/" + tunName + "/router_solicitations", "0"})
	}
	for _, kv := range set {
		if err := sysctl(kv[0], kv[1]); err != nil {
			h.note("%s stays as it is: %v", kv[0], err)
		}
	}
	// A pod's program may bind to 80. Root may anyway.
	if err := sysctl(lowestPort, "0"); err != nil && os.Geteuid() != 0 {
		h.ports = failedStep(stepPorts, err, "open(/proc/sys/net/%s)", lowestPort).(*stepError)
		h.note("%v", h.ports)
	}
}

const (
	lowestPort  = "ipv4/ip_unprivileged_port_start"
	addressNone = 1 // IN6_ADDR_GEN_MODE_NONE in include/uapi/linux/if_link.h: there is nobody to talk to by such an address
)

// setDevice sets a device's IPv4 configuration: IFLA_INET_CONF in include/uapi/linux/if_link.h.
func setDevice(dev netlink.Link, conf map[int]uint32) error {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(dev.Attrs().Index)
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	values := spec.AddRtAttr(unix.AF_INET, nil).AddRtAttr(unix.IFLA_INET_CONF, nil)
	for which, value := range conf {
		values.AddRtAttr(which, nl.Uint32Attr(value))
	}
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	req.AddData(msg)
	req.AddData(spec)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// sysctl sets one of the network namespace, unless it has that value or the kernel does not know it.
func sysctl(name, value string) error {
	path := "/proc/sys/net/" + name
	now, err := os.ReadFile(path)
	if err == nil && string(now) == value+"\n" {
		return nil
	}
	if err == nil {
		err = os.WriteFile(path, []byte(value), 0)
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Unwrap(err) // without the path
}

// links finds both devices.
func links() (lo, tun netlink.Link, err error) {
	if lo, err = netlink.LinkByName("lo"); err != nil {
		return nil, nil, failedStep(stepNetwork, err, "RTM_GETLINK lo")
	}
	if tun, err = netlink.LinkByName(tunName); err != nil {
		return nil, nil, failedStep(stepNetwork, err, "RTM_GETLINK %s", tunName)
	}
	return lo, tun, nil
}

func bringUp(lo, tun netlink.Link) error {
	if err := netlink.LinkSetUp(lo); err != nil {
		return failedStep(stepNetwork, err, "RTM_NEWLINK lo up")
	}
	if err := netlink.LinkSetMTU(tun, MTU); err != nil {
		return failedStep(stepNetwork, err, "RTM_NEWLINK %s mtu %d", tunName, MTU)
	}
	if err := netlink.LinkSetTxQLen(tun, 1000); err != nil { // packets; the device's own 500 are few for many flows at once
		return failedStep(stepNetwork, err, "RTM_NEWLINK %s qlen", tunName)
	}
	return failedStep(stepNetwork, netlink.LinkSetUp(tun), "RTM_NEWLINK %s up", tunName)
}

// addresses puts the pod's addresses on the device and, per family that it has, the default route.
func (h *holder) addresses(tun netlink.Link, ipv6 bool) error {
	for _, a := range h.plan.Addrs {
		if a.Is6() && !ipv6 {
			h.note("the pod's %v is left out: there is no IPv6 on this machine", a)
			continue
		}
		addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen())), Flags: unix.IFA_F_NODAD}
		if err := netlink.AddrAdd(tun, addr); err != nil {
			return failedStep(stepNetwork, err, "RTM_NEWADDR %v", a)
		}
	}
	for _, all := range []string{"0.0.0.0/0", "::/0"} {
		p := netip.MustParsePrefix(all)
		src := h.plan.first(p.Addr().Is6())
		if !src.IsValid() || src.Is6() && !ipv6 {
			continue // connect says ENETUNREACH, as in the pod
		}
		route := &netlink.Route{LinkIndex: tun.Attrs().Index, Dst: ipNet(p), Src: src.AsSlice()}
		if src.Is4() {
			route.Scope = netlink.SCOPE_LINK
		}
		if err := netlink.RouteAdd(route); err != nil {
			return failedStep(stepNetwork, err, "RTM_NEWROUTE %v", p)
		}
	}
	return nil
}

// loopRoutes fills the two tables: everything is local, and the loopback and the pod's own addresses go out by the device.
func (h *holder) loopRoutes(lo, tun netlink.Link, ipv6 bool) error {
	local := func(all string) *netlink.Route {
		return &netlink.Route{Table: tableAnswer, Dst: ipNet(netip.MustParsePrefix(all)), LinkIndex: lo.Attrs().Index,
			Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST}
	}
	routes := []*netlink.Route{local("0.0.0.0/0"), {Table: tableLoop, Dst: ipNet(loopback4), LinkIndex: tun.Attrs().Index,
		Src: net.IPv4(127, 0, 0, 1), Scope: netlink.SCOPE_LINK}}
	if ipv6 {
		routes = append(routes, local("::/0"))
	}
	for _, a := range h.plan.Addrs {
		if a.Is6() && !ipv6 {
			continue
		}
		r := &netlink.Route{Table: tableLoop, Dst: ipNet(netip.PrefixFrom(a, a.BitLen())), LinkIndex: tun.Attrs().Index, Src: a.AsSlice()}
		if a.Is4() {
			r.Scope = netlink.SCOPE_LINK
		}
		routes = append(routes, r)
	}
	for _, r := range routes {
		if err := netlink.RouteAdd(r); err != nil {
			return failedStep(stepNetwork, err, "RTM_NEWROUTE %v table %d", r.Dst, r.Table)
		}
	}
	return nil
}

// rules puts the fixed rules in order: the table of local addresses from first to last, the loopback before it, and what
// goes to the pod's own addresses: the pod has more listeners there than the debuggee's. The session adds the rules of single
// ports. Without loop6 ::1 stays native.
func (h *holder) rules(fd int, loop6, ipv6 bool) error {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return failedStep(stepNetwork, err, "fcntl(F_DUPFD)")
	}
	s, err := newKernelSocket(dup)
	if err != nil {
		unix.Close(dup)
		return err
	}
	defer s.close()
	add := []rule{{priority: priorityLocal, table: unix.RT_TABLE_LOCAL}, {priority: priorityLoop, table: tableLoop, to: loopback4, fromHere: true}}
	del := []rule{{table: unix.RT_TABLE_LOCAL}}
	if ipv6 {
		add = append(add, rule{v6: true, priority: priorityLocal, table: unix.RT_TABLE_LOCAL})
		del = append(del, rule{v6: true, table: unix.RT_TABLE_LOCAL})
	}
	if loop6 {
		add = append(add, rule{v6: true, priority: priorityMarked, table: unix.RT_TABLE_LOCAL, mark: loopMark},
			rule{v6: true, priority: priorityLoop, table: tableLoop, to: loopback6, fromHere: true})
	}
	for _, a := range h.plan.Addrs {
		for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} { // ICMP has no other way
			if a.Is4() || ipv6 {
				add = append(add, rule{v6: a.Is6(), priority: priorityLoop, table: tableLoop, to: netip.PrefixFrom(a, a.BitLen()), fromHere: true, protocol: protocol})
			}
		}
	}
	if err := s.addRules(add...); err != nil {
		return failedStep(stepNetwork, err, "RTM_NEWRULE")
	}
	return failedStep(stepNetwork, s.delRules(del...), "RTM_DELRULE")
}

// openLoopback6 sends ::1 out by the TUN device and makes the socket by which the answers come in. The kernel drops a packet
// from or to ::1 that any device but lo brings (ip6_rcv_core), so the TUN device cannot bring them; what a packet socket sends
// on lo comes in by lo. The mark leads it to the local table, past the rule that sends ::1 to the session. It receives nothing.
//
// The source of such a flow is the pod's address: the kernel wants one that is the device's own, and ::1 cannot be. So a pod without
// IPv6 has a native ::1; there "localhost" has 127.0.0.1 as well.
func openLoopback6(lo, tun netlink.Link, src netip.Addr) (int, error) {
	if err := netlink.RouteAdd(&netlink.Route{Table: tableLoop, Dst: ipNet(loopback6), LinkIndex: tun.Attrs().Index, Src: src.AsSlice()}); err != nil {
		return -1, fmt.Errorf("RTM_NEWROUTE ::1: %w", err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket(AF_PACKET): %w", err)
	}
	none := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K} // keep 0 bytes of whatever comes
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &none})
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, loopMark)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian16(unix.ETH_P_IPV6), Ifindex: lo.Attrs().Index})
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("preparing a packet socket: %w", err)
	}
	return fd, nil
}

// bigEndian16 is htons: both architectures that stepin runs on are little-endian.
func bigEndian16(v uint16) uint16 { return v<<8 | v>>8 }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
