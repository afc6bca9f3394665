// Package parent is the agent's privileged process. It opens what needs rights (namespaces, listeners, BPF, the pod's
// root) and hands descriptors to the child, which is in the pod; it decides who holds which port, because that must
// outlive a child; and it ends when the child does. It must never read a byte from outside: its only peers are the
// kernel and the child, and the child is not trusted.
package parent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/agent/lease"
	"github.com/stepin-dev/stepin/agent/pair"
	"github.com/stepin-dev/stepin/agent/steal"
)

// Options are the agent's arguments.
type Options struct {
	Pod       string // local/PID
	Listen    string // unix:PATH
	Sweep     bool   // remove PATH's directory at the end, if nobody needs it
	TokenHash []byte // SHA-256 of the sessions' token
	TTL       time.Duration
	Who       string // user@host, for a second agent's message
	Trace     string // file of what is done in the pod; "" for none
	Log       *slog.Logger
}

const (
	// firstSession is how long an agent waits for its first session: whoever started it is about to come, or has been
	// killed.
	firstSession = 10 * time.Second
	// successorWait and successorPoll are how a process that took the ended one's place is looked for.
	successorWait = 10 * time.Second
	successorPoll = 100 * time.Millisecond
	// retireWait is what a child gets to say goodbye.
	retireWait = time.Second
)

// Parent is the parent's state. Everything but the goroutines named belongs to Run's.
//
// Goroutines: Run's; inside's thread; the lock's; three a child (process.go); one that waits for the target's end.
type Parent struct {
	Options
	in       *inside
	target   *target
	lock     *lock
	listener *net.UnixListener
	engine   *steal.Engine
	trace    *os.File
	table    *lease.Table
	child    *childProcess
	ended    chan struct{} // closed when the target has ended
	joined   bool          // there was a session
	leaving  bool          // no session may join any more
	began    time.Time
	idle     time.Time // when the last session ended
}

// Run is the parent's whole life. Its error is for the user: one sentence, perhaps with " hint: " and another.
func Run(ctx context.Context, o Options) (err error) {
	p := &Parent{Options: o, table: lease.New(), began: time.Now()}
	defer p.close()
	if err := p.open(); err != nil {
		return err
	}
	if err := p.newChild(false); err != nil {
		return err
	}
	return p.loop(ctx)
}

// open gets everything that outlives a child.
func (p *Parent) open() error {
	pid, err := parsePod(p.Pod)
	if err != nil {
		return err
	}
	if p.target, err = openTarget(pid); err != nil {
		return err
	}
	own, err := idOf("/proc/self/ns/net")
	if err != nil {
		return err
	}
	if own.ino == p.target.netns {
		return fmt.Errorf("process %d shares this machine's own network, so it is no pod hint: take a process in namespaces of its own", pid)
	}
	if p.in, err = enter(p.target.net, p.target.uts); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("%w hint: run stepin as root, or take a process in a user namespace of yours", err)
		}
		return err
	}
	if p.lock, err = takeLock(p.in, p.target.netns, p.Who, p.Log); err != nil {
		return err
	}
	if p.engine, err = steal.New(p.in.do, p.target.net, p.Log); err != nil {
		return err
	}
	if p.Trace != "" {
		if p.trace, err = os.OpenFile(p.Trace, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600); err != nil {
			return fmt.Errorf("opening the trace: %w", err)
		}
	}
	return p.listen()
}

// listen comes last: who can connect finds an agent that works.
func (p *Parent) listen() (err error) {
	path, ok := strings.CutPrefix(p.Listen, "unix:")
	if !ok {
		return fmt.Errorf("--listen %q: only unix:PATH is known", p.Listen)
	}
	if p.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}); err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	return nil
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
	if p.listener != nil {
		p.listener.Close()
		if p.Sweep {
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
	if err != nil {
		listener.Close()
		return err
	}
	defer pair.CloseAll(append(raw, listener))
	t := p.target
	start := pair.Start{Target: t.String(), TokenHash: p.TokenHash, PeerUID: uint32(os.Getuid()), UID: t.status.UID, GID: t.status.GID,
		Groups: t.status.Groups, Caps: t.caps(), Limits: limits, Redirect: p.engine.Mode == steal.Redirect, Trace: p.trace != nil,
		Resuming: resuming, Listeners: len(p.engine.Listeners()), Raw: len(raw)}
	if p.engine.Mode != steal.None {
		start.Rights = []string{p.engine.Mode}
	}
	if p.engine.Limit != "" {
		start.Limits = append(start.Limits, p.engine.Limit)
	}
	files := []*os.File{listener, t.root, t.environ, t.mounts, t.own}
	if p.trace != nil {
		files = append(files, p.trace)
	}
	files = append(append(files, p.engine.Listeners()...), raw...)
	if err := child.begin(start, files); err != nil {
		return fmt.Errorf("starting the child: %w", err)
	}
	p.ended = make(chan struct{})
	go func(ended chan struct{}) {
		t.wait()
		close(ended)
	}(p.ended)
	return nil
}
