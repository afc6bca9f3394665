package main

import (
	"strings"
	"testing"
	"time"
)

// TestTakenOver: the channel that comes back while the old one lives gets the session. A UDP port that it does not steal
// again is the pod's at once.
func TestTakenOver(t *testing.T) {
	p := servePod(t)
	a := startAgent(t, p.pid)
	one := a.join("one", "")
	one.mustSteal(tcp(8080), udp(8080))
	again := a.join("one", one.welcome.Resume)
	<-one.Done()
	until(t, time.Second, "the pod serves UDP", func() bool {
		p.try(command{Do: "connect", ID: "new", Network: "udp", Addr: podIP + ":8080", Client: true})
		return p.try(command{Do: "ask", ID: "new", Text: "hi", Milliseconds: 100}).Text == "pod hi"
	})
	again.mustSteal(tcp(8080), udp(8080))
	until(t, time.Second, "the session serves UDP", func() bool {
		p.try(command{Do: "connect", ID: "newer", Network: "udp", Addr: podIP + ":8080", Client: true})
		return strings.HasPrefix(p.try(command{Do: "ask", ID: "newer", Text: "hi", Milliseconds: 100}).Text, "session ")
	})
}
