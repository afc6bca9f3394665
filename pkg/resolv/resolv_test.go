package resolv

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func TestParseConf(t *testing.T) {
	local := netip.MustParseAddr("127.0.0.1")
	for in, want := range map[string]Conf{
		"": {Servers: []netip.Addr{local}, Timeout: 5 * time.Second, Tries: 2},
		"nameserver 10.0.0.10\nsearch a b\noptions ndots:5 timeout:2 attempts:3 use-vc\n": {Servers: []netip.Addr{netip.MustParseAddr("10.0.0.10")}, Search: []string{"a", "b"}, Timeout: 2 * time.Second, Tries: 3, TCP: true},
		"nameserver ::1\n nameserver fe80::1%eth0\nnameserver x\nnameserver 1.1.1.1\nnameserver 2.2.2.2\noptions timeout:9999999999 attempts:-1 timeout:77 attempts:99": {
			Servers: []netip.Addr{netip.MustParseAddr("::1"), netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("1.1.1.1")}, Timeout: 30 * time.Second, Tries: 5},
		"#nameserver 1.1.1.1\n;nameserver 1.1.1.1\nnameserver\noptions timeout:0": {Servers: []netip.Addr{local}, Timeout: 5 * time.Second, Tries: 2},
	} {
		got := ParseConf([]byte(in))
		if !slices.Equal(got.Servers, want.Servers) || !slices.Equal(got.Search, want.Search) || got.Timeout != want.Timeout || got.Tries != want.Tries || got.TCP != want.TCP {
			t.Errorf("%q: %+v, want %+v", in, got, want)
		}
	}
}

func query(t testing.TB, id uint16, name string, response bool) []byte {
	t.Helper()
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: id, Response: response},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeAAAA, Class: dnsmessage.ClassINET}}}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestMatch(t *testing.T) {
	q := query(t, 7, "a.example.", false)
	for _, c := range []struct {
		answer []byte
		want   error
	}{
		{query(t, 7, "a.example.", true), nil}, {query(t, 7, "A.eXample.", true), nil},
		{query(t, 8, "a.example.", true), errMismatch}, {query(t, 7, "b.example.", true), errMismatch},
		{q, errMismatch}, {nil, errMismatch}, {[]byte{0, 7, 0x80, 2, 0, 0, 0, 0, 0, 0, 0, 0}, nil}, {[]byte{0, 7, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0}, errMismatch},
	} {
		if err := match(q, c.answer); err != c.want {
			t.Errorf("%x: %v", c.answer, err)
		}
	}
	if what, err := Describe(q); what != "a.example. AAAA" || err != nil {
		t.Errorf("%q, %v", what, err)
	}
}

func TestAskRefusesNonsense(t *testing.T) {
	c := ParseConf(nil)
	if _, err := c.Ask(context.Background(), []byte("x")); !errors.Is(err, syscall.EINVAL) {
		t.Error(err)
	}
	if _, err := c.Ask(context.Background(), make([]byte, maxQuery+1)); !errors.Is(err, syscall.EMSGSIZE) {
		t.Error(err)
	}
}

func FuzzConf(f *testing.F) {
	f.Add("nameserver 10.0.0.10\noptions ndots:5 timeout:2 attempts:3\n")
	f.Fuzz(func(t *testing.T, s string) {
		c := ParseConf([]byte(s))
		if len(c.Servers) < 1 || len(c.Servers) > maxServers || c.Timeout < time.Second || c.Timeout > maxTimeout || c.Tries < 1 || c.Tries > maxTries {
			t.Errorf("%+v", c)
		}
	})
}

func FuzzMatch(f *testing.F) {
	q := query(f, 7, "a.example.", false)
	f.Add(q, query(f, 7, "a.example.", true))
	f.Fuzz(func(t *testing.T, q, a []byte) {
		if match(q, a) == nil {
			_ = unsure(a) // an answer that matches is long enough to be looked at
			if a[2]&0x80 == 0 {
				t.Error("a question is taken for an answer")
			}
		}
		_, _ = Describe(q)
	})
}
