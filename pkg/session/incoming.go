package session

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/requests"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// deliverTimeout bounds the connect to the debuggee's listener. Its queue may be full because it stands at a
// breakpoint; then the client waits as it would before the pod, but not longer than a kernel lets it.
const deliverTimeout = 2 * time.Minute

// serve answers a stream that an agent opens.
func (s *Session) serve(l *link, r *mux.Request) {
	switch r.Kind {
	case wire.KindIncoming:
		s.serveIncoming(l, r)
	case wire.KindIncomingDG:
		s.serveDatagrams(r)
	case wire.KindCopy:
		s.serveCopy(l, r)
	default:
		r.Refuse(&wire.Refusal{Errno: syscall.EOPNOTSUPP, Message: fmt.Sprintf("session: streams of kind %d are not known here", r.Kind)})
	}
}

// serveIncoming hands a stolen connection to the debuggee: a socket bound to the true client's address, connected to
// the debuggee's listener. ECONNREFUSED gives it back to the pod.
func (s *Session) serveIncoming(l *link, r *mux.Request) {
	var in wire.Incoming
	if err := wire.Decode(r.Body, &in); err != nil {
		r.Refuse(err)
		return
	}
	flow := s.ports.admit(in)
	if flow == nil { // taken back meanwhile
		r.Refuse(syscall.ECONNREFUSED)
		return
	}
	defer flow.leave()
	dst, ok := s.ports.destination("tcp", in.Local)
	if !ok {
		r.Refuse(syscall.ECONNREFUSED)
		return
	}
	conn, err := flow.deliver(r.Context(), dst)
	s.log.Debug("incoming tcp", "client", in.Client, "local", in.Local, "to", dst, "err", err)
	if err != nil {
		r.Refuse(err)
		return
	}
	stream, err := r.Accept(nil)
	if err != nil {
		conn.Close()
		return
	}
	seen := s.readAlong(l, in.Client, dst, modeSteal)
	defer seen.End("")
	s.relays.Relay(stream, flow.carry(stream, conn, seen))
}

// readAlong has the feed follow a flow to the debuggee; nil where nobody listens.
func (s *Session) readAlong(l *link, client, dst netip.AddrPort, mode string) *requests.Flow {
	if s.feed == nil {
		return nil
	}
	from := netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
	return s.feed.Follow(requests.About{Pod: s.reach.pod(l), Port: dst.Port(), From: from, Mode: mode})
}

// deliver connects to the debuggee's listener from the client's address, as far as the front end can.
func (s *Session) deliver(ctx context.Context, client, dst netip.AddrPort) (*net.TCPConn, error) {
	return s.front.Deliver(ctx, client, dst)
}
