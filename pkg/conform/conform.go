// Package conform holds one set of small programs and what may differ when they run in the pod itself and in its place.
// Each prints what it sees of environment, names, network, files and processes, one fact a line; its tests run it
// natively in a small pod and under each front end, and compare line by line.
//
// A line that differs is a fault of the front end, unless the table of exceptions says which line, why, and what it is
// instead. The package must never be imported by the product, and a program must never print what two native runs of it
// say differently.
package conform

import (
	"fmt"
	"regexp"
	"strings"
)

// FrontEnd is a way of running a program in the pod's place.
type FrontEnd string

// The front ends, as the configuration names them.
const (
	Namespaces FrontEnd = "namespaces"
	Preload    FrontEnd = "preload"

	// NoFUSE is preload where FUSE is forbidden: the pod's files are asked for one by one. What is allowed of Preload is
	// allowed of it.
	NoFUSE FrontEnd = "preload, no FUSE"
)

// Exception is a difference that is known and wanted, or known and named to users.
type Exception struct {
	FrontEnd FrontEnd
	Program  string // "" = all
	Line     string // a regular expression for the native line, from its beginning
	Instead  string // the line under the front end; $1 … are the groups of Line
	Why      string
}

// Compare returns what differs between the native lines and those under a front end, and which exceptions were needed.
func Compare(f FrontEnd, program string, native, got []string) (differences []string, used []Exception) {
	var rules []rule
	for _, e := range Exceptions {
		if (e.FrontEnd == f || e.FrontEnd == Preload && f == NoFUSE) && (e.Program == "" || e.Program == program) {
			rules = append(rules, rule{e, regexp.MustCompile("^(?:" + e.Line + ")")})
		}
	}
	for i := range max(len(native), len(got)) {
		switch {
		case i >= len(native):
			differences = append(differences, fmt.Sprintf("more:   %s", got[i]))
		case i >= len(got):
			differences = append(differences, fmt.Sprintf("absent: %s", native[i]))
		case native[i] != got[i]:
			if e, ok := excused(rules, native[i], got[i]); ok {
				used = append(used, e)
				continue
			}
			differences = append(differences, fmt.Sprintf("native: %s\n%s %s", native[i], strings.Repeat(" ", 7), got[i]))
		}
	}
	return differences, used
}

type rule struct {
	Exception
	line *regexp.Regexp
}

func excused(rules []rule, native, got string) (Exception, bool) {
	for _, r := range rules {
		at := r.line.FindStringSubmatchIndex(native)
		if at != nil && string(r.line.ExpandString(nil, r.Instead, native, at)) == got {
			return r.Exception, true
		}
	}
	return Exception{}, false
}
