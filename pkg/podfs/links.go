package podfs

import (
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxLinks is the kernel's own limit of symlinks in one path (MAXSYMLINKS).
const maxLinks = 40

// The kernel resolves a symlink's target in the debuggee's own root, where all that is not covered is the host's. So a
// target may be handed to it only if every step that it takes ends in the pod's files; any other link is resolved here,
// in the pod's root, and shown as what it leads to.

// staysCovered tells whether the kernel, resolving target for a link in dir (as the debuggee sees it), meets nothing
// but the pod's files. It judges by the text alone, and so needs no round trip and cannot be outrun by a change in the
// pod: names are only descended into, and each symlink on the way is judged by itself when the kernel comes to it.
// Hence .. is admitted at the start only, where all above is known to be directories. limit is the directory that
// leading .. may not leave: the place where an enclosing link has been replaced by what it led to, or "/".
func staysCovered(covered func(string) bool, dir, limit, target string) bool {
	at, inside := dir, true
	if strings.HasPrefix(target, "/") {
		at, inside = "/", covered("/")
	}
	descended := at == "/"
	for _, name := range strings.Split(target, "/") {
		switch {
		case name == "" || name == ".":
			continue
		case name == "..":
			if descended || at == limit {
				return false
			}
			at = path.Dir(at)
			inside = true // what matters is where it ends; a way up and down again through it is judged there
			if !covered(at) {
				return false
			}
		default:
			descended = true
			at = join(at, name)
			switch in := covered(at); {
			case in:
				inside = true
			case inside: // a hole in the covered region
				return false
			}
		}
	}
	return inside && covered(at)
}

// resolve follows target from the pod directory dir, whose path has no symlinks, within the pod's root. It returns
// what is there and its path without symlinks. .. never leaves the root; more than maxLinks links are ELOOP.
func (r *request) resolve(dir, target string) (string, entry, error) {
	at, links := dir, 1
	var last entry
	known := false // last is what lies at at
	rest := splitTarget(target)
	if strings.HasPrefix(target, "/") {
		at = "/"
	}
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		if name == ".." {
			at, known = path.Dir(at), false
			continue
		}
		if len(name) > maxName || len(at)+len(name) >= maxPath {
			return "", entry{}, syscall.ENAMETOOLONG
		}
		next := join(at, name)
		e, err := r.at(next)
		if err != nil {
			return "", e, err
		}
		switch e.typ() {
		case unix.S_IFLNK:
			if links++; links > maxLinks {
				return "", entry{}, syscall.ELOOP
			}
			if strings.HasPrefix(e.target, "/") {
				at = "/"
			}
			rest, known = append(splitTarget(e.target), rest...), false
			continue
		case unix.S_IFDIR:
		default:
			if len(rest) > 0 {
				return "", entry{}, syscall.ENOTDIR
			}
		}
		at, last, known = next, e, true
	}
	if !known {
		var err error
		if last, err = r.at(at); err != nil {
			return "", entry{}, err
		}
	}
	return at, last, nil
}

// splitTarget returns the steps of a target, without those that stay where they are.
func splitTarget(target string) []string {
	var steps []string
	for _, name := range strings.Split(target, "/") {
		if name != "" && name != "." {
			steps = append(steps, name)
		}
	}
	return steps
}
