// Package session is one debuggee's tree in a pod's place: it holds the way to the agent, is the network and the file
// system of the debuggee's namespaces, and decides where each flow, name and file comes from. Front ends present and
// agents do; only the session decides. It must never change the pod's workload, and nothing of the pod's may reach a
// disk or a log through it.
package session

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/names"
	"github.com/stepin-dev/stepin/pkg/namespaces"
	"github.com/stepin-dev/stepin/pkg/podfs"
	"github.com/stepin-dev/stepin/pkg/policy"
	"github.com/stepin-dev/stepin/pkg/requests"
	"github.com/stepin-dev/stepin/pkg/resolv"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// Waits.
const (
	volumeRetry = 2 * time.Second  // small volumes are asked for again after a failure
	volumeWait  = 10 * time.Second // the debuggee is not started before its small volumes are there, at most this late
)

// Parts are the programs that stepin carries inside.
type Parts struct {
	Version      string
	Agent        func() ([]byte, error) // for this machine's architecture
	Stub, Keeper func() ([]byte, error)
	Preload      func(libc string) ([]byte, error) // the library, for "glibc" or "musl"
	// Packed is the agent for a node's architecture, a GOARCH, as an LZ4 frame, and its own size; Boot what makes a program
	// of it there.
	Packed func(arch string) (frame []byte, size int, err error)
	Boot   func(arch string) ([]byte, error)
}

// Options say what a session is for. They may be changed until Start.
type Options struct {
	Config *config.Launch
	Parts  Parts
	Place  Place

	Progress func(title string, done, total int) // what is being done; may be nil
	Notice   func(line string)                   // one line for the developer; may be nil; any goroutine, must not wait
	Dir      func(path string)                   // told of the private directory as soon as it exists; may be nil
	Requests func(requests.Request)              // told of each request to the debuggee that has been answered; nil: nobody; one goroutine, must not wait
	Log      *slog.Logger                        // nil: none
	Trace    *os.File                            // the agent's list of what it did, for tests; nil: none
	// TunPath and FusePath are the device nodes; "" the usual ones.
	TunPath, FusePath string
}

// Place says where the debuggee will run; what is there stays the host's.
type Place struct {
	Program   string   // absolute, "" where unknown
	Runtime   string   // absolute path of what is executed to run Program, "" where that is executed itself
	Debugger  string   // absolute, "" where there is none
	Workdir   string   // absolute
	Workspace string   // absolute, "" where unknown
	Environ   []string // the developer's environment
}

// Session is one debuggee's tree and its way to the agent.
//
// Goroutines: link's; reach's; ports'; watchVolumes; follow, which ends the session when one of its parts has ended; the
// feed's; one a flow. All end with Close.
type Session struct {
	config   *config.Launch
	options  Options
	log      *slog.Logger
	target   config.Target
	dir      string
	outgoing *policy.Outgoing
	plan     policy.FilesPlan
	aliases  map[string]string // where this machine's links lead the pod's volumes, by their own paths, if elsewhere
	pod      wire.Pod
	attrs    map[string]wire.Attr // of the pod's paths that were asked about before the debuggee
	early    *earlyWatch          // nil: none
	conf     resolv.Conf          // the pod's
	envFile  map[string]string
	// beside says that the pod is in this machine's own network.
	beside bool

	copying copying
	hello   wire.Hello // without a token: who this is
	since   time.Time  // of Start
	changed bell       // State

	reach     reach
	link      *link             // home's
	links     links             // home's and the others', with mu
	guard     *namespaces.Guard // until there are namespaces
	front     frontEnd          // nil until the start has come to it
	trees     trees
	names     *names.Resolver
	ports     *ports
	datagrams datagrams
	relays    mux.Relays
	feed      *requests.Feed // nil: nobody listens
	following sync.WaitGroup
	entered   atomic.Bool // the namespaces are made: from here on the debuggee may run
	said      sync.Map    // lines said once

	ctx    context.Context
	cancel context.CancelFunc
	once   sync.Once
	done   chan struct{}
	mu     sync.Mutex
	paused bool
	err    error
}

