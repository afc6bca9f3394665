package config

import (
	"slices"
	"strconv"
	"strings"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// maxPID is the largest process number that Linux gives out (PID_MAX_LIMIT, include/linux/threads.h).
const maxPID = 1 << 22

// Target is what the user wrote as target, taken apart.
type Target struct {
	PID       int    // local/PID: a process on this machine; 0 otherwise
	Kind      string // "local", "label", or a kind of object by its singular: "deployment"
	Name      string // of the object; for a label the selector, such as "app=orders"
	Container string // what follows /container/, "" where nothing does
}

// ParseTarget reads "local/PID". Kinds of targets that do not exist yet are fail.ConfigLater, everything else
// fail.TargetSyntax.
func ParseTarget(s string) (Target, error) {
	word, rest, _ := strings.Cut(s, "/")
	if slices.Contains(laterTargets, strings.TrimSuffix(strings.ToLower(word), "s")) ||
		slices.Contains(laterTargets, strings.ToLower(word)) {
		return Target{}, fail.New(fail.ConfigLater, onlyLocal, "target: %q does not exist in this version", s)
	}
	if word != "local" {
		what := ""
		if near := nearest(word, append([]string{"local"}, laterTargets...)); near != "" {
			what = "; did you mean \"" + near + "\"?"
		}
		return Target{}, fail.New(fail.TargetSyntax, onlyLocal, "target: %q is no target%s", s, what)
	}
	pid, err := strconv.ParseUint(rest, 10, 31)
	if err != nil || pid == 0 || pid > maxPID || rest[0] == '0' {
		return Target{}, fail.New(fail.TargetSyntax, "write the number that ps shows: \"local/4711\"",
			"target: %q does not name a process", s)
	}
	return Target{Kind: "local", PID: int(pid)}, nil
}
