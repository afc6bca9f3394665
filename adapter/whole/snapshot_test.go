package whole

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/podlet"
)

// snapshot is what a session could leave behind, as sorted lines. All of it is looked for where only this session can
// have put it (its pod, its directory, its processes), since others may run stepin on the machine meanwhile.
type snapshot struct {
	Network   []string // of the pod: links, addresses, routes, rules, nft tables, sockets that listen or have a name
	Processes []string // in one of the pod's namespaces
	Mounts    []string // the pod's, and this machine's that name the directory
	Sockets   []string // this machine's that are in the directory
	BPF       []string // links to the pod's network with their programs; root only, since nobody else may list them
	Files     []string // of the directory, which holds temporary and runtime directory
}

// networkEnv makes the test's binary list the network it is in, as JSON.
const networkEnv = "STEPIN_TEST_NETWORK"

// quickEnd keeps a binary built with -race from waiting for a second at its end.
const quickEnd = "GORACE=atexit_sleep_ms=0"

// take takes the snapshot of a pod and a directory.
func take(t *testing.T, p *podlet.Pod, dir string) snapshot {
	t.Helper()
	s, err := look(t, p, dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func look(t *testing.T, p *podlet.Pod, dir string) (s snapshot, err error) {
	exe, err := os.Executable()
	if err != nil {
		return s, err
	}
	out, err := p.Output(limit(t), podlet.Command{Argv: []string{exe}, Env: []string{networkEnv + "=1", quickEnd}, Host: true})
	if err != nil {
		return s, fmt.Errorf("%w: %s", err, out)
	}
	if err := json.Unmarshal([]byte(out), &s.Network); err != nil {
		return s, fmt.Errorf("%w: %s", err, out)
	}
	for _, d := range living() {
		ours := len(d.argv) > 1 && d.argv[1] == podlet.Word // whose threads go where they are asked to make sockets
		if !ours && d.shares(proc(p.MainPID()).namespaces) {
			s.Processes = append(s.Processes, fmt.Sprintf("%d since %d %q", d.pid, d.began, d.argv))
		}
	}
	if s.Mounts, err = grep(fmt.Sprintf("/proc/%d/mountinfo", p.MainPID()), ""); err != nil {
		return s, err
	}
	own, err := grep("/proc/self/mountinfo", dir)
	if err != nil {
		return s, err
	}
	s.Mounts = append(s.Mounts, own...)
	if s.Sockets, err = grep("/proc/net/unix", dir); err != nil {
		return s, err
	}
	if s.BPF, err = bpfLinks(p); err != nil {
		return s, err
	}
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it went meanwhile
		}
		// The user's runtime directory is for the next session, too; only what is in it is a session's.
		if err == nil && path != filepath.Join(dir, "run", "stepin") {
			s.Files = append(s.Files, e.Type().String()+" "+path)
		}
		return err
	})
	return s, err
}

// differences says what has come (+) and gone (-) since before.
func (s snapshot) differences(before snapshot) (all []string) {
	now, then := reflect.ValueOf(s), reflect.ValueOf(before)
	for i := range now.NumField() {
		a, b := now.Field(i).Interface().([]string), then.Field(i).Interface().([]string)
		name := now.Type().Field(i).Name
		for _, l := range a {
			if !slices.Contains(b, l) {
				all = append(all, "+ "+name+": "+l)
			}
		}
		for _, l := range b {
			if !slices.Contains(a, l) {
				all = append(all, "- "+name+": "+l)
			}
		}
	}
	return all
}

// grep returns the lines of a file that hold a text.
func grep(path, text string) (lines []string, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for l := range strings.Lines(string(data)) {
		if strings.Contains(l, text) {
			lines = append(lines, strings.TrimSpace(l))
		}
	}
	return lines, nil
}

// bpfLinks lists the BPF links to the pod's network, and their programs.
func bpfLinks(p *podlet.Pod) (all []string, err error) {
	if os.Getuid() != 0 {
		return nil, nil // bpf(2): listing needs CAP_SYS_ADMIN over the machine; and without CAP_BPF nothing can be attached
	}
	its := proc(p.MainPID()).namespaces["net"]
	var it link.Iterator
	defer it.Close()
	for it.Next() {
		info, err := it.Link.Info()
		if err != nil {
			return nil, err
		}
		if n := info.NetNs(); n != nil && uint64(n.NetnsInode) == its {
			all = append(all, fmt.Sprintf("link %d of program %d", info.ID, info.Program))
		}
	}
	return all, it.Err()
}

