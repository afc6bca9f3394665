package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/namespaces"
)

// patience bounds one demo. It takes two seconds when Go's cache is warm; an ordinary user's is cold here, and the machine may
// be busy.
const patience = 3 * time.Minute

// place is where a user's demo runs: a directory with what he needs, and nothing else that he could leave things in.
type place struct {
	dir  string // holds stepin, dlv, and for an ordinary user the device nodes
	tmp  string // TMPDIR, HOME; empty but for what Go caches in it
	uid  uint32
	env  []string
	goos string // folder of the go command
}

// newPlace copies bin/stepin and dlv to where uid can run them.
func newPlace(t *testing.T, uid uint32) *place {
	t.Helper()
	dir, err := os.MkdirTemp("", "d") // short: sockets lie beneath
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &place{dir: dir, tmp: filepath.Join(dir, "tmp"), uid: uid}
	must(t, os.Chmod(dir, 0o755), os.Mkdir(p.tmp, 0o700), os.Chown(p.tmp, int(uid), int(uid)))
	binary := os.Getenv("STEPIN_BINARY")
	if binary == "" {
		binary = filepath.Join("..", "..", "bin", "stepin")
	}
	p.copy(t, binary, "stepin")
	p.copy(t, look(t, "dlv"), "dlv")
	p.goos = filepath.Dir(look(t, "go"))
	p.env = []string{"PATH=" + dir + ":" + p.goos + ":/usr/bin:/bin", "TMPDIR=" + p.tmp, "HOME=" + p.tmp}
	if os.Geteuid() == 0 && uid != 0 {
		for name, minor := range map[string]uint32{"tun": 200, "fuse": 229} {
			node := filepath.Join(dir, name)
			must(t, unix.Mknod(node, unix.S_IFCHR, int(unix.Mkdev(10, minor))), os.Chmod(node, 0o666))
			p.env = append(p.env, "STEPIN_"+strings.ToUpper(name)+"="+node)
		}
	} else {
		p.env = append(p.env, "STEPIN_TUN="+os.Getenv("STEPIN_TUN"), "STEPIN_FUSE="+os.Getenv("STEPIN_FUSE"), "GOCACHE="+cache(t))
	}
	if out, err := p.command(t.Context(), filepath.Join(p.goos, "go"), "version").CombinedOutput(); err != nil {
		t.Skipf("uid %d cannot run the go command at %s: %v %s", uid, p.goos, err, out)
	}
	return p
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// look finds a program on PATH or where go install puts it.
func look(t *testing.T, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		path, err := filepath.EvalSymlinks(path)
		must(t, err)
		return path
	}
	home, _ := os.UserHomeDir()
	path := filepath.Join(home, "go", "bin", name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s is neither on PATH nor in ~/go/bin: ./just test installs it", name)
	}
	return path
}

func cache(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOCACHE").Output()
	must(t, err)
	return strings.TrimSpace(string(out))
}

func (p *place) copy(t *testing.T, from, name string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatalf("%v (run ./just build)", err)
	}
	defer in.Close()
	syscall.ForkLock.RLock() // a child forked now would hold it open for writing: ETXTBSY (go.dev/issue/22315)
	defer syscall.ForkLock.RUnlock()
	out, err := os.OpenFile(filepath.Join(p.dir, name), os.O_CREATE|os.O_WRONLY, 0o755)
	must(t, err)
	_, err = io.Copy(out, in)
	must(t, err, out.Close())
}

// command runs as the place's user, with his environment.
func (p *place) command(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Dir = p.env, p.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if os.Geteuid() == 0 && p.uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: p.uid, Gid: p.uid}
	}
	return cmd
}

// told is what a demo printed, and its exit status.
type told struct {
	out, err string
	status   int
}

