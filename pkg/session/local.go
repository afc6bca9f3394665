package session

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// Waits for an agent on this machine.
const (
	agentStart = 15 * time.Second // from the start to the first answer; a quiet machine needs 0.1 s
	agentPoll  = 20 * time.Millisecond
	leaveWait  = 3 * time.Second // for the end of an agent that is leaving; a quiet machine needs 20 ms
)

// local is the agent of local/PID: a process on this machine, shared by all sessions of this user on that pod.
// Its socket lies in a private directory and bears the token in its name, so that what is left of a killed agent is
// one file, and who may read the directory may join.
type local struct {
	s       *Session
	pid     int
	sandbox string // inode of the pod's network namespace; where that is this machine's own, with the process behind it
	beside  bool   // it is this machine's own
	dir     string // private, this user's
	hello   wire.Hello
	ttl     time.Duration
	log     func(string) // the agent's own lines, for debugging
	say     func(string) // one line for the developer
	image   func() ([]byte, error)
	stub    func() (string, error) // path of the stub, for a pod in a user namespace of its own
	trace   *os.File               // nil: none; else the agent appends what it does there

	socket string // the agent's, once there is one
}

// newLocal looks at the target; nothing is made yet.
func newLocal(s *Session) (reach, error) {
	sandbox, beside, err := checkLocal(s.target.PID, s.config.Agent.HostNetwork)
	if err != nil {
		return nil, err
	}
	s.beside = beside
	dir, err := runtimeDir()
	if err != nil {
		return nil, err
	}
	hello, err := newHello()
	if err != nil {
		return nil, err
	}
	s.hello = hello
	return &local{s: s, pid: s.target.PID, sandbox: sandbox, beside: beside, dir: dir, ttl: time.Duration(s.config.Agent.TTL), hello: hello,
		log: func(line string) { s.log.Debug("agent", "line", line) }, say: s.notice,
		image: s.options.Parts.Agent, stub: s.stubFile, trace: s.options.Trace}, nil
}

func (l *local) dial(ctx context.Context, resume string) (conn *mux.Conn, welcome wire.Welcome, err error) {
	if l.socket == "" {
		conn, welcome, l.socket, err = l.connect(ctx)
		return conn, welcome, err
	}
	return l.rejoin(ctx, l.socket, resume)
}

func (l *local) try() time.Duration                             { return redialTry }
func (l *local) final(mux.ByeError) bool                        { return true }
func (l *local) news() <-chan struct{}                          { return nil }
func (l *local) complete(*wire.Pod)                             {}
func (l *local) follow(context.Context)                         {}
func (l *local) note(context.Context)                           {}
func (l *local) steal(*link, *wire.Steal) (pod string, ok bool) { return "the pod", true }
func (l *local) notice(line string)                             { l.say(line) }
func (l *local) close()                                         { sweepDir(l.dir) }

func (l *local) pod(*link) string { return l.s.target.String() }

func (l *local) pods() (_, _ string, pods []StatePod) {
	conn, _ := l.s.link.current()
	return "", "", []StatePod{{Name: l.s.target.String(), Home: true, Connected: conn != nil, link: l.s.link}}
}

// checkLocal says whether PID exists and may be entered, and whether it is in this machine's own network, which must be meant.
func checkLocal(pid int, hostNetwork bool) (sandbox string, beside bool, err error) {
	proc := "/proc/" + strconv.Itoa(pid)
	if _, err := os.Stat(proc); err != nil {
		return "", false, fail.New(fail.TargetMissing, "list the processes with `ps -e` and take a PID from there",
			"target: there is no process %d", pid)
	}
	for _, ns := range []string{"net", "uts", "user", "mnt"} {
		link, err := os.Readlink(proc + "/ns/" + ns)
		if err != nil {
			return "", false, foreign(pid, err)
		}
		if ns == "net" {
			sandbox = strings.TrimSuffix(strings.TrimPrefix(link, "net:["), "]")
		}
	}
	if _, err := os.Stat(proc + "/root/"); err != nil {
		return "", false, foreign(pid, err)
	}
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil || own != "net:["+sandbox+"]" {
		return sandbox, false, nil
	}
	if !hostNetwork {
		return "", false, fail.New(fail.TargetForeign, `take a process that runs in a container or in namespaces of its own; if this machine's ports are meant, write "agent": {"hostNetwork": true}`,
			"target: process %d shares this machine's own network, so it is no pod", pid)
	}
	return sandbox + "." + strconv.Itoa(pid), true, nil
}

func foreign(pid int, err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	hint := "take a process of your own user, or run stepin as root"
	if os.Geteuid() == 0 {
		hint = "take another process: this root lacks CAP_SYS_PTRACE over it"
	}
	return fail.Wrap(fail.TargetForeign, err, hint,
		"target: process %d is not yours to enter", pid)
}

// longestDir is how long the path of a directory may be in which we make directories with sockets: such a path has 108
// bytes (unix(7), sun_path), and our longest names need 60 of them.
const longestDir = 108 - 60

