package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/e2e/node"
)

// NeedsNode skips a test that needs the node or the authority's key where only an API server is at hand.
func (c *Cluster) NeedsNode(t testing.TB, what string) {
	t.Helper()
	if c.own == nil {
		t.Skipf("%s needs the cluster of this machine, and KUBECONFIG names another", what)
	}
}

// Node is the cluster's node as its owner sees it from the machine.
type Node struct {
	pid  int    // its first process
	root string // its file system
	logs string
}

// Node skips the test where there is none to look at.
func (c *Cluster) Node(t testing.TB) *Node {
	t.Helper()
	c.NeedsNode(t, "looking at the node")
	pid, err := c.own.Pid()
	if err != nil || pid == 0 {
		t.Fatal("no node: ", err)
	}
	return &Node{pid, fmt.Sprintf("/proc/%d/root", pid), filepath.Join(c.own.State, node.Log)}
}

// Run runs a command of the machine's in all of the node's namespaces.
func (n *Node) Run(t testing.TB, command ...string) string {
	t.Helper()
	args := append([]string{"--target", strconv.Itoa(n.pid), "--all", "--"}, command...)
	out, err := exec.CommandContext(Limit(t), "nsenter", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s on the node: %v: %s", strings.Join(command, " "), err, out)
	}
	return string(out)
}

// Path is a path of the node's as this machine can open it.
func (n *Node) Path(path string) string { return n.root + path }

// Process is one on the node, by this machine's number.
type Process struct {
	Pid     int
	Command string // its arguments
	Cgroup  string // the lines of /proc/PID/cgroup
}

// Processes are all of the node's, those in pods included. A test may kill them by their number.
func (n *Node) Processes(t testing.TB) []Process {
	t.Helper()
	all, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	home, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid_for_children", n.pid))
	if err != nil {
		t.Fatal(err)
	}
	var found []Process
	for _, entry := range all {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || !n.holds(pid, home) {
			continue
		}
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // a process may end meanwhile
		group, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		found = append(found, Process{pid, strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " ")), string(group)})
	}
	return found
}

// holds tells whether a process is in the node's PID namespace or one below it, as each pod's is.
func (n *Node) holds(pid int, home string) bool {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		return false
	}
	fds := []*os.File{ns}
	defer func() {
		for _, f := range fds {
			f.Close()
		}
	}()
	for at := ns; ; {
		var st unix.Stat_t
		if unix.Fstat(int(at.Fd()), &st) != nil {
			return false
		}
		if fmt.Sprintf("pid:[%d]", st.Ino) == home {
			return true
		}
		up, err := unix.IoctlRetInt(int(at.Fd()), unix.NS_GET_PARENT) // ioctl_ns(2)
		if err != nil {
			return false
		}
		at = os.NewFile(uintptr(up), "parent")
		fds = append(fds, at)
	}
}

// In are the processes of a container, by the id in its pod's status without `containerd://`.
func (n *Node) In(t testing.TB, containerID string) []Process {
	t.Helper()
	_, id, _ := strings.Cut(containerID, "://")
	return slices.DeleteFunc(n.Processes(t), func(p Process) bool { return !strings.Contains(p.Cgroup, id) })
}

// networks are the node's network namespaces by inode: its own and those of its pods.
func (n *Node) networks(t testing.TB) map[uint32]string {
	t.Helper()
	paths, err := filepath.Glob(n.Path("/run/netns/*"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[uint32]string{}
	for _, path := range append(paths, fmt.Sprintf("/proc/%d/ns/net", n.pid)) {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil { // a pod may go meanwhile
			found[uint32(st.Ino)] = path
		}
	}
	return found
}

// network is the path of a process's network namespace as Attached and Tables name it; "" for none of the node's.
func (n *Node) network(t testing.TB, pid int) string {
	t.Helper()
	var st unix.Stat_t
	if unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st) != nil { // it has ended
		return ""
	}
	return n.networks(t)[uint32(st.Ino)]
}

// Attached are the BPF programs attached to network namespaces of the node, one line each; there are none but stepin's.
func (n *Node) Attached(t testing.TB) []string {
	t.Helper()
	networks := n.networks(t)
	var found []string
	it := new(link.Iterator)
	defer it.Close()
	for it.Next() {
		info, err := it.Link.Info()
		if err != nil || info.NetNs() == nil {
			continue
		}
		if path, ok := networks[info.NetNs().NetnsInode]; ok {
			found = append(found, fmt.Sprintf("link %d in %s", info.ID, path))
		}
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	return found
}

// Tables are the nftables tables in the node's network namespaces but those of iptables, one line each; there are none
// but stepin's.
func (n *Node) Tables(t testing.TB) []string {
	t.Helper()
	var found []string
	for ino, path := range n.networks(t) {
		out, err := exec.CommandContext(Limit(t), "nsenter", "--net="+path, "nft", "list", "tables").Output()
		if err != nil {
			var st unix.Stat_t
			if gone := unix.Stat(path, &st); gone != nil || uint32(st.Ino) != ino { // or it is a plain file again, which CNI is about to remove
				continue
			}
			t.Fatalf("nft list tables in %s: %v", path, err)
		}
		for table := range strings.Lines(string(out)) {
			table = strings.TrimSpace(table)
			switch fields := strings.Fields(table); {
			case len(fields) == 3 && slices.Contains([]string{"ip", "ip6"}, fields[1]) &&
				slices.Contains([]string{"nat", "filter", "mangle", "raw"}, fields[2]):
			default:
				found = append(found, table+" in "+path)
			}
		}
	}
	return found
}

// Request is one that the API server has been asked, by its audit log.
type Request struct {
	Verb       string    `json:"verb"`
	URI        string    `json:"requestURI"`
	Stage      string    `json:"stage"`
	Agent      string    `json:"userAgent"`
	At         time.Time `json:"requestReceivedTimestamp"`
	User       struct{ Username string }
	ObjectRef  struct{ Resource, Namespace, Name, Subresource string } `json:"objectRef"`
	Response   struct{ Code int }                                      `json:"responseStatus"`
	Annotation map[string]string                                       `json:"annotations"`
}

// Requests are those that a user (`system:serviceaccount:NAMESPACE:NAME`) has made since a time, one per stage but the
// first: a watch or a stream appears when it begins (ResponseStarted) and when it has ended (ResponseComplete).
func (n *Node) Requests(t testing.TB, user string, since time.Time) []Request {
	t.Helper()
	f, err := os.Open(filepath.Join(n.logs, "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var found []Request
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r Request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			continue // the last line may be half written
		}
		if r.User.Username == user && !r.At.Before(since) {
			found = append(found, r)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return found
}
