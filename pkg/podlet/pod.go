package podlet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/namespaces"
)

// Pod is a running pod. Its methods may be called from any goroutine.
//
// Goroutines: those of the resolver and of the sidecars, until Close; per program that was started one that waits for its end and
// one an output, until then.
type Pod struct {
	Outside, Inside End // the two networks

	spec     Spec
	warden   *exec.Cmd
	stderr   strings.Builder // the warden's; read when it has ended
	notes    []string
	resolver *resolver

	asking  sync.Mutex // one request at a time
	control control

	mu     sync.Mutex
	main   *Process
	closed bool
	ending map[io.Closer]bool // ended by Close
	wg     sync.WaitGroup
}

// Start makes a pod and starts its program. The process runs itself again, so its main must lead to Hook or Run. Where
// the machine forbids a step the error is a fail.Error around a Failure. The pod ends with Close, and with this process.
func Start(ctx context.Context, s Spec) (*Pod, error) {
	s, err := s.checked()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	p := &Pod{spec: s, ending: map[io.Closer]bool{}}
	p.Outside, p.Inside = End{pod: p}, End{pod: p, inside: true}
	if err := p.start(ctx); err != nil {
		p.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("podlet: starting: %w", context.Cause(ctx))
		}
		return nil, explain(err)
	}
	return p, nil
}

func (p *Pod) start(ctx context.Context) error {
	if err := p.startWarden(); err != nil {
		return err
	}
	plan, err := pack(p.spec.plan())
	if err != nil {
		return err
	}
	defer plan.Close()
	answer, _, err := p.ask(ctx, message{Op: opBuild}, 0, plan)
	if err != nil {
		return err
	}
	p.notes = answer.Notes
	if p.spec.Resolver != nil {
		if p.resolver, err = p.serveNames(ctx, *p.spec.Resolver); err != nil {
			return err
		}
	}
	for _, s := range p.spec.Sidecars {
		if err := p.serveSidecar(ctx, s); err != nil {
			return err
		}
	}
	return p.Restart(ctx)
}

// startWarden runs this program again as the pod's first process. There is no death signal: the kernel sends it when the
// parent's *thread* ends (PR_SET_PDEATHSIG in prctl(2)), and Go's threads come and go. The end of the socket does it.
func (p *Pod) startWarden() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("podlet: making the control socket: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "control"), os.NewFile(uintptr(pair[1]), "control")
	defer theirs.Close()
	c, err := newControl(ours)
	if err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", Word, "warden")
	cmd.Args[0], cmd.Dir, cmd.Env = "stepin", "/", []string{}
	cmd.Stderr, cmd.ExtraFiles = &p.stderr, []*os.File{theirs}
	flags := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID)
	name := "clone(CLONE_NEWNS|CLONE_NEWNET|CLONE_NEWPID)"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if uid := os.Geteuid(); uid != 0 || !admin() {
		flags |= unix.CLONE_NEWUSER
		name = "clone(CLONE_NEWUSER|CLONE_NEWNS|CLONE_NEWNET|CLONE_NEWPID)"
		if err := mapIDs(cmd.SysProcAttr); err != nil {
			c.Close()
			return err
		}
	}
	cmd.SysProcAttr.Cloneflags = flags
	if err := cmd.Start(); err != nil {
		c.Close()
		return failed(err, "%s", name)
	}
	p.warden, p.control = cmd, c
	return nil
}

