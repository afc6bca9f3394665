package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// nobody is the ordinary user as whom everything runs a second time.
const nobody = 65534

var agentBinary string // built once by TestMain, as it is shipped: without cgo

func TestMain(m *testing.M) {
	if root := os.Getenv(actorEnv); root != "" {
		if err := actorMain(root); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if socket := os.Getenv(strangerEnv); socket != "" {
		if err := dialAsStranger(socket); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if ownRoot() { // what it mounts its agents see, and nobody else
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(testMain(m))
}

// strangerEnv makes this binary the other user of TestStrangers; it names the socket to dial.
const strangerEnv = "STEPIN_TEST_SOCKET"

func testMain(m *testing.M) int {
	if agentBinary = os.Getenv("STEPIN_TEST_AGENT"); agentBinary != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "stepin-agent-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	_ = os.Chmod(dir, 0o755)
	agentBinary = filepath.Join(dir, "stepin-agent")
	build := exec.Command("go", "build", "-o", agentBinary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the agent: %v\n%s", err, out)
		return 1
	}
	code := m.Run()
	if code == 0 && os.Getuid() == 0 && flag.Lookup("test.list").Value.String() == "" {
		if err := runOrdinary(dir); err != nil {
			fmt.Printf("FAIL: as uid %d: %v\n", nobody, err)
			return 1
		}
	}
	return code
}

// runOrdinary runs the same tests again as a user without rights.
func runOrdinary(dir string) error {
	self, private := filepath.Join(dir, "tests"), filepath.Join(dir, "private")
	raw, err := os.ReadFile("/proc/self/exe")
	if err = errors.Join(err, os.WriteFile(self, raw, 0o755), os.Mkdir(private, 0o700), os.Chown(private, nobody, nobody)); err != nil {
		return err
	}
	var args []string
	for _, a := range os.Args[1:] {
		if !strings.HasPrefix(a, "-test.coverprofile") && !strings.HasPrefix(a, "-test.gocoverdir") && !strings.HasPrefix(a, "-test.testlogfile") {
			args = append(args, a)
		}
	}
	fmt.Printf("=== the same as uid %d\n", nobody)
	cmd := exec.Command(self, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"STEPIN_TEST_AGENT=" + agentBinary, "TMPDIR=" + private, "PATH=" + os.Getenv("PATH")}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	return cmd.Run()
}

// ownEnv says that this run is in namespaces of an ordinary user's, as their root.
const ownEnv = "STEPIN_TEST_OWN_NAMESPACES"

// asRoot is for tests that need root's rights. An ordinary user's run again in namespaces whose root he is; there no other
// user is to be had, and what a test wants of one is chosen by ownRoot. It says whether the test is to go on here.
func asRoot(t *testing.T) bool {
	t.Helper()
	if !ordinary() {
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), ownEnv+"=1", "STEPIN_TEST_AGENT="+agentBinary)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}
	out, err := cmd.CombinedOutput()
	if t.Logf("%s", out); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("in namespaces of its own: %v", err)
	}
	return false
}

func ownRoot() bool { return os.Getenv(ownEnv) != "" }

// publicDir is a directory that every user may enter.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "stepin-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func ordinary() bool { return os.Getuid() != 0 }

// rank tells the actor, who is root in its own user namespace, whose pod it is: "" for root's.
func rank() string {
	if ordinary() || ownRoot() {
		return "ordinary"
	}
	return ""
}

// testPod is a running actor.
type testPod struct {
	t    *testing.T
	cmd  *exec.Cmd
	in   *json.Encoder
	out  *json.Decoder
	pid  int
	root string
}

