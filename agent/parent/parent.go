// Package parent is the agent's privileged process. It opens what needs rights (namespaces, listeners, BPF, the pod's
// root) and hands descriptors to the child, which is in the pod; it decides who holds which port, because that must
// outlive a child; and it ends when the child does. It must never read a byte from outside: its peers are the kernel, the
// child, which is not trusted, and whoever runs in its own container.
package parent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/agent/lease"
	"github.com/stepin-dev/stepin/agent/pair"
	"github.com/stepin-dev/stepin/agent/pod"
	"github.com/stepin-dev/stepin/agent/steal"
)

// Options are the agent's arguments.
type Options struct {
	Pod         string // local/PID or kube/UID/CONTAINERID
	Listen      string // unix:PATH, or tcp:IP:PORT of this process's own loopback
	Inside      bool   // this is an ephemeral container of the pod, and shares the target's processes
	HostNetwork bool   // a pod in its node's network is meant, or a process in this one's
	Sweep       bool   // remove PATH's directory at the end, if nobody needs it
	TokenHash   []byte // SHA-256 of the creator's token
	TTL         time.Duration
	Who         string // user@host, for a second agent's message
	Trace       string // file of what is done in the pod; "" for none
	Log         *slog.Logger
}

const (
	// firstSession is how long an agent waits for its first session: whoever started it is about to come, or has been
	// killed.
	firstSession = 10 * time.Second
	// successorWait and successorPoll are how a process that took the ended one's place is looked for.
	successorWait = 10 * time.Second
	successorPoll = 100 * time.Millisecond
	// sandboxPoll is how often a pod is looked at whose container has been away for successorWait: often enough to leave
	// within a second of its sandbox's end.
	sandboxPoll = 400 * time.Millisecond
	// retireWait is what a child gets to say goodbye.
	retireWait = time.Second
)

// Parent is the parent's state. Everything but the goroutines named belongs to Run's.
//
// Goroutines: Run's; inside's thread; the lock's and the joining's; three a child (process.go); one that waits for the target's end, one for the sandbox's.
type Parent struct {
	Options
	in       *inside
	target   *target
	lock     *lock
	listener listener
	joining  *joining
	joins    chan join
	tokens   tokens
	gateways []netip.Addr
	engine   *steal.Engine
	trace    *os.File
	table    *lease.Table
	child    *childProcess
	ended    chan struct{}   // closed when the target has ended; nil while there is none
	sandbox  <-chan struct{} // closed when the pod's first process has ended; nil where none is known
	gone     time.Time       // when it ended; zero while there is one
	// goneTicks is gone as processes' starts count.
	goneTicks uint64
	looked    time.Time // when its successor was looked for
	hint      string    // the container that a session said is the target's successor
	guessed   bool      // the target was found without such a word
	ending    bool      // a session said that the pod is being deleted
	noUDP     string    // why UDP ports cannot be stolen; "" if they can
	noMirror  error     // why nothing can be mirrored; nil if it can
	joined    bool      // there was a session
	leaving   bool      // no session may join any more
	began     time.Time
	idle      time.Time // when the last session ended
}

// Run is the parent's whole life. Its error is for the user: one sentence, perhaps with " hint: " and another.
func Run(ctx context.Context, o Options) (err error) {
	p := &Parent{Options: o, table: lease.New(), began: time.Now(), joins: make(chan join), tokens: tokens{}}
	p.tokens[[sha256.Size]byte(o.TokenHash)] = p.began
	defer p.close()
	if err := p.open(); err != nil {
		return err
	}
	if err := p.newChild(false); err != nil {
		return err
	}
	p.sandbox = p.target.sandboxEnd()
	return p.loop(ctx)
}

// listener is where sessions come in.
type listener interface {
	net.Listener
	File() (*os.File, error)
}

// open gets everything that outlives a child.
func (p *Parent) open() (err error) {
	if err := p.find(); err != nil {
		return err
	}
	if p.in, err = enter(p.target.elsewhere()); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("%w hint: run stepin as root, or take a process in a user namespace of yours; in a cluster the agent lacks SYS_ADMIN", err)
		}
		return err
	}
	_ = p.in.do(func() error { p.gateways = gateways(); return nil })
	if p.lock, err = takeLock(p.in, p.target.netns, p.Who, p.Log); err != nil {
		return err
	}
	if p.engine, err = steal.New(p.in.do, p.target.net, p.Log); err != nil {
		return err
	}
	probe, err := p.packets()
	if p.noMirror = err; err == nil {
		probe.Close()
	}
	if p.Trace != "" {
		if p.trace, err = os.OpenFile(p.Trace, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600); err != nil {
			return fmt.Errorf("opening the trace: %w", err)
		}
	}
	return p.listen()
}

// find opens the target, unless its network is not its own.
func (p *Parent) find() error {
	at, err := parsePod(p.Pod)
	if err != nil {
		return err
	}
	if p.Inside {
		if err := hide(); err != nil {
			return err
		}
		p.target, err = openInside(at)
		return err
	}
	found := process{pid: at.local}
	if at.kube() {
		if found, err = at.find(); err != nil {
			return err
		}
	}
	pid := found.pid
	if p.target, err = openTarget(at, found); err != nil {
		return err
	}
	own := netnsOf(os.Getpid())
	if at.kube() {
		if p.target.cgroup.Container != at.container {
			return explain(pid, syscall.ESRCH)
		}
		if (netnsOf(1) == p.target.netns || own == p.target.netns) && !p.HostNetwork {
			return errors.New("the pod has no network of its own but its node's (hostNetwork), where every port is the node's " +
				"hint: take a pod without hostNetwork, or start the agent with --host-network if the node's ports are meant")
		}
		return nil
	}
	if own == p.target.netns && !p.HostNetwork {
		return fmt.Errorf("process %d shares this machine's own network, so it is no pod hint: take a process in namespaces of its own, or start the agent with --host-network if this machine's ports are meant", pid)
	}
	return nil
}

