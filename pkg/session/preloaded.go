package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/namespaces"
	"github.com/stepin-dev/stepin/pkg/podfs"
	"github.com/stepin-dev/stepin/pkg/policy"
	"github.com/stepin-dev/stepin/pkg/preload"
)

// preloaded is the front end that is a library in the debuggee, libstepin.so: it asks the preload.Server at each call that
// the pod has a say in, and this decides. Programs that the library cannot serve run in namespaces, made when the first of
// them is executed; their listeners are the session's as well.
//
// Goroutines: the server's; none of its own.
type preloaded struct {
	*preload.Server
	s       *Session
	keeper  *preload.Keeper
	library string
	musl    bool          // what the library is for
	tree    *podfs.FS     // the pod's files, mounted or asked
	done    chan struct{} // closed by Close

	making sync.Mutex // one try to make namespaces at a time
	mu     sync.Mutex
	inside *namespaced // nil: not made
	cannot error       // why they cannot be had
}

var (
	_ frontEnd        = (*preloaded)(nil)
	_ preload.Handler = (*preloaded)(nil)
)

// newPreloaded makes it.
func newPreloaded(_ context.Context, s *Session, musl bool) (_ *preloaded, err error) {
	libc := "glibc"
	if musl {
		libc = "musl"
	}
	image, err := s.options.Parts.Preload(libc)
	if err != nil {
		return nil, err
	}
	root := os.Getuid() == 0
	f := &preloaded{s: s, musl: musl, done: make(chan struct{})}
	if f.library, err = writeLibrary(s.dir, image, root); err != nil {
		return nil, err
	}
	dirs := []string{s.dir}
	if f.place() != s.dir {
		dirs = append(dirs, f.place())
	}
	if f.keeper, err = preload.StartKeeper(dirs...); err != nil {
		return nil, errors.Join(err, os.RemoveAll(f.place()))
	}
	f.tree = s.trees.add(s.newFiles(true))
	c := preload.Config{Dir: f.place(), Others: root, Serve: preload.ServeTCP | preload.ServeUDP | preload.ServeExec, Handler: f, Log: s.log,
		LostHost: policy.Lost(s.config.OnLost).Where == policy.Host}
	if s.config.DNS {
		c.Serve |= preload.ServeNames
	}
	if s.config.Hostname {
		c.Serve |= preload.ServeHostname
		c.Hostname = s.pod.Hostname
	}
	if f.fillFiles(&c); len(c.Table) > 0 {
		c.Serve |= preload.ServeFiles
		if c.Files == nil {
			c.Became = func(uid int) {
				s.notice(fmt.Sprintf("the program has become user %d, who cannot read the pod's files here: they are mounted for user %d", uid, os.Getuid()))
			}
		}
	}
	if f.Server, err = preload.New(c); err != nil {
		return nil, errors.Join(err, f.keeper.End())
	}
	return f, nil
}

// place is the library's directory: the session's own, or an open one.
func (f *preloaded) place() string { return filepath.Dir(f.library) }

// fillFiles mounts the pod's files and says which paths lead there; without FUSE the same tree is asked path by path.
func (f *preloaded) fillFiles(c *preload.Config) {
	s := f.s
	covered := slices.Clone(s.plan.Cover)
	for _, at := range s.aliases {
		covered = append(covered, at)
	}
	at, action := filepath.Join(s.dir, preload.MountName), preload.PathTranslate
	if err := f.mount(at); err != nil {
		s.log.Debug("no FUSE", "err", err)
		s.notice("there is no FUSE to be had here: the pod's files are fetched one by one, as they are opened")
		action, c.Files, c.Stand = preload.PathFetch, f.tree, at
	}
	for _, p := range covered {
		c.Table = append(c.Table, preload.Rule{Prefix: p, Action: action, To: at + p, WriteError: syscall.EROFS})
	}
	for _, p := range s.plan.Host {
		c.Table = append(c.Table, preload.Rule{Prefix: p, Action: preload.PathHost})
	}
	for _, p := range s.plan.Hide {
		c.Table = append(c.Table, preload.Rule{Prefix: p, Action: preload.PathHidden})
	}
}