// Start makes a session. Errors are fail.Errors where a person can mend them; then nothing is left behind. It returns
// soon after ctx has ended.
func Start(ctx context.Context, o Options) (*Session, error) {
	if o.Progress == nil {
		o.Progress = func(string, int, int) {}
	}
	if o.Notice == nil {
		o.Notice = func(string) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Session{config: o.Config, options: o, log: o.Log, done: make(chan struct{}), since: time.Now(),
		links: links{all: map[*link]bool{}, changed: make(chan struct{})}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.ports = newPorts(s)
	s.feed = requests.NewFeed(o.Requests)
	if err := s.start(ctx); err != nil {
		if s.link != nil {
			err = s.link.why(err)
		}
		s.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, err
	}
	go s.follow()
	go s.ports.watch(s.ctx)
	s.following.Go(func() { s.reach.note(s.ctx) })
	return s, nil
}

func (s *Session) start(ctx context.Context) (err error) {
	if s.target, err = config.ParseTarget(s.config.Target); err != nil {
		return err
	}
	if s.outgoing, err = policy.NewOutgoing(s.config.Outgoing); err != nil {
		return err
	}
	if s.envFile, err = readEnvFile(s.config.Env.File); err != nil {
		return err
	}
	if s.target.Local() {
		s.reach, err = newLocal(s)
	} else {
		s.options.Progress("finding the pod", 0, startSteps)
		s.reach, err = newCluster(ctx, s)
	}
	if err != nil {
		return err
	}
	if s.dir, err = os.MkdirTemp(tempDir(), "stepin-session-"); err != nil {
		return fmt.Errorf("session: making a private directory: %w", err)
	}
	s.protect()
	if s.options.Dir != nil {
		s.options.Dir(s.dir)
	}
	s.options.Progress("starting the agent", 0, startSteps)
	if err := s.connect(ctx); err != nil {
		return err
	}
	s.options.Progress("reading the pod", 1, startSteps)
	if err := s.look(ctx); err != nil {
		return err
	}
	if err := s.checkIncoming(); err != nil {
		return err
	}
	s.planFiles()
	s.options.Progress("making the pod's place", 2, startSteps)
	if err := s.enter(ctx); err != nil {
		return err
	}
	s.options.Progress("ready", startSteps, startSteps)
	s.announce()
	return nil
}

// protect sees to it that the private directory goes even if this process is killed before there are namespaces. Where
// that cannot be, for instance without the right to execute there, the namespaces say so better.
func (s *Session) protect() {
	image, err := s.options.Parts.Keeper()
	if err == nil {
		s.guard, err = namespaces.NewGuard(s.dir, image)
	}
	if err != nil {
		s.log.Debug("the private directory is not guarded", "err", err)
	}
}

// cause leaves out the path that a PathError repeats.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// startSteps are the steps of a start that progress is shown in.
const startSteps = 3

// connect starts or joins home's agent, and begins to follow the target's other pods.
func (s *Session) connect(ctx context.Context) error {
	o := s.linkOptions(s.reach.dial)
	o.notice = s.reach.notice
	l, err := newLink(ctx, o)
	var refusal *wire.Refusal
	if errors.As(err, &refusal) {
		return fail.New(fail.AgentRefused, "", "the agent refuses this session: %s", refusal.Message)
	}
	if err != nil {
		return err
	}
	s.link = l
	s.join(l)
	s.following.Go(func() { s.reach.follow(s.ctx) })
	return nil
}

func (s *Session) linkOptions(dial dialer) linkOptions {
	return linkOptions{dial: dial, try: s.reach.try(), final: s.reach.final, serve: s.serve, notice: s.notice, news: s.reach.news, ring: s.changed.ring, log: s.log}
}

// hello is what every agent of this session is told, but for the token.
func newHello() (wire.Hello, error) {
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return wire.Hello{}, err
	}
	return wire.Hello{Session: hex.EncodeToString(id[:]), Who: who()}, nil
}

func who() string {
	name := "uid " + fmt.Sprint(os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		return name
	}
	return name + "@" + host
}

// stubFile puts the stub where it can be executed before there are namespaces.
func (s *Session) stubFile() (string, error) {
	image, err := s.options.Parts.Stub()
	if err != nil {
		return "", err
	}
	path := filepath.Join(s.dir, "enter")
	if err := os.WriteFile(path, image, 0o700); err != nil {
		return "", fmt.Errorf("session: writing the stub: %w", err)
	}
	return path, nil
}

// look asks for all that the start needs of the pod, at once: what the pod is, which of the usual files it has, and what is
// in its small volumes, where those are known beforehand.
func (s *Session) look(ctx context.Context) error {
	var known wire.Pod
	s.reach.complete(&known)
	s.early = s.watchEarly(known.Volumes)
	asked := policy.Probes()
	for _, v := range known.Volumes {
		asked = append(asked, v.Path)
	}
	s.attrs = map[string]wire.Attr{}
	if err := s.describe(ctx, asked); err != nil {
		return err
	}
	for _, at := range s.pod.Stated {
		s.attrs[string(at.Path)] = at.Attr
	}
	if s.pod.Stated == nil { // an agent of another release
		s.probe(ctx, asked)
	}
	return nil
}

// describe asks what the pod is, and what is at some paths.
func (s *Session) describe(ctx context.Context, asked []string) error {
	var ask wire.Describe
	for _, path := range asked {
		ask.Lstat = append(ask.Lstat, wire.Name(path))
	}
	stream, err := s.link.open(ctx, wire.KindDescribe, ask, nil)
	if err != nil {
		return fail.Wrap(fail.AgentLost, err, "", "asking the agent about the pod")
	}
	defer stream.Close()
	if err := decodeAll(stream, wire.MaxPod, &s.pod); err != nil {
		return fail.Wrap(fail.AgentLost, err, "", "reading what the agent says about the pod")
	}
	s.reach.complete(&s.pod)
	s.conf = resolv.ParseConf([]byte(s.pod.Resolver))
	side := func(name string) bool {
		v := s.outgoing.Name(name)
		return v.Where != policy.Host
	}
	s.names = names.New(names.Config{Pod: s.lookup, Host: hostLookup, Side: side, Search: s.conf.Search})
	return nil
}

// newFiles is the pod's tree, to be mounted: apart, at a place of its own and not at the pod's paths.
func (s *Session) newFiles(apart bool) *podfs.FS {
	c := podfs.Config{Source: s.source(), Covered: s.plan.Covered, Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid()),
		Apart: apart, Notice: s.notice, Log: s.log}
	if !apart {
		c.PerProcess, c.HostView = s.plan.HostView, func(pid uint32) bool { return s.isHostProgram(int(pid)) }
	}
	return podfs.New(c)
}

