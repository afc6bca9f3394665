package podlet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Word is the hidden command's name: this program, run with it as its first argument, becomes a part of the pod.
const Word = "podlet"

// Hook becomes a part of the pod if this process was started as one, and does not return then. Programs and test
// binaries that call Start must call it first in main or TestMain, or run Main in a command named Word.
func Hook() {
	if len(os.Args) > 1 && os.Args[1] == Word {
		os.Exit(Run(os.Args[2:]))
	}
}

// Run is the hidden command's body; args are what follows Word. It returns the exit status.
func Run(args []string) int {
	var err error
	switch {
	case len(args) == 1 && args[0] == "warden":
		err = wardenMain(os.NewFile(3, "control"))
	case len(args) == 1 && args[0] == "enter":
		err = enterMain(os.NewFile(3, "command"), os.NewFile(4, "failure")) // returns on failure only
	default:
		err = errors.New("podlet: this command is stepin's own: it is run by `stepin demo`")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// plan is what of a Spec the warden needs.
type plan struct {
	Hostname string
	Addrs    []netip.Prefix
	Outside  []netip.Addr
	Routes   []Route
	Files    []File
	Volumes  []Volume
	Etc      map[string]string // resolv.conf, hosts, hostname: mounted one by one, as kubelet does
}

// warden is the first process: PID 1 of the pod's outer PID namespace, in the network of the outside, with mounts of its own. It builds
// the pod, starts its programs and makes sockets in its networks. It ends when the control socket does, and the kernel
// then ends whatever is in its PID namespace.
//
// Goroutines: the caller's, which works off the control socket; one a program, until it ends; the pod's thread.
type warden struct {
	control control
	plan    plan
	notes   []string
	inside  *thread // in the pod's network
	volumes map[string]*volume
	binds   []bind
	main    *os.File // pidfd of the main program's last run, nil before it
}

func wardenMain(file *os.File) error {
	c, err := newControl(file)
	if err != nil {
		return err
	}
	w := &warden{control: c, volumes: map[string]*volume{}}
	for {
		m, files, err := c.receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		answer, made := w.handle(m, files)
		closeFiles(files)
		err = c.send(answer, made...)
		closeFiles(made)
		if err != nil {
			return err
		}
	}
}

// handle does what the pod asks for. What it made is closed once it has been sent.
func (w *warden) handle(m message, files []*os.File) (answer message, made []*os.File) {
	answer = message{Op: m.Op}
	err := errors.New("podlet: no such request")
	switch {
	case m.Op == opBuild && len(files) == 1 && w.inside == nil:
		if err = unpack(files[0], &w.plan); err == nil {
			err = w.build()
		}
		answer.Notes = w.notes
	case m.Op == opRun && len(files) == 5 && w.inside != nil:
		var pidfd *os.File
		if pidfd, err = w.run(files); err == nil {
			made = []*os.File{pidfd}
		}
	case m.Op == opSocket && w.inside != nil:
		var f *os.File
		if f, err = w.socket(m.Socket); err == nil {
			made = []*os.File{f}
		}
	case m.Op == opUpdate && len(files) == 1:
		var v Volume
		if err = unpack(files[0], &v); err == nil {
			err = w.update(v)
		}
	}
	if err != nil {
		answer.Failed = asFailure(err)
	}
	return answer, made
}

func (w *warden) note(format string, args ...any) {
	w.notes = append(w.notes, fmt.Sprintf(format, args...))
}

func (w *warden) build() error {
	if err := w.network(); err != nil {
		return err
	}
	return w.files()
}

// thread is an OS thread in namespaces of its own. Goroutine: one, until end.
type thread struct{ jobs chan func() }

// newThread runs enter on a fresh thread, which do then uses.
func newThread(enter func() error) (*thread, error) {
	t := &thread{jobs: make(chan func())}
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		for f := range t.jobs {
			f()
		}
	}()
	if err := t.do(enter); err != nil {
		t.end()
		return nil, err
	}
	return t, nil
}

func (t *thread) do(f func() error) error {
	done := make(chan error)
	t.jobs <- func() { done <- f() }
	return <-done
}

func (t *thread) end() { close(t.jobs) }

// command is a program to run.
type command struct {
	Main     bool // the pod's program: new mount, UTS and PID namespaces, in which it is PID 1
	Inside   bool // in the pod's network, with its host name; else outside
	Host     bool // with this machine's files, but for those of Etc; else, inside, with the pod's own
	Argv     []string
	Env      []string
	Dir      string
	Identity identity

	Hostname string            // for Main, filled in by the warden
	Binds    []bind            // for Main
	Etc      map[string]string // for Host: the machine's path to what is to be seen there
}

// run starts a program and waits until it has been executed. Files: command, stdin, stdout, stderr, status.
func (w *warden) run(files []*os.File) (pidfd *os.File, err error) {
	var c command
	if err := unpack(files[0], &c); err != nil {
		return nil, err
	}
	c.Hostname, c.Binds = w.plan.Hostname, w.binds
	if c.Host && c.Inside {
		c.Etc = hostEtc()
	}
	order, err := pack(c)
	if err != nil {
		return nil, err
	}
	defer order.Close()
	failure, failureEnd, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("podlet: starting a program: %w", err)
	}
	defer failure.Close()
	fd := -1
	cmd := exec.Command("/proc/self/exe", Word, "enter")
	cmd.Args[0], cmd.Dir, cmd.Env = "stepin", "/", []string{}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = files[1], files[2], files[3]
	cmd.ExtraFiles = []*os.File{order, failureEnd}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, PidFD: &fd, Cloneflags: c.flags()}
	if c.Inside && !c.Main && w.main != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, w.main)
	}
	err = w.launch(c, cmd)
	failureEnd.Close()
	if err != nil {
		return nil, err
	}
	status, err := unix.FcntlInt(files[4].Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		cmd.Process.Kill()
		return nil, fmt.Errorf("podlet: starting a program: %w", err)
	}
	go reportEnd(cmd, os.NewFile(uintptr(status), "status"))
	pidfd = os.NewFile(uintptr(fd), "pidfd")
	text, _ := io.ReadAll(failure) // ends when the program is executed, or with the attempt
	if len(text) > 0 {
		pidfd.Close()
		f := &Failure{}
		if err := json.Unmarshal(text, f); err != nil {
			return nil, fmt.Errorf("podlet: starting a program: %s", text)
		}
		return nil, f
	}
	if c.Main {
		keep, err := unix.FcntlInt(pidfd.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			pidfd.Close()
			return nil, fmt.Errorf("podlet: keeping the pidfd: %w", err)
		}
		if w.main != nil {
			w.main.Close()
		}
		w.main = os.NewFile(uintptr(keep), "main")
	}
	return pidfd, nil
}

