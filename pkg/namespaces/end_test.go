package namespaces

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/pkg/fail"
	"golang.org/x/sys/unix"
)

// session is a helper process that stands for `stepin dap`.
type session struct {
	cmd      *exec.Cmd
	dir      string
	holder   int
	debuggee int
	in       inodes
}

// writeImages puts stub and keeper into files and returns their names.
func writeImages(t *testing.T) (stub, keeper string) {
	t.Helper()
	s, k := images(t)
	dir := t.TempDir()
	stub, keeper = filepath.Join(dir, "stub"), filepath.Join(dir, "keeper")
	if err := errors.Join(os.WriteFile(stub, s, 0o600), os.WriteFile(keeper, k, 0o600)); err != nil {
		t.Fatal(err)
	}
	return stub, keeper
}

// startSession runs it with two debuggees inside that listen, and one that has left its first thread.
func startSession(t *testing.T) session {
	t.Helper()
	s, out := launchSession(t)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(line, &s.holder, &s.debuggee, &s.in.mnt, &s.in.net); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	hold(t, s.holder)
	pids, err := s.in.processes()
	if err != nil || len(pids) != 4 || !slices.Contains(pids, s.debuggee) || !slices.Contains(pids, s.holder) {
		t.Fatalf("inside are %v (holder %d, debuggee %d): %v", pids, s.holder, s.debuggee, err)
	}
	return s
}

// launchSession starts it and does not wait for its first line.
func launchSession(t *testing.T) (session, io.Reader) {
	t.Helper()
	stub, keeper := writeImages(t)
	p := plan(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "stepin-session-")
	if err != nil {
		t.Fatal(err)
	}
	s := session{cmd: exec.Command(exe, "session", dir, pod(t, map[string]string{"data/x": "y"}), stub, keeper), dir: dir}
	s.cmd.Env = append(os.Environ(), "TUN="+p.TunPath, "FUSE="+p.FusePath, "LEADERLESS="+leaderless(t))
	s.cmd.Stderr = os.Stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.cmd.Process.Kill(); s.cmd.Wait() })
	return s, out
}

// gone waits for everything to be gone, and fails the test after two seconds.
func (s session) gone(t *testing.T, dirToo bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		pids, err := s.in.processes()
		_, dirErr := os.Lstat(s.dir)
		if err == nil && len(pids) == 0 && (!dirToo || errors.Is(dirErr, os.ErrNotExist)) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("left: processes %v, directory %v", pids, dirErr)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), s.dir) {
		t.Errorf("a mount is left: %v", err)
	}
	if dirToo && s.hasKeeper() {
		t.Error("the keeper is left")
	}
}

// hasKeeper says whether a process runs the keeper of this session. It removes itself last, so it may need a moment.
func (s session) hasKeeper() bool {
	for range 400 {
		if !running(filepath.Join(s.dir, keeperName)) {
			return false
		}
		time.Sleep(5 * time.Millisecond)
	}
	return true
}

func running(program string) bool {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range all {
		if b, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(b), program+"\x00") {
			return true
		}
	}
	return false
}

func kill(t *testing.T, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatalf("kill %d: %v", pid, err)
		}
	}
}

// leaderless makes a program whose first thread ends while another goes on: /proc/PID/ns is empty then.
func leaderless(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "leaderless")
	if err := writeProgram(name, compiled(t)["leaderless"]); err != nil {
		t.Fatal(err)
	}
	return name
}

// Whoever dies by SIGKILL, nothing is left but what a living session still has.
func TestKill(t *testing.T) {
	for _, c := range []struct {
		name  string
		who   func(s session) []int
		alone bool // the session lives
	}{
		{"holder", func(s session) []int { return []int{s.holder} }, true},
		{"session", func(s session) []int { return []int{s.cmd.Process.Pid} }, false},
		{"session and holder", func(s session) []int { return []int{s.cmd.Process.Pid, s.holder} }, false},
		{"holder and session", func(s session) []int { return []int{s.holder, s.cmd.Process.Pid} }, false},
		{"process group", func(s session) []int { return []int{-s.cmd.Process.Pid} }, false},
		{"process group and holder", func(s session) []int { return []int{-s.cmd.Process.Pid, s.holder} }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startSession(t)
			kill(t, c.who(s)...)
			if !c.alone {
				s.gone(t, true)
				return
			}
			s.gone(t, false)
			s.cmd.Process.Kill()
			s.gone(t, true)
		})
	}
}