func (s *Session) source() files { return files{s.link, &s.plan, &s.entered, s.attrs} }

// enter makes the front end, with the pod's files.
func (s *Session) enter(ctx context.Context) error {
	small := s.smallVolumes()
	ready := make(chan struct{})
	go s.watchVolumes(s.ctx, small, sync.OnceFunc(func() { close(ready) }))
	s.probe(ctx, s.unknown())
	select {
	case <-ready:
	case <-time.After(volumeWait):
		s.notice("the pod's small volumes are slow to come; they are read one by one until then")
	case <-ctx.Done():
		return ctx.Err()
	}
	front, err := s.newFront(ctx)
	if err != nil {
		return err
	}
	s.front = front
	s.guard.Dismiss()
	s.entered.Store(true)
	return nil
}

// announce says what this session has and what it lacks.
func (s *Session) announce() {
	_, left := s.environ(nil)
	line := fmt.Sprintf("in the place of %s, host name %s: %s and %s of the pod's", s.pod.Target, s.pod.Hostname,
		count(len(s.pod.Env)-len(left), "variable"), count(len(s.plan.Cover), "path"))
	if len(left) > 0 {
		line += fmt.Sprintf("; %s left out (%s)", count(len(left), "variable"), firstNames(left))
	}
	s.notice(line)
	for _, l := range s.pod.Limits {
		s.notice(l)
	}
}