func (f *preloaded) mount(at string) error {
	if err := os.Mkdir(at, 0o700); err != nil {
		return err
	}
	fd, err := preload.Mount(at, f.s.options.FusePath)
	if err != nil {
		return err
	}
	return f.tree.Serve(fd)
}

// Wrap leaves a command line as it is: what is around the debuggee is this machine's, and Environ makes the debuggee.
func (f *preloaded) Wrap(argv []string) []string { return argv }

// loadVariable is how the loader is told of the library (ld.so(8)).
const loadVariable = "LD_PRELOAD"

// Environ puts the library first; what the user preloads stays behind it.
func (f *preloaded) Environ(env []string) []string {
	libraries := f.library
	if own := variable(env, loadVariable); own != "" {
		libraries += ":" + own
	}
	env = slices.DeleteFunc(slices.Clone(env), func(e string) bool {
		return strings.HasPrefix(e, loadVariable+"=") || strings.HasPrefix(e, preload.Variable+"=")
	})
	return append(env, loadVariable+"="+libraries, preload.Variable+"="+f.Value())
}

// greetTime bounds the wait for the library's greeting. It itself waits preload.GreetingMS for the answer.
const greetTime = 2*preload.GreetingMS*time.Millisecond + time.Second

// Begin starts a command and waits until the library in it has greeted: a program that runs without it would be on this
// machine without a word.
func (f *preloaded) Begin(cmd *exec.Cmd) error {
	program := cmd.Path
	if err := cmd.Start(); err != nil {
		var no syscall.Errno
		errors.As(err, &no)
		return notRun(program, no == syscall.ENOENT, no, err.Error())
	}
	running, over := context.WithCancel(context.Background())
	go func() {
		defer over()
		awaitEnd(cmd.Process.Pid)
	}()
	if f.greeted(running) {
		return nil
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // its status tells nothing that is not said here
	return unloaded(program, "would have run")
}

// Arrived waits likewise where a real debugger has started it.
func (f *preloaded) Arrived(ctx context.Context) error {
	if f.greeted(ctx) {
		return nil
	}
	program, _ := f.s.inspect()
	return unloaded(program.Path, "runs")
}

// greeted waits for the library's greeting until ctx ends or greetTime is over.
func (f *preloaded) greeted(ctx context.Context) bool {
	select {
	case <-f.First():
		return true
	case <-ctx.Done():
	case <-time.After(greetTime):
	}
	select {
	case <-f.First():
		return true
	default:
		return false
	}
}

func unloaded(program, runs string) error {
	return fail.New(fail.PreloadForbidden, `write "frontEnd": "namespaces", or leave it out`,
		"%s does not load stepin's library, and %s on this machine instead of in the pod's place", program, runs)
}

// awaitEnd waits for a process's end without reaping it (pidfd_open(2)).
func awaitEnd(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	for {
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1); err != unix.EINTR {
			return
		}
	}
}

// Done is closed by Close only: the library outlives every part of the session but itself.
func (f *preloaded) Done() <-chan struct{} { return f.done }

// Err is nil.
func (f *preloaded) Err() error { return nil }

// Close ends every process of the debuggee's, and removes the session's directory.
func (f *preloaded) Close() error {
	var err error
	if inside := f.within(); inside != nil {
		err = inside.Close()
	}
	err = errors.Join(err, f.keeper.End())
	f.Server.Close()
	select {
	case <-f.done:
	default:
		close(f.done)
	}
	return err
}

// within are the namespaces, nil as long as nobody needs them.
func (f *preloaded) within() *namespaced {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.inside
}

// makeInside makes them when the first program needs them.
func (f *preloaded) makeInside() (*namespaced, error) {
	f.making.Lock()
	defer f.making.Unlock()
	if f.inside != nil || f.cannot != nil {
		return f.inside, f.cannot
	}
	dir := filepath.Join(f.s.dir, "inside")
	err := os.Mkdir(dir, 0o700)
	var inside *namespaced
	if err == nil {
		inside, err = newNamespaced(f.s.ctx, f.s, dir)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.cannot = err
		return nil, err
	}
	inside.elsewhere = f.Real
	f.inside = inside
	return inside, nil
}

// Listeners are those of both kinds of programs.
func (f *preloaded) Listeners() ([]namespaces.Listener, error) {
	all, err := f.Server.Listeners()
	if inside := f.within(); inside != nil {
		more, ierr := inside.Listeners()
		all, err = append(all, more...), errors.Join(err, ierr)
	}
	return all, err
}