// networkMain lists the network that this process is in.
func networkMain() int {
	lines, err := network()
	if err == nil {
		slices.Sort(lines)
		err = json.NewEncoder(os.Stdout).Encode(lines)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func network() (lines []string, err error) {
	add := func(format string, args ...any) {
		if l := fmt.Sprintf(format, args...); !strings.Contains(l, "fe80:") { // the kernel's own, a second or two after the start
			lines = append(lines, l)
		}
	}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		add("link %s %s %v mtu %d", l.Attrs().Name, l.Type(), l.Attrs().Flags&^net.FlagRunning, l.Attrs().MTU)
		addrs, err := netlink.AddrList(l, unix.AF_UNSPEC)
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			add("address %s %v", l.Attrs().Name, a.IPNet)
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := netlink.RuleList(family)
		if err != nil {
			return nil, err
		}
		for _, r := range rules {
			add("rule %d %v", family, r)
		}
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			add("route %d table %d %v", family, r.Table, r)
		}
	}
	tables, err := nftTables()
	if err != nil {
		return nil, err
	}
	lines = append(lines, tables...)
	for _, kind := range []string{"tcp", "tcp6", "udp", "udp6", "raw", "raw6"} {
		sockets, err := grep("/proc/self/net/"+kind, ":")
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without IPv6
		} else if err != nil {
			return nil, err
		}
		for _, l := range sockets { // number, local, remote, state
			if f := strings.Fields(l); len(f) > 3 && (f[3] == "0A" || !strings.HasPrefix(kind, "tcp")) {
				add("%s %s", kind, f[1])
			}
		}
	}
	named, err := grep("/proc/self/net/unix", "@")
	for _, l := range named {
		add("unix %s", l[strings.Index(l, "@"):])
	}
	packets, perr := grep("/proc/self/net/packet", "")
	add("%d packet sockets", max(0, len(packets)-1))
	return lines, errors.Join(err, perr)
}

// nftTables lists the tables of every family (nf_tables.h, NFT_MSG_GETTABLE).
func nftTables() (lines []string, err error) {
	r := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETTABLE, unix.NLM_F_DUMP)
	r.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	answers, err := r.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return nil, fmt.Errorf("listing nftables: %w", err)
	}
	for _, a := range answers {
		attrs, err := nl.ParseRouteAttr(a[nl.SizeofNfgenmsg:])
		if err != nil {
			return nil, fmt.Errorf("listing nftables: %w", err)
		}
		for _, attr := range attrs {
			if attr.Attr.Type == unix.NFTA_TABLE_NAME {
				lines = append(lines, fmt.Sprintf("nft table %s of family %d", strings.TrimRight(string(attr.Value), "\x00"), a[0]))
			}
		}
	}
	return lines, nil
}

// process is one as /proc shows it.
type process struct {
	pid, parent int
	state       string
	began       uint64 // clock ticks after the machine's start: with the pid, it names a process for good
	argv        []string
	namespaces  map[string]uint64 // by kind; without those that may not be read
}

// proc reads a process; its pid is 0 where there is none.
func proc(pid int) process {
	dir := fmt.Sprintf("/proc/%d/", pid)
	raw, err := os.ReadFile(dir + "stat")
	_, rest, ok := strings.Cut(string(raw), ") ")
	f := strings.Fields(rest)
	const parent, start = 1, 19 // of proc_pid_stat(5)'s fields, after the name
	if err != nil || !ok || len(f) <= start {
		return process{}
	}
	p := process{pid: pid, state: f[0], namespaces: map[string]uint64{}}
	p.parent, _ = strconv.Atoi(f[parent])
	p.began, _ = strconv.ParseUint(f[start], 10, 64)
	if raw, err = os.ReadFile(dir + "cmdline"); err == nil {
		p.argv = strings.Split(strings.TrimSuffix(string(raw), "\x00"), "\x00")
	}
	for _, kind := range []string{"user", "net", "mnt", "uts", "pid"} {
		link, err := os.Readlink(dir + "ns/" + kind)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseUint(strings.Trim(link, kind+":[]"), 10, 64); err == nil {
			p.namespaces[kind] = n
		}
	}
	return p
}

// living are all processes that live; zombies hold nothing.
func living() (all []process) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p := proc(pid); p.alive() {
			all = append(all, p)
		}
	}
	return all
}

func (p process) alive() bool { return p.pid != 0 && p.state != "Z" && p.state != "X" }

// still says that this very process lives.
func (p process) still() bool {
	now := proc(p.pid)
	return now.alive() && now.began == p.began
}

// own are the namespaces that are not this machine's.
func own(namespaces map[string]uint64) map[string]uint64 {
	ours := proc(os.Getpid()).namespaces
	theirs := maps.Clone(namespaces)
	maps.DeleteFunc(theirs, func(kind string, n uint64) bool { return ours[kind] == n })
	return theirs
}

// shares says that p is in one of the namespaces that is not this machine's.
func (p process) shares(namespaces map[string]uint64) bool {
	for kind, n := range own(namespaces) {
		if p.namespaces[kind] == n {
			return true
		}
	}
	return false
}

// family are the descendants of a process.
func family(pid int) (all []process) {
	everybody := living()
	known := map[int]bool{pid: true}
	for grown := true; grown; {
		grown = false
		for _, p := range everybody {
			if known[p.parent] && !known[p.pid] {
				known[p.pid] = true
				all = append(all, p)
				grown = true
			}
		}
	}
	return all
}
