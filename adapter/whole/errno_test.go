package whole

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/stepin-dev/stepin/pkg/podlet"
)

// The outside of the errno test: a server's address, and networks that fail in each way, behind a router or by the
// pod's own routes.
var (
	errnoServer     = [2]string{"203.0.113.7", "2001:db8:7::7"}
	errnoNoRoute    = [2]string{"198.51.100.1", "2001:db8:9::1"}
	errnoSilent     = [2]string{"192.0.2.1", "2001:db8:1::1"}
	errnoFar        = [2]string{"192.0.2.65", "2001:db8:2::1"} // unreachable, a router says
	errnoFilter     = [2]string{"192.0.2.129", "2001:db8:3::1"}
	errnoOwnFar     = [2]string{"192.0.2.193", "2001:db8:4::1"}
	errnoOwnFilter6 = "2001:db8:5::1"
)

func errnoRoutes() (routes []podlet.Route) {
	for family, bits := range []int{26, 64} {
		for _, r := range []podlet.Route{{Fate: podlet.Silent}, {Fate: podlet.Unreachable}, {Fate: podlet.Prohibited}, {Fate: podlet.Unreachable, Own: true}} {
			at := map[string][2]string{"silent": errnoSilent, "unreachable": errnoFar, "prohibited": errnoFilter}[string(r.Fate)]
			if r.Own {
				at = errnoOwnFar
			}
			r.To = netip.PrefixFrom(netip.MustParseAddr(at[family]), bits).Masked()
			routes = append(routes, r)
		}
	}
	return append(routes, podlet.Route{To: netip.PrefixFrom(netip.MustParseAddr(errnoOwnFilter6), 64).Masked(), Fate: podlet.Prohibited, Own: true})
}

// errnoServe resets or closes as programs/errno asks for by its first byte.
func errnoServe(c net.Conn) {
	defer c.Close()
	b := make([]byte, 1)
	if _, err := c.Read(b); err != nil {
		return
	}
	switch b[0] {
	case 'c':
		return
	case 'l':
		_, _ = c.Write([]byte("hello"))
	case 'h':
		_, _ = c.Write([]byte("hello"))
		_, _ = c.Read(b)
	}
	_ = c.(*net.TCPConn).SetLinger(0) // a reset (socket(7))
}

// acceptAll hands every connection to each, until the listener is closed.
func acceptAll(l net.Listener, each func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go each(c)
	}
}