// tempDir is where temporary files go; /tmp where that is too deep for sockets.
func tempDir() string {
	if dir := os.TempDir(); len(dir) <= longestDir {
		return dir
	}
	return "/tmp"
}

// runtimeDir is this user's private directory for what outlives a session. It is made if it is not there.
func runtimeDir() (string, error) {
	dir := runtimePath()
	return dir, ownDir(dir)
}

func runtimePath() string {
	dir := filepath.Join(tempDir(), fmt.Sprintf("stepin-%d", os.Getuid()))
	if x := os.Getenv("XDG_RUNTIME_DIR"); x != "" && len(x) <= longestDir {
		if info, err := os.Stat(x); err == nil && info.IsDir() && owner(info) == os.Getuid() {
			dir = filepath.Join(x, "stepin")
		}
	}
	return dir
}

// ownDir makes the directory, if it is not there, and checks that it is private.
func ownDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("session: making the runtime directory: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("session: looking at the runtime directory: %w", err)
	}
	if !info.IsDir() || info.Mode().Perm()&0o077 != 0 || owner(info) != os.Getuid() {
		return fail.New(fail.AgentStart, "remove it, or set XDG_RUNTIME_DIR to a directory of your own",
			"%s must be a directory of yours with mode 0700", dir)
	}
	return nil
}

// lockTries bounds how often the runtime directory may be removed between our making and our locking it.
const lockTries = 100

// lockDir locks the runtime directory, which whoever leaves removes: it makes it again if it is not there, or no more.
// It waits for whoever has the lock for as long as ctx lasts.
func lockDir(ctx context.Context, dir string) (*os.File, error) {
	for range lockTries {
		if err := ownDir(dir); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		f, err := os.Open(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("session: opening the runtime directory: %w", err)
		}
		if err := lock(ctx, f); err != nil {
			f.Close()
			return nil, fmt.Errorf("session: locking the runtime directory: %w", err)
		}
		locked, err := f.Stat()
		if now, serr := os.Lstat(dir); err == nil && serr == nil && os.SameFile(locked, now) {
			return f, nil
		}
		f.Close()
	}
	return nil, fmt.Errorf("session: locking the runtime directory: it does not stay")
}

// lock is flock(2) that ends with ctx: blocked in the kernel it could not be called back.
func lock(ctx context.Context, f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return err
		}
		select {
		case <-time.After(agentPoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// sweepDir removes the runtime directory if it is empty and nobody is about to use it. A session's agent does the same
// at its end, which comes after the session's.
func sweepDir(dir string) {
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		_ = unix.Rmdir(dir) // ENOTEMPTY: others need it
	}
}

func owner(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}

// connect joins the agent that serves the pod already, or starts one. Only one session of this user does so at a time.
func (l *local) connect(ctx context.Context) (*mux.Conn, wire.Welcome, string, error) {
	lock, err := lockDir(ctx, l.dir)
	if err != nil {
		return nil, wire.Welcome{}, "", err
	}
	defer lock.Close()
	for end := time.Now().Add(leaveWait); ; {
		conn, welcome, socket, err := l.joinOrStart(ctx)
		leaving := errors.Is(err, mux.ErrLost) || errors.Is(err, syscall.ESHUTDOWN)
		if !leaving || time.Now().After(end) {
			return conn, welcome, socket, err
		}
		select {
		case <-time.After(agentPoll):
		case <-ctx.Done():
			return nil, wire.Welcome{}, "", ctx.Err()
		}
	}
}

// joinOrStart fails with mux.ErrLost or ESHUTDOWN where an agent is there that is just ending, with the session before
// this one.
func (l *local) joinOrStart(ctx context.Context) (*mux.Conn, wire.Welcome, string, error) {
	sockets, err := filepath.Glob(filepath.Join(l.dir, l.sandbox+".*"))
	if err != nil {
		return nil, wire.Welcome{}, "", err
	}
	for _, s := range sockets {
		conn, welcome, err := l.rejoin(ctx, s, "")
		if !errors.Is(err, errGone) {
			return conn, welcome, s, err
		}
	}
	return l.start(ctx)
}

// rejoin is join where an agent was before: if it is gone, what it left is removed.
func (l *local) rejoin(ctx context.Context, socket, resume string) (*mux.Conn, wire.Welcome, error) {
	conn, welcome, err := l.join(ctx, socket, resume)
	if errors.Is(err, errGone) {
		os.Remove(socket)
	}
	return conn, welcome, err
}

// join dials the agent behind a socket. errGone means that nobody listens there, or not yet: an agent that is just
// starting has bound its socket a moment before.
func (l *local) join(ctx context.Context, socket, resume string) (*mux.Conn, wire.Welcome, error) {
	var d net.Dialer
	raw, err := d.DialContext(ctx, "unix", socket)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT) {
		return nil, wire.Welcome{}, errGone
	}
	if err != nil {
		return nil, wire.Welcome{}, fmt.Errorf("session: reaching the agent: %w", err)
	}
	hello := l.hello
	hello.Token, hello.Resume = strings.TrimPrefix(filepath.Ext(socket), "."), resume
	return mux.Dial(ctx, raw, hello, mux.Config{})
}

