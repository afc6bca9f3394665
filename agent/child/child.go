// Package child is the agent's process that is in the pod: it has the pod's network, host name, user and groups, so that
// plain dials and look-ups do the pod's work, and the pod's root directory as a descriptor: its own root is empty. All
// bytes from outside are read here: the wire, stolen flows, answers of name servers. It must never hold anything that
// steals (the parent asks the kernel, and hands plain sockets over), nor use os.Executable or /proc/self: there is none.
package child

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/agent/files"
	"github.com/stepin-dev/stepin/agent/pair"
	"github.com/stepin-dev/stepin/agent/pod"
	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/peer"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// Child serves the sessions.
//
// Goroutines: Run's own; acceptSessions; pong; pair.Caller's; one a session and those it starts (session.go), one that
// tells it something; one a steal listener, one a stolen flow (incoming.go); one a mirror and one a copy (mirrors.go), and
// package mirror's.
type Child struct {
	start   pair.Start
	began   time.Time
	limits  []string
	caller  *pair.Caller
	log     *slog.Logger
	trace   *trace
	relays  *mux.Relays
	parts   sync.Pool     // buffers for parts of files
	fileOps chan struct{} // a slot for each system call on a file that is under way
	view    view
	rights  []string
	ours    *os.File
	raw     [2]*os.File // to answer stolen datagrams: IPv4, IPv6
	steals  steals
	mirrors mirrors

	waiting  waiting
	channels chan struct{} // a slot for each channel of a session

	mu       sync.Mutex
	sessions map[string]*session

	stolen  atomic.Int64 // stolen connections that are served
	retired chan pair.Retire
	pinged  chan struct{}
}

const (
	// heapPercent lets the garbage collector run early, and heapLimit more so when much is held: what a thousand stalled
	// flows hold, the channel's budget (mux.Budget) and their stacks, must not be doubled by garbage. It is a wish, not a
	// bound: where more is live it only costs time.
	heapPercent = 50
	heapLimit   = 48 << 20
	// maxFileOps bounds the system calls on files under way: each is a thread, and on a network file system that hangs
	// they would be as many as the channel has streams, close to where Go gives up (10,000 threads).
	maxFileOps = 256
	// maxProc bounds a file of /proc; environ and mountinfo may be a few hundred KiB.
	maxProc = 8 << 20
)

// Run is the child's whole life. control is the pair's end that the parent gave it.
func Run(ctx context.Context, control *os.File, log *slog.Logger) error {
	time.Local = time.UTC // else the pod's /etc/localtime would be read
	debug.SetGCPercent(heapPercent)
	debug.SetMemoryLimit(heapLimit)
	conn, err := pair.Open(control)
	if err != nil {
		return err
	}
	m, files, err := conn.Recv()
	if err != nil {
		return err
	}
	c := &Child{began: time.Now(), log: log, relays: &mux.Relays{}, fileOps: make(chan struct{}, maxFileOps), channels: make(chan struct{}, maxChannels), sessions: map[string]*session{}, retired: make(chan pair.Retire, 1), pinged: make(chan struct{}, 1)}
	if m.Op != pair.OpStart {
		return fmt.Errorf("child: told %q before %q", m.Op, pair.OpStart)
	}
	if err := json.Unmarshal(m.Body, &c.start); err != nil {
		return fmt.Errorf("child: %v", err)
	}
	listener, steal, err := c.adopt(files)
	if err != nil {
		return err
	}
	if err := leaveRoot(); err != nil {
		return err
	}
	limits, err := become(c.start)
	if err != nil {
		return err
	}
	c.limits = append(append(c.start.Limits, c.limits...), limits...)
	c.caller = pair.NewCaller(conn, c.event)
	go c.pong(conn)
	for _, l := range steal {
		go c.acceptStolen(l)
	}
	go c.acceptSessions(ctx, listener)
	select {
	case <-c.caller.Done(): // the parent is dead: PDEATHSIG should have come first
		return errors.New("child: the agent's parent process has ended")
	case r := <-c.retired:
		c.retire(r)
		return nil
	case <-ctx.Done():
		return nil
	}
}

// adopt takes the files of the start message over.
func (c *Child) adopt(files []*os.File) (listener net.Listener, steal []*net.TCPListener, err error) {
	want := pair.FileRest + c.start.Listeners + c.start.Raw
	if c.start.Trace {
		want++
	}
	if len(files) != want || c.start.Raw > 2 {
		return nil, nil, fmt.Errorf("child: %d files where %d were due", len(files), want)
	}
	listener, err = net.FileListener(files[pair.FileListener])
	files[pair.FileListener].Close()
	if err != nil {
		return nil, nil, fmt.Errorf("child: the sessions' listener: %w", err)
	}
	if l, ok := listener.(*net.UnixListener); ok {
		l.SetUnlinkOnClose(false) // its path is of the parent's root
	}
	c.ours = files[pair.FileOurs]
	c.rights = c.start.Rights
	if err := c.see(c.start.View, files[pair.FileRoot:pair.FileOurs]); err != nil {
		c.limits = append(c.limits, fmt.Sprintf("the pod's files are out of reach: %v", err))
	}
	if c.view.now() == nil {
		c.view.never = true
		c.rights = slices.DeleteFunc(slices.Clone(c.rights), func(r string) bool { return r == pair.RightFiles })
	}
	rest := files[pair.FileRest:]
	c.trace = &trace{log: c.log}
	if c.start.Trace {
		c.trace.w, rest = rest[0], rest[1:]
	}
	for _, f := range rest[:c.start.Listeners] {
		l, err := net.FileListener(f)
		f.Close()
		if err != nil {
			return nil, nil, fmt.Errorf("child: a steal's listener: %w", err)
		}
		steal = append(steal, l.(*net.TCPListener))
	}
	copy(c.raw[:], rest[c.start.Listeners:])
	return listener, steal, nil
}

