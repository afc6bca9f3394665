package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// proc is a process of this machine.
type proc struct {
	pid, parent int
	argv        []string
}

// parentOf is 0 where there is no such process.
func parentOf(pid int) int {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, ok := strings.Cut(string(raw), ") ")
	if f := strings.Fields(rest); err == nil && ok && len(f) > 1 && f[0] != "Z" {
		parent, _ := strconv.Atoi(f[1]) // of proc_pid_stat(5)
		return parent
	}
	return 0
}

// everybody is all processes of this machine, those on its node included.
func everybody() (all []proc) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", n)) // it may have ended meanwhile
			all = append(all, proc{n, parentOf(n), strings.Split(strings.TrimSuffix(string(raw), "\x00"), "\x00")})
		}
	}
	return all
}

// family are the descendants of a process.
func family(pid int) (all []proc) {
	everybody := everybody()
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

// of finds a role among an adapter's descendants; 0 where there is none.
func of(all []proc, role string) int {
	is := func(p proc, role string) bool {
		if len(p.argv) < 2 {
			return false
		}
		switch name := filepath.Base(p.argv[1]); role {
		case "holder":
			return len(p.argv) == 2 && name == "holder"
		case "dlv":
			return name == "dap" && filepath.Base(p.argv[0]) == "dlv"
		case "debugpy":
			return len(p.argv) == 2 && name == "adapter"
		case "launcher": // debugpy's, the parent of its debuggee
			return name == "launcher"
		}
		return false
	}
	below := func(p proc, role string) bool {
		return slices.ContainsFunc(all, func(q proc) bool { return q.pid == p.parent && is(q, role) })
	}
	for _, p := range all {
		if is(p, role) || role == "debuggee" &&
			(below(p, "dlv") && slices.Index(p.argv, "serve") == 1 || below(p, "launcher") && slices.Contains(p.argv, "--connect")) {
			return p.pid
		}
	}
	return 0
}