// start runs a new agent and waits until it answers.
func (l *local) start(ctx context.Context) (*mux.Conn, wire.Welcome, string, error) {
	fail0 := func(err error) (*mux.Conn, wire.Welcome, string, error) { return nil, wire.Welcome{}, "", err }
	var secret [16]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return fail0(err)
	}
	token := hex.EncodeToString(secret[:])
	hash := sha256.Sum256([]byte(token))
	socket := filepath.Join(l.dir, l.sandbox+"."+token)
	args := []string{"--pod", "local/" + strconv.Itoa(l.pid), "--listen", "unix:" + socket,
		"--token-sha256", hex.EncodeToString(hash[:]), "--ttl", l.ttl.String(), "--who", l.hello.Who, "--sweep"}
	if l.beside {
		args = append(args, "--host-network")
	}
	p, err := l.exec(args)
	if err != nil {
		return fail0(err)
	}
	deadline := time.Now().Add(agentStart)
	for {
		if _, err := os.Lstat(socket); err == nil {
			conn, welcome, err := l.join(ctx, socket, "")
			if !errors.Is(err, errGone) {
				return conn, welcome, socket, err
			}
		}
		select {
		case <-p.done:
			os.Remove(socket) // it was killed
			return fail0(p.refusal())
		case <-ctx.Done():
			p.kill()
			os.Remove(socket)
			return fail0(ctx.Err())
		case <-time.After(agentPoll):
		}
		if time.Now().After(deadline) {
			p.kill()
			os.Remove(socket)
			return fail0(fail.New(fail.AgentStart, "set STEPIN_LOG=debug to see what it does",
				"the agent did not answer within %v", agentStart))
		}
	}
}

// agentProcess is an agent that this session started. It is not ours to end: other sessions may have joined it.
//
// Goroutine: wait, which ends with the process.
type agentProcess struct {
	cmd    *exec.Cmd
	stderr *lastLines
	done   chan struct{}
}

// kill ends it and waits until it has gone, its socket with it or left for the caller.
func (p *agentProcess) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// refusal makes the agent's own last line the error.
func (p *agentProcess) refusal() error {
	text := p.stderr.last()
	if text == "" {
		text = p.cmd.ProcessState.String()
	}
	what, hint, _ := strings.Cut(text, " hint: ")
	return fail.New(fail.AgentStart, hint, "the agent did not start: %s", strings.TrimPrefix(what, "stepin-agent: "))
}

// exec starts the agent from memory, through the stub where the pod has a user namespace of its own.
func (l *local) exec(args []string) (*agentProcess, error) {
	image, err := l.image()
	if err != nil {
		return nil, err
	}
	file, err := memfd("stepin-agent", image)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	const inherited = "/proc/self/fd/3" // the first of ExtraFiles
	argv := append([]string{inherited}, args...)
	files := []*os.File{file}
	if l.trace != nil {
		files = append(files, l.trace)
		argv = append(argv, "--trace", "/proc/self/fd/4")
	}
	mine, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		return nil, err
	}
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", l.pid))
	if err != nil {
		return nil, foreign(l.pid, err)
	}
	if mine != theirs {
		stub, err := l.stub()
		if err != nil {
			return nil, err
		}
		argv = append([]string{stub, "-u", strconv.Itoa(l.pid)}, argv...)
	}
	p := &agentProcess{stderr: &lastLines{each: l.log}, done: make(chan struct{})}
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.ExtraFiles = files
	p.cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "STEPIN_LOG=" + os.Getenv("STEPIN_LOG")}
	p.cmd.Dir = "/"
	p.cmd.Stderr = p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it outlives this session, and its terminal
	if err := p.cmd.Start(); err != nil {
		return nil, fail.Wrap(fail.AgentStart, err, "`stepin doctor` says what this machine forbids", "starting the agent")
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// memfd returns an executable file that lies in memory only (memfd_create(2)).
func memfd(name string, image []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("session: memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(image); err != nil {
		f.Close()
		return nil, fmt.Errorf("session: writing %s: %w", name, err)
	}
	// Executing a file that is open for writing is ETXTBSY.
	ro, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	f.Close()
	if err != nil {
		return nil, fmt.Errorf("session: reopening %s: %w", name, err)
	}
	return ro, nil
}

// lastLines keeps the last line written to it and hands each on.
type lastLines struct {
	each func(string)

	mu   sync.Mutex
	part bytes.Buffer
	line string
}

var _ io.Writer = (*lastLines)(nil)

func (w *lastLines) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	const longest = 64 << 10
	if w.part.Len()+len(p) > longest {
		w.part.Reset()
	}
	w.part.Write(p)
	for {
		line, err := w.part.ReadString('\n')
		if err != nil {
			w.part.Reset()
			w.part.WriteString(line)
			return len(p), nil
		}
		if w.line = strings.TrimSpace(line); w.each != nil {
			w.each(w.line)
		}
	}
}

func (w *lastLines) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if rest := strings.TrimSpace(w.part.String()); rest != "" {
		return rest
	}
	return w.line
}
