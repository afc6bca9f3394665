package pod

import (
	"bytes"
	"fmt"
	"strings"
)

// Mount is one line of a mountinfo.
type Mount struct {
	Point  string // where, from the process's root
	Root   string // which part of the file system
	Dev    string // major:minor
	Type   string
	Source string
}

// ParseMountinfo reads /proc/PID/mountinfo.
func ParseMountinfo(b []byte) ([]Mount, error) {
	var all []Mount
	for line := range bytes.Lines(b) {
		m, err := parseMount(strings.TrimSuffix(string(line), "\n"))
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

// parseMount reads one line: 36 35 98:0 /root /point options optional… - type source options
func parseMount(line string) (Mount, error) {
	front, back, ok := strings.Cut(line, " - ")
	f, g := strings.Split(front, " "), strings.Split(back, " ")
	if !ok || len(f) < 6 || len(g) < 2 {
		return Mount{}, fmt.Errorf("pod: mountinfo line %q", line)
	}
	return Mount{Dev: f[2], Root: unescape(f[3]), Point: unescape(f[4]), Type: g[0], Source: unescape(g[1])}, nil
}

// unescape undoes \040 and its like (seq_path of the kernel escapes space, tab, newline and backslash so).
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && octal(s[i+1]) && octal(s[i+2]) && octal(s[i+3]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func octal(c byte) bool { return c >= '0' && c <= '7' }

// kernelTypes are file systems that show the kernel, not anybody's files.
var kernelTypes = map[string]bool{
	"proc": true, "sysfs": true, "cgroup": true, "cgroup2": true, "devpts": true, "mqueue": true, "devtmpfs": true,
	"securityfs": true, "debugfs": true, "tracefs": true, "bpf": true, "pstore": true, "hugetlbfs": true,
	"configfs": true, "fusectl": true, "binfmt_misc": true, "efivarfs": true, "autofs": true, "nsfs": true,
	"rpc_pipefs": true, "selinuxfs": true,
}

// Volumes are the mount points of a pod that a user would call volumes: not its root, no kernel file system, nothing
// beneath /dev, /proc and /sys, and none that the agent's own mounts have at the same place (a process that only
// unshared its mount namespace still has the whole machine's).
func Volumes(mounts, ours []Mount) []string {
	known := map[Mount]bool{}
	for _, m := range ours {
		known[m] = true
	}
	points := []string{}
	seen := map[string]bool{}
	for _, m := range mounts {
		if m.Point == "/" || seen[m.Point] || kernelTypes[m.Type] || known[m] || machine(m.Point) ||
			!strings.HasPrefix(m.Point, "/") || strings.HasSuffix(m.Point, "//deleted") {
			continue
		}
		seen[m.Point] = true
		points = append(points, m.Point)
	}
	return points
}

func machine(point string) bool {
	for _, top := range []string{"/dev", "/proc", "/sys"} {
		if point == top || strings.HasPrefix(point, top+"/") {
			return true
		}
	}
	return false
}
