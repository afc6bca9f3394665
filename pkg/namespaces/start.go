package namespaces

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/stepin-dev/stepin/pkg/fail"
	"golang.org/x/sys/unix"
)

// Options are what Start needs beside the plan.
type Options struct {
	// ServeFUSE gets the FUSE descriptor of the pod's tree and starts serving it. It is called once, before the tree is looked at,
	// and owns the file. It must return soon; the tree's end (ENODEV) ends its work.
	ServeFUSE func(fd *os.File) error
	Log       *slog.Logger // nil = none
	Stub      []byte       // the stub's executable
	Keeper    []byte       // the keeper's executable
}

// startTime bounds the whole start; it takes some 50 ms on a quiet machine, 300 ms on a busy one, and a FUSE server that asks
// the cluster adds its round trips.
const startTime = 30 * time.Second

// Start makes the namespaces. The process runs itself again as `holder`, so its command line must lead to HolderMain. An error is
// a fail.Error where the machine forbids a step; then, as after Close, nothing is left, Plan.Dir included.
func Start(ctx context.Context, p Plan, o Options) (*Namespaces, error) {
	if len(o.Stub) == 0 || len(o.Keeper) == 0 {
		return nil, fail.New(fail.NotBuiltIn, "build stepin with `./just build`", "this stepin was built without its stub and keeper")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	p, err := p.checked()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	points, err := makeMountPoints(p.Cover)
	if err != nil {
		return nil, err
	}
	s := &starter{plan: p, options: o, begin: time.Now()}
	if err := s.run(ctx, points); err != nil {
		s.undo()
		removeMountPoints(points)
		os.RemoveAll(p.Dir)
		if ctx.Err() != nil && !errors.As(err, new(*stepError)) {
			err = fmt.Errorf("namespaces: starting: %w", context.Cause(ctx))
		}
		return nil, explain(err, p)
	}
	return s.n, nil
}

// starter is a start under way; undo takes back what it has come to.
type starter struct {
	plan    Plan
	options Options
	begin   time.Time
	n       *Namespaces
	keeper  *keeper
	control control
	cmd     *exec.Cmd
	stderr  tail
	pins    []*os.File
	fds     []int
}

func (s *starter) run(ctx context.Context, points []string) error {
	stub, err := s.images()
	if err != nil {
		return err
	}
	if s.keeper, err = startKeeper(filepath.Join(s.plan.Dir, keeperName), s.plan.Dir, points); err != nil {
		return err
	}
	if err := s.startHolder(); err != nil {
		return err
	}
	pins, in, err := openPins(s.cmd.Process.Pid)
	if err != nil {
		return err
	}
	s.pins = pins
	if err := s.keeper.watch(s.cmd.Process.Pid); err != nil {
		return err
	}
	defer untilDone(ctx, s.control)()
	ready, err := s.handshake()
	if err != nil {
		return err
	}
	n := &Namespaces{log: s.options.Log, stub: stub, in: in, pins: pins, holder: s.cmd, keeper: s.keeper, control: s.control, ports: ready.Ports,
		addrs: s.plan.Addrs, own: map[ownPort]bool{}, pool: map[int][]int{}, ended: make(chan struct{})}
	if err := n.take(s.fds); err != nil {
		return err
	}
	for _, note := range ready.Notes {
		s.options.Log.Info("namespaces", "note", note)
	}
	s.options.Log.Debug("namespaces made", "holder", n.HolderPid(), "mounts", ready.Mounts, "took", time.Since(s.begin))
	s.n = n
	go n.wait(&s.stderr)
	return nil
}

// Names in Plan.Dir.
const (
	stubName   = "stub"
	keeperName = "keeper"
)

// images puts the two programs and the place for the new root into the session's directory.
func (s *starter) images() (stub string, err error) {
	dir := s.plan.Dir
	if err := os.Chmod(dir, 0o700); err != nil {
		return "", fmt.Errorf("namespaces: preparing the session's directory: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err == nil && st.Flags&unix.ST_NOEXEC != 0 {
		return "", fail.New(fail.NamespacesForbidden, "let XDG_RUNTIME_DIR or TMPDIR name a directory on a file system without noexec",
			"no program can be run from %s: its file system is mounted noexec", dir)
	}
	if err := os.Mkdir(filepath.Join(dir, rootName), 0o700); err != nil {
		return "", fmt.Errorf("namespaces: preparing the session's directory: %w", err)
	}
	stub = filepath.Join(dir, stubName)
	if err := writeProgram(stub, s.options.Stub); err != nil {
		return "", err
	}
	return stub, writeProgram(filepath.Join(dir, keeperName), s.options.Keeper)
}

// writeProgram writes an executable. A child forked meanwhile would hold it open for writing until its exec, and running it would
// fail with ETXTBSY (go.dev/issue/22315): so nobody forks meanwhile.
func writeProgram(path string, image []byte) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, image, 0o700); err != nil {
		return fmt.Errorf("namespaces: writing %s: %w", filepath.Base(path), err)
	}
	return nil
}

// startHolder runs this program again in new namespaces. Root for whom a user namespace is forbidden does without one.
func (s *starter) startHolder() error {
	err := s.tryHolder(unix.CLONE_NEWUSER)
	if err != nil && os.Geteuid() == 0 && !errors.Is(err, unix.ENOENT) {
		if s.tryHolder(0) == nil {
			s.options.Log.Info("namespaces", "note", "no user namespace of its own: "+err.Error())
			return nil
		}
	}
	return err
}

