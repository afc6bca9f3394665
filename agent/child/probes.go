package child

import (
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/agent/probe"
	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

const (
	// headWait is how long a connection that may be a probe's gets for its first bytes: kubelet sends them with the
	// handshake's end. Whoever waits for the server to speak first gets the debuggee after it, and so does who only
	// keeps a connection in reserve.
	headWait = time.Second
	// bareWait is the same on a port that only a tcpSocket probe is for: kubelet closes at once. A client of a protocol in
	// which the server speaks first, that comes by way of the node, waits so long.
	bareWait = 200 * time.Millisecond
)

// Kinds of wire.Probe.
const (
	probeHTTP  = "http"
	probeHTTPS = "https"
	probeGRPC  = "grpc"
	probeTCP   = "tcp"
	probeExec  = "exec"
)

// probes are the health probes that a steal leaves to the pod.
type probes struct {
	all   []wire.Probe
	nodes []netip.Addr // where kubelet's come from
}

// watched is what of a connection to a port has to be looked at: nothing, mostly, and then it is not delayed.
type watched struct {
	targets          []string // of HTTP
	tls, grpc, empty bool
	exec             bool // its caller may be an exec probe's command
}

func (w watched) any() bool { return len(w.targets) > 0 || w.tls || w.grpc || w.empty }

// of finds what may be a probe of a connection from client to local. Probes come from the node, those for HTTP and gRPC by
// way of a mesh from the pod itself.
func (p probes) of(client, local netip.AddrPort) (w watched) {
	node := slices.Contains(p.nodes, client.Addr())
	self := client.Addr().IsLoopback() || client.Addr() == local.Addr()
	for _, one := range p.all {
		if one.Kind == probeExec {
			w.exec = w.exec || self && (one.Port == 0 || one.Port == local.Port())
			continue
		}
		if one.Port != local.Port() {
			continue
		}
		switch {
		case one.Kind == probeHTTP && (node || self):
			w.targets = append(w.targets, probe.Target(one.Path))
		case one.Kind == probeGRPC && (node || self):
			w.grpc = true
		case one.Kind == probeHTTPS && node:
			w.tls = true
		case one.Kind == probeTCP && node:
			w.empty = true
		}
	}
	return w
}

// isProbe says whether a stolen connection is a health probe's, which is for the pod. A connection is decided once: kubelet
// makes a new one for each. read is what had to be taken from it; its next owner gets that first, and then what rest reads.
func (c *Child) isProbe(st *steal, conn *net.TCPConn, client, local netip.AddrPort) (yes bool, read []byte, rest *greeted) {
	rest = &greeted{TCP: mux.TCP{TCPConn: conn}}
	w := st.probes.of(client, local)
	if w.exec && st.session.paused.Load() {
		return true, nil, rest
	}
	if !w.any() {
		return false, nil, rest
	}
	wait := headWait
	if len(w.targets) == 0 && !w.tls && !w.grpc {
		wait = bareWait
	}
	deadline := time.Now().Add(wait)
	_ = conn.SetReadDeadline(deadline)
	defer conn.SetReadDeadline(time.Time{})
	verdict, http2 := w.peek(conn)
	if http2 {
		_ = conn.SetWriteDeadline(deadline)
		defer conn.SetWriteDeadline(time.Time{})
		verdict, read = greet(rest)
	}
	return verdict == probe.Probe, read, rest
}

// peek looks at the first bytes and leaves them where they are. http2 says that they are a greeting that has to be answered
// before more will come.
func (w watched) peek(conn *net.TCPConn) (verdict probe.Verdict, http2 bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return probe.Other, false
	}
	buf := make([]byte, probe.MaxHead)
	err = raw.Read(func(fd uintptr) bool {
		n, _, err := unix.Recvfrom(int(fd), buf, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case err == unix.EAGAIN || err == unix.EINTR:
			return false
		case err != nil:
			verdict = probe.Other
		case n == 0:
			if verdict = probe.Other; w.empty {
				verdict = probe.Probe // it closed without a word
			}
		default:
			verdict, http2 = w.decide(buf[:n])
		}
		return verdict != probe.More || http2
	})
	if err != nil { // the deadline
		return probe.Other, false
	}
	return verdict, http2
}

// decide says what the bytes are of all that they may be.
func (w watched) decide(b []byte) (verdict probe.Verdict, http2 bool) {
	verdict = probe.Other
	better := func(v probe.Verdict) {
		if v == probe.Probe || v == probe.More && verdict == probe.Other {
			verdict = v
		}
	}
	if len(w.targets) > 0 {
		better(probe.HTTP1(b, w.targets))
	}
	if w.tls {
		better(probe.TLS(b))
	}
	if w.grpc {
		v, _ := probe.HTTP2(b)
		if http2 = v == probe.More && len(b) >= len(probe.Preface); http2 {
			return probe.More, true
		}
		better(v)
	}
	return verdict, false
}

// greet answers an HTTP/2 client's greeting in the server's place and reads until its first request is there. The
// server gets everything but the client's acknowledgement of that answer, which may come only after greet has given up:
// somebody may send a lot before it reads.
func greet(conn *greeted) (verdict probe.Verdict, read []byte) {
	if _, err := conn.Write(probe.Settings); err != nil {
		return probe.Other, nil
	}
	const part = 4 << 10
	verdict = probe.More
	for verdict == probe.More {
		read = slices.Grow(read, part)
		n, err := conn.TCPConn.Read(read[len(read) : len(read)+part])
		read = read[:len(read)+n]
		if verdict, _ = probe.HTTP2(read); err != nil {
			break
		}
	}
	conn.unacked = &probe.Unacked{}
	return verdict, conn.unacked.Filter(nil, read)
}

// greeted is a client's connection without the acknowledgement of our greeting, if there was one.
type greeted struct {
	mux.TCP
	unacked *probe.Unacked // nil: not greeted
	out     []byte         // what has passed it and was not read yet
}

// plain says that the connection can be read as it is.
func (g *greeted) plain() bool { return len(g.out) == 0 && (g.unacked == nil || g.unacked.Done) }

// Readable is mux.End's.
func (g *greeted) Readable() error {
	if len(g.out) > 0 {
		return nil
	}
	return g.TCP.Readable()
}

// Read may return nothing without an error: the acknowledgement was all that came.
func (g *greeted) Read(p []byte) (int, error) {
	if g.plain() {
		return g.TCPConn.Read(p)
	}
	var err error
	if len(g.out) == 0 {
		var n int
		n, err = g.TCPConn.Read(p)
		g.out = g.unacked.Filter(g.out[:0], p[:n])
		if err != nil {
			g.out = append(g.out, g.unacked.Held()...)
			g.unacked = nil
		}
	}
	n := copy(p, g.out)
	if g.out = g.out[n:]; len(g.out) > 0 {
		err = nil // the next read meets it again
	}
	return n, err
}

// checkProbes refuses what no pod's spec has.
func checkProbes(ask wire.Steal) error {
	if len(ask.Probes) > wire.MaxProbes || len(ask.Nodes) > wire.MaxNodes {
		return syscall.E2BIG
	}
	return nil
}
