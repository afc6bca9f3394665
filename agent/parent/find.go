package parent

import (
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/agent/pod"
)

// process is one of this machine's, as far as a search needs it.
type process struct {
	pid    int
	start  uint64 // ticks since the machine's start
	cgroup pod.Cgroup
}

// processes calls each for every process; false ends it. What ends meanwhile is left out.
func processes(each func(pid int) bool) error {
	proc, err := os.Open("/proc")
	if err != nil {
		return err
	}
	defer proc.Close()
	for {
		const batch = 512
		names, err := proc.Readdirnames(batch)
		for _, n := range names {
			if pid, nerr := strconv.Atoi(n); nerr == nil && !each(pid) {
				return nil
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// look reads where a process belongs and since when it runs.
func look(pid int) (p process, ok bool) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		return p, false
	}
	if p.start, err = pod.ParseStart(stat); err != nil {
		return p, false
	}
	raw, err := os.ReadFile(dir + "cgroup")
	if err != nil {
		return p, false
	}
	p.pid, p.cgroup = pid, pod.ParseCgroup(raw)
	return p, true
}

// first finds the first process of each container that wanted takes: the one that began first is the container's own,
// whatever was started in it later (kubectl exec, a probe). Only those of a network namespace are looked at, or all
// where it is 0: a node has many processes.
func first(netns uint64, wanted func(process) bool) (map[string]process, error) {
	found := map[string]process{}
	err := processes(func(pid int) bool {
		if netns != 0 && netnsOf(pid) != netns {
			return true
		}
		p, ok := look(pid)
		if !ok || p.cgroup.Container == "" || !wanted(p) {
			return true
		}
		if have, ok := found[p.cgroup.Container]; !ok || p.start < have.start || p.start == have.start && p.pid < have.pid {
			found[p.cgroup.Container] = p
		}
		return true
	})
	return found, err
}

// find looks for the process of a container.
func (p place) find() (process, error) {
	all, err := first(0, func(o process) bool { return o.cgroup.Container == p.container })
	if err != nil {
		return process{}, fmt.Errorf("looking for container %s: %w", p.container[:shownID], err)
	}
	f, ok := all[p.container]
	if !ok {
		return f, fmt.Errorf("container %s has no process on this node, or none that can be seen from here hint: it may have ended just now, then start again; "+
			"a sandboxed runtime (gVisor, Kata) has no processes that could be entered", p.container[:shownID])
	}
	return f, nil
}

// ticks is now as process.start counts (USER_HZ is 100 on every machine that Go runs on).
func ticks() uint64 {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return 0
	}
	const perSecond, nanosPerTick = 100, 10_000_000
	return uint64(now.Sec)*perSecond + uint64(now.Nsec)/nanosPerTick
}

// netnsOf is the inode of a process's network namespace; 0 where it has none any more, or is not ours to see.
func netnsOf(pid int) uint64 {
	id, err := idOf(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return 0
	}
	return id.ino
}
