package parent

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// place is what --pod names: one process of this machine, or a container of a pod.
type place struct {
	local     int    // local/PID; 0 for a container
	uid       string // kube/UID/CONTAINERID
	container string
}

var (
	uidForm       = regexp.MustCompile(`^[0-9a-f]+(-[0-9a-f]+)*$`)
	containerForm = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// parsePod reads --pod.
func parsePod(s string) (place, error) {
	kind, rest, _ := strings.Cut(s, "/")
	switch kind {
	case "local":
		pid, err := strconv.Atoi(rest)
		if err != nil || pid < 1 {
			return place{}, fmt.Errorf("--pod %q: %q is no process number hint: give the number of a process on this machine", s, rest)
		}
		return place{local: pid}, nil
	case "kube":
		uid, container, _ := strings.Cut(rest, "/")
		if !uidForm.MatchString(uid) || !containerForm.MatchString(container) {
			return place{}, fmt.Errorf("--pod %q: that is no kube/UID/CONTAINERID hint: take both from the pod's metadata and status", s)
		}
		return place{uid: uid, container: container}, nil
	}
	return place{}, fmt.Errorf("--pod %q: only local/PID and kube/UID/CONTAINERID are known hint: give the number of a process on this machine", s)
}

// kube says that it is a container's.
func (p place) kube() bool { return p.container != "" }

const shownID = 12 // digits of a container's ID, as people see it elsewhere

func (p place) String() string {
	if p.kube() {
		return "kube/" + p.uid + "/" + p.container[:shownID]
	}
	return "local/" + strconv.Itoa(p.local)
}
