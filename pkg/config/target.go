package config

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// maxPID is the largest process number that Linux gives out (PID_MAX_LIMIT, include/linux/threads.h).
const maxPID = 1 << 22

// hintTarget shows the forms.
const hintTarget = `for example "deployment/orders", "pod/orders-0/container/app", "label/app=orders" or, for a process on this machine, "local/4711"`

// kinds are the kinds of objects that can be targets, each with the short names that kubectl knows.
var kinds = map[string][]string{
	"pod": {"po"}, "deployment": {"deploy"}, "statefulset": {"sts"}, "daemonset": {"ds"}, "replicaset": {"rs"},
	"job": nil, "cronjob": {"cj"}, "service": {"svc"}, "label": nil,
}

// Target is what the user wrote as target, taken apart.
type Target struct {
	PID       int    // local/PID: a process on this machine; 0 otherwise
	Kind      string // "local", "label", or a kind of object by its singular: "deployment"
	Name      string // of the object; for a label the selector, such as "app=orders"
	Container string // what follows /container/, "" where nothing does
}

// Local says that the target is a process on this machine.
func (t Target) Local() bool { return t.Kind == "local" }

// String writes the target as a user would, with the kind's full name.
func (t Target) String() string {
	if t.Local() {
		return "local/" + strconv.Itoa(t.PID)
	}
	if t.Container != "" {
		return t.Kind + "/" + t.Name + "/container/" + t.Container
	}
	return t.Kind + "/" + t.Name
}

// ParseTarget reads "local/PID", "KIND/NAME" and "label/SELECTOR"; "/container/NAME" may follow the last two. Kinds of
// targets that do not exist yet are fail.ConfigLater, everything else fail.TargetSyntax.
func ParseTarget(s string) (Target, error) {
	word, rest, _ := strings.Cut(s, "/")
	switch kind := kindOf(word); {
	case kind == "local":
		return localTarget(s, rest)
	case kind == "none":
		return Target{}, fail.New(fail.ConfigLater, hintTarget, "target: %q does not exist in this version", s)
	case kind == "rollout":
		return Target{}, fail.New(fail.ConfigLater, `name its pods by a label: "label/app=orders"`,
			"target: %q does not exist in this version", s)
	case kind != "":
		return objectTarget(s, kind, rest)
	}
	what, hint := "", hintTarget
	if near := nearest(word, targetWords()); near != "" {
		what = "; did you mean \"" + near + "\"?"
	} else if objectName.MatchString(s) {
		hint = fmt.Sprintf(`write its kind before its name, as in "deployment/%s"; stepin targets lists what there is`, s)
	}
	return Target{}, fail.New(fail.TargetSyntax, hint, "target: %q is no target%s", s, what)
}

// kindOf reads a kind as kubectl does: singular, plural or short, in any case.
func kindOf(word string) string {
	word = strings.ToLower(word)
	for kind, short := range kinds {
		if kind != "label" && word == kind+"s" || word == kind || slices.Contains(short, word) {
			return kind
		}
	}
	if word == "local" || slices.Contains(laterTargets, strings.TrimSuffix(word, "s")) {
		return strings.TrimSuffix(word, "s")
	}
	return ""
}

func targetWords() []string {
	return append(append([]string{"local"}, sortedKeys(kinds)...), laterTargets...)
}

func localTarget(s, rest string) (Target, error) {
	pid, err := strconv.ParseUint(rest, 10, 31)
	if err != nil || pid == 0 || pid > maxPID || rest[0] == '0' {
		return Target{}, fail.New(fail.TargetSyntax, "write the number that ps shows: \"local/4711\"",
			"target: %q does not name a process", s)
	}
	return Target{Kind: "local", PID: int(pid)}, nil
}

var (
	// objectName is a DNS subdomain (RFC 1123), which every kind of ours demands of a name; label one part of it.
	objectName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
	dnsLabel   = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	// selectorPart is one requirement of a label selector that asks for equality.
	selectorPart = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_./]{0,315}[A-Za-z0-9])?(=|==|!=)([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$`)
)

func objectTarget(s, kind, rest string) (Target, error) {
	name, container := rest, ""
	const word = "/container/"
	named := strings.HasSuffix(rest, strings.TrimSuffix(word, "/"))
	if i := strings.LastIndex(rest, word); i >= 0 {
		name, container, named = rest[:i], rest[i+len(word):], true
	}
	if named && !dnsLabel.MatchString(container) {
		return Target{}, fail.New(fail.TargetSyntax, `for example "`+kind+`/orders/container/app"`, "target: %q does not name a container", s)
	}
	t := Target{Kind: kind, Name: name, Container: container}
	if kind == "label" {
		for part := range strings.SplitSeq(name, ",") {
			if !selectorPart.MatchString(part) {
				return Target{}, fail.New(fail.TargetSyntax, `for example "label/app=orders" or "label/app=orders,tier!=batch"`,
					"target: %q is no label and its value", s)
			}
		}
		return t, nil
	}
	if !objectName.MatchString(name) {
		hint := `write its name as kubectl shows it: "` + kind + `/orders"`
		if strings.Contains(name, "/") {
			hint = `the namespace has a key of its own: "namespace"; a container follows as "/container/NAME"`
		}
		return Target{}, fail.New(fail.TargetSyntax, hint, "target: %q does not name a %s", s, kind)
	}
	return t, nil
}
