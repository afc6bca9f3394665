package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// kubePod is an actor that a kubelet might have started: its processes are in cgroups named after pod and container, and
// a pause process keeps the sandbox.
type kubePod struct {
	*testPod
	t       *testing.T
	uid     string
	pause   *exec.Cmd
	cgroups string
}

// containerID is of this run: an agent looks for it among all of the machine's processes.
var containerID = fmt.Sprintf("4c01db0b339c%046x%%06x", os.Getpid())

func newKubePod(t *testing.T) *kubePod {
	t.Helper()
	k := &kubePod{t: t, uid: fmt.Sprintf("0f5b1c9e-7a41-4d5f-9d39-%012x", os.Getpid())}
	if !ownRoot() {
		k.makeCgroups()
	}
	k.testPod = servePod(t)
	k.pause = k.run(0, "sleep", "1000")
	k.join(k.pid, 1)
	return k
}

func (k *kubePod) makeCgroups() {
	k.t.Helper()
	for _, hierarchy := range []string{"systemd", "pids", "freezer", "unified", ""} {
		dir := filepath.Join("/sys/fs/cgroup", hierarchy, "stepin-test", "pod"+k.uid)
		if os.MkdirAll(dir, 0o755) == nil {
			if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
				k.cgroups = dir
				break
			}
		}
	}
	if k.cgroups == "" {
		k.t.Skip("this machine has no cgroup hierarchy that could be written")
	}
	k.t.Cleanup(func() {
		for i := range 16 {
			_ = os.Remove(filepath.Join(k.cgroups, fmt.Sprintf(containerID, i)))
		}
		_ = os.Remove(k.cgroups)
		_ = os.Remove(filepath.Dir(k.cgroups))
	})
}

// join puts a process into a container. Who may make no cgroups has it look so: by a mount over what /proc says.
func (k *kubePod) join(pid, container int) {
	k.t.Helper()
	if ownRoot() {
		text := filepath.Join(k.t.TempDir(), "cgroup")
		err := os.WriteFile(text, fmt.Appendf(nil, "0::/kubepods/pod%s/"+containerID+"\n", k.uid, container), 0o444)
		if err = errors.Join(err, unix.Mount(text, fmt.Sprintf("/proc/%d/cgroup", pid), "", unix.MS_BIND, "")); err != nil {
			k.t.Fatal(err)
		}
		return
	}
	dir := filepath.Join(k.cgroups, fmt.Sprintf(containerID, container))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		k.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
		k.t.Fatal(err)
	}
}

// run starts a process in the pod's namespaces and puts it into a container.
func (k *kubePod) run(container int, argv ...string) *exec.Cmd {
	k.t.Helper()
	cmd := k.start(argv...)
	k.join(cmd.Process.Pid, container)
	return cmd
}

// start starts a process in the pod's namespaces.
func (k *kubePod) start(argv ...string) *exec.Cmd {
	k.t.Helper()
	from := k.testPod.pid
	if k.pause != nil {
		from = k.pause.Process.Pid
	}
	cmd := exec.Command("nsenter", append([]string{"-t", strconv.Itoa(from), "-n", "-u", "-m", "--"}, argv...)...)
	user := "pod's user"
	if ownRoot() {
		user = "root, as the pod's is"
	}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), spareEnv + "=" + user, actorEnv + "=" + sparePrefix + k.root}
	cmd.Stderr = k.t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

// restart starts the container anew, as another one. As with a runtime it is executed when its root and its user are the
// pod's already.
func (k *kubePod) restart(container int) *exec.Cmd {
	k.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		k.t.Fatal(err)
	}
	cmd := k.start(exe)
	until(k.t, 5*time.Second, "it is the pod's", func() bool {
		root, err := os.Readlink(fmt.Sprintf("/proc/%d/root", cmd.Process.Pid))
		return err == nil && root != "/" && (ownRoot() || strings.HasPrefix(statusOf(k.t, cmd.Process.Pid)["Uid"], strconv.Itoa(podUID)+" "))
	})
	k.join(cmd.Process.Pid, container)
	return cmd
}

func (k *kubePod) name(container int) string {
	return "kube/" + k.uid + "/" + fmt.Sprintf(containerID, container)
}

// newKubeAgent starts an agent as a Job's: on TCP, in a mount namespace of its own, which is what tells containers apart.
func newKubeAgent(t *testing.T, pod string, args ...string) (*testAgent, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := agentOf(t)
	a.network, a.socket = "tcp", l.Addr().String()
	l.Close()
	cmd := exec.Command("unshare", append([]string{"-m", "--propagation", "slave", agentBinary, "--pod", pod}, args...)...)
	return a, a.start(cmd)
}