// flags are the namespaces that a program gets for itself.
func (c command) flags() uintptr {
	switch {
	case c.Main:
		return unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC
	case c.Host && c.Inside:
		return unix.CLONE_NEWNS
	}
	return 0
}

// launch starts cmd from a thread in the network, and for the pod's files in the PID namespace, that are the program's.
func (w *warden) launch(c command, cmd *exec.Cmd) error {
	start := func() error { return failed(cmd.Start(), "clone") }
	switch {
	case !c.Inside:
		return start()
	case c.Main:
		return w.inside.do(start)
	case w.main == nil:
		return errors.New("podlet: the pod's program has not been started")
	}
	join := unix.CLONE_NEWNET | unix.CLONE_NEWPID
	if c.Host {
		join = unix.CLONE_NEWNET
	}
	fd := int(w.main.Fd())
	t, err := newThread(func() error { return failed(unix.Setns(fd, join), "setns of the pod's program") })
	if err != nil {
		return err
	}
	defer t.end()
	return t.do(start)
}

// ending is how a program has ended.
type ending struct {
	Code   int
	Signal syscall.Signal
}

func reportEnd(cmd *exec.Cmd, status *os.File) {
	defer status.Close()
	_ = cmd.Wait()
	e := ending{Code: cmd.ProcessState.ExitCode()}
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		e.Signal = ws.Signal()
	}
	_ = json.NewEncoder(status).Encode(e) // who asked may be gone
}

// socket makes one in either network. Connecting it is the asker's: it stays in the network it was made in.
func (w *warden) socket(s socket) (f *os.File, err error) {
	create := func() error {
		f, err = newSocket(s)
		return err
	}
	if s.Inside {
		err = w.inside.do(create)
	} else {
		err = create()
	}
	return f, err
}

func newSocket(s socket) (*os.File, error) {
	family, kind := unix.AF_INET, unix.SOCK_STREAM
	if s.Six {
		family = unix.AF_INET6
	}
	if s.Network[:min(3, len(s.Network))] == "udp" {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, failed(err, "socket")
	}
	f := os.NewFile(uintptr(fd), s.Network)
	if s.Bind.IsValid() {
		err = bindSocket(fd, s)
	}
	if err == nil && s.Listen && kind == unix.SOCK_STREAM {
		err = failed(unix.Listen(fd, unix.SOMAXCONN), "listen %v", s.Bind)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// bindSocket binds to the address; [::] of the network "tcp" or "udp" takes IPv4 as well, as Go's net does.
func bindSocket(fd int, s socket) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return failed(err, "setsockopt(SO_REUSEADDR)")
	}
	if s.Six {
		only := 1
		if s.Bind.Addr().IsUnspecified() && len(s.Network) == 3 {
			only = 0
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only); err != nil {
			return failed(err, "setsockopt(IPV6_V6ONLY)")
		}
	}
	return failed(unix.Bind(fd, sockaddr(s.Bind)), "bind %v", s.Bind)
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// Available says whether this machine lets this user make a pod, by making one.
func Available(ctx context.Context) error {
	p, err := Start(ctx, Spec{})
	if err != nil {
		return err
	}
	return p.Close()
}
