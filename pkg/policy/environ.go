package policy

import (
	"maps"
	"slices"
	"strings"

	"github.com/stepin-dev/stepin/pkg/config"
)

// EnvInput is all that decides the debuggee's environment.
type EnvInput struct {
	Host, Pod []string           // NAME=value, as in /proc/PID/environ; of repeated names the first counts, as for getenv
	Config    config.Env         // include, exclude, override, unset
	File      map[string]string  // the content of Config.File, which the caller reads (config.ParseEnvFile)
	Launch    map[string]*string // the launch configuration's own env; nil unsets
}

// Left is a variable of the pod that the debuggee does not get. It has no value: values are never said.
type Left struct{ Name, Why string }

// Environ returns the debuggee's whole environment, sorted by name, and the pod's variables that were left out,
// sorted likewise. What the user excluded or unset is not in left: they know.
//
// In order, the later wins: the host's, less what would lie in the pod; the pod's, less what belongs to the host or
// makes a program run code, unless env.include names it; env.file; env.override; env.unset; the launch's own env.
func Environ(in EnvInput) (env []string, left []Left) {
	vars := map[string]string{}
	for name, value := range variables(in.Host) {
		if _, lies := hostLies.match(name); !lies {
			vars[name] = value
		}
	}
	for name, value := range variables(in.Pod) {
		if named(in.Config.Include, name) {
			vars[name] = value
			continue
		}
		if matchAny(in.Config.Exclude, name) {
			continue
		}
		if why, ok := withheld(name, value); ok {
			left = append(left, Left{name, why})
			continue
		}
		vars[name] = value
	}
	maps.Copy(vars, in.File)
	maps.Copy(vars, in.Config.Override)
	maps.DeleteFunc(vars, func(name, _ string) bool { return matchAny(in.Config.Unset, name) })
	for name, value := range in.Launch {
		if value == nil {
			delete(vars, name)
		} else {
			vars[name] = *value
		}
	}
	slices.SortFunc(left, func(a, b Left) int { return strings.Compare(a.Name, b.Name) })
	return join(vars), left
}

// withheld says why a variable of the pod is not taken. The list of code comes first: its reason matters more.
func withheld(name, value string) (why string, ok bool) {
	if name == "ENV" && plain(value) {
		return "", false // ENV=production, which half of all services read; as a file name it would be one of the workspace's
	}
	if why, ok := podCode.match(name); ok {
		return why, true
	}
	return hostOwn.match(name)
}

// plain says whether a value is one word that no shell expands and that names no other directory.
func plain(value string) bool {
	return strings.Trim(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == ""
}

// DebuggerEnviron returns what a real debugger is started with: the host's environment, less what would make it reach
// out on its own (DEBUGINFOD_URLS) or hook the debuggee in. The debuggee's variables come later, by Delta.
func DebuggerEnviron(host []string) []string {
	vars := variables(host)
	maps.DeleteFunc(vars, func(name, _ string) bool { _, ok := debuggerStray.match(name); return ok })
	return join(vars)
}

// Delta returns what turns the environment base into env: a value to set, or nil to unset. It is what a launch
// request carries when the debuggee inherits base from its debugger. The request is JSON: values that are not UTF-8
// do not survive it.
func Delta(base, env []string) map[string]*string {
	old, vars := variables(base), variables(env)
	delta := map[string]*string{}
	for name, value := range vars {
		if before, ok := old[name]; !ok || before != value {
			delta[name] = &value
		}
	}
	for name := range old {
		if _, ok := vars[name]; !ok {
			delta[name] = nil
		}
	}
	return delta
}

// variables splits NAME=value entries. Entries without a name or without = are no variables; execve may carry them,
// but no program can ask for them.
func variables(env []string) map[string]string {
	vars := make(map[string]string, len(env))
	for _, entry := range env {
		name, value, ok := strings.Cut(entry, "=")
		if _, again := vars[name]; !ok || name == "" || again {
			continue
		}
		vars[name] = value
	}
	return vars
}

func join(vars map[string]string) []string {
	env := make([]string, 0, len(vars))
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		env = append(env, name+"="+vars[name])
	}
	return env
}

// named is matchAny for env.include, where a bare * names nothing: it must not bring a pod's LD_PRELOAD by accident.
func named(patterns []string, name string) bool {
	for _, p := range patterns {
		if strings.Trim(p, "*") != "" && match(p, name) {
			return true
		}
	}
	return false
}

func matchAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return match(p, name) })
}

// match says whether name fits pattern, in which * stands for any characters. Linear in both but for a step back to
// the last star, so no pattern is slow.
func match(pattern, name string) bool {
	p, n, star, mark := 0, 0, -1, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, n
			p++
		case p < len(pattern) && pattern[p] == name[n]:
			p++
			n++
		case star >= 0:
			mark++
			p, n = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
