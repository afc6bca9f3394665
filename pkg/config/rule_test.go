package config

import (
	"net/netip"
	"testing"
)

func TestParseRule(t *testing.T) {
	pfx := netip.MustParsePrefix
	for in, want := range map[string]Rule{
		"*":                      {All: true},
		"*:53":                   {All: true, Port: 53},
		":53":                    {All: true, Port: 53},
		"udp://*:53":             {All: true, Port: 53, Network: "udp"},
		"tcp://db":               {Name: "db", Network: "tcp"},
		"DB.Shop.svc.:5432":      {Name: "db.shop.svc", Port: 5432},
		"*.example.com":          {Suffix: ".example.com"},
		"*.com:1":                {Suffix: ".com", Port: 1},
		"10.1.2.3":               {Prefix: pfx("10.1.2.3/32")},
		"10.1.2.3:80":            {Prefix: pfx("10.1.2.3/32"), Port: 80},
		"10.1.2.3/8:80":          {Prefix: pfx("10.0.0.0/8"), Port: 80},
		"::1":                    {Prefix: pfx("::1/128")},
		"[::1]:80":               {Prefix: pfx("::1/128"), Port: 80},
		"[::1]":                  {Prefix: pfx("::1/128")},
		"fd00::/8":               {Prefix: pfx("fd00::/8")},
		"[fd00::/8]:443":         {Prefix: pfx("fd00::/8"), Port: 443},
		"::ffff:10.0.0.1":        {Prefix: pfx("10.0.0.1/32")},
		"::ffff:10.0.0.0/104":    {Prefix: pfx("10.0.0.0/8")},
		"_srv._tcp.x-y.internal": {Name: "_srv._tcp.x-y.internal"},
	} {
		have, err := ParseRule(in)
		want.Text = in
		if err != nil || have != want {
			t.Errorf("%s: %+v, %v", in, have, err)
		}
	}
	for _, bad := range []string{"", ":", ":0", "db:", "db:0", "db:70000", "db:http", "http://db", "*db", "a*.b", "*.", "*.*.x", "a..b",
		"10.0.0", "10.0.0.256", "10.0.0.0/33", "[::1", "[::1]80", "fe80::1%eth0", "a b", "db/8", "tcp://", "x://y", "é.com"} {
		if r, err := ParseRule(bad); err == nil {
			t.Errorf("%q: accepted as %+v", bad, r)
		}
	}
}
