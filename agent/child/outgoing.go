package child

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// datagramIdle ends a UDP flow on which nothing has moved: longer than a resolver or a game waits, shorter than the
// kernel's own tracking of a flow (nf_conntrack_udp_timeout_stream, 120 s).
const datagramIdle = 60 * time.Second

// dial makes an outgoing TCP flow. There is no time-out but the kernel's own, so that the debuggee gets the pod's
// ETIMEDOUT when the pod would; the session's giving up ends it.
func (c *Child) dial(r *mux.Request) {
	conn, ok := c.connect(r, "tcp")
	if !ok {
		return
	}
	tcp := conn.(*net.TCPConn)
	_ = tcp.SetNoDelay(true)
	if stream, ok := accepted(r, conn); ok {
		c.relays.Relay(stream, mux.TCP{TCPConn: tcp})
	}
}

func (c *Child) connect(r *mux.Request, network string) (net.Conn, bool) {
	var d wire.Dial
	if !decode(r, &d) {
		return nil, false
	}
	if d.Network != network || !d.Addr.IsValid() {
		r.Refuse(syscall.EINVAL)
		return nil, false
	}
	addr := netip.AddrPortFrom(d.Addr.Addr().Unmap(), d.Addr.Port())
	c.trace.note("dial", network+" "+addr.String(), false)
	dialer := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: network == "tcp", Idle: time.Minute, Interval: time.Minute, Count: 3}}
	dialer.SetMultipathTCP(false)
	conn, err := dialer.DialContext(r.Context(), network, addr.String())
	if err != nil {
		c.log.Debug("dial failed", "network", network, "addr", addr, "err", err)
		r.Refuse(&wire.Refusal{Errno: wire.ErrnoOf(err, syscall.EIO)})
		return nil, false
	}
	return conn, true
}

// accepted answers a dial with the addresses that the pod's kernel sees.
func accepted(r *mux.Request, conn net.Conn) (*mux.Stream, bool) {
	stream, err := r.Accept(wire.Dialed{Local: addrOf(conn.LocalAddr()), Remote: addrOf(conn.RemoteAddr())})
	if err != nil {
		conn.Close()
		return nil, false
	}
	return stream, true
}

func addrOf(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		ap = a.AddrPort()
	case *net.UDPAddr:
		ap = a.AddrPort()
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// associate makes an outgoing UDP flow.
func (c *Child) associate(r *mux.Request) {
	conn, ok := c.connect(r, "udp")
	if !ok {
		return
	}
	if stream, ok := accepted(r, conn); ok {
		c.relayDatagrams(stream, conn.(*net.UDPConn))
	}
}

// relayDatagrams moves datagrams between a stream's chunks and a connected socket until either ends or nothing has
// moved for datagramIdle. An errno of the socket (ECONNREFUSED after an ICMP) is a chunk and not the end.
//
// Goroutines: the caller's, which reads the stream, and one that reads the socket; both have ended on return.
func (c *Child) relayDatagrams(stream *mux.Stream, conn *net.UDPConn) {
	idle := newIdle(datagramIdle, func() { stream.Reset(syscall.ETIMEDOUT) })
	defer idle.stop()
	defer context.AfterFunc(stream.Context(), func() { conn.Close() })()
	var writing sync.Mutex // a chunk may take several frames: none of the other goroutine's may come between
	write := func(chunk []byte) error {
		writing.Lock()
		defer writing.Unlock()
		_, err := stream.Write(chunk)
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			frame, err := nextDatagram(conn)
			if err != nil {
				var no syscall.Errno
				if !errors.As(err, &no) {
					return // closed
				}
				frame = wire.AppendErrno(nil, no)
			}
			idle.touch()
			if err := write(frame); err != nil {
				return
			}
		}
	}()
	chunks := wire.NewChunkReader(stream)
	for {
		ch, err := chunks.Read()
		if err != nil {
			break
		}
		if ch.Type != wire.ChunkData {
			continue
		}
		idle.touch()
		if _, err := conn.Write(ch.Data); err != nil {
			var no syscall.Errno
			if !errors.As(err, &no) {
				break
			}
			if err := write(wire.AppendErrno(nil, no)); err != nil {
				break
			}
		}
	}
	conn.Close()
	<-done
	stream.Close()
}

// nextDatagram waits for a datagram without a buffer and reads it into one of its size: most are small, and many flows
// stand still.
func nextDatagram(conn *net.UDPConn) (frame []byte, err error) {
	size, err := waitDatagram(conn)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, max(size, 1))
	n, err := conn.Read(buf)
	if err != nil {
		return nil, err
	}
	return wire.AppendData(make([]byte, 0, n+4), buf[:n]), nil
}

// waitDatagram waits for a datagram and returns its length.
func waitDatagram(conn *net.UDPConn) (size int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var got error
	err = raw.Read(func(fd uintptr) bool {
		size, _, got = syscall.Recvfrom(int(fd), nil, syscall.MSG_PEEK|syscall.MSG_TRUNC|syscall.MSG_DONTWAIT)
		return got != syscall.EAGAIN
	})
	if err == nil && got != syscall.EINTR {
		err = got
	}
	return size, err
}

// idle calls a function when touch was not called for a while.
type idle struct {
	last  atomic.Int64
	after time.Duration
	timer *time.Timer
}

func newIdle(after time.Duration, f func()) *idle {
	i := &idle{after: after}
	i.touch()
	i.timer = time.AfterFunc(after, func() {
		left := after - time.Since(time.Unix(0, i.last.Load()))
		if left <= 0 {
			f()
			return
		}
		i.timer.Reset(left)
	})
	return i
}

func (i *idle) touch() { i.last.Store(time.Now().UnixNano()) }
func (i *idle) stop()  { i.timer.Stop() }
