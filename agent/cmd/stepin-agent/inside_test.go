package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// firstEnv makes the actor process 1 of a process namespace.
const firstEnv = "STEPIN_TEST_FIRST"

// The capabilities that containerd gives a container of which nothing is said (its oci/spec.go), and those that steal.
const (
	defaultCaps = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap"
	stealCaps   = defaultCaps + ",+net_admin,+bpf"
)

// dialerIn dials in a process's network namespace, by a thread of its own. That stays until this process ends: with a thread
// end those that it has started (PR_SET_PDEATHSIG, prctl(2)), and before it was locked it may have started a pod.
func dialerIn(t *testing.T, pid int) func(network, addr string) (net.Conn, error) {
	t.Helper()
	jobs, entered := make(chan func()), make(chan error)
	go func() {
		runtime.LockOSThread()
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
			ns.Close()
		}
		entered <- err
		for f := range jobs {
			f()
		}
	}()
	if err := <-entered; err != nil {
		t.Fatal(err)
	}
	return func(network, addr string) (conn net.Conn, err error) {
		done := make(chan struct{})
		jobs <- func() { conn, err = net.Dial(network, addr); close(done) }
		<-done
		return conn, err
	}
}

// newInsideAgent starts an agent as an ephemeral container of the pod: in its network and process namespaces, with a
// mount namespace and rights (setpriv(1)) of its own.
func newInsideAgent(t *testing.T, p *testPod, rights ...string) (*testAgent, string) {
	t.Helper()
	return newInsideAgentWhere(t, p, "true", rights...)
}

// newInsideAgentWhere is the same after a command in its mount namespace.
func newInsideAgentWhere(t *testing.T, p *testPod, before string, rights ...string) (*testAgent, string) {
	t.Helper()
	a := agentOf(t)
	if err := os.Chmod(filepath.Dir(a.trace), 0o777); err != nil {
		t.Fatal(err)
	}
	a.network, a.socket = "tcp", "127.0.0.1:7071"
	dial := dialerIn(t, p.pid)
	a.dial = func() (net.Conn, error) { return dial(a.network, a.socket) }
	argv := []string{"-t", strconv.Itoa(p.pid), "-n", "-u", "-p", "--", "unshare", "-m", "sh", "-c", `mount -t proc proc /proc && ` + before + ` && exec "$@"`, "sh", "setpriv"}
	argv = append(append(argv, rights...), "--nnp", agentBinary, "--inside", "--pod", "kube/0f5b1c9e/"+fmt.Sprintf(containerID, 1))
	return a, a.start(exec.Command("nsenter", argv...))
}

