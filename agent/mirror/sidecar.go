package mirror

import (
	"fmt"
	"time"
)

// A mesh's sidecar ends a client's connection and makes another one to the service, over the loopback interface. Both are
// to the service's port: the first one's frames are shown before the kernel redirects them. The copy must be of the second
// alone, which is what the service gets, and is plain text. The first is known by this: there is something to the port by
// lo, and either no socket of the pod's belongs to the first (it was redirected), or it is TLS where the other is not.

const (
	// holdFor is how long a connection that may be such a first one is held back until there is a second. The sidecar makes
	// it when it has read the first request.
	holdFor = time.Second
	// unsureFor is the same where a socket may only have been looked for too late: any further segment settles that.
	unsureFor = 200 * time.Millisecond
	// directFor is how long a port that has proved to be no sidecar's is not asked about again.
	directFor = 10 * time.Second
)

// finder says whether a connection that comes by the network has a socket in the pod.
type finder func(key) bool

// port is what is known of one of the ports that are copied.
type port struct {
	loopback bool      // something comes by lo
	plain    bool      // and is not TLS
	sidecar  bool      // connections from elsewhere end in a sidecar
	direct   time.Time // until when they are taken not to
	tls      time.Time // until when those of TLS are
}

// hold is a connection's that is not handed over yet.
type hold struct {
	until time.Time
	tls   bool
}

func (c *Capture) port(one *conn) *port {
	if p := c.ports[one.local.Port()]; p != nil {
		return p
	}
	return &port{} // nobody's any more
}

// suspect looks for a connection's socket with its first segment, and what it takes to believe that there is none.
func (c *Capture) suspect(one *conn, s segment) {
	p := c.port(one)
	switch {
	case one.lo || one.suspect || one.spoke && one.unsure.IsZero():
	case one.begun != s.seq || !one.unsure.IsZero():
		// It sends: so it was open when no socket was found.
		one.suspect = !one.unsure.IsZero() && s.at.After(one.unsure) && len(s.payload) > 0 && !s.fin
		if one.suspect && one.hold != nil {
			one.hold.until = one.seen.Add(holdFor)
			c.settle(one)
		}
	case p.sidecar, c.now.Before(p.direct):
	case c.finder(one.key):
		p.direct = c.now.Add(directFor)
	default:
		one.unsure = time.Now()
	}
}

// consider decides about a connection that has sent its first bytes: it is handed over, held or ignored.
func (c *Capture) consider(one *conn, first []byte) {
	p := c.port(one)
	tls := clientHello(first)
	switch {
	case one.lo:
		c.release(one)
		return
	case p.sidecar && (!one.unsure.IsZero() || one.midway || tls || !c.finder(one.key)):
		one.ignore()
		return
	case tls && p.plain:
		c.found(p, one)
		return
	case one.suspect, tls && !c.now.Before(p.tls):
		one.hold = &hold{one.seen.Add(holdFor), tls}
	case !one.unsure.IsZero():
		one.hold = &hold{one.seen.Add(unsureFor), tls}
	default:
		c.release(one)
		return
	}
	c.settle(one)
}

// settle looks whether a connection that is held is a sidecar's.
func (c *Capture) settle(one *conn) {
	if p := c.port(one); one.hold != nil && (one.suspect && p.loopback || one.hold.tls && p.plain) {
		c.found(p, one)
	}
}

// heard notes what comes by lo, by which those that are held are decided.
func (p *port) heard(c *Capture, one *conn, data []byte, first bool) {
	plain := p.plain || (first || beginning(data)) && !clientHello(data)
	if !one.lo || p.loopback && plain == p.plain {
		return
	}
	p.loopback, p.plain = true, plain
	for _, other := range c.conns {
		if other.local.Port() == one.local.Port() {
			c.settle(other)
		}
	}
}

// found ignores a connection that ends in a sidecar, and says that such are.
func (c *Capture) found(p *port, one *conn) {
	p.sidecar = true
	for _, cp := range one.copies {
		cp.taker.say(fmt.Sprintf("connections to port %d end in a sidecar; what is copied is what that sends on", one.local.Port()))
	}
	one.ignore()
}

// ignore has nothing more to do with a connection.
func (one *conn) ignore() {
	one.ignored, one.hold = true, nil
	for _, cp := range one.copies {
		cp.end(errClosed)
	}
	one.copies = nil
}

// release hands a connection over for which the time has come.
func (c *Capture) release(one *conn) {
	if one.hold != nil {
		p := c.port(one)
		if p.direct = c.now.Add(directFor); one.hold.tls {
			p.tls = c.now.Add(directFor)
		}
		one.hold = nil
	}
	one.free = true
	for _, cp := range one.copies {
		cp.announce()
	}
}

// reveal is release before a connection's end.
func (c *Capture) reveal(one *conn) {
	if one.hold != nil {
		one.hold.tls = false // it was too short to say
		c.release(one)
	}
}
