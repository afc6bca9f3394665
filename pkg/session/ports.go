package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/stepin-dev/stepin/pkg/namespaces"
)

const (
	// listenPoll is how often the debuggee's listeners are read: the kernel has no event for a new one, and a dump
	// costs 24 µs (measured), a thousandth of a core.
	listenPoll = 25 * time.Millisecond
	// stealRetry is how often a port that another session holds is asked for again.
	stealRetry = 2 * time.Second
	// giveBack bounds the wait for the agent's word that a port is the pod's again; it takes some milliseconds.
	giveBack = 2 * time.Second
	// drainEvery is how many looks come between two at the connections of ports that nobody listens on any more; that
	// costs 0.7 ms with 2,000 sockets.
	drainEvery = 10
	// ephemeral is the first port that Linux gives to UDP sockets nobody bound (net.ipv4.ip_local_port_range): a UDP
	// socket above it is a client's unless the configuration names its port. It stays the debuggee's own business.
	ephemeral = 32768
)

// port is one port that the debuggee listens on.
type port struct {
	network string
	number  uint16
	addrs   []netip.Addr // the listeners' own addresses, sorted
	inodes  []uint32
	since   time.Time // when it was seen first
	decided bool      // it is known whether it is a debugger's
	stop    context.CancelFunc
	pod     uint16        // the pod's port that is taken
	given   chan struct{} // closed when that is the pod's again; nil where none is taken
	host    io.Closer     // the listener on the developer's loopback, or nil
}

func (p *port) loopbackOnly() bool {
	return !slices.ContainsFunc(p.addrs, func(a netip.Addr) bool { return !a.IsLoopback() })
}

type portKey struct {
	network string
	number  uint16
}

// ports follows what the debuggee listens on: from the moment it listens until it stops, the port is native inside,
// taken from the pod, and reachable on the developer's loopback. Its connections may outlive it, as in a service that
// ends with grace: the port stays native until they have ended, and the developer's or the pod's again then.
//
// Goroutines: watch (ends with ctx); one a port that takes part (ends when it is given back), and one for it and each pod
// (mode.go); the host listeners' own.
type ports struct {
	s *Session

	looking   sync.Mutex    // one look at a time, and its result is followed before the next
	switching chan struct{} // holds one while the mode is being switched

	mu       sync.Mutex
	open     map[portKey]*port
	onHost   map[uint16]bool           // our listeners on the developer's loopback
	asked    map[portKey]bool          // ephemeral UDP ports that the debuggee calls on its loopback
	giving   map[portKey]chan struct{} // the pod's ports that are being given back
	denied   map[string]bool           // what agents have said that they lack the right to, each for all ports
	draining map[uint16]bool           // TCP ports that nobody listens on any more, still native
	fresh    bool                      // draining has got a new one
	mode     string                    // what becomes of requests now
	chosen   bool                      // the mode is one that was switched to
	turning  chan struct{}             // closed when the switch that is under way is through; nil: none is
	stands   map[*stand]bool
	stolen   map[[2]netip.AddrPort]map[*stolenFlow]bool // by the client's address and the one that it called
}

func newPorts(s *Session) *ports {
	return &ports{s: s, open: map[portKey]*port{}, onHost: map[uint16]bool{}, asked: map[portKey]bool{},
		giving: map[portKey]chan struct{}{}, denied: map[string]bool{}, draining: map[uint16]bool{},
		mode: s.config.Incoming.Mode, switching: make(chan struct{}, 1), stands: map[*stand]bool{},
		stolen: map[[2]netip.AddrPort]map[*stolenFlow]bool{}}
}

func (p *ports) watch(ctx context.Context) {
	tick := time.NewTicker(listenPoll)
	defer tick.Stop()
	failing := false
	for n := 1; ; n++ {
		err := p.look(ctx)
		if err != nil && ctx.Err() == nil && !failing {
			p.s.log.Warn("reading the debuggee's listeners", "err", err)
		}
		failing = err != nil
		p.drain(n%drainEvery == 0)
		select {
		case <-tick.C:
		case <-ctx.Done():
			p.looking.Lock()
			defer p.looking.Unlock()
			p.reconcile(ctx, nil)
			return
		}
	}
}

// look reads the debuggee's listeners and follows them.
func (p *ports) look(ctx context.Context) error {
	p.looking.Lock()
	defer p.looking.Unlock()
	listeners, err := p.s.front.Listeners()
	if err == nil && ctx.Err() == nil {
		p.reconcile(ctx, listeners)
	}
	return err
}

