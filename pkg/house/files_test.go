package house

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestTopLevel: nothing at the top but what a newcomer can take in at a glance.
func TestTopLevel(t *testing.T) {
	allowed := strings.Fields(`adapter agent preload pkg editors docs go.mod go.sum just justfile
		README.md ARCHITECTURE.md CONTRIBUTING.md LICENSE`)
	for _, name := range files() {
		top, _, _ := strings.Cut(name, "/")
		if !strings.HasPrefix(top, ".") && !slices.Contains(allowed, top) {
			t.Errorf("%s: no place for %s at the top level", name, top)
		}
	}
	for _, name := range []string{"README.md", "CONTRIBUTING.md", "LICENSE", "go.mod", "just", "justfile"} {
		if !slices.Contains(files(), name) {
			t.Errorf("no %s", name)
		}
	}
}

// TestCApart: the Go command would try to build C that lies beside Go.
func TestCApart(t *testing.T) {
	goDirs := map[string]bool{}
	for _, name := range files() {
		if path.Ext(name) == ".go" {
			goDirs[path.Dir(name)] = true
		}
	}
	for _, name := range files() {
		if ext := path.Ext(name); (ext == ".c" || ext == ".h" || ext == ".S") && goDirs[path.Dir(name)] {
			t.Errorf("%s shares its folder with Go", name)
		}
	}
}

// TestShell: shell is linted where it is known to be, so it may not be elsewhere.
func TestShell(t *testing.T) {
	shell := regexp.MustCompile(`^#!.*\b(ba|da)?sh\b`)
	for _, name := range files() {
		if strings.HasPrefix(name, ".ci/") || name == "just" || fixture(name) {
			continue
		}
		if path.Ext(name) == ".sh" || shell.MatchString(read(t, name)) {
			t.Errorf("%s: shell belongs in .ci/, where ./just lint reads it", name)
		}
	}
}

// TestText reads every tracked text for what must not be in it.
func TestText(t *testing.T) {
	dot := `\.`
	rules := []struct {
		re  *regexp.Regexp
		why string
	}{
		// Written so that this file does not match itself.
		{regexp.MustCompile(`(^|[^\w./])/(roo[t]/(go|\.\w+)|wor[k]/(main|shared)|tm[p]/team)\b`), "a path of one machine"},
		{regexp.MustCompile(strings.Join([]string{
			"proxy" + dot + "golang" + dot + "org", "sum" + dot + "golang" + dot + "org", "registry" + dot + "npmjs",
			"deb" + dot + "debian" + dot + "org", "archive" + dot + "ubuntu", "pypi" + dot + "org", "crates" + dot + "io",
		}, "|")), "a registry's host: clients use the one they are set up for"},
		{regexp.MustCompile(`(?i)\b(the|this|that|a) (jai[l]|shi[m]|inferio[r])\b`), "the words are in ARCHITECTURE.md: namespaces, stub, debuggee"},
		{regexp.MustCompile(`(?i)\b(loca[l]|remot[e]) (process|program|pod)\b`), "the words are debuggee and pod"},
		// Behind a dot it is somebody else's, or declared where it is found.
		{regexp.MustCompile(`(^|[^.\w])(loca[l]|remot[e])(Process|Pod|Port|Host)\b`), "identifiers say host or pod"},
		{regexp.MustCompile(`<{7} |>{7} `), "a conflict"},
	}
	for _, name := range files() {
		if fixture(name) || name == "go.sum" || name == "LICENSE" {
			continue
		}
		for i, line := range strings.Split(read(t, name), "\n") {
			for _, rule := range rules {
				if rule.re.MatchString(line) {
					t.Errorf("%s:%d: %s: %s", name, i+1, rule.why, strings.TrimSpace(line))
				}
			}
		}
	}
}

// TestRecipes: `./just --list` explains each recipe in one line.
func TestRecipes(t *testing.T) {
	recipes := recipes(t)
	for _, name := range strings.Fields(`build test test-quick lint demo fmt clean fuzz
		e2e cluster-up cluster-down cluster-image cluster-kubeconfig`) {
		if _, ok := recipes[name]; !ok {
			t.Errorf("no recipe %s", name)
		}
	}
	for name, comment := range recipes {
		if !strings.HasPrefix(comment, "# ") {
			t.Errorf("recipe %s has no comment", name)
		}
	}
}

// recipes returns the public ones with the line above each.
func recipes(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	head := regexp.MustCompile(`^([a-z][a-z0-9-]*)( [^:]*)?:([^=]|$)`)
	above := ""
	for _, line := range strings.Split(read(t, "justfile"), "\n") {
		if strings.HasPrefix(line, "[") && line != "[private]" {
			continue // an attribute between comment and recipe
		}
		if m := head.FindStringSubmatch(line); m != nil && above != "[private]" {
			found[m[1]] = above
		}
		above = line
	}
	return found
}

// TestDocuments: what a page tells to run or to read exists.
func TestDocuments(t *testing.T) {
	recipes := recipes(t)
	command := regexp.MustCompile("(?:^|[`(]|\\$ )\\./just ([a-z][a-z0-9-]*)")
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	for _, name := range files() {
		if path.Ext(name) != ".md" || fixture(name) {
			continue
		}
		text := read(t, name)
		for _, line := range strings.Split(text, "\n") {
			for _, m := range command.FindAllStringSubmatch(line, -1) {
				if _, ok := recipes[m[1]]; !ok {
					t.Errorf("%s names ./just %s, which does not exist", name, m[1])
				}
			}
		}
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(root, path.Dir(name), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
			}
		}
	}
}