// Processes likewise.
func (f *preloaded) Processes() ([]int, error) {
	all := preload.Processes(f.place())
	inside := f.within()
	if inside == nil {
		return all, nil
	}
	more, err := inside.Processes()
	return append(all, more...), err
}

// Connected are the ports with connections.
func (f *preloaded) Connected() (map[uint16]bool, error) {
	inside := f.within()
	if inside == nil {
		return nil, nil // no port is anything but this machine's own
	}
	return inside.Connected()
}

// OwnPort matters to namespaces only.
func (f *preloaded) OwnPort(network string, port uint16) error {
	if inside := f.within(); inside != nil {
		return inside.OwnPort(network, port)
	}
	return nil
}

// DisownPort likewise.
func (f *preloaded) DisownPort(network string, port uint16) error {
	if inside := f.within(); inside != nil {
		return inside.DisownPort(network, port)
	}
	return nil
}

// OnHost says whether the debuggee's port is one of this machine's, and which.
func (f *preloaded) OnHost(network string, port uint16) (uint16, bool) {
	at, ok := f.Real(network, port)
	return at.Port(), ok
}

// Deliver connects to the program that listens.
func (f *preloaded) Deliver(ctx context.Context, client, dst netip.AddrPort) (*net.TCPConn, error) {
	if inside := f.within(); inside != nil {
		if _, ok := f.Real("tcp", dst.Port()); !ok {
			return inside.Deliver(ctx, client, dst)
		}
	}
	return f.Server.Deliver(ctx, client, dst)
}

// SendUDP likewise.
func (f *preloaded) SendUDP(client, dst netip.AddrPort, data []byte) error {
	if inside := f.within(); inside != nil {
		if _, ok := f.Real("udp", dst.Port()); !ok {
			return inside.SendUDP(client, dst, data)
		}
	}
	return f.Server.SendUDP(client, dst, data)
}

// Greet says whether a process is the debuggee's.
func (f *preloaded) Greet(pid int, program string) bool {
	host := f.s.isHostProgram(pid)
	f.s.log.Debug("a process", "pid", pid, "program", program, "host", host)
	return !host
}

// Route decides on a flow.
func (f *preloaded) Route(network string, dst netip.AddrPort) (host bool, to netip.AddrPort, err error) {
	s := f.s
	if dst.Addr().IsUnspecified() { // as the kernel has it
		dst = netip.AddrPortFrom(loopbackLike(dst.Addr()), dst.Port())
	}
	if s.isResolver(dst) {
		return false, to, nil
	}
	if s.itself(dst.Addr()) && s.ports.own(s.ctx, network, dst.Port()) {
		if at, ok := f.Real(network, dst.Port()); ok {
			return true, at, nil
		}
		return true, netip.AddrPortFrom(loopbackLike(dst.Addr()), dst.Port()), nil // the session's own listener for what is inside
	}
	v := s.verdict(network, dst, false)
	s.log.Debug("outgoing "+network, "dst", dst, "verdict", v.Where, "rule", v.Rule)
	switch v.Where {
	case policy.Deny:
		return false, to, v.Errno
	case policy.Host:
		return true, to, nil
	case policy.HostThenPod:
		return f.here(network, dst), to, nil
	}
	return false, to, nil
}