// see takes over what there is to see of the target: files are its root, environ and mountinfo, or nothing while the
// container restarts.
func (c *Child) see(v pair.View, passed []*os.File) error {
	if len(passed) == 0 {
		c.view.set(nil, "", nil, nil)
		return nil
	}
	if len(passed) != pair.ViewFiles {
		pair.CloseAll(passed)
		return fmt.Errorf("child: %d files where %d were due", len(passed), pair.ViewFiles)
	}
	environ, err := readAll(passed[1])
	passed[1].Close()
	if err != nil {
		pair.CloseAll([]*os.File{passed[0], passed[2]})
		return fmt.Errorf("child: reading the pod's environment: %w", err)
	}
	var root *files.Root
	if v.Files {
		root, err = files.NewRoot(passed[0])
	} else {
		passed[0].Close()
	}
	c.view.set(root, v.Target, pod.ParseEnviron(environ), passed[2])
	return err
}

// readAll reads a file of /proc from its beginning.
func readAll(f *os.File) ([]byte, error) {
	return io.ReadAll(io.NewSectionReader(f, 0, maxProc))
}

// event is told what the parent says of itself.
func (c *Child) event(m pair.Message, files []*os.File) {
	switch m.Op {
	case pair.OpPing:
		select {
		case c.pinged <- struct{}{}:
		default: // the answer to the one before is under way
		}
	case pair.OpView:
		var v pair.View
		if err := json.Unmarshal(m.Body, &v); err != nil {
			break
		}
		if err := c.see(v, files); err != nil {
			c.log.Error("the target's successor", "err", err)
		}
		files = nil
		c.notice(v.Notice)
	case pair.OpRetire:
		var r pair.Retire
		if json.Unmarshal(m.Body, &r) != nil {
			break
		}
		select {
		case c.retired <- r:
		default:
		}
	}
	pair.CloseAll(files)
}

// notice tells every session a line.
func (c *Child) notice(text string) {
	if text == "" {
		return
	}
	for _, s := range c.all() {
		go func() { _ = s.conn.Send(wire.KindNotice, wire.Notice{Text: text}) }() // it ends with the channel, if not before
	}
}

// all are the sessions of this moment. To tell one something may take until its channel is lost: nobody else is to wait
// for that, and so not the holder of c.mu either.
func (c *Child) all() []*session {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Values(c.sessions))
}

// pong tells the parent that this process lives: that it receives what the parent says, and can answer. It is apart from
// event, which must not wait for questions that wait to be sent.
func (c *Child) pong(conn *pair.Conn) {
	for {
		select {
		case <-c.pinged:
		case <-c.caller.Done():
			return
		}
		if conn.Send(pair.Message{Op: pair.OpPong}) != nil {
			return
		}
	}
}

// retire tells the sessions why, and lets the connections that went to the pod's own process come to their end.
func (c *Child) retire(r pair.Retire) {
	var telling atomic.Int64
	for _, s := range c.all() {
		telling.Add(1)
		go func() {
			_ = s.conn.Close(r.Reason)
			telling.Add(-1)
		}()
	}
	for end := time.Now().Add(flowsWait); telling.Load()+c.stolen.Load() > 0 && time.Now().Before(end); {
		time.Sleep(flowsPoll)
	}
}

const (
	// flowsWait is less than the parent waits for this process's end (its retireWait). What lasts longer is reset.
	flowsWait = 900 * time.Millisecond
	flowsPoll = 10 * time.Millisecond
)

// acceptSessions never waits for one session's sake.
func (c *Child) acceptSessions(ctx context.Context, l net.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // EMFILE and the like pass
			c.log.Warn("accepting a session", "err", err)
			time.Sleep(acceptPause)
			continue
		}
		if _, ok := conn.(*net.UnixConn); ok { // over TCP there is only the token
			uid, err := peer.UID(conn)
			if err != nil || uint32(uid) != c.start.PeerUID {
				c.log.Warn("refused a stranger", "uid", uid, "err", err)
				conn.Close()
				continue
			}
		}
		if c.waiting.enter(conn) {
			c.log.Warn("closed the oldest connection without a token: there are too many")
		}
		go func() {
			defer c.waiting.leave(conn)
			c.serve(ctx, conn)
		}()
	}
}

// acceptPause is the wait after an accept that failed for want of descriptors or memory.
const acceptPause = 50 * time.Millisecond

// hostname is the pod's: this process is in its UTS namespace.
func hostname() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Nodename[:])
}