func startKubeAgent(t *testing.T, pod string, args ...string) *testAgent {
	t.Helper()
	a, refusal := newKubeAgent(t, pod, args...)
	if refusal != "" {
		t.Fatal(refusal)
	}
	return a
}

// withToken is the agent as somebody with another token sees it.
func (a *testAgent) withToken(token string) *testAgent {
	b := *a
	b.token = token
	return &b
}

// joinAgent runs `stepin-agent join` in the agent's container.
func joinAgent(a *testAgent, args ...string) (string, error) {
	out, err := exec.Command("nsenter", append([]string{"-t", strconv.Itoa(a.cmd.Process.Pid), "-m", "--", agentBinary, "join"}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// TestContainerRestart: the agent finds the container's process, follows it to its successor without breaking a
// connection, and leaves with the sandbox.
func TestContainerRestart(t *testing.T) {
	if !asRoot(t) {
		return
	}
	k := newKubePod(t)
	a := startKubeAgent(t, k.name(1), "--ttl", "1m")
	s := a.join("one", "")
	if d := s.describe(); d.Hostname != podName || !strings.HasPrefix(d.Target, "kube/"+k.uid+"/4c01db0b339c (") {
		t.Errorf("%q %q", d.Hostname, d.Target)
	}
	s.mustSteal(tcp(8080))
	child := a.childPid()
	sidecar := k.restart(2) // of the same executable, but there before the target's end
	time.Sleep(1100 * time.Millisecond)
	_ = k.in.Encode(command{Do: "exit"})
	until(t, 5*time.Second, "the end is seen", func() bool { return strings.Contains(a.err.String(), "the target has ended") })
	asked := make(chan error, 1)
	go func() { // a question about files waits for the restart
		_, err := s.open(wire.KindLstat, wire.Path{Path: "/app/file"}, nil)
		asked <- err
	}()
	time.Sleep(300 * time.Millisecond)
	next := k.restart(3)
	if err := <-asked; err != nil {
		t.Errorf("a file: %v", err)
	}
	if d := s.describe(); a.childPid() != child || s.Err() != nil || len(d.Volumes) == 0 {
		t.Errorf("child %d, was %d; session %v, %d volumes", a.childPid(), child, s.Err(), len(d.Volumes))
	}
	// Another executable is not followed without the session's word.
	_, _ = next.Process.Kill(), next.Wait()
	until(t, 5*time.Second, "the end is seen", func() bool { return strings.Count(a.err.String(), "the target has ended") == 2 })
	sleep := []string{"setpriv", "--reuid", "1000", "--regid", "1000", "--groups", "2000", "sleep", "1000"}
	if ownRoot() {
		sleep = []string{"sleep", "1000"}
	}
	other := k.run(4, sleep...)
	until(t, time.Second, "it runs", func() bool { return statusOf(t, other.Process.Pid)["Name"] == "sleep" })
	time.Sleep(300 * time.Millisecond)
	if n := strings.Count(a.err.String(), "took the target's place"); n != 1 {
		t.Errorf("followed %d times", n)
	}
	for _, id := range []string{"", "nonsense", fmt.Sprintf(containerID, 2), fmt.Sprintf(containerID, 4)} { // the sidecar is none
		if err := s.Send(wire.KindTarget, wire.Target{Container: id}); err != nil {
			t.Fatal(err)
		}
	}
	until(t, 5*time.Second, "the word is followed", func() bool {
		return strings.Contains(a.err.String(), fmt.Sprintf("took the target's place\" part=parent pid=%d", other.Process.Pid))
	})
	// A container that does not come back is waited for as long as the sandbox is there.
	_, _ = other.Process.Kill(), other.Wait()
	_, _ = sidecar.Process.Kill(), sidecar.Wait()
	until(t, 15*time.Second, "no container has files", func() bool { // until the end is seen, the ended one's root answers that there is no such file
		_, err := s.open(wire.KindLstat, wire.Path{Path: "/app/file"}, nil)
		return errors.Is(err, syscall.EIO) || errors.Is(err, syscall.ESTALE)
	})
	if s.Err() != nil {
		t.Errorf("the session: %v", s.Err())
	}
	_, _ = k.pause.Process.Kill(), k.pause.Wait()
	until(t, time.Second, "the agent leaves", func() bool {
		select {
		case <-a.done:
			return true
		default:
			return false
		}
	})
	var bye mux.ByeError
	if !errors.As(s.Err(), &bye) || bye.Reason != "the pod has gone, and the agent with it" || a.cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("%v, %v", s.Err(), a.cmd.ProcessState)
	}
}

// TestKubeRefusals: what is no container, and what has its node's network.
func TestKubeRefusals(t *testing.T) {
	if !asRoot(t) {
		return
	}
	k := newKubePod(t)
	if _, refusal := newKubeAgent(t, k.name(9)); !strings.Contains(refusal, "has no process on this node") || !strings.Contains(refusal, "gVisor") {
		t.Errorf("no such container: %q", refusal)
	}
	host := exec.Command("sleep", "1000")
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = host.Process.Kill(); _ = host.Wait() })
	k.join(host.Process.Pid, 5)
	if _, refusal := newKubeAgent(t, k.name(5)); !strings.Contains(refusal, "(hostNetwork)") || !strings.Contains(refusal, "hint: ") {
		t.Errorf("hostNetwork: %q", refusal)
	}
	a := agentOf(t)
	a.network, a.socket = "tcp", "0.0.0.0:7071"
	if refusal := a.start(exec.Command(agentBinary, "--pod", k.name(1))); !strings.Contains(refusal, "no address of the loopback") {
		t.Errorf("%q", refusal)
	}
}