// The same while the session is still making the namespaces. The keeper ends when the holder has, so its end tells of both.
func TestKillWhileStarting(t *testing.T) {
	for _, after := range []time.Duration{0, 2, 5, 10, 15, 20, 30, 50} {
		s, _ := launchSession(t)
		s.in = inodes{"none", "none"}
		for end := time.Now().Add(5 * time.Second); !running(filepath.Join(s.dir, keeperName)); {
			if time.Now().After(end) {
				t.Fatal("no keeper")
			}
		}
		time.Sleep(after * time.Millisecond) // nothing hangs on when it is; the more moments, the better
		kill(t, -s.cmd.Process.Pid)
		s.gone(t, true)
	}
}

// A debuggee that makes a session of its own, leaves its first thread or closes everything is ended like any other.
func TestCloseEndsEverybody(t *testing.T) {
	n := start(t, plan(t), pod(t, nil))
	must(t, n, "/bin/sh", "-c", leaderless(t)+" >/dev/null 2>&1 </dev/null & setsid sleep 1000 >/dev/null 2>&1 & setsid setsid sleep 1001 >/dev/null 2>&1 </dev/null & sleep 0.1")
	pids, err := n.Processes()
	if err != nil || len(pids) != 3 {
		t.Fatalf("%v %v, want three", pids, err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if err := n.Err(); err != nil {
		t.Error("closed by us, and yet:", err)
	}
	nothingLeft(t, n.in, n.stub)
	if _, err := n.TransparentSocket(unix.AF_INET); err == nil {
		t.Error("a socket after the end")
	}
	if err := n.OwnPort("tcp", 1); err == nil {
		t.Error("a port after the end")
	}
	if _, err := n.Listeners(); err == nil {
		t.Error("listeners after the end")
	}
}

// A holder that dies is noticed, and takes everybody with it.
func TestHolderDies(t *testing.T) {
	n := start(t, plan(t), pod(t, nil))
	cmd, _ := spawn(t, n, "listen", "tcp", ":8080")
	kill(t, n.HolderPid())
	select {
	case <-n.Done():
	case <-time.After(3 * time.Second):
		t.Fatal("not noticed")
	}
	if err := n.Err(); err == nil || !strings.Contains(err.Error(), "holder has ended: signal: killed") {
		t.Error("says:", err)
	}
	cmd.Wait()
	if s := cmd.ProcessState.Sys().(syscall.WaitStatus); s.Signal() != unix.SIGKILL {
		t.Error("the debuggee ended by", cmd.ProcessState)
	}
	if err := n.Close(); err == nil {
		t.Error("Close has forgotten the error")
	}
	n.endErr = nil // for the cleanup of start
}

// While one session ends and another begins, the kernel gives out the same namespace numbers again.
func TestNumbersAreNotMistaken(t *testing.T) {
	tree := pod(t, nil)
	stub, keeper := images(t)
	for i := range 8 {
		p := plan(t)
		n, err := Start(context.Background(), p, Options{ServeFUSE: serve(tree), Stub: stub, Keeper: keeper})
		if err != nil {
			t.Fatal(err)
		}
		cmd, _ := spawn(t, n, "listen", "tcp", ":8080")
		q := plan(t)
		closed := make(chan error)
		go func() { closed <- n.Close() }()
		m, err := Start(context.Background(), q, Options{ServeFUSE: serve(tree), Stub: stub, Keeper: keeper})
		if err != nil {
			t.Fatal(err)
		}
		if err := <-closed; err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		if out, err := in(t, m, "/bin/echo", "alive"); out != "alive" || err != nil {
			t.Fatalf("round %d: %q %v", i, out, err)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// What the machine forbids is one sentence with call and errno, a hint, and nothing left behind.
func TestStartFails(t *testing.T) {
	stub, keeper := images(t)
	closed := filepath.Join(t.TempDir(), "closed")
	if err := os.WriteFile(closed, nil, 0); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*Plan, *Options)
		code   fail.Code
		errno  error
		say    string
	}{
		{"no TUN device", func(p *Plan, o *Options) { p.TunPath = "/no/such/tun" }, fail.NoTun, unix.ENOENT, "open(/no/such/tun): no such file"},
		{"no FUSE device", func(p *Plan, o *Options) { p.FusePath = "/no/such/fuse" }, fail.NoFuse, unix.ENOENT, "open(/no/such/fuse): no such file"},
		{"not a TUN device", func(p *Plan, o *Options) { p.TunPath = "/dev/null" }, fail.NoTun, unix.ENOTTY, "ioctl(/dev/null, TUNSETIFF)"},
		{"not a FUSE device", func(p *Plan, o *Options) { p.FusePath = "/dev/null" }, fail.NoFuse, unix.EINVAL, "mount(fuse, "},
		{"host name too long", func(p *Plan, o *Options) { p.Hostname = strings.Repeat("x", 70) }, fail.NamespacesForbidden, unix.EINVAL, "sethostname("},
		{"not served", func(p *Plan, o *Options) { o.ServeFUSE = func(f *os.File) error { f.Close(); return unix.EIO } }, fail.Internal, unix.EIO, "serving the pod's files"},
		{"no stub", func(p *Plan, o *Options) { o.Stub = nil }, fail.NotBuiltIn, nil, "without its stub"},
		{"bad stub", func(p *Plan, o *Options) { o.Keeper = []byte("x") }, fail.Internal, unix.ENOEXEC, "starting the keeper"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := plan(t)
			p.Cover = []string{"/data"}
			dir, err := os.MkdirTemp("", "stepin-fails-")
			if err != nil {
				t.Fatal(err)
			}
			p.Dir = dir
			o := Options{ServeFUSE: serve(pod(t, map[string]string{"data/x": ""})), Stub: stub, Keeper: keeper}
			c.change(&p, &o)
			n, err := Start(context.Background(), p, o)
			if err == nil {
				n.Close()
				t.Fatal("it started")
			}
			if fail.CodeOf(err) != c.code || c.errno != nil && !errors.Is(err, c.errno) || !strings.Contains(err.Error(), c.say) {
				t.Errorf("%d %v", fail.CodeOf(err), err)
			}
			if c.code != fail.Internal && fail.Hint(err) == "" {
				t.Error("no hint")
			}
			t.Logf("%v\nhint: %s", err, fail.Hint(err))
			os.Remove(dir) // what was refused before anything was made
			if _, err := os.Lstat(dir); err == nil {
				t.Error("the directory is left")
			}
			if running(filepath.Join(dir, keeperName)) {
				t.Error("the keeper is left")
			}
		})
	}
}

// Where user namespaces are forbidden, an ordinary user reads which call and what to do, and root does without one.
func TestNoUserNamespaces(t *testing.T) {
	stub, keeper := writeImages(t)
	p := plan(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	uids, gids, err := IDMaps()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "limited", p.Dir, pod(t, map[string]string{"data/x": "y\n"}), stub, keeper)
	cmd.Env = append(os.Environ(), "TUN="+p.TunPath, "FUSE="+p.FusePath)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UidMappings: uids, GidMappings: gids,
		GidMappingsEnableSetgroups: os.Getuid() == 0, AmbientCaps: []uintptr{unix.CAP_SYS_RESOURCE}}
	out, err := cmd.CombinedOutput()
	want := "y\nweb\n<nil> <nil>\n"
	if os.Getuid() != 0 {
		want = "this machine does not let stepin make namespaces (namespaces of its own): clone(CLONE_NEWUSER): no space left on device\n" +
			"hint: " + cureMax + "\n"
	}
	if err != nil || string(out) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, out, want)
	}
	if _, err := os.Lstat(p.Dir); err == nil {
		t.Error("the directory is left")
	}
}