// firstNames are the names of the variables left out, or some of them.
func firstNames(left []policy.Left) string {
	const most = 3
	var all []string
	for i, l := range left {
		if i == most {
			return strings.Join(all, ", ") + ", …"
		}
		all = append(all, l.Name)
	}
	return strings.Join(all, ", ")
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// follow ends the session when its namespaces are gone, or when the agent says that the pod is. A session that has lost
// its agent only goes on without.
func (s *Session) follow() {
	for ended := s.link.ended; ; {
		select {
		case <-s.ctx.Done():
			return
		case <-s.front.Done():
			s.end(s.front.Err())
			return
		case <-ended:
		}
		if s.ctx.Err() != nil {
			return // it was Close
		}
		ended = nil // heard: it stays closed
		if wasStopped(s.link.err) {
			s.end(errStopped)
			return
		}
		var bye mux.ByeError
		if errors.As(s.link.err, &bye) && bye.Reason != "" {
			s.end(fail.New(fail.AgentLost, "start again when the pod runs", "%s", bye.Reason))
			return
		}
		var over *fail.Error
		if errors.As(s.link.err, &over) && over.Code == fail.TargetUnknown {
			s.end(over)
			return
		}
		why := s.link.err.Error()
		if over != nil { // in its own words, without errGone's before them
			if why = over.Error(); over.Hint != "" {
				why += "; hint: " + over.Hint
			}
		}
		s.notice(fmt.Sprintf("the agent is gone (%s): the pod serves itself again, and %s", why, lost(s.config.OnLost)))
	}
}

func lost(onLost string) string {
	if onLost == "host" {
		return "new connections of this program leave from this machine"
	}
	return "new connections of this program fail"
}

// end records why the session ended by itself.
func (s *Session) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && s.ctx.Err() == nil {
		s.err = err
		close(s.done)
	}
}

// Done is closed when the session has ended by itself; Err then says why. Close does not close it.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err is why the session ended by itself, nil otherwise.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close ends every process inside, gives the pod its traffic back and leaves nothing behind. It is idempotent.
func (s *Session) Close() error {
	var err error
	s.once.Do(func() {
		s.cancel()
		left := s.leave() // first of all: the pod serves again
		select {
		case <-left:
		case <-time.After(giveBack): // one that is down may have something to tidy up, which is not the debuggee's business
		}
		if s.front != nil {
			err = s.front.Close()
		}
		if s.link != nil {
			s.log.Debug("round trips", "streams", s.link.opened.Load(), "files", fmt.Sprintf("%+v", s.trees.close()))
		}
		<-left
		s.following.Wait()
		if s.reach != nil {
			s.reach.close()
		}
		s.guard.Dismiss()
		s.feed.Close()
		if s.dir != "" {
			err = errors.Join(err, os.RemoveAll(s.dir))
		}
	})
	return err
}

// Dir is the session's private directory, for sockets and what is built. It is removed with the session.
func (s *Session) Dir() string { return s.dir }

// Wrap returns the command line that runs argv in the pod's place.
func (s *Session) Wrap(argv []string) []string { return s.front.Wrap(argv) }

// Begin starts a command in the pod's place; its path and arguments are as seen there. A program that cannot be run there
// is an error, not a status.
func (s *Session) Begin(cmd *exec.Cmd) error { return s.front.Begin(cmd) }

// Arrived waits, some seconds at most, until a debuggee that a real debugger has begun is known to be in the pod's place. An
// error says that it is not, or was not when ctx ended.
func (s *Session) Arrived(ctx context.Context) error { return s.front.Arrived(ctx) }

// SetPaused says that the debuggee stands at a breakpoint; all its agents are told. It does not wait.
func (s *Session) SetPaused(paused bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused = paused
	s.changed.ring()
	for l := range s.links.all {
		l.tell(wire.State{Paused: paused})
	}
}

func (s *Session) notice(line string) { s.options.Notice(line) }

// isHostProgram says whether a process belongs to the developer's machine.
func (s *Session) isHostProgram(pid int) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil || exe == s.options.Place.Program {
		return false
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false
	}
	args := strings.Split(strings.TrimSuffix(string(raw), "\x00"), "\x00")
	return policy.IsHostProgram(exe, args, s.config.HostPrograms)
}
