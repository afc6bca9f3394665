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

const (
	// maxAssociations bounds the stolen UDP flows of one socket: anybody can make one with one datagram.
	maxAssociations = 2048
	// maxQueued datagrams wait for a flow that begins or stands still; the next are dropped, as a kernel does.
	maxQueued = 16
	// maxQueuedBytes bounds what all flows of a socket have queued: 16 large datagrams each of 2,048 flows would be 2 GiB.
	maxQueuedBytes = 8 << 20
	// answerWaitDatagram bounds the wait for the session's answer; after it the datagram is too old to matter.
	answerWaitDatagram = 5 * time.Second
)

// receiver takes the datagrams of one stolen UDP port and family, and makes a flow of each client.
//
// Goroutines: run's own; one that closes the socket when the steal ends; per flow those of flow.run.
type receiver struct {
	child  *Child
	steal  *steal
	port   uint16
	family int // 0: IPv4, 1: IPv6
	conn   *net.UDPConn

	mu    sync.Mutex
	flows map[flowKey]*flow

	queued atomic.Int64 // bytes
}

type flowKey struct{ client, local netip.AddrPort }

// flow is one client's datagrams to one of the pod's addresses.
type flow struct {
	r     *receiver
	key   flowKey
	zone  string // of a link-local client
	queue chan []byte
}

func (r *receiver) run() {
	defer context.AfterFunc(r.steal.ctx, func() { r.conn.Close() })()
	defer r.conn.Close()
	r.flows = map[flowKey]*flow{}
	buf, oob := make([]byte, wire.MaxChunk), make([]byte, 128)
	for {
		n, oobn, _, from, err := r.conn.ReadMsgUDPAddrPort(buf, oob)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // an ICMP for one of our answers, or memory: the port goes on
			r.child.log.Debug("a stolen datagram", "port", r.port, "err", err)
			time.Sleep(time.Millisecond)
			continue
		}
		local, ok := destination(oob[:oobn])
		if !ok {
			continue
		}
		r.deliver(buf[:n], flowKey{
			netip.AddrPortFrom(from.Addr().Unmap().WithZone(""), from.Port()), netip.AddrPortFrom(local, r.port)}, from.Addr().Zone())
	}
}

// deliver queues a datagram for its flow, which it begins if need be.
func (r *receiver) deliver(data []byte, key flowKey, zone string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.flows[key]
	if r.queued.Load()+int64(len(data)) > maxQueuedBytes {
		return
	}
	if f == nil {
		if len(r.flows) >= maxAssociations {
			return
		}
		f = &flow{r: r, key: key, zone: zone, queue: make(chan []byte, maxQueued)}
		r.flows[key] = f
		go f.run()
	}
	select {
	case f.queue <- append([]byte(nil), data...):
		r.queued.Add(int64(len(data)))
	default:
	}
}

func (f *flow) run() {
	defer func() {
		f.r.mu.Lock()
		delete(f.r.flows, f.key)
		f.r.mu.Unlock()
		for len(f.queue) > 0 { // nothing is added any more
			f.took(<-f.queue)
		}
	}()
	select {
	case <-f.r.steal.ready:
	case <-f.r.steal.ctx.Done():
		return
	}
	ctx, cancel := context.WithTimeout(f.r.steal.ctx, answerWaitDatagram)
	stream, err := f.r.steal.session.conn.Open(ctx, wire.KindIncomingDG,
		wire.Incoming{Network: "udp", Client: f.key.client, Local: f.key.local, Steal: f.r.steal.stream}, nil)
	cancel()
	if err == nil {
		f.toSession(stream)
		return
	}
	f.r.child.log.Debug("a stolen UDP flow goes to the pod", "client", f.key.client, "local", f.key.local, "err", err)
	f.toOriginal()
}

// took says that a datagram is queued no more.
func (f *flow) took(data []byte) { f.r.queued.Add(-int64(len(data))) }

// toSession carries the flow on a stream until that or the steal ends, or nothing has moved for datagramIdle.
//
// Goroutines: the caller's, which reads the queue, and one that reads the stream; both have ended on return.
func (f *flow) toSession(stream *mux.Stream) {
	defer stream.Close()
	defer context.AfterFunc(f.r.steal.ctx, func() { stream.Reset(syscall.ECONNRESET) })()
	idle := newIdle(datagramIdle, func() { stream.Reset(syscall.ETIMEDOUT) })
	defer idle.stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		chunks := wire.NewChunkReader(stream)
		for {
			ch, err := chunks.Read()
			if err != nil {
				return
			}
			if ch.Type == wire.ChunkData {
				idle.touch()
				f.answer(ch.Data)
			}
		}
	}()
	for {
		select {
		case <-done:
			return
		case data := <-f.queue:
			f.took(data)
			idle.touch()
			if _, err := stream.Write(wire.AppendData(nil, data)); err != nil {
				stream.Close()
				<-done
				return
			}
		}
	}
}

// toOriginal carries the flow to the pod's own process. The bypass stays for as long as the flow: the kernel looks the
// receiver of each datagram up anew.
func (f *flow) toOriginal() {
	conn, release, err := f.r.child.originalSocket("udp", f.key.local)
	if err != nil {
		f.r.child.log.Debug("the pod's own process", "local", f.key.local, "err", err)
		return
	}
	defer release()
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		conn.Close()
		return
	}
	defer udp.Close()
	defer context.AfterFunc(f.r.steal.ctx, func() { udp.Close() })()
	idle := newIdle(datagramIdle, func() { udp.Close() })
	defer idle.stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			frame, err := nextDatagram(udp)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				idle.touch()
				f.answer(frame[4:]) // behind the chunk's header
			}
		}
	}()
	for {
		select {
		case <-done:
			return
		case data := <-f.queue:
			f.took(data)
			idle.touch()
			_, _ = udp.Write(data)
		}
	}
}

// answer sends a datagram to the client from the address that it called.
func (f *flow) answer(data []byte) {
	if err := f.send(data); err != nil {
		f.r.child.log.Debug("answering a stolen datagram", "client", f.key.client, "err", err)
	}
}
