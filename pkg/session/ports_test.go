package session

import (
	"net/netip"
	"testing"

	"github.com/stepin-dev/stepin/pkg/config"
)

func withPort(c config.Incoming, network string, number uint16, addrs ...string) *Session {
	s := &Session{config: &config.Launch{Incoming: c}}
	s.ports = newPorts(s)
	p := &port{network: network, number: number, stop: func() {}}
	for _, a := range addrs {
		p.addrs = append(p.addrs, netip.MustParseAddr(a))
	}
	s.ports.open[portKey{network, number}] = p
	return s
}

func TestDestination(t *testing.T) {
	for _, c := range []struct {
		name    string
		listens []string
		called  string
		want    string // "": refused, the pod has it
	}{
		{"any address", []string{"0.0.0.0"}, "10.1.0.7:80", "10.1.0.7:80"},
		{"both families by [::]", []string{"::"}, "10.1.0.7:80", "10.1.0.7:80"},
		{"IPv6 by [::]", []string{"::"}, "[fd00::7]:80", "[fd00::7]:80"},
		{"IPv4 listener, IPv6 caller", []string{"0.0.0.0"}, "[fd00::7]:80", ""},
		{"the pod's own address", []string{"10.1.0.7"}, "10.1.0.7:80", "10.1.0.7:80"},
		{"loopback listener, loopback caller", []string{"127.0.0.1"}, "127.0.0.1:80", "127.0.0.1:80"},
		{"loopback listener, another loopback address", []string{"127.0.0.1"}, "127.0.0.6:80", "127.0.0.1:80"},
		{"loopback listener, outside caller", []string{"127.0.0.1"}, "10.1.0.7:80", ""},
		{"pod-address listener, loopback caller", []string{"10.1.0.7"}, "127.0.0.1:80", ""},
		{"both", []string{"127.0.0.1", "10.1.0.7"}, "10.1.0.7:80", "10.1.0.7:80"},
		{"another port", []string{"0.0.0.0"}, "10.1.0.7:81", ""},
	} {
		s := withPort(config.Incoming{}, "tcp", 80, c.listens...)
		got, ok := s.ports.destination("tcp", netip.MustParseAddrPort(c.called))
		if want := c.want != ""; ok != want || ok && got.String() != c.want {
			t.Errorf("%s: %v, %v; want %q", c.name, got, ok, c.want)
		}
	}
}

func TestMappedPort(t *testing.T) {
	s := withPort(config.Incoming{Map: map[config.Port]config.Port{8080: 80}}, "tcp", 8080, "0.0.0.0")
	if got, ok := s.ports.destination("tcp", netip.MustParseAddrPort("10.1.0.7:80")); !ok || got.Port() != 8080 {
		t.Error(got, ok)
	}
	if pod, ok := s.takes(portKey{"tcp", 8080}); !ok || pod != 80 {
		t.Error(pod, ok)
	}
}

func TestTakes(t *testing.T) {
	for _, c := range []struct {
		in   config.Incoming
		port uint16
		want bool
	}{
		{config.Incoming{Mode: "steal"}, 80, true},
		{config.Incoming{Mode: "steal", Ports: []config.Port{80}}, 80, true},
		{config.Incoming{Mode: "steal", Ports: []config.Port{80}}, 81, false},
	} {
		s := &Session{config: &config.Launch{Incoming: c.in}}
		if _, got := s.takes(portKey{"tcp", c.port}); got != c.want {
			t.Errorf("%+v port %d: %v", c.in, c.port, got)
		}
	}
}
