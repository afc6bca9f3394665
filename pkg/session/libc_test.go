package session

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/stepin-dev/stepin/pkg/preload"
)

func TestHostsOf(t *testing.T) {
	byName, byAddr := hostsOf([]byte("127.0.0.1 localhost # us\n::1\tlocalhost ip6-localhost\n\n# all\n10.244.1.9 Orders-1 orders\nnonsense x\n10.1.1.1\nfe80::1%eth0 router"))
	for name, want := range map[string]string{"localhost": "[127.0.0.1 ::1]", "orders-1": "[10.244.1.9]", "orders": "[10.244.1.9]", "router": "[fe80::1]", "x": "[]"} {
		var got []string
		for _, a := range byName[name] {
			got = append(got, a.String())
		}
		if text := "[" + strings.Join(got, " ") + "]"; text != want {
			t.Errorf("%s: %s, not %s", name, text, want)
		}
	}
	if got := byAddr[netip.MustParseAddr("10.244.1.9")]; got != "Orders-1" {
		t.Error(got)
	}
}

func FuzzHostsOf(f *testing.F) {
	f.Add([]byte("127.0.0.1 localhost\n::ffff:1.2.3.4 a b c\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		byName, byAddr := hostsOf(raw)
		for name, all := range byName {
			for _, a := range all {
				if !a.IsValid() || byAddr[a] == "" || name == "" {
					t.Errorf("%q: %v", name, a)
				}
			}
		}
	})
}

func TestCandidates(t *testing.T) {
	search := []string{"shop.svc.cluster.local", "svc.cluster.local."}
	for _, row := range []struct{ name, want string }{
		{"orders", "orders.shop.svc.cluster.local. orders.svc.cluster.local. orders."},
		{"a.b.c.d.e.f", "a.b.c.d.e.f. a.b.c.d.e.f.shop.svc.cluster.local. a.b.c.d.e.f.svc.cluster.local."},
		{"orders.", "orders."},
	} {
		if got := strings.Join(candidates(row.name, search, dots([]byte("search x\noptions timeout:1 ndots:5\n"))), " "); got != row.want {
			t.Errorf("%s: %s", row.name, got)
		}
	}
	if n := dots([]byte("nameserver 10.96.0.10\noptions ndots:-1")); n != usualDots {
		t.Error(n)
	}
	if n := dots([]byte("options ndots:99")); n != maxDots {
		t.Error(n)
	}
}

func TestReverseName(t *testing.T) {
	for addr, want := range map[string]string{
		"10.1.2.3":    "3.2.1.10.in-addr.arpa.",
		"2001:db8::7": "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.",
	} {
		if got := reverseName(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %s", addr, got)
		}
	}
}

func TestAddresses(t *testing.T) {
	name := dnsmessage.MustNewName("orders.shop.")
	alias := dnsmessage.MustNewName("o.shop.")
	answer := func(code dnsmessage.RCode, bodies ...dnsmessage.ResourceBody) []byte {
		m := dnsmessage.Message{Header: dnsmessage.Header{Response: true, RCode: code}}
		for _, b := range bodies {
			h := dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET}
			if _, ok := b.(*dnsmessage.CNAMEResource); ok {
				h.Name = alias
			}
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: b})
		}
		raw, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	found := addresses(answer(dnsmessage.RCodeSuccess, &dnsmessage.CNAMEResource{CNAME: name}, &dnsmessage.AResource{A: [4]byte{10, 1, 2, 3}}))
	if found.Result != preload.LookupFound || found.Canonical != "orders.shop" || !slices.Equal(found.Addrs, []netip.Addr{netip.MustParseAddr("10.1.2.3")}) {
		t.Errorf("%+v", found)
	}
	for _, row := range []struct {
		raw  []byte
		want uint32
	}{
		{answer(dnsmessage.RCodeSuccess), preload.LookupNoData},
		{answer(dnsmessage.RCodeNameError), preload.LookupNoName},
		{answer(dnsmessage.RCodeServerFailure), preload.LookupTryAgain},
		{nil, preload.LookupTryAgain},
		{[]byte("x"), preload.LookupTryAgain},
	} {
		if got := addresses(row.raw); got.Result != row.want || len(got.Addrs) > 0 {
			t.Errorf("%x: %+v, not %d", row.raw, got, row.want)
		}
	}
}