// TestInside: what an ephemeral container can do with each set of rights, and what it says of the rest.
func TestInside(t *testing.T) {
	if !asRoot(t) {
		return
	}
	pod := []string{"--reuid", strconv.Itoa(podUID), "--regid", strconv.Itoa(podUID), "--groups", strconv.Itoa(secretGID)}
	root := []string{"--reuid", "0", "--regid", "0", "--clear-groups"}
	type set struct {
		name         string
		rights       []string
		want, absent []string
		limits       []string
	}
	outOfReach := []string{"the pod's files are out of reach", "the pod's environment is out of reach"}
	sets := []set{
		{"restricted", append(pod, "--bounding-set", "-all"), []string{"files", "env"}, []string{"steal"}, []string{"incoming traffic cannot be stolen"}},
		{"baseline", append(root, "--bounding-set", defaultCaps), []string{"files", "env"}, []string{"steal"}, []string{"incoming traffic cannot be stolen"}},
		{"what steals", append(root, "--bounding-set", stealCaps), []string{"files", "env", "steal"}, nil, nil},
		{"another user without rights", []string{"--reuid", "4711", "--regid", "4711", "--clear-groups", "--bounding-set", "-all"}, nil, []string{"steal", "files", "env"},
			append(outOfReach, "the agent cannot take the pod's user 1000")},
	}
	if ownRoot() { // it and the pod are the same user, the pod with all rights
		sets = []set{
			{"the pod's rights", nil, []string{"files", "env", "steal"}, nil, nil},
			{"fewer than the pod's", []string{"--bounding-set", defaultCaps}, nil, []string{"files", "env", "steal"}, outOfReach},
		}
	}
	for _, c := range sets {
		t.Run(c.name, func(t *testing.T) {
			p := servePod(t, firstEnv+"=1")
			a, refusal := newInsideAgent(t, p, c.rights...)
			if refusal != "" {
				t.Fatal(refusal, a.cmd.ProcessState)
			}
			s := a.join("one", "")
			d := s.describe()
			t.Logf("rights %q, limits %q", d.Rights, d.Limits)
			for _, r := range append(c.want, "outgoing", "names", "hostname") {
				if !slices.Contains(d.Rights, r) {
					t.Errorf("rights %q lack %s", d.Rights, r)
				}
			}
			for _, r := range c.absent {
				if slices.Contains(d.Rights, r) {
					t.Errorf("rights %q have %s", d.Rights, r)
				}
			}
			for _, l := range c.limits {
				if !slices.ContainsFunc(d.Limits, func(s string) bool { return strings.HasPrefix(s, l) }) {
					t.Errorf("limits %q lack %q", d.Limits, l)
				}
			}
			if d.Hostname != podName || !strings.HasPrefix(d.Target, "kube/0f5b1c9e/4c01db0b339c (") {
				t.Errorf("%q %q", d.Hostname, d.Target)
			}
			p.do(command{Do: "serve", Network: "tcp", Addr: "127.0.0.1:9000", Text: "sidecar"})
			stream := s.mustOpen(wire.KindDial, wire.Dial{Network: "tcp", Addr: netip.MustParseAddrPort("127.0.0.1:9000")}, nil)
			if got := line(t, stream, "hi"); got != "sidecar hi" {
				t.Errorf("outgoing: %q", got)
			}
			checkInsideFiles(t, s, d, slices.Contains(c.want, "files"))
			checkHidden(t, childOf(t, a.cmd.Process.Pid), c.rights)
			_, err := s.steal(tcp(8080))
			if got := p.ask("tcp", podIP+":8080", true); slices.Contains(c.want, "steal") != (err == nil) || strings.HasPrefix(got, "session ") != (err == nil) {
				t.Errorf("stealing: %v, %q", err, got)
			}
			parent := childOf(t, a.cmd.Process.Pid)
			out, err := exec.Command("nsenter", append(append([]string{"-t", strconv.Itoa(parent), "-m", "-n", "-p", "--", "setpriv"}, c.rights...), agentBinary, "join")...).CombinedOutput()
			if err != nil {
				t.Fatalf("%s, %v", out, err)
			}
			a.withToken(strings.TrimSpace(string(out))).join("two", "")
		})
	}
}

func checkInsideFiles(t *testing.T, s *testSession, d wire.Pod, have bool) {
	t.Helper()
	if slices.Contains(d.Env, "GREETING=hello from the pod") != have || (len(d.Volumes) > 0) != have || strings.Contains(d.Resolver, "nameserver") != have {
		t.Errorf("%d variables, %d volumes, resolver %q", len(d.Env), len(d.Volumes), d.Resolver)
	}
	var o wire.Opened
	stream, err := s.open(wire.KindOpen, wire.Path{Path: "/secret/key"}, &o)
	if !have {
		if !errors.Is(err, syscall.EACCES) {
			t.Errorf("a file: %v", err)
		}
		return
	}
	if err != nil {
		t.Errorf("the group's Secret: %v", err)
		return
	}
	head := make([]byte, o.Head)
	if _, err := io.ReadFull(stream, head); err != nil || string(head) != "canary" {
		t.Errorf("%q, %v", head, err)
	}
	if _, err := s.open(wire.KindLstat, wire.Path{Path: "/etc/passwd"}, nil); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("the machine's /etc/passwd: %v", err)
	}
	if _, err := s.open(wire.KindOpen, wire.Path{Path: "/secret/root"}, nil); !errors.Is(err, syscall.EACCES) && !ownRoot() {
		t.Errorf("root's Secret: %v", err)
	}
}

