package pod

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
)

// ParseRoutes reads the gateways of /proc/net/route (proc_pid_net(5)): addresses are in hexadecimal, in this machine's
// byte order.
func ParseRoutes(b []byte) (gateways []netip.Addr) {
	const gateway, fields = 2, 8
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		if len(f) < fields {
			continue
		}
		n, err := strconv.ParseUint(f[gateway], 16, 32)
		if err != nil || n == 0 {
			continue
		}
		var a [4]byte
		binary.NativeEndian.PutUint32(a[:], uint32(n))
		gateways = append(gateways, netip.AddrFrom4(a))
	}
	return gateways
}

// ParseRoutes6 reads the gateways of /proc/net/ipv6_route: in hexadecimal, in the network's byte order.
func ParseRoutes6(b []byte) (gateways []netip.Addr) {
	const gateway, fields = 4, 10
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		if len(f) < fields {
			continue
		}
		raw, err := hex.DecodeString(f[gateway])
		if err != nil || len(raw) != 16 {
			continue
		}
		if a := netip.AddrFrom16([16]byte(raw)); !a.IsUnspecified() {
			gateways = append(gateways, a.Unmap())
		}
	}
	return gateways
}