// admin says whether we may make namespaces without one of users: root may, but not in most containers.
func admin() bool {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var set [2]unix.CapUserData
	return unix.Capget(&head, &set[0]) == nil && set[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// mapIDs makes an ordinary user root in the pod, and leaves root every id that it has.
func mapIDs(a *syscall.SysProcAttr) (err error) {
	if uid := os.Geteuid(); uid != 0 {
		a.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
		return nil
	}
	a.GidMappingsEnableSetgroups = true
	a.UidMappings, a.GidMappings, err = namespaces.IDMaps()
	return err
}

// plan is what of the spec the warden needs.
func (s Spec) plan() plan {
	conf := "nameserver " + netip.AddrFrom4([4]byte{127, 0, 0, 1}).String() + "\n"
	outside := s.Outside
	if r := s.Resolver; r != nil {
		conf = r.conf()
		if !r.inside(s) {
			outside = append(outside[:len(outside):len(outside)], r.Addr)
		}
	}
	hosts := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n"
	for _, a := range s.Addrs {
		hosts += a.Addr().String() + "\t" + s.Hostname + "\n"
	}
	files := s.Files
	if len(s.Main.Argv) == 0 {
		files = append(files[:len(files):len(files)], File{Path: waiterPath, Data: waiter(), Mode: 0o755})
	}
	return plan{Hostname: s.Hostname, Addrs: s.Addrs, Outside: outside, Routes: s.Routes, Files: files, Volumes: s.Volumes,
		Etc: map[string]string{"resolv.conf": conf, "hosts": hosts, "hostname": s.Hostname + "\n"}}
}

// ask puts one request to the warden and takes its answer with so many files.
func (p *Pod) ask(ctx context.Context, m message, want int, files ...*os.File) (message, []*os.File, error) {
	p.asking.Lock()
	defer p.asking.Unlock()
	if err := ctx.Err(); err != nil {
		return m, nil, err
	}
	if m.Op == opBuild { // the others are quick, and one that was given up would leave its answer to the next
		defer context.AfterFunc(ctx, func() { p.control.SetDeadline(time.Unix(1, 0)) })()
	}
	if err := p.control.send(m, files...); err != nil {
		return m, nil, err
	}
	answer, made, err := p.control.receive()
	switch {
	case errors.Is(err, io.EOF):
		return m, nil, fmt.Errorf("podlet: the pod has ended: %s", m.Op)
	case err != nil:
		return m, nil, err
	case answer.Failed != nil:
		closeFiles(made)
		return m, nil, answer.Failed
	case answer.Op != m.Op || len(made) != want:
		closeFiles(made)
		return m, nil, fmt.Errorf("podlet: the warden answers %s with %q and %d files", m.Op, answer.Op, len(made))
	}
	return answer, made, nil
}

// explain turns a failure of the machine into what a person can act on.
func explain(err error) error {
	var f *Failure
	if !errors.As(err, &f) || f.Call == "" || strings.HasPrefix(f.Call, "execve") || strings.HasPrefix(f.Call, "chdir") {
		return err // what the spec asks for is not there
	}
	hint := "`stepin doctor` says what this machine forbids and how to mend it"
	if strings.Contains(f.Call, "veth") {
		hint = "as root: modprobe veth"
	}
	return fail.Wrap(fail.NamespacesForbidden, f, hint, "this machine does not let a pod be made of namespaces")
}

// Notes are what the pod lacks on this machine, a sentence each.
func (p *Pod) Notes() []string { return p.notes }

// Addr is the pod's address of a family, or the zero Addr.
func (p *Pod) Addr(six bool) netip.Addr {
	for _, a := range p.spec.Addrs {
		if a.Addr().Is6() == six {
			return a.Addr()
		}
	}
	return netip.Addr{}
}

// Main is the last run of the pod's program.
func (p *Pod) Main() *Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.main
}

// MainPID is the program's process id as this process sees it: what goes behind local/.
func (p *Pod) MainPID() int { return p.Main().PID }

// Kill sends a signal to the program and waits for its end. As PID 1 of its namespace it gets from outside SIGKILL and
// what it handles; all its children end with it.
func (p *Pod) Kill(ctx context.Context, sig syscall.Signal) error {
	m := p.Main()
	if err := m.Signal(sig); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return m.Ended(ctx)
}

// Restart ends the program, if it runs, and starts it anew, as kubelet does with a container: the same executable with a
// new PID, in new mount, UTS and PID namespaces, with the same volumes and network.
func (p *Pod) Restart(ctx context.Context) error {
	if p.Main() != nil {
		if err := p.Kill(ctx, syscall.SIGKILL); err != nil {
			return err
		}
	}
	m := p.spec.Main
	argv := m.Argv
	if len(argv) == 0 {
		argv = []string{waiterPath}
	}
	c := command{Main: true, Inside: true, Argv: argv, Env: m.Env, Dir: m.Dir, Identity: m.identity()}
	main, err := p.run(ctx, c, m.Stdout, m.Stderr)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.main = main
	p.mu.Unlock()
	return nil
}

func (m Main) identity() identity {
	return identity{UID: m.UID, GID: m.GID, Groups: m.Groups, Caps: m.Caps}
}

// Update gives a volume new content. A plain one keeps the files that are not named.
func (p *Pod) Update(ctx context.Context, path string, files map[string]string) error {
	if err := checkNames(path, files); err != nil {
		return err
	}
	v, err := pack(Volume{Path: path, Files: files})
	if err != nil {
		return err
	}
	defer v.Close()
	_, _, err = p.ask(ctx, message{Op: opUpdate}, 0, v)
	return err
}

// Close ends every process of the pod and returns when nothing of it is left. It is idempotent.
func (p *Pod) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	ending := slices.Collect(maps.Keys(p.ending))
	p.mu.Unlock()
	for _, c := range ending {
		c.Close()
	}
	if p.warden != nil {
		p.control.Close()
		p.warden.Process.Kill() // it ends by itself, but not for sure
		_ = p.warden.Wait()     // when PID 1 is gone, all in its namespace are (pid_namespaces(7))
	}
	p.wg.Wait()
	if text := strings.TrimSpace(p.stderr.String()); text != "" {
		return fmt.Errorf("podlet: the warden said: %s", text)
	}
	return nil
}