// checkHidden: a process with the user and the rights of the agent's parent, as the target's may be, cannot look into it.
func checkHidden(t *testing.T, parent int, rights []string) {
	t.Helper()
	out, err := exec.Command("setpriv", append(slices.Clone(rights), "cat", fmt.Sprintf("/proc/%d/maps", parent))...).CombinedOutput()
	if ownRoot() && len(rights) == 0 { // all rights, SYS_PTRACE among them
		return
	}
	if err == nil || !strings.Contains(string(out), "Permission denied") {
		t.Errorf("the agent's memory map: %.80q, %v", out, err)
	}
}

// TestInsideShared: where the pod's containers share their processes, process 1 is the sandbox's. The target is known by its
// cgroup, the agent ends with it, and where cgroups are not to be seen it refuses.
func TestInsideShared(t *testing.T) {
	if !asRoot(t) {
		return
	}
	p := servePod(t, firstEnv+"=1")
	target := exec.Command("nsenter", "-t", strconv.Itoa(p.pid), "-n", "-u", "-p", "--", "env", "GREETING=hello from the target", "sleep", "1000")
	target.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := target.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = target.Process.Kill(); _ = target.Wait() }()
	pid, number := 0, ""
	until(t, 5*time.Second, "the target runs", func() bool {
		if raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", target.Process.Pid, target.Process.Pid)); len(raw) == 0 {
			return false
		}
		pid = childOf(t, target.Process.Pid)
		status := statusOf(t, pid)
		numbers := strings.Fields(status["NSpid"])
		number = numbers[len(numbers)-1]
		return status["Name"] == "sleep"
	})
	dir := publicDir(t)
	mount := func(name, text, over string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return "mount --bind " + file + " /proc/" + over
	}
	cgroup := "0::/../cri-containerd-" + containerID + ".scope\n" // as in a cgroup namespace
	sandbox := mount("sandbox", fmt.Sprintf(cgroup, 0), "1/cgroup")
	a, refusal := newInsideAgentWhere(t, p, sandbox+" && "+mount("target", fmt.Sprintf(cgroup, 1), number+"/cgroup"))
	if refusal != "" {
		t.Fatal(refusal)
	}
	s := a.join("one", "")
	d := s.describe()
	if !slices.Contains(d.Env, "GREETING=hello from the target") || d.Target != "kube/0f5b1c9e/4c01db0b339c (sleep)" {
		t.Errorf("%q %q", d.Target, d.Env)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-s.Done()
	var bye mux.ByeError
	if !errors.As(s.Err(), &bye) || !strings.Contains(bye.Reason, "container has ended") {
		t.Error(s.Err())
	}
	<-a.done
	_, refusal = newInsideAgentWhere(t, p, sandbox)
	if !strings.Contains(refusal, "of the target 4c01db0b339c there is no process") || !strings.Contains(refusal, "hint: ") {
		t.Errorf("%q", refusal)
	}
	_, refusal = newInsideAgentWhere(t, p, mount("comm", "pause\n", "1/comm"))
	if !strings.Contains(refusal, "share their processes") || !strings.Contains(refusal, "hint: ") {
		t.Errorf("%q", refusal)
	}
}

// TestInsideAlone: a container that is its own process 1 has no target.
func TestInsideAlone(t *testing.T) {
	if !asRoot(t) {
		return
	}
	a := agentOf(t)
	refusal := a.start(exec.Command("unshare", "-p", "-f", agentBinary, "--inside", "--pod", "kube/0f5b1c9e/"+fmt.Sprintf(containerID, 1)))
	if !strings.Contains(refusal, "does not share the target's processes") || !strings.Contains(refusal, "hint: ") {
		t.Errorf("%q", refusal)
	}
}
