package cluster

import (
	"bytes"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/e2e/node"
)

// TestKilled starts clusters of its own, kills them at the worst times, and wants the machine back as it was. It does so
// in a network namespace, for the cluster that is in use has the machine's.
func TestKilled(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a cluster needs root")
	}
	runtime.LockOSThread() // for good: what the thread starts is in its namespace, and nobody else may get the thread
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "cluster")
	if err := goBuild(t.Context(), "..", program, "./cmd/cluster", ""); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	c, err := At("..", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	command := func(args ...string) *exec.Cmd {
		cmd := exec.Command(program, append([]string{"--source", ".."}, args...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // killed with the compilers it has started
		return cmd
	}
	must := func(args ...string) string {
		t.Helper()
		out, err := command(args...).CombinedOutput()
		if err != nil {
			t.Fatalf("cluster %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	kill := func() {
		t.Helper()
		pid, err := c.Pid()
		if err != nil || pid == 0 {
			t.Fatal("no node to kill: ", err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	before := machine(t, c)
	t.Cleanup(func() { must("down") })

	must("up")
	must("kubectl", "create", "configmap", "kept")
	kill()
	must("up") // at once: nothing has gone yet
	must("kubectl", "get", "configmap", "kept")
	kill()
	must("down")
	compare(t, c, "a killed node", before)

	for _, stage := range []string{"pki", "node.lock", "etcd"} { // what is there at last, seen from outside
		up := command("up")
		var out bytes.Buffer
		up.Stdout, up.Stderr = &out, &out
		if err := up.Start(); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			if _, err := os.Stat(filepath.Join(c.State, stage)); err == nil {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("no %s: %s", stage, out.String())
			}
		}
		if err := syscall.Kill(-up.Process.Pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = up.Wait() // killed
		must("down")
		compare(t, c, "an up that was killed at "+stage, before)
	}
	must("down") // nothing is there any more
}

// machine is what a cluster could leave: sysctls, mounts, links, cgroups, folders.
func machine(t *testing.T, c *Cluster) map[string]string {
	t.Helper()
	state := map[string]string{}
	for _, file := range []string{
		"/proc/sys/vm/overcommit_memory", "/proc/sys/vm/panic_on_oom", "/proc/sys/kernel/panic", "/proc/sys/kernel/panic_on_oops",
		"/proc/sys/kernel/keys/root_maxkeys", "/proc/sys/kernel/keys/root_maxbytes", "/proc/sys/net/ipv4/ip_forward",
		"/proc/sys/net/netfilter/nf_conntrack_max",
	} {
		text, err := os.ReadFile(file)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		state[file] = string(text)
	}
	for _, dir := range []string{"/var/lib", "/var/log", "/opt", "/usr/libexec", "/etc/cni", "/run/containerd", os.Getenv("XDG_STATE_HOME")} {
		entries, err := os.ReadDir(dir)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		state[dir] = fmt.Sprint(names)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, c.State) || strings.Contains(line, "kubelet") || strings.Contains(line, "containerd") {
			state["mounts"] += line // not another's, who may mount meanwhile
		}
	}
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	state["links"] = fmt.Sprint(links)
	group := node.Cgroup(c.State)
	var groups []string
	if err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, group) {
			groups = append(groups, path)
		}
		return nil // another's cgroup may go meanwhile
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(groups)
	state["cgroups"] = fmt.Sprint(groups)
	return state
}

func compare(t *testing.T, c *Cluster, after string, before map[string]string) {
	t.Helper()
	for what, now := range machine(t, c) {
		if now != before[what] {
			t.Errorf("after %s, %s is\n%s\nand was\n%s", after, what, now, before[what])
		}
	}
}
