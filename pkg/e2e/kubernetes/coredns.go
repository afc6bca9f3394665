package main

import (
	_ "github.com/coredns/caddy/onevent" // the hooks that plugins use
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	// Each one named here can be a line of the Corefile.
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/loop"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
)

// coreDNS serves by the Corefile that its flags name. The directives are those of the plugins above in the order in
// which a query passes through them; CoreDNS's own list names plugins that are not compiled in.
func coreDNS() int {
	dnsserver.Directives = []string{
		"reload", "log", "errors", "health", "ready", "cache", "loadbalance", "hosts", "kubernetes", "loop", "forward",
	}
	coremain.Run()
	return 0
}