func (p *place) demo(t *testing.T, args ...string) told {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := p.command(ctx, append([]string{filepath.Join(p.dir, "stepin"), "demo"}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return told{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// clean fails the test if something of the demo is left: a file, or a process that was started in the place. The agent
// ends a moment after its last session, and its socket's directory, which is all that shows it here, with it.
func (p *place) clean(t *testing.T) {
	t.Helper()
	left, err := os.ReadDir(p.tmp)
	must(t, err)
	for _, e := range left {
		if e.Name() == ".cache" || e.Name() == "go" || e.Name() == ".config" || e.Name() == fmt.Sprintf("stepin-%d", p.uid) {
			continue // Go's caches and telemetry; the agent's socket
		}
		t.Errorf("left: %s", e.Name())
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		running := p.running(t)
		agents, err := filepath.Glob(filepath.Join(p.tmp, "stepin-*", "*"))
		must(t, err)
		dirs, err := filepath.Glob(filepath.Join(p.tmp, "stepin-*"))
		must(t, err)
		if len(running) == 0 && len(dirs) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Errorf("still running: %v; left: %v %v", running, dirs, agents)
			return
		}
	}
}

// running are the processes that were started from the place's files, or with what lies in its TMPDIR.
func (p *place) running(t *testing.T) (found []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*")
	must(t, err)
	for _, proc := range all {
		exe, _ := os.Readlink(filepath.Join(proc, "exe"))
		line, _ := os.ReadFile(filepath.Join(proc, "cmdline"))
		if strings.HasPrefix(exe, p.dir+"/") || strings.Contains(string(line), "\x00"+p.tmp+"/") {
			found = append(found, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}

// users are those that the demo is shown to.
func users() []uint32 {
	if uid := os.Geteuid(); uid != 0 {
		return []uint32{uint32(uid)}
	}
	return []uint32{0, 1000, 65534}
}

func TestDemo(t *testing.T) {
	for _, uid := range users() {
		t.Run(fmt.Sprint("uid ", uid), func(t *testing.T) {
			p := newPlace(t, uid)
			got := p.demo(t)
			if got.status != 0 || got.err != "" {
				t.Fatalf("status %d\n%s\n%s", got.status, got.out, got.err)
			}
			want := []string{"1. ", "7. ", "main.order, main.go:", "the caller's true address", "Good morning!", "(the pod, to 192.0.2.7:",
				"(the program on your desk, to 192.0.2.7:", "Try it yourself", `"target": "local/PID"`}
			if uid == 0 {
				want = append(want, "bytes of a Secret")
			}
			for _, w := range want {
				if !strings.Contains(got.out, w) {
					t.Errorf("no %q in\n%s", w, got.out)
				}
			}
			if strings.Contains(got.out, "\x1b") || strings.Contains(got.out, secretKey) {
				t.Errorf("colours, or the secret, in\n%q", got.out)
			}
			p.clean(t)
		})
	}
}

// TestStay ends the pod that stays, by an interrupt as Ctrl-C does, and by a kill.
func TestStay(t *testing.T) {
	for _, c := range []struct {
		name string
		sig  syscall.Signal
		env  []string
	}{
		{"interrupt", syscall.SIGINT, nil}, {"kill", syscall.SIGKILL, nil},
		{"plain, interrupt", syscall.SIGINT, noTun}, {"plain, kill", syscall.SIGKILL, noTun},
	} {
		t.Run(c.name, func(t *testing.T) {
			sig := c.sig
			p := newPlace(t, uint32(os.Geteuid()))
			p.env = append(p.env, c.env...)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			cmd := p.command(ctx, filepath.Join(p.dir, "stepin"), "demo", "--stay")
			out, err := cmd.StdoutPipe()
			must(t, err)
			cmd.Stderr = os.Stderr
			must(t, cmd.Start())
			text, b := "", make([]byte, 4096)
			for !strings.Contains(text, "The customer asks every") {
				n, err := out.Read(b)
				if text += string(b[:n]); err != nil {
					break
				}
			}
			must(t, cmd.Process.Signal(sig))
			rest, _ := io.ReadAll(out)
			err = cmd.Wait()
			if sig == syscall.SIGINT && (err != nil || !strings.Contains(string(rest), "The pod is gone.")) {
				t.Errorf("%v\n%s%s", err, text, rest)
			}
			for end := time.Now().Add(5 * time.Second); sig == syscall.SIGKILL; time.Sleep(10 * time.Millisecond) {
				if left, _ := filepath.Glob(filepath.Join(p.tmp, "stepin-demo-*")); len(left) == 0 || time.Now().After(end) {
					break // clean says what is left
				}
			}
			p.clean(t)
		})
	}
}

// noTun is a machine without namespaces, as far as stepin can tell.
var noTun = []string{"STEPIN_TUN=/dev/none"}

// TestRefusals: what is not there is said in a sentence, with a hint, and status 125.
func TestRefusals(t *testing.T) {
	p := newPlace(t, uint32(os.Geteuid()))
	for _, c := range []struct {
		name string
		env  []string
		want string
	}{
		{"no go", []string{"PATH=" + p.dir}, "the go command is not on PATH\nhint: "},
		{"no dlv", []string{"PATH=" + p.goos, "HOME=/none"}, "dlv, the Go debugger, is neither"},
		{"no TUN device, no Python", append([]string{"PATH=" + p.dir}, noTun...), "/dev/none): no such file or directory"},
		{"no FUSE device, no Python", []string{"PATH=" + p.dir, "STEPIN_FUSE=/dev/none"}, "/dev/none): no such file or directory"},
		{"no room", []string{"TMPDIR=" + filepath.Join(p.dir, "none")}, "the demo has no room in "},
		{"no compiler", []string{"GOFLAGS=-nonsense"}, "does not build: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := *p
			q.env = append(q.env[:len(q.env):len(q.env)], c.env...) // of repeated names the last counts (os/exec)
			got := q.demo(t)
			if got.status != 125 || !strings.Contains(got.err, c.want) || !strings.Contains(got.err, "\nhint: ") || !strings.HasPrefix(got.err, "stepin: ") {
				t.Errorf("status %d\n%s\n%s", got.status, got.out, got.err)
			}
			p.clean(t)
		})
	}
}

// TestForbidden: every step that failed is named with its call and errno, each cure once.
func TestForbidden(t *testing.T) {
	tun := fmt.Errorf("open(/dev/net/tun): %w", unix.EACCES)
	fuse := fmt.Errorf("open(/dev/fuse): %w", unix.EACCES)
	err := forbidden([]namespaces.Step{{Name: "TUN device", Err: tun, Cure: "mend both"}, {Name: "FUSE device", Err: fuse, Cure: "mend both"}})
	if !errors.Is(err, unix.EACCES) || !strings.HasPrefix(fail.Hint(err), "mend both\n  or install python3") ||
		!strings.Contains(err.Error(), "TUN device: open(/dev/net/tun): permission denied; FUSE device: open(/dev/fuse): permission denied") {
		t.Errorf("%v; hint %q", err, fail.Hint(err))
	}
}

// TestLaunchJSON: what the demo tells people to write is what stepin reads.
func TestLaunchJSON(t *testing.T) {
	text := launchJSON("4711", "/src/orders")
	l, err := config.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if l.Target != "local/4711" || l.Debugger.Type != "go" || l.Incoming.Mode != "steal" || len(l.Incoming.Ports) != 1 {
		t.Errorf("%+v", l)
	}
	if !json.Valid([]byte(text)) {
		t.Error("no JSON")
	}
}

func TestColors(t *testing.T) {
	var plain, colored bytes.Buffer
	for out, colors := range map[*bytes.Buffer]bool{&plain: false, &colored: true} {
		s := newStory(out, colors)
		s.chapter("title")
		s.done()
		s.code("a\nb\nc\nd", 2, 1)
		s.variable("name", "value", "origin")
	}
	if strings.Contains(plain.String(), "\x1b") || !strings.Contains(colored.String(), "\x1b[1mtitle\x1b[0m") {
		t.Errorf("%q\n%q", plain.String(), colored.String())
	}
	if !strings.Contains(plain.String(), "    1  a\n   >   2  b\n       3  c\n") {
		t.Errorf("%q", plain.String())
	}
	tty, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no terminal to be had:", err)
	}
	defer tty.Close()
	for _, c := range []struct {
		out     io.Writer
		environ []string
		want    bool
	}{{tty, nil, true}, {tty, []string{"NO_COLOR=1"}, false}, {tty, []string{"NO_COLOR="}, true}, {tty, []string{"TERM=dumb"}, false}, {&plain, nil, false}} {
		if got := terminal(c.out, c.environ); got != c.want {
			t.Errorf("%T %v: %v", c.out, c.environ, got)
		}
	}
}
