package fail

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/known-issues.md anew")

const issuesPage = "../../docs/known-issues.md"

// TestIssuesAreWhole: each number of codes.go has one entry, in the numbers' order.
func TestIssuesAreWhole(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "codes.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var want, have []int
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			code, err := strconv.Atoi(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, code)
		}
		return true
	})
	for _, i := range Issues() {
		have = append(have, int(i.Code))
		if i.Title == "" || len(i.See) == 0 || i.Why == "" || i.Do == "" {
			t.Errorf("%d says nothing: %+v", i.Code, i)
		}
	}
	if slices.Sort(want); !slices.Equal(have, want) {
		t.Errorf("issues.go has %v\ncodes.go has  %v", have, want)
	}
}

func TestKnownIssues(t *testing.T) {
	raw, err := os.ReadFile(issuesPage)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- issues: written by go test ./pkg/fail -run TestKnownIssues -update -->\n", "<!-- end of issues -->\n"
	before, rest, ok := strings.Cut(string(raw), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the issues", issuesPage)
	}
	page := before + begin + issuesText() + end + after
	if page == string(raw) {
		return
	}
	if !*update {
		t.Fatalf("%s is out of date: go test ./pkg/fail -run TestKnownIssues -update", issuesPage)
	}
	if err := os.WriteFile(issuesPage, []byte(page), 0o644); err != nil {
		t.Fatal(err)
	}
}

// issuesText is a heading for each hundred, and a section for each number.
func issuesText() string {
	domains := map[Code]string{1: "Configuration", 2: "Target, agent and cluster", 3: "This machine", 4: "Debugger and program", 5: "Sessions"}
	var b strings.Builder
	domain := ""
	for _, i := range Issues() {
		if d := domains[i.Code/100]; d != domain {
			domain = d
			fmt.Fprintf(&b, "## %s\n\n", domain)
		}
		fmt.Fprintf(&b, "### %d: %s\n\n", i.Code, i.Title)
		for _, line := range i.See {
			fmt.Fprintf(&b, "- `%s`\n", line)
		}
		fmt.Fprintf(&b, "\n%s\n\n**Do**: %s\n\n", i.Why, i.Do)
	}
	return b.String()
}