// own says whether the debuggee listens on a port of its loopback now: it may have begun to after the last look. If so
// the port is native from here on.
func (p *ports) own(ctx context.Context, network string, number uint16) bool {
	k := portKey{network, number}
	if network == "udp" {
		p.mu.Lock()
		p.asked[k] = true
		p.mu.Unlock()
	}
	if err := p.look(ctx); err != nil {
		p.s.log.Debug("reading the debuggee's listeners", "err", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open[k] != nil
}

// drain gives back the ports whose connections have ended.
func (p *ports) drain(all bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.draining) == 0 || !all && !p.fresh {
		return
	}
	p.fresh = false
	busy, err := p.s.front.Connected()
	if err != nil {
		p.s.log.Debug("reading the debuggee's connections", "err", err)
		return
	}
	for number := range p.draining {
		k := portKey{"tcp", number}
		if p.open[k] == nil && busy[number] {
			continue
		}
		delete(p.draining, number)
		if p.open[k] == nil {
			p.disown(k)
		}
	}
}

func (p *ports) disown(k portKey) {
	if err := p.s.front.DisownPort(k.network, k.number); err != nil {
		p.s.log.Debug("giving a port back", "port", k.number, "err", err)
	}
}

// reconcile makes the open ports those of the listeners.
func (p *ports) reconcile(ctx context.Context, listeners []namespaces.Listener) {
	p.mu.Lock()
	defer p.mu.Unlock()
	want, inodes := map[portKey][]netip.Addr{}, map[portKey][]uint32{}
	for _, l := range listeners {
		k := portKey{l.Network, l.Addr.Port()}
		if p.s.private(k) && !p.asked[k] {
			continue
		}
		want[k], inodes[k] = append(want[k], l.Addr.Addr()), append(inodes[k], l.Inode)
	}
	maps.DeleteFunc(p.asked, func(k portKey, _ bool) bool { return want[k] == nil })
	for k, have := range p.open {
		addrs := sorted(want[k])
		if slices.Equal(have.addrs, addrs) {
			p.decide(ctx, k, have)
			delete(want, k)
			continue
		}
		if len(addrs) > 0 && (&port{addrs: addrs}).loopbackOnly() == have.loopbackOnly() {
			have.addrs = addrs // another address of the same reach: nothing else changes
			delete(want, k)
			continue
		}
		p.shut(k, have)
	}
	for k, addrs := range want {
		p.begin(ctx, k, sorted(addrs), inodes[k])
	}
}

func sorted(addrs []netip.Addr) []netip.Addr {
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

// begin opens a port. Its network rules come first: the debuggee may connect to itself right after listen.
func (p *ports) begin(ctx context.Context, k portKey, addrs []netip.Addr, inodes []uint32) {
	if err := p.s.front.OwnPort(k.network, k.number); err != nil {
		p.s.log.Warn("making a port the debuggee's own", "port", k.number, "err", err)
	}
	new := &port{network: k.network, number: k.number, addrs: addrs, inodes: inodes, since: time.Now(), stop: func() {}}
	p.open[k] = new
	p.decide(ctx, k, new)
	if _, here := p.s.front.OnHost(k.network, k.number); k.network == "tcp" && !here && !p.s.beside {
		if l := p.s.listenOnHost(k.number); l != nil {
			new.host = l
			p.onHost[k.number] = true
		}
	}
}

// decide has a port taken from the pod, once it is known that it is not a debugger's.
func (p *ports) decide(ctx context.Context, k portKey, new *port) {
	if new.decided {
		return
	}
	pod, ok := p.s.takes(k)
	if ok {
		var debuggers bool
		if debuggers, new.decided = p.whose(k, new); !new.decided {
			return
		}
		ok = !debuggers && !p.circular(k, pod)
	}
	new.decided = true
	if !ok {
		return
	}
	ctx, new.stop = context.WithCancel(ctx)
	new.pod, new.given = pod, make(chan struct{})
	p.s.changed.ring()
	before, loopback := p.giving[portKey{k.network, pod}], new.loopbackOnly()
	go func() {
		if before != nil {
			<-before // else the port would be refused to us because of ourselves
		}
		p.take(ctx, k, pod, loopback)
		p.gave(k.network, new)
	}()
}

// circular says that what is delivered to the debuggee would be taken from it again: in a network that it shares with the
// pod it has the very port that is the pod's.
func (p *ports) circular(k portKey, pod uint16) bool {
	at, here := p.s.front.OnHost(k.network, k.number)
	if !p.s.beside || !here || at != pod {
		return false
	}
	if p.mode == modeOff {
		return true
	}
	p.s.sayOnce(k.number, "%s is this program's own in the network that it shares with the pod, so no requests to the pod come from there", describe(k.network, pod, k.number))
	return true
}

func (p *ports) shut(k portKey, have *port) {
	if have.given != nil {
		p.giving[portKey{k.network, have.pod}] = have.given
	}
	have.stop()
	if have.host != nil {
		have.host.Close()
		delete(p.onHost, k.number)
	}
	delete(p.open, k)
	p.s.changed.ring()
	if k.network == "tcp" {
		p.draining[k.number], p.fresh = true, true
		return
	}
	p.disown(k)
}

// gave notes that a port is the pod's again.
func (p *ports) gave(network string, old *port) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(old.given)
	if k := (portKey{network, old.pod}); p.giving[k] == old.given {
		delete(p.giving, k)
	}
}

// settled waits while a port of the pod's is being given back. A flow of the debuggee's to it would be taken from itself.
func (p *ports) settled(ctx context.Context, network string, dst netip.AddrPort) {
	p.mu.Lock()
	given := p.giving[portKey{network, dst.Port()}]
	p.mu.Unlock()
	if given == nil || !p.s.itself(dst.Addr()) {
		return
	}
	select {
	case <-given:
	case <-ctx.Done():
	}
}

// take has one port with each of the session's pods, as the mode is, for as long as the debuggee listens on it.
func (p *ports) take(ctx context.Context, k portKey, pod uint16, loopback bool) {
	p.s.everywhere(ctx, func(l *link) {
		(&stand{p: p, l: l, k: k, pod: pod, loopback: loopback}).run(ctx)
	})
}

// refused says why a port stays with its pod. A lack of rights is the agent's and not the port's: it is said once.
func (p *ports) refused(port, what, pod string, err error) {
	text, more := err.Error(), ""
	if errors.Is(err, syscall.EPERM) {
		p.mu.Lock()
		known := p.denied[text]
		p.denied[text] = true
		p.mu.Unlock()
		if known {
			return
		}
		more = "; so it is with every port"
	}
	p.s.notice(fmt.Sprintf("%s is not %s from %s: %s%s", port, what, pod, text, more))
}

func describe(network string, pod, own uint16) string {
	if pod == own {
		return fmt.Sprintf("%s port %d", network, pod)
	}
	return fmt.Sprintf("%s port %d (here %d)", network, pod, own)
}

func verb(network string) string {
	if network == "udp" {
		return "sends its datagrams"
	}
	return "sends its new connections"
}

// destination is where a flow to the pod's address local is to be delivered: the debuggee's listener that would have
// accepted it in the pod.
func (p *ports) destination(network string, local netip.AddrPort) (netip.AddrPort, bool) {
	own := p.s.ownPort(local.Port())
	p.mu.Lock()
	defer p.mu.Unlock()
	have := p.open[portKey{network, own}]
	if have == nil {
		return netip.AddrPort{}, false
	}
	called := p.s.here(local.Addr().Unmap())
	for _, a := range have.addrs {
		if a == called || a.IsUnspecified() && (a.Is6() || called.Is4()) {
			return netip.AddrPortFrom(called, own), true // [::] takes IPv4, too; where it does not, the connect says so
		}
	}
	for _, a := range have.addrs {
		if a.Is4() == called.Is4() && !a.IsUnspecified() {
			return netip.AddrPortFrom(a, own), a.IsLoopback() == called.IsLoopback()
		}
	}
	return netip.AddrPort{}, false
}

func (p *ports) listensOnHost(number uint16) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.onHost[number]
}

// listed is the configuration's list of ports, nil for all.
func (s *Session) listed() []uint16 {
	var out []uint16
	for _, p := range s.config.Incoming.Ports {
		out = append(out, uint16(p))
	}
	return out
}

// private says whether a port is a UDP client's, as far as can be told.
func (s *Session) private(k portKey) bool {
	return k.network == "udp" && k.number >= ephemeral && !slices.Contains(s.listed(), k.number)
}

// takes says whether the debuggee's port takes part in what is incoming, and which of the pod's ports it stands for.
func (s *Session) takes(k portKey) (pod uint16, ok bool) {
	if s.private(k) {
		return 0, false
	}
	if l := s.listed(); len(l) > 0 && !slices.Contains(l, k.number) {
		return 0, false
	}
	for own, pod := range s.config.Incoming.Map {
		if uint16(own) == k.number {
			return uint16(pod), true
		}
	}
	return k.number, true
}

// ownPort is the debuggee's port that stands for a port of the pod.
func (s *Session) ownPort(pod uint16) uint16 {
	for own, p := range s.config.Incoming.Map {
		if uint16(p) == pod {
			return uint16(own)
		}
	}
	return pod
}
