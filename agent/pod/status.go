// Package pod reads what the kernel tells of the target's process: /proc/PID/status, environ and mountinfo
// (proc(5)). It must never open anything itself: the parent opens, parent or child reads.
package pod

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// Status is who a process is.
type Status struct {
	Name     string
	UID, GID int // effective
	Groups   []int
	CapEff   uint64 // bit set, capabilities(7)
}

// ParseStatus reads /proc/PID/status. It fails where ids or capabilities are missing.
func ParseStatus(b []byte) (Status, error) {
	var s Status
	var uid, gid, capability bool
	for line := range bytes.Lines(b) {
		key, value, ok := strings.Cut(string(line), ":")
		if !ok {
			continue
		}
		fields := strings.Fields(value)
		var err error
		switch key {
		case "Name":
			s.Name = strings.TrimSpace(value)
		case "Uid":
			s.UID, err = id(fields)
			uid = true
		case "Gid":
			s.GID, err = id(fields)
			gid = true
		case "Groups":
			s.Groups, err = groups(fields)
		case "CapEff":
			capability = true
			s.CapEff, err = strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		}
		if err != nil {
			return s, fmt.Errorf("pod: status, %s: %v", key, err)
		}
	}
	if !uid || !gid || !capability {
		return s, fmt.Errorf("pod: status without ids or capabilities")
	}
	return s, nil
}

// id takes the second of real, effective, saved and file system id.
func id(fields []string) (int, error) {
	if len(fields) != 4 {
		return 0, fmt.Errorf("%d ids", len(fields))
	}
	n, err := strconv.ParseUint(fields[1], 10, 32)
	return int(n), err
}

func groups(fields []string) ([]int, error) {
	var all []int
	for _, f := range fields {
		n, err := strconv.ParseUint(f, 10, 32)
		if err != nil {
			return nil, err
		}
		all = append(all, int(n))
	}
	return all, nil
}

// ParseEnviron reads /proc/PID/environ. What is no NAME=value is left out: a program may write there what it likes.
func ParseEnviron(b []byte) []wire.Name {
	env := []wire.Name{}
	for entry := range strings.SplitSeq(string(b), "\x00") {
		if i := strings.IndexByte(entry, '='); i > 0 {
			env = append(env, wire.Name(entry))
		}
	}
	return env
}
