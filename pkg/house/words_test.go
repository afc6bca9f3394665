package house

import (
	"go/ast"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestSentences: what docs/known-issues.md says a user sees is what the program says.
func TestSentences(t *testing.T) {
	var said []string
	for _, s := range parsed(t) {
		if s.test() || strings.HasPrefix(s.name, "pkg/fail/") {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			e, ok := n.(ast.Expr)
			if !ok || !strings.Contains(literal(e), " ") {
				return true
			}
			said = append(said, shown(literal(e)))
			return false
		})
	}
	all := strings.Join(said, "\n")
	listed := regexp.MustCompile("(?m)^- `(.*)`$").FindAllStringSubmatch(read(t, "docs/known-issues.md"), -1)
	if len(listed) < 50 {
		t.Fatalf("only %d sentences found on the page", len(listed))
	}
	for _, m := range listed {
		sentence := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(m[1], "… "), "…: "), ": …")
		if !strings.Contains(all, sentence) {
			t.Errorf("docs/known-issues.md: nothing says %q (any more)", sentence)
		}
	}
}

// literal is the text of a string, with … for what is put in between; "" for anything else.
func literal(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			s, _ := strconv.Unquote(e.Value) // it has been compiled
			return s
		}
	case *ast.BinaryExpr:
		if x, y := literal(e.X), literal(e.Y); e.Op == token.ADD && x+y != "" {
			return between(x) + between(y)
		}
	}
	return ""
}

func between(s string) string {
	if s == "" {
		return "…"
	}
	return s
}

var verb = regexp.MustCompile(`%[+#]?[a-z]`)

// shown is a format as a person sees it.
func shown(format string) string {
	return verb.ReplaceAllStringFunc(format, func(v string) string {
		if v == "%q" {
			return `"…"`
		}
		return "…"
	})
}

// TestIndex: every page is found from docs/README.md.
func TestIndex(t *testing.T) {
	index := read(t, "docs/README.md")
	for _, name := range files() {
		if base, ok := strings.CutPrefix(name, "docs/"); ok && path.Ext(name) == ".md" && base != "README.md" && !strings.Contains(index, "("+base+")") {
			t.Errorf("docs/README.md does not lead to %s", base)
		}
	}
}

// TestAnchors: a link into a page leads to a heading of it.
func TestAnchors(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]*)#([^)]+)\)`)
	found := 0
	for _, name := range files() {
		if path.Ext(name) != ".md" || fixture(name) {
			continue
		}
		for _, m := range link.FindAllStringSubmatch(read(t, name), -1) {
			to := name
			if m[1] != "" {
				to = path.Join(path.Dir(name), m[1])
			}
			if _, err := os.Stat(filepath.Join(root, to)); err != nil {
				continue // TestDocuments says so
			}
			if found++; !anchors(read(t, to))[m[2]] {
				t.Errorf("%s links to %s, which has no heading #%s", name, to, m[2])
			}
		}
	}
	if found == 0 {
		t.Error("no link with an anchor found")
	}
}

// anchors are those that GitHub gives a page's headings: lower case, blanks become dashes, and of the rest letters, digits,
// dashes and underscores stay.
func anchors(page string) map[string]bool {
	out := map[string]bool{}
	code := false
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "```") {
			code = !code
		}
		title := strings.TrimLeft(line, "#")
		if code || title == line || !strings.HasPrefix(title, " ") {
			continue
		}
		anchor := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), "")
		out[strings.ReplaceAll(anchor, " ", "-")] = true
	}
	return out
}
