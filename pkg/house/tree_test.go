package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const root = "../.."

// skipped are directories of no interest to git, for a tree that is not a checkout.
var skipped = []string{".git", ".tools", "bin", "node_modules", "pkg/embedded/files"}

// files returns the slash-separated paths of what git tracks or would track, so that a rule speaks up before a commit.
// Where git cannot say (a source archive) it is everything but the skipped directories.
var files = sync.OnceValue(func() []string {
	cmd := exec.Command("git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = root
	if out, err := cmd.Output(); err == nil {
		return slices.DeleteFunc(strings.Split(strings.TrimRight(string(out), "\x00"), "\x00"), func(name string) bool {
			info, err := os.Lstat(filepath.Join(root, name))
			return err != nil || !info.Mode().IsRegular()
		})
	}
	var names []string
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains(skipped, filepath.ToSlash(rel)) {
			return fs.SkipDir
		}
		if d.Type().IsRegular() {
			names = append(names, filepath.ToSlash(rel))
		}
		return nil
	})
	if err != nil {
		panic(err)
	}
	return names
})

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// fixture says that a file is something tests work on, not source of ours.
func fixture(name string) bool { return strings.Contains("/"+name, "/testdata/") }

// source is one parsed Go file.
type source struct {
	name string // slash-separated, from the root
	fset *token.FileSet
	file *ast.File
}

func (s source) dir() string { return path.Dir(s.name) }
func (s source) test() bool  { return strings.HasSuffix(s.name, "_test.go") }

// apart tells of the end-to-end tests, a module of its own that the product cannot import: it may use whatever it tests
// with, and the adapter's own client.
func (s source) apart() bool { return strings.HasPrefix(s.name, "pkg/e2e/") }

func (s source) line(p token.Pos) int { return s.fset.Position(p).Line }
func (s source) lines(n ast.Node) int { return s.line(n.End()) - s.line(n.Pos()) + 1 }
func (s source) imports(what string) bool {
	return slices.ContainsFunc(s.file.Imports, func(i *ast.ImportSpec) bool {
		name := strings.Trim(i.Path.Value, `"`)
		return name == what || strings.HasPrefix(name, what+"/")
	})
}

// sources returns every Go file of ours, parsed with its comments.
var sources = sync.OnceValues(func() ([]source, error) {
	var all []source
	fset := token.NewFileSet()
	for _, name := range files() {
		if !strings.HasSuffix(name, ".go") || fixture(name) {
			continue
		}
		file, err := parser.ParseFile(fset, filepath.Join(root, name), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		all = append(all, source{name, fset, file})
	}
	return all, nil
})

func parsed(t *testing.T) []source {
	t.Helper()
	all, err := sources()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatal("no Go file found: the rules would all hold")
	}
	return all
}
