package netstack

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// DeviceMTU is the MTU that the TUN device is to have, in bytes: so large that a datagram of the debuggee's is hardly
// ever cut. TCP segments are smaller, see sendMTU.
const DeviceMTU = 65520

// tick is how often idle associations, silent attempts and idle buffers are looked for.
const tick = time.Second

// lingering is how long gVisor keeps a flow in TIME_WAIT. The state guards against packets that a network delayed;
// here is none, and the kernel on the other side may use the same port again at once.
const lingering = time.Millisecond

// Retransmission. Nothing is lost on the way to the debuggee, but its kernel drops what does not fit in a socket's
// memory, which may be less than the window it advertised (TCPRcvQDrop in /proc/net/netstat: measured with small
// segments and with the machine short of TCP memory, and a debuggee at a breakpoint may stay so for an hour; with
// gVisor's own values the flow was given up). So we try again soon, never back off for long, and never give up:
// as long as the kernel does not answer with RST, the socket is there.
const (
	minRTO  = 50 * time.Millisecond // more than a delayed acknowledgement, 40 ms
	maxRTO  = time.Second           // also the interval of zero window probes
	endless = 1 << 30               // retries
)

// farewell is how long the reader goes on after all flows were reset: where a RST was not to the byte what the kernel
// expects, it asks back (RFC 5961), and gets the exact one.
const farewell = 20 * time.Millisecond

const nicID = 1

// Config is what a Stack needs. The handlers are called in a goroutine of their own for each flow; ctx ends when the
// debuggee has given up, after dialLimit, or with the Stack.
type Config struct {
	Tun *os.File // non-blocking, MTU at most DeviceMTU; stays the caller's, who closes it after Close
	// Loopback6 takes whole IPv6 packets from ::1, which the kernel does not accept from the TUN device; nil: flows to ::1
	// are not to be had. Stays the caller's, as Tun does.
	Loopback6 *os.File
	Log       *slog.Logger // nil: none

	// TCP answers a SYN from src to dst. With an error the debuggee's connect fails with the syscall.Errno in it (see
	// ErrReturn for the one that is no failure); else
	// the handshake is completed and serve is called, always and once, in a goroutine of its own: if the debuggee has
	// gone meanwhile, with a Conn whose every call fails. When serve returns, the Conn is closed.
	TCP func(ctx context.Context, src, dst netip.AddrPort) (serve func(*Conn), err error)

	// UDP answers the first datagram from src to dst. With an error the datagrams that have come so far are refused
	// with its errno; else serve is called, once, in the same goroutine. When serve returns, the association ends.
	UDP func(ctx context.Context, src, dst netip.AddrPort) (serve func(*PacketConn), err error)
}

// A Stack is the network of one debuggee.
//
// Goroutines: read (one; blocks in the TUN device; ends by its read deadline or with the device), house (one; ends with
// ctx), one per TCP attempt, one per TCP flow, one per UDP association (all counted in wg; they end when the handler
// returns, which the end of ctx and the aborted flows bring about), the workers of deep, one per core (until all those
// have ended), and gVisor's TCP processors, one per core (ended by gVisor's own Close and Wait). Timers of gVisor's run in runtime goroutines and hold nothing.
type Stack struct {
	cfg   Config
	st    *stack.Stack
	link  *link
	tcp   *attempts
	udp   *associations
	start time.Time

	receiving, sending bank
	deep               *deep

	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{} // closed when the reader has ended
	err    error         // why, set before done is closed
	once   sync.Once

	wg      sync.WaitGroup // read, house, and the flows'
	workers sync.WaitGroup
	mu      sync.Mutex
	closing bool
	conns   map[*Conn]bool // true: open; false: closed by us, still delivering
}

// New starts a Stack on the TUN device.
func New(cfg Config) (*Stack, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := cfg.Tun.SetReadDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("netstack: the TUN device must be non-blocking: %w", err)
	}
	s, err := build(cfg)
	if err != nil {
		return nil, err
	}
	s.wg.Add(2)
	go s.read()
	go s.house()
	for range runtime.GOMAXPROCS(0) {
		s.workers.Go(s.deep.work)
	}
	return s, nil
}