// endWith has Close end c; when the pod is closed already, at once.
func (p *Pod) endWith(c io.Closer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		c.Close()
		return
	}
	p.ending[c] = true
}

// forget takes back endWith.
func (p *Pod) forget(c io.Closer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.ending, c)
}

// Command is something to run in the pod, or outside of it.
type Command struct {
	Argv    []string // Argv[0] is absolute
	Env     []string
	Dir     string // "" = /
	Host    bool   // with this machine's files; names are the pod's all the same
	Outside bool   // in the outside's network, with this machine's files and names
	Stdout  io.Writer
	Stderr  io.Writer
}

// Start runs a command in the pod, as `kubectl exec` does: as the same user as the program, in its namespaces, and ended
// with it. With Host or Outside it runs as the user that this process is, as far as namespaces let it.
func (p *Pod) Start(ctx context.Context, c Command) (*Process, error) {
	if len(c.Argv) == 0 {
		return nil, errors.New("podlet: starting: no command")
	}
	if c.Dir == "" {
		c.Dir = "/"
	}
	id := p.spec.Main.identity()
	if c.Host || c.Outside {
		id = identity{Keep: true}
	}
	return p.run(ctx, command{Inside: !c.Outside, Host: c.Host, Argv: c.Argv, Env: c.Env, Dir: c.Dir, Identity: id}, c.Stdout, c.Stderr)
}

// Output runs a command to its end and returns what it printed, both ways, without the last line's end. A command that ended in any way but
// status 0 is an error.
func (p *Pod) Output(ctx context.Context, c Command) (string, error) {
	var out lockedBuffer
	c.Stdout, c.Stderr = &out, &out
	proc, err := p.Start(ctx, c)
	if err != nil {
		return "", err
	}
	if err = proc.Ended(ctx); err != nil {
		proc.Signal(syscall.SIGKILL)
	} else {
		err = proc.Err()
	}
	return strings.TrimSuffix(out.String(), "\n"), err
}

