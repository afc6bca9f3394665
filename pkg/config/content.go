package config

import (
	"path"
	"strconv"
	"strings"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// content checks a string that is more than a string: a rule, a path, the name of a variable.
func (c *checker) content(at, s string) {
	if strings.ContainsRune(s, 0) {
		c.add(fail.ConfigValue, at, "remove it", "holds a NUL byte")
		return
	}
	if c.open && unsettled(at, s) {
		return
	}
	list, _, _ := strings.Cut(at, "[")
	switch {
	case at == "target":
		if _, err := ParseTarget(s); err != nil {
			c.add(fail.CodeOf(err), at, fail.Hint(err), "%s", strings.TrimPrefix(err.Error(), "target: "))
		}
	case at == "namespace":
		if !dnsLabel.MatchString(s) {
			c.add(fail.ConfigValue, at, "write its name as kubectl get namespaces shows it", "%q is no name of a namespace", s)
		}
	case at == "kubeconfig":
		if s == "" || strings.Contains(s, ":") || !path.IsAbs(s) && !strings.HasPrefix(s, "~/") {
			c.add(fail.ConfigValue, at, `write one absolute path, or one from "~/" on; KUBECONFIG may be a list`, "%q is no path of a file", s)
		}
	case list == "outgoing.pod", list == "outgoing.host":
		if _, err := ParseRule(s); err != nil {
			c.add(fail.ConfigValue, at, `for example "db.shop.svc:5432", "*.example.com", "10.0.0.0/8", "udp://*:53"`, "%v", err)
		}
	case list == "env.include", list == "env.exclude", list == "env.unset":
		if s == "" || strings.Contains(s, "=") {
			c.add(fail.ConfigValue, at, `write a name, with * for any characters: "AWS_*"`, "%q is no name of a variable", s)
		}
	case list == "files.pod", list == "files.readOnly", list == "files.host", list == "files.hidden":
		c.path(at, s)
	case strings.HasPrefix(at, "files.map."):
		c.path(at, s)
	case list == "hostPrograms":
		if s == "" || strings.Contains(s, "/") && !path.IsAbs(s) || strings.HasSuffix(s, "/") {
			c.add(fail.ConfigValue, at, `write a file name ("air") or an absolute path`, "%q is no program", s)
		}
	}
}

// key checks the key of a map, which is as much the user's as a value.
func (c *checker) key(dict, at, key string) {
	switch dict {
	case "incoming.map":
		if v, err := strconv.ParseUint(key, 10, 16); err != nil || v == 0 || key[0] == '0' {
			c.add(fail.ConfigValue, at, "ports go from 1 to 65535", "%q is no port", key)
		}
	case "env.override":
		if key == "" || strings.ContainsAny(key, "=\x00*") {
			c.add(fail.ConfigValue, at, "write the whole name, without = and *", "this is no name of a variable")
		}
	case "files.map":
		c.path(at, key)
	}
}

// path checks a path of the pod or of this machine, by form alone.
func (c *checker) path(at, s string) {
	const hint = "write the path as the program opens it, from / on: \"/etc/app\""
	switch clean := path.Clean(s); {
	case !path.IsAbs(s):
		c.add(fail.ConfigValue, at, hint, "%q is not absolute", s)
	case strings.ContainsRune(s, 0):
		c.add(fail.ConfigValue, at, hint, "holds a NUL byte")
	case clean == "/":
		c.add(fail.ConfigValue, at, "name the directories below it", "%q would be every file there is", s)
	case strings.Contains(s+"/", "/../"):
		c.add(fail.ConfigValue, at, hint, "%q has .. in it", s)
	}
}

// check looks at what only the whole configuration shows.
func (l *Launch) check(c *checker) Problems {
	if l.Target == "" && !c.open {
		c.add(fail.ConfigValue, "target", hintTarget, "it is missing: stepin does not know which pod's place to take")
	}
	if len(l.Outgoing.Pod) > 0 && len(l.Outgoing.Host) == 0 {
		c.add(fail.ConfigValue, "outgoing.pod", `to send everything else from this machine, add "host": ["*"]; else leave it out`,
			"it names exceptions to outgoing.host, which is empty")
	}
	l.checkRules(c)
	l.checkPorts(c)
	l.checkPaths(c)
	return c.problems
}

// checkRules finds rules that two lists claim.
func (l *Launch) checkRules(c *checker) {
	type essence struct{ Rule }
	seen := map[essence]bool{}
	for _, s := range l.Outgoing.Pod {
		if r, err := ParseRule(s); err == nil { // else an editor's variable
			r.Text = ""
			seen[essence{r}] = true
		}
	}
	for _, s := range l.Outgoing.Host {
		r, err := ParseRule(s)
		r.Text = ""
		if err == nil && seen[essence{r}] {
			c.add(fail.ConfigValue, "outgoing", "remove one of the two", "%q stands under pod and under host", s)
		}
	}
}

func (l *Launch) checkPorts(c *checker) {
	listed := map[Port]bool{}
	for _, p := range l.Incoming.Ports {
		listed[p] = true
	}
	from := map[Port]Port{}
	for own := Port(1); own != 0; own++ { // in order, so that the message is the same each time
		pod, ok := l.Incoming.Map[own]
		if !ok {
			continue
		}
		if len(listed) > 0 && !listed[own] {
			c.add(fail.ConfigValue, "incoming.map", "add it to incoming.ports", "port %d is not among incoming.ports", own)
		}
		if first, taken := from[pod]; taken {
			c.add(fail.ConfigValue, "incoming.map", "map one of them elsewhere",
				"ports %d and %d both stand for the pod's port %d", first, own, pod)
		}
		from[pod] = own
	}
}

func (l *Launch) checkPaths(c *checker) {
	seen := map[string]string{}
	claim := func(list, p string) {
		p = path.Clean(p)
		if other := seen[p]; other != "" && other != list {
			c.add(fail.ConfigValue, "files", "remove one of the two", "%q stands under %s and under %s", p, other, list)
		}
		seen[p] = list
	}
	for _, set := range []struct {
		name  string
		paths []string
	}{{"pod", l.Files.Pod}, {"readOnly", l.Files.ReadOnly}, {"host", l.Files.Host}, {"hidden", l.Files.Hidden}} {
		for _, p := range set.paths {
			claim(set.name, p)
		}
	}
	for _, p := range sortedKeys(l.Files.Map) {
		claim("map", p)
	}
}
