package house

import (
	"go/ast"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The limits of length. A file of ours has a median of about 150 lines, a function of about a dozen.
const (
	maxFileLines     = 600
	maxFunctionLines = 120
)

func TestPackageComments(t *testing.T) {
	docs := map[string]string{}
	for _, s := range parsed(t) {
		if s.test() {
			continue
		}
		docs[s.dir()] += s.file.Doc.Text()
	}
	for dir, doc := range docs {
		switch {
		case doc == "":
			t.Errorf("%s has no package comment", dir)
		case !strings.Contains(doc, "never"):
			t.Errorf("%s: the package comment does not say what the package must never do", dir)
		}
	}
}

func TestLengths(t *testing.T) {
	for _, name := range files() {
		switch path.Ext(name) {
		case ".go", ".c", ".h", ".sh", ".ts":
		default:
			continue
		}
		if n := strings.Count(read(t, name), "\n"); n > maxFileLines && !strings.HasSuffix(name, "_test.go") && !fixture(name) {
			t.Errorf("%s has %d lines, at most %d: it holds two subjects", name, n, maxFileLines)
		}
	}
	for _, s := range parsed(t) {
		if s.test() {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			f, ok := n.(*ast.FuncDecl)
			if ok && s.lines(f) > maxFunctionLines {
				t.Errorf("%s:%d: %s has %d lines, at most %d", s.name, s.line(f.Pos()), f.Name, s.lines(f), maxFunctionLines)
			}
			return !ok
		})
	}
}

// TestImports keeps what is heavy or fragile behind one door.
func TestImports(t *testing.T) {
	for _, rule := range []struct {
		what, only, why string
		tests           bool // they, too
	}{
		{"gvisor.dev/gvisor", "pkg/netstack", "most of the build time, and an API that moves", true},
		{"k8s.io", "pkg/kube", "most of the build time; everything else works without a cluster", true},
		{"github.com/google/gopacket", "agent", "no longer maintained: recovered around and fuzzed in one place", false},
		{"github.com/hashicorp/yamux", "pkg/mux", "its opens are optimistic: only pkg/mux knows how to wait for the answer", false},
		{"github.com/hanwen/go-fuse", "pkg/podfs", "one server, with deadlines around every request", false},
		{"github.com/spf13/cobra", "adapter", "commands are the adapter's; the agent reads its few flags itself", false},
	} {
		users := map[string]bool{}
		for _, s := range parsed(t) {
			if !s.imports(rule.what) || s.test() && !rule.tests || s.apart() {
				continue
			}
			users[s.name] = true
			if s.dir() != rule.only && !strings.HasPrefix(s.name, rule.only+"/") {
				t.Errorf("%s imports %s, which only %s may: %s", s.name, rule.what, rule.only, rule.why)
			}
		}
		if strings.HasSuffix(rule.what, "gopacket") && len(users) > 1 {
			t.Errorf("%s is imported by more than one file: %s", rule.what, rule.why)
		}
	}
}

// TestDirections: who may import whom within the project.
func TestDirections(t *testing.T) {
	const module = "github.com/stepin-dev/stepin/"
	for _, rule := range []struct {
		from, to, why string
	}{
		{"pkg", "adapter", "pkg is what the two programs share"},
		{"pkg", "agent", "pkg is what the two programs share"},
		{"adapter", "agent", "they meet on the wire only"},
		{"agent", "adapter", "they meet on the wire only"},
		{"agent", "pkg/session", "the session decides, the agent does"},
		{"agent", "pkg/policy", "the session decides, the agent does"},
		{"pkg/namespaces", "pkg/policy", "a front end holds no policy"},
		{"pkg/podfs", "pkg/policy", "a front end holds no policy"},
		{"pkg/netstack", "pkg/policy", "a front end holds no policy"},
	} {
		for _, s := range parsed(t) {
			if strings.HasPrefix(s.name, rule.from+"/") && !s.test() && !s.apart() && s.imports(module+rule.to) {
				t.Errorf("%s imports %s: %s", s.name, rule.to, rule.why)
			}
		}
	}
	for _, s := range parsed(t) {
		if s.imports(module + "pkg/house") {
			t.Errorf("%s imports pkg/house", s.name)
		}
	}
}

// TestAgentIsSmall looks at all that is linked into the agent: it travels to the cluster at a session's start.
func TestAgentIsSmall(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "./agent/...")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	deps := strings.Fields(string(out))
	if !slices.Contains(deps, "github.com/stepin-dev/stepin/pkg/wire") {
		t.Fatalf("the agent does not even depend on pkg/wire: wrong list %q", deps)
	}
	for _, dep := range deps {
		for _, heavy := range []string{"k8s.io/", "gvisor.dev/", "github.com/google/go-dap", "github.com/spf13/"} {
			if strings.HasPrefix(dep, heavy) {
				t.Errorf("the agent depends on %s", dep)
			}
		}
	}
}

func TestNames(t *testing.T) {
	unsaying := regexp.MustCompile(`^(util|utils|common|helpers?|misc|base|shared|lib|internal)$`)
	word := regexp.MustCompile(`^[a-z][a-z0-9]*$`)
	for _, s := range parsed(t) {
		name := strings.TrimSuffix(s.file.Name.Name, "_test")
		if unsaying.MatchString(name) {
			t.Errorf("%s: package %s says nothing about what is in it", s.name, name)
		}
		if !word.MatchString(name) {
			t.Errorf("%s: package %s is not one lower-case word", s.name, name)
		}
	}
}

func TestNoReplace(t *testing.T) {
	if regexp.MustCompile(`(?m)^\s*replace\b`).MatchString(read(t, "go.mod")) {
		t.Error("go.mod has a replace directive: `go install` of the module would build something else")
	}
}
