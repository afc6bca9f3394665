package policy

import (
	"net/netip"
	"syscall"
	"testing"

	"github.com/stepin-dev/stepin/pkg/config"
)

func on() config.Outgoing { return config.Outgoing{TCP: true, UDP: true, Loopback: "auto"} }

func TestOutgoingVerdict(t *testing.T) {
	c := on()
	c.Host = []string{"*", "10.0.0.0/8", "db.shop.svc:5432", "*.example.com", "tcp://192.168.1.1:80", "fd00::/8", "127.0.0.1:5432", "*.b.example.net", "one.host"}
	c.Pod = []string{"10.1.0.0/16", "10.1.2.3:53", "api.example.com", "udp://*:53", "*.example.net", "db.shop.svc", "192.168.1.1", "[fd00:1::]:443", "8.8.8.8"}
	o, err := NewOutgoing(c)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		network, dst string
		names        []string
		want         Where
		rule         string
	}{
		{"tcp", "1.2.3.4:80", nil, Host, "*"},
		{"udp", "1.2.3.4:80", nil, Host, "*"},
		{"udp", "1.2.3.4:53", nil, Pod, "udp://*:53"},
		{"tcp", "1.2.3.4:53", nil, Host, "*"},
		{"tcp", "10.2.0.1:80", nil, Host, "10.0.0.0/8"},
		{"tcp", "10.1.0.1:80", nil, Pod, "10.1.0.0/16"},
		{"udp", "10.2.0.1:53", nil, Host, "10.0.0.0/8"}, // a CIDR is more exact than *:53
		{"udp", "10.1.2.3:53", nil, Pod, "10.1.2.3:53"},
		{"tcp", "[::ffff:10.1.0.1]:80", nil, Pod, "10.1.0.0/16"},
		{"tcp", "1.1.1.1:443", []string{"www.example.com"}, Host, "*.example.com"},
		{"tcp", "1.1.1.1:443", []string{"API.example.com."}, Pod, "api.example.com"},
		{"tcp", "1.1.1.1:443", []string{"example.com"}, Host, "*"},
		{"tcp", "1.1.1.1:443", []string{"notexample.net"}, Host, "*"},
		{"tcp", "1.1.1.1:443", []string{"a.example.net"}, Pod, "*.example.net"},
		{"tcp", "1.1.1.1:443", []string{"a.b.example.net"}, Host, "*.b.example.net"},
		{"tcp", "8.8.8.8:443", []string{"a.b.example.net"}, Pod, "8.8.8.8"},       // an address before a suffix
		{"tcp", "8.8.8.8:443", []string{"one.host"}, Host, "one.host"},            // a name before an address
		{"tcp", "10.1.0.1:443", []string{"x.example.com"}, Host, "*.example.com"}, // a suffix before a CIDR
		{"tcp", "10.9.9.9:5432", []string{"db.shop.svc"}, Host, "db.shop.svc:5432"},
		{"tcp", "10.9.9.9:5433", []string{"db.shop.svc"}, Pod, "db.shop.svc"},
		{"tcp", "10.9.9.9:5432", []string{"other", "db.shop.svc"}, Host, "db.shop.svc:5432"},
		{"tcp", "192.168.1.1:80", nil, Host, "tcp://192.168.1.1:80"},
		{"udp", "192.168.1.1:80", nil, Pod, "192.168.1.1"},
		{"tcp", "[fd00::1]:443", nil, Host, "fd00::/8"},
		{"tcp", "[fd00:1::]:443", nil, Pod, "[fd00:1::]:443"},
		{"tcp", "127.0.0.1:80", nil, HostThenPod, ""}, // * is not about loopback
		{"udp", "127.0.0.53:53", nil, HostThenPod, ""},
		{"tcp", "[::1]:80", nil, HostThenPod, ""},
		{"tcp", "127.0.0.1:5432", nil, Host, "127.0.0.1:5432"},
	}
	for _, tt := range tests {
		have := o.Verdict(tt.network, netip.MustParseAddrPort(tt.dst), tt.names...)
		if have.Where != tt.want || have.Rule != tt.rule || have.Errno != 0 {
			t.Errorf("%s %s %q: %v by %q, want %v by %q", tt.network, tt.dst, tt.names, have.Where, have.Rule, tt.want, tt.rule)
		}
	}
	for name, want := range map[string]Where{"x.example.com": Host, "api.example.com.": Pod, "a.example.net": Pod, "A.B.example.net": Host,
		"one.host": Host, "db.shop.svc": Host, "anything": Host} {
		if have := o.Name(name); have.Where != want {
			t.Errorf("the name %s is resolved by %v, want %v", name, have.Where, want)
		}
	}
	if !o.NeedNames() {
		t.Error("there are rules by name")
	}
}

func TestOutgoingDefaults(t *testing.T) {
	pod, loop := netip.MustParseAddrPort("10.0.0.1:80"), netip.MustParseAddrPort("127.0.0.1:80")
	for _, tt := range []struct {
		c             config.Outgoing
		tcp, udp, own Where
	}{
		{on(), Pod, Pod, HostThenPod},
		{config.Outgoing{TCP: true, UDP: true, Loopback: "host"}, Pod, Pod, Host},
		{config.Outgoing{TCP: true, UDP: true, Loopback: "pod"}, Pod, Pod, Pod},
		{config.Outgoing{TCP: false, UDP: true, Loopback: "pod"}, Host, Pod, Host},
		{config.Outgoing{TCP: true, UDP: false, Pod: []string{"*"}, Loopback: "auto"}, Pod, Host, HostThenPod},
	} {
		o, err := NewOutgoing(tt.c)
		if err != nil {
			t.Fatal(err)
		}
		tcp, udp, own := o.Verdict("tcp", pod).Where, o.Verdict("udp", pod).Where, o.Verdict("tcp", loop).Where
		if tcp != tt.tcp || udp != tt.udp || own != tt.own {
			t.Errorf("%+v: tcp %v, udp %v, loopback %v", tt.c, tcp, udp, own)
		}
		if o.NeedNames() || o.Name("x").Where != Pod {
			t.Errorf("%+v: names matter", tt.c)
		}
	}
	if _, err := NewOutgoing(config.Outgoing{Host: []string{"http://x"}}); err == nil {
		t.Error("a rule that cannot be read is accepted")
	}
}

// TestOutgoingOrder: the order in which rules are written means nothing.
func TestOutgoingOrder(t *testing.T) {
	host := []string{"10.0.0.0/8", "*", "*.a.b", "10.0.0.0/9", "tcp://10.0.0.0/9", "10.0.0.0/9:80"}
	dst := netip.MustParseAddrPort("10.0.0.1:80")
	for i := range host {
		c := on()
		c.Host = append(append([]string{}, host[i:]...), host[:i]...)
		o, err := NewOutgoing(c)
		if err != nil {
			t.Fatal(err)
		}
		if have := o.Verdict("tcp", dst); have.Rule != "10.0.0.0/9:80" {
			t.Errorf("%q: %q wins", c.Host, have.Rule)
		}
	}
}

func TestLost(t *testing.T) {
	if v := Lost("fail"); v.Where != Deny || v.Errno != syscall.ENETUNREACH {
		t.Errorf("%+v", v)
	}
	if v := Lost("host"); v.Where != Host {
		t.Errorf("%+v", v)
	}
	for w, word := range map[Where]string{Pod: "pod", Host: "host", HostThenPod: "host, then pod", Deny: "deny"} {
		if w.String() != word {
			t.Errorf("%d is %q", w, w)
		}
	}
}
