package dap

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// standingPoll is how often a debuggee that stands is looked at. The kernel has no event for its death: a pidfd becomes
// readable when the tracer has reaped the threads, and the tracer does not look (pidfd_open(2)). A look costs some
// 50 µs.
const standingPoll = 250 * time.Millisecond

// watchStanding ends the run when the debuggee is killed while it stands: the real debugger waits for commands then,
// and would say at the next one that there is no such process. It returns with the run.
func (r *run) watchStanding(pid int) {
	tick := time.NewTicker(standingPoll)
	defer tick.Stop()
	for seen := false; ; {
		select {
		case <-r.gone:
			return
		case <-tick.C:
		}
		status, dead := ended(pid)
		if dead && seen && r.stands() {
			r.diedStanding(status)
			return
		}
		seen = dead // a second look: a tracer that dies takes the debuggee along, and its own end is what to tell
	}
}

// stands says that the debuggee stands, at a stop or before configurationDone, and that nobody is ending it.
func (r *run) stands() bool {
	r.mu.Lock()
	over := r.quiet || r.ending || r.finished
	r.mu.Unlock()
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	waits := r.c.paused || !r.c.memory.configured && !r.session.noDebug
	return !over && waits && r.c.run == r && r.c.phase == running && r.c.swap == nil
}

// diedStanding tells the editor what the real debugger does not know.
func (r *run) diedStanding(status syscall.WaitStatus) {
	how, code := fmt.Sprintf("status %d", status.ExitStatus()), status.ExitStatus()
	if status.Signaled() {
		how, code = "signal: "+status.Signal().String(), -int(status.Signal()) // as Delve says it
	}
	r.c.print("stderr", "stepin: the debuggee has ended while it stood ("+how+")\n")
	r.c.setPaused(r, false)
	r.c.toEditor(newEvent("exited", map[string]int{"exitCode": code}))
	r.end(nil)
	r.c.terminate()
}

// ended says whether every thread of a process has ended, and how it did (proc_pid_stat(5)). One that has been reaped
// is no news: whoever did that knows.
func ended(pid int) (status syscall.WaitStatus, dead bool) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(tasks) == 0 {
		return 0, false
	}
	for _, task := range tasks {
		raw, err := os.ReadFile(task)
		if err != nil {
			continue // it went meanwhile
		}
		_, rest, _ := strings.Cut(string(raw), ") ")
		if rest == "" || rest[0] != 'Z' && rest[0] != 'X' {
			return 0, false
		}
		if f := strings.Fields(rest); filepath.Base(filepath.Dir(task)) == strconv.Itoa(pid) {
			n, _ := strconv.Atoi(f[len(f)-1]) // exit_code is the last field
			status = syscall.WaitStatus(n)
		}
	}
	return status, true
}
