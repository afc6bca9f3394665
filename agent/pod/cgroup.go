package pod

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// Cgroup is where a container runtime has put a process.
type Cgroup struct {
	Pod       string // the pod's UID, "" where the path does not name it
	Container string // the container's ID
}

// ParseCgroup reads /proc/PID/cgroup (cgroups(7)) of either version as kubelet and the runtimes write it, with the
// drivers cgroupfs and systemd:
//
//	0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_WITH_UNDERSCORES.slice/cri-containerd-ID.scope
//	5:memory:/kubepods/besteffort/podUID/ID
//	1:name=systemd:/system.slice/containerd.service/kubepods-podUID.slice:cri-containerd:ID
//
// A reader in a cgroup namespace of its own sees the same with "/.." before it. What is deeper than the container's own
// (an init system's, a nested runtime's) does not count. A process outside any container has neither.
func ParseCgroup(b []byte) Cgroup {
	var best Cgroup
	for line := range bytes.Lines(b) {
		_, rest, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), ":")
		_, path, ok := strings.Cut(rest, ":")
		if !ok {
			continue
		}
		c := parsePath(path)
		if c.Container != "" && (best.Container == "" || best.Pod == "") {
			best = c
		}
	}
	return best
}

func parsePath(path string) (c Cgroup) {
	for part := range strings.FieldsFuncSeq(path, func(r rune) bool { return r == '/' || r == ':' }) {
		if uid := podOf(part); uid != "" && c.Pod == "" {
			c = Cgroup{Pod: uid} // what came before it is the machine's own container
			continue
		}
		if id := containerOf(part); id != "" && (c.Pod == "" || c.Container == "") {
			c.Container = id
		}
	}
	return c
}

// podOf finds a pod's UID: a UUID, with the systemd driver's underscores, or a static pod's 32 digits.
func podOf(part string) string {
	part = strings.TrimSuffix(part, ".slice")
	i := strings.LastIndex(part, "pod")
	if i < 0 || i > 0 && part[i-1] != '-' {
		return ""
	}
	uid := strings.ReplaceAll(part[i+len("pod"):], "_", "-")
	if digits := strings.ReplaceAll(uid, "-", ""); len(digits) != 32 || !isHex(digits) {
		return ""
	}
	return uid
}

// idLen is the length of a container's ID, in every runtime that Kubernetes has.
const idLen = 64

// containerOf finds a container's ID: alone, or after the runtime's name. CRI-O's conmon is none of the container's.
func containerOf(part string) string {
	part = strings.TrimSuffix(part, ".scope")
	if len(part) < idLen {
		return ""
	}
	prefix, id := part[:len(part)-idLen], part[len(part)-idLen:]
	if !isHex(id) || prefix != "" && !strings.HasSuffix(prefix, "-") || strings.HasSuffix(prefix, "conmon-") {
		return ""
	}
	return id
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// ParseStart reads when a process began from /proc/PID/stat, in ticks since the machine's start (proc_pid_stat(5), 22).
func ParseStart(b []byte) (uint64, error) {
	i := bytes.LastIndexByte(b, ')') // the name before it may be anything
	const field = 22 - 3             // counted from the one behind the name
	f := bytes.Fields(b[i+1:])
	if i < 0 || len(f) <= field {
		return 0, fmt.Errorf("pod: stat of %d bytes", len(b))
	}
	n, err := strconv.ParseUint(string(f[field]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("pod: stat: %v", err)
	}
	return n, nil
}