func (s *starter) tryHolder(user uintptr) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("namespaces: making the control socket: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "control"), os.NewFile(uintptr(pair[1]), "control")
	defer theirs.Close()
	c, err := newControl(ours)
	if err != nil {
		return err
	}
	cmd, err := holderCommand(user)
	if err != nil {
		c.Close()
		return err
	}
	cmd.Stderr = &s.stderr
	cmd.ExtraFiles = []*os.File{theirs, s.keeper.theirs}
	if err := cmd.Start(); err != nil {
		c.Close()
		return whichStart(err, user)
	}
	s.cmd, s.control = cmd, c
	return nil
}

// holderCommand is the command that runs this program as the holder. It has a session of its own: what a terminal sends to a
// process group is not for the holder. There is no death signal: the kernel sends it when the parent's *thread* ends
// (PR_SET_PDEATHSIG in prctl(2)), and Go's threads come and go.
func holderCommand(user uintptr) (*exec.Cmd, error) {
	cmd := exec.Command("/proc/self/exe", "holder")
	cmd.Args[0] = "stepin"
	cmd.Dir, cmd.Env = "/", []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: user | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWNET}
	if user == 0 {
		return cmd, nil
	}
	uids, gids, err := IDMaps()
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = uids, gids
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.GidMappingsEnableSetgroups = true
	} else {
		cmd.SysProcAttr.AmbientCaps = holderRights
	}
	return cmd, nil
}

// whichStart finds out which call of the start failed: os/exec tells the errno alone.
func whichStart(err error, user uintptr) error {
	if user == 0 {
		return failedStep(stepClone, err, "clone(CLONE_NEWNS|CLONE_NEWUTS|CLONE_NEWNET)")
	}
	for _, f := range []struct {
		flags uintptr
		name  string
	}{{unix.CLONE_NEWUSER, "CLONE_NEWUSER"}, {unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWNET, "CLONE_NEWUSER|CLONE_NEWNS|CLONE_NEWUTS|CLONE_NEWNET"}} {
		cmd := exec.Command("/proc/self/exe", "holder") // without a control socket it ends at once
		cmd.Env = []string{}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: f.flags}
		if again := cmd.Start(); again != nil {
			return failedStep(stepClone, again, "clone(%s)", f.name)
		}
		cmd.Process.Kill()
		cmd.Wait()
	}
	return failedStep(stepMap, err, "write(/proc/PID/uid_map)")
}

// handshake sends the plan, has the files served and takes the holder's descriptors.
func (s *starter) handshake() (message, error) {
	if err := s.control.send(message{Kind: kindPlan, Plan: &s.plan}); err != nil {
		return message{}, err
	}
	m, fds, err := s.expect(kindFuse)
	if err != nil {
		return m, err
	}
	if len(fds) != 1 {
		closeAll(fds)
		return m, fmt.Errorf("namespaces: starting: %d FUSE descriptors", len(fds))
	}
	if err := s.options.ServeFUSE(os.NewFile(uintptr(fds[0]), "/dev/fuse")); err != nil {
		return m, fmt.Errorf("namespaces: serving the pod's files: %w", err)
	}
	if err := s.control.send(message{Kind: kindServed}); err != nil {
		return m, err
	}
	m, s.fds, err = s.expect(kindReady)
	return m, err
}

func (s *starter) expect(kind string) (message, []int, error) {
	m, fds, err := s.control.receive()
	switch {
	case errors.Is(err, io.EOF):
		s.cmd.Wait() // for what it wrote
		err = fmt.Errorf("namespaces: starting: the holder has ended%s", s.stderr.text())
	case err == nil && m.Failed != nil:
		err = m.Failed
	case err == nil && m.Kind != kind:
		err = fmt.Errorf("namespaces: starting: the holder sent %q, not %q", m.Kind, kind)
	}
	if err != nil {
		closeAll(fds)
		return m, nil, err
	}
	return m, fds, nil
}

// undo ends what a failed start has begun.
func (s *starter) undo() {
	if s.cmd != nil {
		s.control.Close()
		s.cmd.Process.Kill()
		s.cmd.Wait()
	}
	closeAll(s.fds)
	if s.keeper != nil {
		s.keeper.end()
	}
	for _, f := range s.pins {
		f.Close()
	}
}

// take makes the holder's descriptors n's own: TUN, route, sock_diag, and the packet socket where there is one. On an error
// they stay the caller's.
func (n *Namespaces) take(fds []int) error {
	if len(fds) < 3 || len(fds) > 4 {
		return fmt.Errorf("namespaces: starting: the holder sent %d descriptors", len(fds))
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return fmt.Errorf("namespaces: starting: %w", err)
	}
	var err error
	if n.route, err = newKernelSocket(fds[1]); err == nil {
		n.diag, err = newKernelSocket(fds[2])
	}
	if err != nil {
		return err
	}
	n.ipv6 = hasIPv6()
	n.tun = os.NewFile(uintptr(fds[0]), "/dev/net/tun")
	if len(fds) == 4 {
		n.loop6 = os.NewFile(uintptr(fds[3]), "lo")
	}
	return nil
}

// explain turns a step's failure into what a person can act on.
func explain(err error, p Plan) error {
	var e *stepError
	if !errors.As(err, &e) {
		return err
	}
	code := fail.NamespacesForbidden
	what := fmt.Sprintf("this machine does not let stepin make namespaces (%s)", e.Step)
	switch e.Step {
	case stepTun:
		code, what = fail.NoTun, "there is no TUN device to be had"
	case stepFuse:
		code, what = fail.NoFuse, "there is no FUSE device to be had"
	case stepMount:
		code, what = fail.NoFuse, "FUSE cannot be mounted"
	}
	return fail.Wrap(code, e, strings.TrimSpace(machine{}.cure(e, p)), "%s", what)
}