// TestJoin: the right to run something in the agent's container brings a token, and nothing else does. Sessions of
// different tokens see each other and cannot stop each other.
func TestJoin(t *testing.T) {
	if !asRoot(t) {
		return
	}
	k := newKubePod(t)
	a := startKubeAgent(t, k.name(1), "--ttl", "1m")
	ada := a.join("ada", "")
	ada.mustSteal(tcp(8080))
	if err := ada.Send(wire.KindState, wire.State{Paused: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.withToken("guess").hello("bob", ""); !errors.Is(err, syscall.EACCES) {
		t.Errorf("a guess: %v", err)
	}
	if out, err := exec.Command(agentBinary, "join").CombinedOutput(); err == nil {
		t.Errorf("joined from another container: %q", out)
	}
	token, err := joinAgent(a, "--who", "bob@desk")
	if err != nil || len(token) < 20 {
		t.Fatalf("%q, %v", token, err)
	}
	if second, err := joinAgent(a); err != nil || second == token {
		t.Errorf("%q, %v", second, err)
	}
	bob := a.withToken(token).join("bob", "")
	if _, err := bob.steal(tcp(8080)); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "held by ada@laptop since ") {
		t.Errorf("the same port: %v", err)
	}
	bob.mustSteal(tcp(8081))
	all := bob.sessions()
	if len(all) != 2 || all[0].ID != "ada" || all[0].Mine || !all[0].Paused || all[0].Who != "ada@laptop" || len(all[0].Ports) != 1 || !all[1].Mine || all[1].Paused {
		t.Errorf("%+v", all)
	}
	if _, err := bob.open(wire.KindStop, wire.Stop{Session: "ada"}, nil); !errors.Is(err, syscall.EPERM) || !strings.Contains(err.Error(), "only they can stop it") {
		t.Errorf("stopping another's: %v", err)
	}
	// Another session of the same token may: `stepin sessions stop`.
	tool := a.join("tool", "")
	tool.mustOpen(wire.KindStop, wire.Stop{Session: "ada"}, nil).Close()
	var bye mux.ByeError
	<-ada.Done()
	if !errors.As(ada.Err(), &bye) || !strings.Contains(bye.Reason, "stopped") {
		t.Errorf("%v", ada.Err())
	}
	bob.mustSteal(tcp(8080)) // no reservation is left
	if strings.Contains(a.err.String(), token) {
		t.Error("the token is in the log")
	}
}

// TestIdle: without a session it ends of itself, after the time it was given and with success.
func TestIdle(t *testing.T) {
	if !asRoot(t) {
		return
	}
	k := newKubePod(t)
	a := startKubeAgent(t, k.name(1), "--ttl", "300ms")
	s := a.join("one", "")
	time.Sleep(400 * time.Millisecond)
	if s.Err() != nil {
		t.Fatal("it left a session")
	}
	s.Close("done")
	until(t, 3*time.Second, "the agent's end", func() bool {
		select {
		case <-a.done:
			return true
		default:
			return false
		}
	})
	if a.cmd.ProcessState.ExitCode() != 0 {
		t.Error(a.cmd.ProcessState)
	}
}

func (s *testSession) sessions() (all []wire.SessionInfo) {
	s.t.Helper()
	stream := s.mustOpen(wire.KindSessions, nil, nil)
	defer stream.Close()
	raw, err := io.ReadAll(stream)
	if err == nil {
		err = json.Unmarshal(raw, &all)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}