// A start may be given up at any moment.
func TestStartCancelled(t *testing.T) {
	stub, keeper := images(t)
	tree := pod(t, map[string]string{"data/x": ""})
	for _, after := range []time.Duration{0, 5 * time.Millisecond, 20 * time.Millisecond} {
		p := plan(t)
		p.Cover = []string{"/data"}
		ctx, cancel := context.WithCancel(context.Background())
		var device *os.File
		o := Options{Stub: stub, Keeper: keeper, ServeFUSE: func(f *os.File) error {
			device = f // nobody answers: the holder hangs in its first look at the tree
			time.AfterFunc(after, cancel)
			return nil
		}}
		if after == 0 {
			o.ServeFUSE = func(f *os.File) error { defer cancel(); return serve(tree)(f) }
		}
		n, err := Start(ctx, p, o)
		if err == nil {
			n.Close()
			t.Fatal("it started")
		}
		if !errors.Is(err, context.Canceled) {
			t.Error("says:", err)
		}
		if device != nil {
			device.Close()
		}
		if _, err := os.Lstat(p.Dir); err == nil {
			t.Error("the directory is left")
		}
		cancel()
	}
}

func TestProbe(t *testing.T) {
	stub, keeper := images(t)
	p := plan(t)
	for _, s := range Probe(context.Background(), p, Options{Stub: stub, Keeper: keeper}) {
		if s.Err != nil || s.Call != "" {
			t.Errorf("%s: %s: %v", s.Name, s.Call, s.Err)
		}
	}
	p.TunPath, p.FusePath = "/no/tun", "/no/fuse"
	bad := map[string]Step{}
	for _, s := range Probe(context.Background(), p, Options{Stub: stub, Keeper: keeper}) {
		bad[s.Name] = s
	}
	for name, want := range map[string]error{stepClone: nil, stepHostname: nil, stepTun: unix.ENOENT, stepFuse: unix.ENOENT, stepRoot: ErrNotTried, stepEnter: ErrNotTried} {
		if got := bad[name]; !errors.Is(got.Err, want) || errors.Is(want, unix.ENOENT) && (got.Cure == "" || got.Call == "") {
			t.Errorf("%s: %+v", name, got)
		}
	}
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), "stepin-doctor-*"))
	if len(left) > 0 {
		t.Errorf("%v are left", left)
	}
}