// gateways are where the pod's traffic for elsewhere goes: on many networks that is the address by which the node, and
// so its kubelet, comes. It must be called in the pod's network.
func gateways() []netip.Addr {
	ip4, _ := os.ReadFile("/proc/thread-self/net/route")
	ip6, _ := os.ReadFile("/proc/thread-self/net/ipv6_route")
	return append(pod.ParseRoutes(ip4), pod.ParseRoutes6(ip6)...)
}

// listen comes last: who can connect finds an agent that works.
func (p *Parent) listen() error {
	if addr, ok := strings.CutPrefix(p.Listen, "tcp:"); ok {
		return p.listenTCP(addr)
	}
	path, ok := strings.CutPrefix(p.Listen, "unix:")
	if !ok {
		return fmt.Errorf("--listen %q: only unix:PATH and tcp:IP:PORT are known", p.Listen)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	p.listener = l
	if err := os.Chmod(path, 0o600); err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	return nil
}

// listenTCP listens in this process's own network: a port-forward comes there. Whoever else is there needs a token, too.
func (p *Parent) listenTCP(addr string) (err error) {
	a, err := netip.ParseAddrPort(addr)
	if err != nil || !a.Addr().IsLoopback() {
		return fmt.Errorf("--listen %q: that is no address of the loopback with a port", p.Listen)
	}
	if p.joining, err = openJoining(p.joins, p.Log); err != nil {
		return err
	}
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(a))
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	p.listener = l
	return nil
}

// own is the agent's own port, if it is one of the pod's; else 0. Who took it would cut the agent off from everybody.
func (p *Parent) own() uint16 {
	a, ok := p.listener.Addr().(*net.TCPAddr)
	if !ok || netnsOf(os.Getpid()) != p.target.netns {
		return 0
	}
	return uint16(a.Port)
}

// close undoes what the end of this process would not: the listener's path. The rest is the kernel's, but order helps
// whoever looks.
func (p *Parent) close() {
	if p.child != nil {
		p.child.end()
	}
	if p.engine != nil {
		p.engine.Close()
	}
	if p.lock != nil { // before the listener: who finds its path gone may start the next agent
		p.lock.close()
	}
	if p.joining != nil {
		p.joining.close()
	}
	if p.listener != nil {
		p.listener.Close()
		if p.Sweep && p.joining == nil {
			sweep(filepath.Dir(p.listener.Addr().String()))
		}
	}
	if p.trace != nil {
		p.trace.Close()
	}
	if p.target != nil {
		p.target.close()
	}
}

// sweep removes the directory that sessions lock while they start an agent, if it is empty and nobody does. A session
// that leaves holds the lock for a moment, too, and found our socket still there: hence a second look.
func sweep(dir string) {
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	for range sweepTries {
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = unix.Rmdir(dir) // ENOTEMPTY: others need it
			return
		}
		time.Sleep(sweepPause)
	}
}

// One that starts an agent holds the lock for longer than this, and has that agent sweep.
const (
	sweepTries = 10
	sweepPause = 10 * time.Millisecond
)

// newChild starts a child on the target.
func (p *Parent) newChild(resuming bool) error {
	child, limits, err := startChild(p.in, p.Log)
	if err != nil {
		return err
	}
	p.child = child
	listener, err := p.listener.File()
	if err != nil {
		return fmt.Errorf("handing the listener over: %w", err)
	}
	raw, err := p.engine.Raw()
	if errors.Is(err, syscall.EPERM) {
		p.noUDP = fmt.Sprintf("UDP ports cannot be stolen: %v", err)
		limits = append(limits, p.noUDP)
	} else if err != nil {
		listener.Close()
		return err
	}
	defer pair.CloseAll(append(raw, listener))
	t := p.target
	view, seen := t.view()
	start := pair.Start{View: view, PeerUID: uint32(os.Getuid()), UID: t.status.UID, GID: t.status.GID,
		Groups: t.status.Groups, Caps: t.caps(), Rights: p.rights(), Limits: append(limits, t.limits...), Gateways: p.gateways,
		Redirect: p.engine.Mode == steal.Redirect, Trace: p.trace != nil,
		Resuming: resuming, Listeners: len(p.engine.Listeners()), Raw: len(raw)}
	if p.engine.Limit != "" {
		start.Limits = append(start.Limits, p.engine.Limit)
	}
	files := append(append([]*os.File{listener}, seen...), t.own)
	if p.trace != nil {
		files = append(files, p.trace)
	}
	files = append(append(files, p.engine.Listeners()...), raw...)
	if err := child.begin(start, files); err != nil {
		return fmt.Errorf("starting the child: %w", err)
	}
	p.awaitEnd()
	return nil
}

// rights are what this agent can do, by name.
func (p *Parent) rights() []string {
	have := []string{pair.RightNames, pair.RightOutgoing}
	for _, r := range []struct {
		name string
		ok   bool
	}{
		{pair.RightHostname, p.in.uts == nil}, {pair.RightFiles, p.target.root != nil}, {pair.RightEnv, p.target.environ != nil},
		{steal.Lookup, p.engine.Mode != steal.None}, {steal.Redirect, p.engine.Mode == steal.Redirect}, {pair.RightMirror, p.noMirror == nil},
	} {
		if r.ok {
			have = append(have, r.name)
		}
	}
	return have
}

// awaitEnd has the loop see the target's end.
func (p *Parent) awaitEnd() {
	t := p.target
	p.ended = make(chan struct{})
	go func(ended chan struct{}) {
		t.wait()
		close(ended)
	}(p.ended)
}