func newPod(t *testing.T, env ...string) *testPod {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	p := &testPod{t: t, cmd: exec.Command(exe), root: root}
	p.cmd.Env = append([]string{actorEnv + "=" + root, "STEPIN_TEST_USER=" + rank(), "GREETING=hello from the pod"}, env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if ordinary() {
		p.cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		p.cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		p.cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	if slices.Contains(env, firstEnv+"=1") {
		p.cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWPID
	}
	p.cmd.Stderr = t.Output()
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.in, p.out = json.NewEncoder(in), json.NewDecoder(out)
	if err := p.cmd.Start(); err != nil {
		t.Skipf("this machine forbids namespaces: %v", err)
	}
	p.pid = p.cmd.Process.Pid
	t.Cleanup(func() { in.Close(); _ = p.cmd.Process.Kill(); _ = p.cmd.Wait() })
	var ready reply
	if err := p.out.Decode(&ready); err != nil || ready.Text != "ready" {
		t.Fatalf("the pod did not start: %v", err)
	}
	return p
}

// do has the pod do something that must work.
func (p *testPod) do(c command) reply {
	p.t.Helper()
	r := p.try(c)
	if r.Err != "" {
		p.t.Fatalf("%s %s %s: %s", c.Do, c.Network, c.Addr, r.Err)
	}
	return r
}

func (p *testPod) try(c command) (r reply) {
	p.t.Helper()
	if err := p.in.Encode(c); err != nil {
		p.t.Fatal(err)
	}
	if err := p.out.Decode(&r); err != nil {
		p.t.Fatal(err)
	}
	return r
}

// ask connects, asks and closes.
func (p *testPod) ask(network, addr string, client bool) string {
	p.t.Helper()
	if r := p.try(command{Do: "connect", ID: "once", Network: network, Addr: addr, Client: client}); r.Err != "" {
		return r.Err
	}
	r := p.try(command{Do: "ask", ID: "once", Text: "hi", Client: client})
	p.try(command{Do: "close", ID: "once"})
	if r.Err != "" {
		return r.Err
	}
	return r.Text
}

// until polls a condition for at most the time given.
func until(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// testAgent is a running agent.
type testAgent struct {
	t               *testing.T
	cmd             *exec.Cmd
	network, socket string // where it listens
	dial            func() (net.Conn, error)
	token           string
	trace           string
	err             *safeBuffer
	done            chan struct{}
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// newAgent starts an agent for a process; where it refuses to start its last line is returned.
func newAgent(t *testing.T, pid int, args ...string) (*testAgent, string) {
	t.Helper()
	a := agentOf(t)
	argv := append([]string{agentBinary, "--pod", "local/" + strconv.Itoa(pid)}, args...)
	if ordinary() { // as the stub does
		argv = append([]string{"nsenter", "-t", strconv.Itoa(pid), "-U", "--preserve-credentials", "--"}, argv...)
	}
	return a, a.start(exec.Command(argv[0], argv[1:]...))
}

// agentOf is an agent that is not started yet and listens on a unix socket.
func agentOf(t *testing.T) *testAgent {
	dir := publicDir(t) // so that the user alone decides who is let in
	a := &testAgent{t: t, network: "unix", socket: filepath.Join(dir, "s"), token: "open sesame", trace: filepath.Join(dir, "trace"),
		err: &safeBuffer{}, done: make(chan struct{})}
	a.dial = func() (net.Conn, error) { return net.Dial(a.network, a.socket) }
	return a
}

// start starts the agent with cmd, whose arguments it completes, and waits until it listens. Where it refuses to start
// its last line is returned.
func (a *testAgent) start(cmd *exec.Cmd) string {
	t := a.t
	t.Helper()
	hash := sha256.Sum256([]byte(a.token))
	cmd.Args = append(cmd.Args, "--listen", a.network+":"+a.socket, "--token-sha256", hex.EncodeToString(hash[:]), "--who", "tester@here", "--trace", a.trace)
	a.cmd = cmd
	a.cmd.Env = []string{"STEPIN_LOG=debug", "PATH=" + os.Getenv("PATH")}
	a.cmd.Stderr = a.err
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = a.cmd.Wait(); close(a.done) }()
	t.Cleanup(func() {
		_ = a.cmd.Process.Kill()
		<-a.done
		if t.Failed() {
			t.Logf("the agent's log:\n%s", a.err)
		}
	})
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		select {
		case <-a.done:
			lines := strings.Split(strings.TrimSpace(a.err.String()), "\n")
			return lines[len(lines)-1]
		default:
		}
		if c, err := a.dial(); err == nil {
			c.Close()
			return ""
		}
	}
	t.Fatal("the agent does not listen")
	return ""
}

func startAgent(t *testing.T, pid int, args ...string) *testAgent {
	t.Helper()
	a, refusal := newAgent(t, pid, args...)
	if refusal != "" {
		t.Fatal(refusal)
	}
	return a
}

// childPid finds the agent's child.
func (a *testAgent) childPid() int { a.t.Helper(); return childOf(a.t, a.cmd.Process.Pid) }

func childOf(t *testing.T, pid int) int {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Fatal(err)
	}
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, task := range tasks {
		more, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
		raw = append(raw, more...)
	}
	children := strings.Fields(string(raw))
	if len(children) == 0 {
		t.Fatal("it has no child")
	}
	n, err := strconv.Atoi(children[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// testSession is the session's end of a channel.
type testSession struct {
	*mux.Conn
	raw     net.Conn
	t       *testing.T
	welcome wire.Welcome
	// incoming decides what happens to a stolen flow; nil answers each line with the word "session".
	mu       sync.Mutex
	incoming func(r *mux.Request, in wire.Incoming)
}

func (a *testAgent) hello(id, resume string) (*testSession, error) {
	raw, err := a.dial()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s := &testSession{t: a.t, raw: raw}
	s.Conn, s.welcome, err = mux.Dial(ctx, raw, wire.Hello{Token: a.token, Session: id, Resume: resume, Who: id + "@laptop"}, mux.Config{})
	if err != nil {
		return nil, err
	}
	a.t.Cleanup(func() { s.Close("test over") })
	go func() {
		for {
			r, err := s.Accept()
			if err != nil {
				return
			}
			go s.serve(r)
		}
	}()
	return s, nil
}

func (a *testAgent) join(id, resume string) *testSession {
	a.t.Helper()
	s, err := a.hello(id, resume)
	if err != nil {
		a.t.Fatal(err)
	}
	return s
}

func (s *testSession) setIncoming(f func(r *mux.Request, in wire.Incoming)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.incoming = f
}

func (s *testSession) serve(r *mux.Request) {
	var in wire.Incoming
	if err := wire.Decode(r.Body, &in); err != nil {
		r.Refuse(err)
		return
	}
	s.mu.Lock()
	f := s.incoming
	s.mu.Unlock()
	if f != nil {
		f(r, in)
		return
	}
	stream, err := r.Accept(nil)
	if err != nil {
		return
	}
	word := "session " + in.Client.Addr().String() + " " + in.Local.String()
	if r.Kind == wire.KindIncomingDG {
		chunks := wire.NewChunkReader(stream)
		for {
			ch, err := chunks.Read()
			if err != nil {
				stream.Close()
				return
			}
			if _, err := stream.Write(wire.AppendData(nil, append([]byte(word+" "), ch.Data...))); err != nil {
				return
			}
		}
	}
	echo(stream, word)
}

func (s *testSession) steal(ports ...wire.Port) (*mux.Stream, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return s.Open(ctx, wire.KindSteal, wire.Steal{Ports: ports}, nil)
}

func (s *testSession) mustSteal(ports ...wire.Port) *mux.Stream {
	s.t.Helper()
	stream, err := s.steal(ports...)
	if err != nil {
		s.t.Fatal(err)
	}
	return stream
}

func (s *testSession) open(kind wire.Kind, body, reply any) (*mux.Stream, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return s.Open(ctx, kind, body, reply)
}

func (s *testSession) mustOpen(kind wire.Kind, body, reply any) *mux.Stream {
	s.t.Helper()
	stream, err := s.open(kind, body, reply)
	if err != nil {
		s.t.Fatal(err)
	}
	return stream
}

func (s *testSession) describe() (p wire.Pod) {
	s.t.Helper()
	stream := s.mustOpen(wire.KindDescribe, wire.Describe{Lstat: []wire.Name{"/app/file", "/app/none"}}, nil)
	defer stream.Close()
	raw, err := io.ReadAll(stream)
	if err == nil {
		err = json.Unmarshal(raw, &p)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

// line sends a line and reads one.
func line(t *testing.T, rw io.ReadWriter, text string) string {
	t.Helper()
	if _, err := io.WriteString(rw, text+"\n"); err != nil {
		return err.Error()
	}
	got, err := bufio.NewReader(rw).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err.Error()
	}
	return strings.TrimSpace(got)
}