// build makes a Stack that nothing runs in yet, gVisor's processors apart.
func build(cfg Config) (*Stack, error) {
	l, err := newLink(cfg.Tun, cfg.Loopback6, cfg.Log)
	if err != nil {
		return nil, err
	}
	s := &Stack{cfg: cfg, link: l, start: time.Now(), deep: newDeep(), done: make(chan struct{}), conns: map[*Conn]bool{}}
	s.receiving.limit, s.sending.limit = bankReceive, bankSend
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.st = stack.New(stack.Options{
		// The debuggee's 127/8 comes in by the device, from 127.0.0.1 to 127.0.0.1.
		NetworkProtocols: []stack.NetworkProtocolFactory{
			ipv4.NewProtocolWithOptions(ipv4.Options{AllowExternalLoopbackTraffic: true}),
			ipv6.NewProtocolWithOptions(ipv6.Options{AllowExternalLoopbackTraffic: true}),
		},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	if err := s.configure(); err != nil {
		s.cancel()
		s.st.Destroy()
		return nil, err
	}
	s.tcp, s.udp = newAttempts(s), newAssociations(s)
	s.st.SetTransportProtocolHandler(tcp.ProtocolNumber, s.tcp.packet)
	s.st.SetTransportProtocolHandler(udp.ProtocolNumber, s.udp.packet)
	return s, nil
}

func (s *Stack) configure() error {
	sack, tuned, wait := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(true), tcpip.TCPTimeWaitTimeoutOption(lingering)
	soon, late, retries := tcpip.TCPMinRTOOption(minRTO), tcpip.TCPMaxRTOOption(maxRTO), tcpip.TCPMaxRetriesOption(endless)
	for _, opt := range []tcpip.SettableTransportProtocolOption{
		&sack, &wait, &soon, &late, &retries,
		// Tuning is on only so that the window scale of the handshake is that of Max; Conn sets the sizes.
		&tuned,
		&tcpip.TCPReceiveBufferSizeRangeOption{Min: 1, Default: floorReceive, Max: floorReceive + bankReceive},
		&tcpip.TCPSendBufferSizeRangeOption{Min: 1, Default: floorSend, Max: floorSend + bankSend},
	} {
		if terr := s.st.SetTransportProtocolOption(tcp.ProtocolNumber, opt); terr != nil {
			return fmt.Errorf("netstack: setting %T: %s", opt, terr)
		}
	}
	if terr := s.st.CreateNIC(nicID, s.link); terr != nil {
		return fmt.Errorf("netstack: attaching the TUN device: %s", terr)
	}
	// Every address is ours to answer for.
	if terr := s.st.SetPromiscuousMode(nicID, true); terr != nil {
		return fmt.Errorf("netstack: answering for all addresses: %s", terr)
	}
	if terr := s.st.SetSpoofing(nicID, true); terr != nil {
		return fmt.Errorf("netstack: answering from all addresses: %s", terr)
	}
	s.st.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nicID}, {Destination: header.IPv6EmptySubnet, NIC: nicID},
	})
	return nil
}

// Flows returns how many TCP flows and UDP associations are open.
func (s *Stack) Flows() int {
	return s.udp.count() + int(s.deep.flows.Load())
}

// Done is closed when no more packets come: after Close, or because the device was deleted. It is not closed when the
// last process in the namespace ends: the descriptor of the TUN device keeps the namespace.
func (s *Stack) Done() <-chan struct{} { return s.done }

// Err returns why Done was closed; nil after Close.
func (s *Stack) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// Close resets all flows, ends all associations and waits for every goroutine, the handlers' included. Afterwards the
// Stack does not touch the TUN device. It is idempotent.
func (s *Stack) Close() error {
	s.once.Do(func() {
		s.shut()
		_ = s.cfg.Tun.SetReadDeadline(time.Now().Add(farewell))
		<-s.done
		s.reap()
		close(s.deep.quit)
		s.workers.Wait()
		s.st.Close()
		s.st.Wait()
	})
	return nil
}

// reap waits for our goroutines, and meanwhile aborts what waits in a handshake that nobody will answer any more: one
// may begin just after a first look, so it looks again until all is still.
func (s *Stack) reap() {
	still := make(chan struct{})
	go func() { s.wg.Wait(); close(still) }()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		for _, ep := range s.st.RegisteredEndpoints() {
			ep.Abort()
		}
		select {
		case <-still:
			return
		case <-again.C:
		}
	}
}

// shut lets nothing new begin and ends what is there.
func (s *Stack) shut() {
	s.cancel()
	s.mu.Lock()
	s.closing = true
	conns := make([]*Conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		c.Abort()
	}
	s.udp.close()
}

func (s *Stack) read() {
	defer s.wg.Done()
	err := s.link.read()
	if err != nil {
		s.cfg.Log.Debug("netstack: the TUN device has gone", "err", err)
		s.err = err
		s.shut()
	}
	close(s.done)
}

func (s *Stack) house() {
	defer s.wg.Done()
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-t.C:
		}
		s.tcp.sweep()
		s.udp.sweep()
		s.settle()
	}
}

// settle takes back what idle and ended flows were lent.
func (s *Stack) settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, open := range s.conns {
		switch {
		case open:
			c.settle()
		case c.gone():
			c.wwin.end()
			delete(s.conns, c)
		}
	}
}

// enter counts a goroutine about to start; false: too late.
func (s *Stack) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.wg.Add(1)
	return true
}

func (s *Stack) addConn(c *Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.conns[c] = true
	s.deep.flows.Add(1)
	return true
}

// dropConn takes c out of the flows. One that still delivers what was written stays until settle finds it gone.
func (s *Stack) dropConn(c *Conn, delivers bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns[c] {
		s.deep.flows.Add(-1)
	}
	if delivers && !c.gone() {
		s.conns[c] = false
		return
	}
	delete(s.conns, c)
	c.wwin.end()
}

// uptime is the stack's clock.
func (s *Stack) uptime() time.Duration { return time.Since(s.start) }

// notify sends the ICMP message for errno, about a packet of the flow id, if there is one.
func (s *Stack) notify(protocol byte, id stack.TransportEndpointID, seq uint32, errno syscall.Errno) {
	src, dst := ends(id)
	if n, ok := noticeFor(protocol, dst.Addr().Is6(), errno); ok {
		s.link.send(icmpPacket(n, protocol, src, dst, seq))
	}
}