func loopbackLike(a netip.Addr) netip.Addr {
	if a.Is6() {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// here says whether somebody listens on this machine's loopback where a flow leads.
func (f *preloaded) here(network string, dst netip.AddrPort) bool {
	all, err := f.Machine().Listeners()
	if err != nil {
		return true
	}
	return slices.ContainsFunc(all, func(l namespaces.Listener) bool {
		a := l.Addr.Addr()
		return l.Network == network && l.Addr.Port() == dst.Port() &&
			(a == dst.Addr() || a == netip.IPv4Unspecified() && dst.Addr().Is4() || a == netip.IPv6Unspecified() && (dst.Addr().Is6() || !l.V6Only))
	})
}

// DialTCP opens a flow of the pod's.
func (f *preloaded) DialTCP(ctx context.Context, src, dst netip.AddrPort) (func(mux.End), error) {
	s := f.s
	if s.isResolver(dst) {
		return func(c mux.End) { _ = s.names.ServeTCP(s.ctx, c) }, nil
	}
	serve, err := s.podTCP(ctx, src, dst)
	if err == nil && dst.Addr().IsLoopback() {
		s.sayOnce(dst.Port(), "port %d of 127.0.0.1: nobody listens on this machine, so it leads to the pod's own", dst.Port())
	}
	return serve, err
}

// ServeUDP serves an association.
func (f *preloaded) ServeUDP(ctx context.Context, a *preload.Association) {
	s := f.s
	src, dst := a.RemoteAddr(), a.LocalAddr()
	if flow := s.datagrams.of(src, dst); flow != nil {
		flow.serve(a)
		return
	}
	if s.isResolver(dst) {
		s.serveNames(a)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, associateTimeout)
	serve, err := s.podUDP(ctx, src, dst)
	cancel()
	if err != nil {
		s.log.Debug("outgoing udp", "dst", dst, "err", err)
		a.Refuse(errno(err, syscall.ECONNREFUSED))
		return
	}
	serve(a)
}

// Own is the pod's address of a family, or an address that the debuggee has as well.
func (f *preloaded) Own(a netip.Addr) netip.Addr {
	if f.s.itself(a) {
		return a
	}
	for _, own := range f.s.pod.Addrs {
		if own.Is4() == a.Is4() {
			return own
		}
	}
	return loopbackLike(a)
}

// Exec says what becomes of a program.
func (f *preloaded) Exec(pid int, program string) (uint32, []string, error) {
	if own, ok := strings.CutPrefix(program, "/proc/self/"); ok {
		program = fmt.Sprintf("/proc/%d/%s", pid, own) // its own executable, or a file in memory
	} else if !filepath.IsAbs(program) {
		program = filepath.Join(fmt.Sprintf("/proc/%d/cwd", pid), program)
	}
	p, err := preload.Inspect(program, variable(f.s.options.Place.Environ, "PATH"), whoIs(pid))
	why := p.Why()
	if why == "" && p.Musl() != f.musl {
		why = "it goes through another libc than the program that it belongs to"
	}
	if err != nil || p.Other || why == "" {
		return preload.ExecSame, nil, nil // the kernel says what is wrong with it
	}
	if policy.IsHostProgram(p.Path, nil, f.s.config.HostPrograms) {
		return preload.ExecHost, nil, nil
	}
	name := filepath.Base(p.Path)
	if at, err := os.Readlink(p.Path); err == nil && strings.HasPrefix(p.Path, "/proc/") {
		name = filepath.Base(strings.TrimSuffix(at, " (deleted)"))
	}
	if p.SetUID {
		f.s.sayOnce(0, "%s runs on this machine, not in the pod's place: %s", name, why)
		return preload.ExecHost, nil, nil
	}
	inside, err := f.makeInside()
	if err != nil {
		f.s.sayOnce(0, "%s cannot be run in the pod's place: %s, and %v", name, why, err)
		return 0, nil, syscall.EPERM
	}
	return preload.ExecWrap, inside.Wrap(nil), nil
}

// whoIs is the user and group of a process of the debuggee's, the session's own where that cannot be told.
func whoIs(pid int) preload.Who {
	who := preload.Self()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return who
	}
	for line := range strings.Lines(string(raw)) { // of four ids the real one comes first (proc_pid_status(5))
		f := strings.Fields(line)
		if len(f) != 5 || f[0] != "Uid:" && f[0] != "Gid:" {
			continue
		}
		id, err := strconv.ParseUint(f[1], 10, 32)
		switch {
		case err != nil:
		case f[0] == "Uid:":
			who.UID = uint32(id)
		default:
			who.GID = uint32(id)
		}
	}
	return who
}

// Notice is a line from the library.
func (f *preloaded) Notice(line string) { f.s.sayOnce(0, "%s", line) }

// Moved says that the debuggee's port is another one here.
func (f *preloaded) Moved(network string, asked, got netip.AddrPort) {
	f.s.sayOnce(asked.Port(), "%s port %d cannot be had on this machine: the program listens on %d instead, and the pod's clients reach it there", network, asked.Port(), got.Port())
}