// TestErrno runs one program in the pod and in its place, and compares what it says word for word: so errno, number and
// kind of events and the order of what comes are those of the pod. What the pod says is checked, too, that the comparison is of
// what it is thought to be.
//
// Not equal, and so not here: what the pod's kernel knows by its own routes is told at once there (a datagram's errno
// by send itself), and an instant later here; EACCES of the pod's own route over IPv4 is EHOSTUNREACH here, since no packet
// tells that errno (see pkg/netstack); ICMP errors that a socket hears with IP_RECVERR only.
func TestErrno(t *testing.T) {
	exe := program(t, "errno")
	server := []netip.Addr{netip.MustParseAddr(errnoServer[0]), netip.MustParseAddr(errnoServer[1])}
	var pods [2]*podlet.Pod
	for i := range pods {
		pods[i] = pod(t, podlet.Spec{Outside: server, Routes: errnoRoutes(), Files: []podlet.File{{Path: "/errno", Host: exe, Mode: 0o755}}})
		for _, a := range server {
			l, err := pods[i].Outside.Listen(limit(t), "tcp", netip.AddrPortFrom(a, 7000))
			if err != nil {
				t.Fatal(err)
			}
			go acceptAll(l, errnoServe)
		}
	}
	type row struct {
		network, what string
		to            [2]string
		port          int
		want          [2]string // of each family, in every line; "" = anything that is equal
		suffix        string
	}
	both := func(s string) [2]string { return [2]string{s, s} }
	only4 := func(s string) [2]string { return [2]string{0: s} }
	only6 := func(s string) [2]string { return [2]string{1: s} }
	rows := []row{
		{"tcp", "connect", errnoServer, 7001, both("ECONNREFUSED"), ""},
		{"tcp", "connect", only6(errnoFar[1]), 1, only6("ENETUNREACH"), ""},
		{"tcp", "connect", only6(errnoFilter[1]), 1, only6("EACCES"), ""},
		{"tcp", "connect", only6(errnoNoRoute[1]), 1, only6("ENETUNREACH"), ""},
		{"tcp", "connect", errnoSilent, 1, both("ETIMEDOUT"), ""},
		{"tcp", "short", errnoSilent, 1, both(""), ""},
		{"tcp", "quiet", errnoOwnFar, 1, both("EHOSTUNREACH"), ""},
		{"tcp", "quiet", only6(errnoOwnFilter6), 1, only6("EACCES"), ""},
		{"tcp", "reset", errnoServer, 7000, both("ECONNRESET"), ""},
		{"tcp", "answer", errnoServer, 7000, both("ECONNRESET"), ""},
		{"tcp", "last", errnoServer, 7000, both("hello"), ""},
		{"tcp", "flood", errnoServer, 7000, both("ECONNRESET"), ""},
		{"tcp", "closed", errnoServer, 7000, both("EPIPE"), ""},
		{"udp", "connect", errnoServer, 7001, both("ECONNREFUSED"), ""},
		{"udp", "connect", only6(errnoFilter[1]), 1, only6("EACCES"), ""},
		{"udp", "connect", errnoSilent, 1, both(""), ""},
		{"udp", "connect", only6(errnoFar[1]), 1, both(""), ""}, // no socket is told without IP_RECVERR
		{"udp", "quiet", only4(errnoOwnFar[0]), 1, only4("EHOSTUNREACH"), ""},
		{"udp", "quiet", only6(errnoOwnFilter6), 1, only6("EACCES"), ""},
		// A router's ICMP over IPv4 is rationed (see podlet.Fate): one way each, and not all at once.
		{"tcp", "quiet", only4(errnoFar[0]), 1, only4("EHOSTUNREACH"), "/epoll/0s"},
		{"tcp", "quiet", only4(errnoFilter[0]), 1, only4("EHOSTUNREACH"), "/blocking/2s"},
		{"tcp", "quiet", only4(errnoNoRoute[0]), 1, only4("ENETUNREACH"), "/go/4s"},
		{"udp", "quiet", only4(errnoFilter[0]), 1, only4("EHOSTUNREACH"), "/go/5s"},
	}
	var args []string
	wants := map[string]string{}
	for _, r := range rows {
		for family, a := range r.to {
			if a == "" {
				continue
			}
			arg := fmt.Sprintf("%s/%s/%s%s", r.network, r.what, netip.AddrPortFrom(netip.MustParseAddr(a), uint16(r.port)), r.suffix)
			args = append(args, arg)
			wants[arg] = r.want[family]
		}
	}
	// Two pods that are alike, so that neither uses up the other's ration.
	themselves := make(chan string, 1)
	go func() {
		out, err := pods[0].Exec(limit(t), append([]string{"/errno"}, args...)...)
		if err != nil {
			t.Errorf("in the pod: %v", err)
		}
		themselves <- out
	}()
	r := run(t, pods[1], nil, append([]string{exe}, args...)...)
	inPod := <-themselves
	if r.status != 0 {
		t.Fatalf("status %d\n%s", r.status, r.stderr)
	}
	theirs, ours := strings.Split(inPod, "\n"), strings.Split(strings.TrimSpace(r.stdout), "\n")
	if len(theirs) < 2*len(args) || len(ours) != len(theirs) {
		t.Fatalf("%d lines in the pod, %d in its place, at least %d wanted\n%s", len(theirs), len(ours), 2*len(args), r.stdout)
	}
	for i, line := range theirs {
		arg, _, _ := strings.Cut(line, " ")
		if want, ok := wants[arg]; !ok || !strings.Contains(line, want) {
			t.Errorf("the pod itself says %q, which is no %s", line, want)
		}
		if ours[i] != line {
			t.Errorf("in the pod:   %s\nin its place: %s", line, ours[i])
		}
	}
	t.Logf("%d lines are equal", len(theirs))
}