// The cure depends on what the machine says of itself.
func TestCure(t *testing.T) {
	for _, name := range []string{"KUBERNETES_SERVICE_HOST", "REMOTE_CONTAINERS", "CODESPACES"} {
		t.Setenv(name, "")
	}
	const filtered = "Name:\tstepin\nSeccomp:\t2\nSeccomp_filters:\t1\n"
	docker := func(more ...string) map[string]string {
		files := map[string]string{"/.dockerenv": "", "/dev/net/tun": "", "/dev/fuse": ""}
		for i := 0; i < len(more); i += 2 {
			files[more[i]] = more[i+1]
		}
		return files
	}
	p := Plan{TunPath: "/dev/net/tun", FusePath: "/dev/fuse"}
	for _, c := range []struct {
		name  string
		step  string
		errno syscall.Errno
		files map[string]string
		want  string
	}{
		{"Debian of old", stepClone, unix.EPERM, map[string]string{"/proc/sys/kernel/unprivileged_userns_clone": "0\n"}, "unprivileged_userns_clone=1"},
		{"none allowed", stepClone, unix.ENOSPC, map[string]string{"/proc/sys/user/max_user_namespaces": "0\n"}, "max_user_namespaces"},
		{"too many", stepClone, unix.ENOSPC, nil, "max_user_namespaces"},
		{"seccomp", stepClone, unix.EPERM, docker("/proc/self/status", filtered), `add "--security-opt=seccomp=unconfined" to`},
		{"nothing at all", stepClone, unix.EPERM, map[string]string{"/.dockerenv": "", "/proc/self/status": filtered},
			`add "--security-opt=seccomp=unconfined", "--device=/dev/net/tun", "--device=/dev/fuse" to`},
		{"AppArmor", stepSlave, unix.EACCES, docker("/proc/self/attr/apparmor/current", "docker-default (enforce)\n"), `add "--security-opt=apparmor=unconfined" to`},
		{"AppArmor of old, and seccomp", stepClone, unix.EPERM, docker("/proc/self/status", filtered, "/proc/self/attr/current", "docker-default (enforce)\n"),
			`add "--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined" to`},
		{"AppArmor's other lock", stepSlave, unix.EACCES, docker("/proc/self/attr/apparmor/current", "unconfined\n",
			"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n"), "apparmor_parser"},
		{"SELinux in Podman", stepSlave, unix.EACCES, map[string]string{"/run/.containerenv": "", "/dev/net/tun": "", "/dev/fuse": "",
			"/proc/self/attr/current": "system_u:system_r:container_t:s0:c1,c2\x00"}, `add "--security-opt=label=disable" to`},
		{"a read-only /proc/sys", stepPorts, unix.EROFS, docker(), `add "--security-opt=systempaths=unconfined" to`},
		{"a container that nobody knows", stepSlave, unix.EACCES, docker(), cureOther},
		{"no module", stepTun, unix.ENOENT, nil, "modprobe tun"},
		{"no node in a container", stepTun, unix.ENOENT, map[string]string{"/.dockerenv": "", "/dev/fuse": ""}, `add "--device=/dev/net/tun" to`},
		{"no right to it", stepFuse, unix.EACCES, nil, "chmod 0666 /dev/fuse"},
		{"no right to it in a container", stepTun, unix.EACCES, map[string]string{"/.dockerenv": ""}, "chmod 0666 /dev/net/tun"},
		{"not a container's", stepTun, unix.EPERM, docker(), `add "--device=/dev/net/tun" to`},
		{"not a container's", stepFuse, unix.EPERM, docker(), `add "--device=/dev/fuse" to`},
		{"SELinux", stepRoot, unix.EACCES, map[string]string{"/sys/fs/selinux/enforce": "1"}, "ausearch"},
		{"nobody knows", stepRoot, unix.EACCES, nil, cureOther},
		{"no right at all", stepHostname, unix.EINVAL, map[string]string{"/.dockerenv": ""}, cureUnknown},
	} {
		m := machine{t.TempDir()}
		for name, content := range c.files {
			os.MkdirAll(filepath.Dir(m.root+name), 0o755)
			os.WriteFile(m.root+name, []byte(content), 0o644)
		}
		if got := m.cure(&stepError{Step: c.step, Errno: c.errno}, p); !strings.Contains(got, c.want) {
			t.Errorf("%s: %s", c.name, got)
		}
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
	if got := (machine{t.TempDir()}).cure(&stepError{Step: stepTun, Errno: unix.ENOENT}, p); got != curePod {
		t.Errorf("a pod: %s", got)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	own := Plan{TunPath: "/my/tun", FusePath: "/my/fuse"}
	if got := (machine{}).cure(&stepError{Step: stepFuse, Errno: unix.ENOENT, Call: "open(/my/fuse)"}, own); !strings.Contains(got, "unset STEPIN_FUSE") {
		t.Errorf("a node of one's own: %s", got)
	}
	if os.Getuid() != 0 {
		m := machine{t.TempDir()}
		os.MkdirAll(m.root+"/proc/sys/kernel", 0o755)
		os.WriteFile(m.root+"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", []byte("1\n"), 0o644)
		exe, _ := os.Executable()
		if got := m.cure(&stepError{Step: stepHostname, Errno: unix.EPERM}, p); !strings.Contains(got, "profile stepin "+exe+" flags=(unconfined)") {
			t.Errorf("Ubuntu: %s", got)
		}
	}
}

func TestInsideThread(t *testing.T) {
	in, err := inodesOf("/proc/self")
	if err != nil {
		t.Fatal(err)
	}
	if !in.inside(os.Getpid()) || in.inside(1<<30) {
		t.Error("we are not where we are")
	}
	if (inodes{"mnt:[1]", "net:[1]"}).inside(os.Getpid()) {
		t.Error("we are where we are not")
	}
}