// Exec is Output of a program in the pod's image.
func (p *Pod) Exec(ctx context.Context, argv ...string) (string, error) {
	return p.Output(ctx, Command{Argv: argv})
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// run has the warden start a command.
func (p *Pod) run(ctx context.Context, c command, stdout, stderr io.Writer) (*Process, error) {
	order, err := pack(c)
	if err != nil {
		return nil, err
	}
	proc := &Process{done: make(chan struct{})}
	files := []*os.File{order}
	defer func() { closeFiles(files) }()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, fmt.Errorf("podlet: starting %s: %w", c.Argv[0], err)
	}
	files = append(files, null)
	for _, w := range []io.Writer{stdout, stderr} {
		f, err := proc.output(w)
		if err != nil {
			proc.dropOutputs()
			return nil, err
		}
		files = append(files, f)
	}
	status, theirs, err := os.Pipe()
	if err != nil {
		proc.dropOutputs()
		return nil, fmt.Errorf("podlet: starting %s: %w", c.Argv[0], err)
	}
	files = append(files, theirs)
	_, made, err := p.ask(ctx, message{Op: opRun}, 1, files...)
	if err == nil {
		proc.pidfd = made[0]
		proc.PID, err = pidOf(proc.pidfd)
	}
	if err != nil {
		status.Close()
		proc.dropOutputs()
		closeFiles(made)
		return nil, err
	}
	p.wg.Go(func() { proc.wait(status) })
	return proc, nil
}

// Process is a program that was started in the pod.
type Process struct {
	PID int // as this process sees it; 0 if it had ended before that could be asked

	mu      sync.Mutex
	pidfd   *os.File   // nil when it has ended
	outputs []*os.File // our ends
	copying sync.WaitGroup
	done    chan struct{} // closed when it has ended and its output is complete
	err     error         // set before done
}

// outputWait is the time for a program's children that hold its output open after its end, before it is cut off.
const outputWait = 500 * time.Millisecond

// output returns what the program is to write to. A file is passed on as it is.
func (p *Process) output(w io.Writer) (*os.File, error) {
	if w == nil {
		return os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	}
	r, f, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("podlet: starting: %w", err)
	}
	p.outputs = append(p.outputs, r)
	p.copying.Go(func() { _, _ = io.Copy(w, r) })
	return f, nil
}

func (p *Process) dropOutputs() {
	closeFiles(p.outputs)
	p.copying.Wait()
}

// wait waits for the end, which the warden writes to status, or which is that of the warden itself.
func (p *Process) wait(status *os.File) {
	defer status.Close()
	var e ending
	switch err := json.NewDecoder(status).Decode(&e); {
	case err != nil:
		p.err = errors.New("podlet: ended with the pod")
	case e.Signal != 0:
		p.err = fmt.Errorf("podlet: ended by signal %d (%v)", e.Signal, e.Signal)
	case e.Code != 0:
		p.err = fmt.Errorf("podlet: ended with status %d", e.Code)
	}
	p.mu.Lock()
	p.pidfd.Close()
	p.pidfd = nil
	p.mu.Unlock()
	for _, r := range p.outputs {
		r.SetReadDeadline(time.Now().Add(outputWait))
	}
	p.dropAfterCopy()
	close(p.done)
}

func (p *Process) dropAfterCopy() {
	p.copying.Wait()
	closeFiles(p.outputs)
}

// Done is closed when the process has ended and its output is complete.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is, when Done is closed, nil for status 0, else how it ended.
func (p *Process) Err() error { return p.err }

// Ended waits for the end.
func (p *Process) Ended(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("podlet: waiting for process %d: %w", p.PID, ctx.Err())
	}
}

// Signal sends a signal to this process, never to another that has got its number. ESRCH means that it has ended.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd == nil {
		return unix.ESRCH
	}
	return unix.PidfdSendSignal(int(p.pidfd.Fd()), sig, nil, 0)
}

// pidOf reads a pidfd's process id as this process's /proc shows it (pidfd_open(2), fdinfo).
func pidOf(pidfd *os.File) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", pidfd.Fd()))
	if err != nil {
		return 0, fmt.Errorf("podlet: reading a process id: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		var pid int
		if n, _ := fmt.Sscanf(line, "Pid: %d", &pid); n == 1 {
			return max(pid, 0), nil // -1: it has ended
		}
	}
	return 0, errors.New("podlet: reading a process id: there is none in fdinfo")
}
