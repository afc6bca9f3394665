package session

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stepin-dev/stepin/pkg/policy"
)

// debuggerWait is how long a port stands back that may be a debugger's: js-debug tells its watchdog the port of Node's
// inspector in the moment after it was opened, which takes some 50 ms.
const debuggerWait = 2 * time.Second

// whose says whether a TCP port of the debuggee's is a debugger's, which is never incoming, on whatever address; decided is
// false while that cannot be told yet. It looks at each of the debuggee's processes, so it is asked once a port.
func (p *ports) whose(k portKey, have *port) (debuggers, decided bool) {
	if k.network != "tcp" {
		return false, true
	}
	pids, err := p.s.front.Processes()
	if err != nil {
		p.s.log.Debug("looking for debuggers' ports", "err", err)
		return false, true
	}
	chosen := have.loopbackOnly() && k.number >= ephemeral
	decided = true
	for _, pid := range pids {
		d := debuggersOf(pid)
		if slices.Contains(d.Numbers, k.number) {
			return true, true
		}
		if !d.All && !d.Awaited && !(d.Chosen && chosen) && !slices.Contains(d.Own, k.number) || !holds(pid, have.inodes) {
			continue
		}
		if d.All || d.Chosen && chosen || slices.Contains(d.Own, k.number) {
			return true, true
		}
		for _, child := range childrenOf(pid) { // the watchdog: it need not be among the debuggee's processes
			if slices.Contains(debuggersOf(child).Numbers, k.number) {
				return true, true
			}
		}
		decided = !chosen || time.Since(have.since) > debuggerWait
	}
	return false, decided
}

// debuggersOf reads a process; one that has gone has none.
func debuggersOf(pid int) policy.DebugPorts {
	dir := "/proc/" + strconv.Itoa(pid)
	exe, err := os.Readlink(dir + "/exe")
	if err != nil || !policy.Interprets(exe) {
		return policy.DebugPorts{} // most are of no interest, and there may be thousands
	}
	words := func(name string) []string {
		raw, err := os.ReadFile(dir + name)
		if err != nil {
			return nil
		}
		return strings.Split(strings.TrimRight(string(raw), "\x00"), "\x00")
	}
	return policy.DebuggersOf(policy.Process{Exe: exe, Args: words("/cmdline"), Environ: words("/environ")})
}

// holds says whether a process has one of the sockets.
func holds(pid int, inodes []uint32) bool {
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return false
	}
	for _, link := range links {
		to, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(to, "socket:[") {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(to, "socket:["), "]"), 10, 32)
		if err == nil && slices.Contains(inodes, uint32(n)) {
			return true
		}
	}
	return false
}

// childrenOf lists a process's children (proc_pid_task_tid_children(5)).
func childrenOf(pid int) (children []int) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has gone
		}
		for word := range strings.FieldsSeq(string(text)) {
			if child, err := strconv.Atoi(word); err == nil {
				children = append(children, child)
			}
		}
	}
	return children
}
