package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"sigs.k8s.io/yaml"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// Name is the file that Load looks for.
const Name = "stepin.yaml"

// maxFile bounds stepin.yaml in bytes: a thousand times what anybody writes.
const maxFile = 1 << 20

// File is one stepin.yaml, read and checked.
type File struct {
	Path  string // where it was found, absolute
	root  *node
	lines []string
}

// Load finds stepin.yaml beside or above start and reads it. Start is the program, a file or a directory; it need not
// exist. The search goes up to the root of the file system and takes the first that it finds; nil without an error
// means that there is none.
//
// The file can name programs to run, so whose it is matters: the user's, root's, or that of the owner of the
// directory it was looked for from, whose code is about to run anyway (root in a dev container debugs a workspace of
// uid 1000). Anybody else's, say in /tmp above the program, is an error and not skipped: silence would hide it.
func Load(start string) (*File, error) {
	start, err := filepath.Abs(start)
	if err != nil {
		return nil, fail.Wrap(fail.ConfigSyntax, err, "start from a directory that exists", "looking for %s", Name)
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		path := filepath.Join(dir, Name)
		data, err := readTrusted(path, start)
		switch {
		case err == nil:
			return ParseYAML(path, data)
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) && !errors.Is(err, fs.ErrPermission):
			return nil, err
		case errors.Is(err, fs.ErrPermission) && exists(path):
			return nil, fail.Wrap(fail.ConfigSyntax, err, "make the file readable, or move it away", "reading the configuration")
		case dir == filepath.Dir(dir):
			return nil, nil
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// readTrusted reads path if it belongs to somebody whose word counts at start.
func readTrusted(path, start string) ([]byte, error) {
	// O_NONBLOCK: a FIFO of that name must not hang the start.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fail.New(fail.ConfigSyntax, "move it away, or write a file of that name", "%s is not a file", path)
	}
	if owner := ownerOf(info); owner != 0 && owner != os.Geteuid() && owner != codeOwner(start) {
		return nil, fail.New(fail.ConfigSyntax, "chown it if it is meant for you, else move it away",
			"%s belongs to uid %d, not to you (uid %d), and could run programs in your name", path, owner, os.Geteuid())
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fail.New(fail.ConfigSyntax, "is it the right file?", "%s is larger than %d bytes", path, maxFile)
	}
	return data, nil
}

func ownerOf(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}

// codeOwner returns the owner of the nearest directory at or above start, or -1. A directory that everybody may write
// to vouches for nobody but its owner, so its mode does not matter.
func codeOwner(start string) int {
	for dir := start; ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return ownerOf(info)
		}
		if dir == filepath.Dir(dir) {
			return -1
		}
	}
}

// ParseYAML reads and checks the content of a stepin.yaml; path is where it lies, for messages and for paths relative
// to it.
func ParseYAML(path string, data []byte) (*File, error) {
	const hint = `"target: local/4711" is a whole file; docs/configuration.md has every key`
	if line := secondDocument(string(data)); line > 0 {
		return nil, fail.New(fail.ConfigSyntax, "keep the first", "%s:%d: a second document begins here", path, line)
	}
	asJSON, err := yamlToJSON(data)
	if err != nil {
		line, what := yamlError(err)
		return nil, fail.New(fail.ConfigSyntax, hint, "%s:%d: %s", path, line, what)
	}
	doc, err := parseJSON(asJSON)
	if err != nil {
		return nil, fail.New(fail.ConfigSyntax, hint, "%s:1: %v", path, err)
	}
	root := doc.root
	if root.kind == null {
		root = &node{kind: object}
	}
	lines := strings.Split(string(data), "\n")
	c := checker{yaml: true, where: func(at string) string { return fmt.Sprintf("%s:%d: ", path, lineOf(lines, at)) }}
	c.document(root, doc.repeated)
	if err := c.inOrder(lines).err(); err != nil {
		return nil, err
	}
	if file := root.get("env").get("file"); file != nil && file.text != "" && !filepath.IsAbs(file.text) {
		*file = *textNode(filepath.Join(filepath.Dir(path), file.text))
	}
	return &File{Path: path, root: root, lines: lines}, nil
}

// inOrder returns the problems by line: the library has sorted the keys.
func (c *checker) inOrder(lines []string) Problems {
	order := make([]int, len(c.problems))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return lineOf(lines, c.paths[a]) - lineOf(lines, c.paths[b]) })
	sorted := make(Problems, len(order))
	for i, from := range order {
		sorted[i] = c.problems[from]
	}
	return sorted
}

// yamlToJSON is the library's strict conversion (repeated keys are errors, aliases are bounded) behind a recover: it
// reads a file of somebody else's, and a parser that panics must not take the session with it.
func yamlToJSON(data []byte) (out []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("yaml: line 1: the parser gave up: %v", r)
		}
	}()
	return yaml.YAMLToJSONStrict(data)
}

var yamlLine = regexp.MustCompile(`line (\d+): ([^\n]*)`)

// yamlError takes line and sentence out of the library's error.
func yamlError(err error) (line int, what string) {
	m := yamlLine.FindStringSubmatch(err.Error())
	if m == nil {
		first, _, _ := strings.Cut(strings.TrimPrefix(err.Error(), "yaml: "), "\n")
		return 1, first
	}
	line, _ = strconv.Atoi(m[1])
	return line, m[2]
}

// secondDocument returns the line of a document marker that has content before and after it, or 0. The library reads
// the first document only and is silent about the rest.
func secondDocument(s string) int {
	content, marker := false, 0
	for i, line := range strings.Split(s, "\n") {
		line = strings.TrimRight(line, " \t\r")
		switch {
		case line == "---" || strings.HasPrefix(line, "--- "):
			if content && marker == 0 {
				marker = i + 1
			}
			content = content || line != "---"
		case line == "" || strings.HasPrefix(strings.TrimLeft(line, " \t"), "#") || strings.HasPrefix(line, "%") || line == "...":
		case marker > 0:
			return marker
		default:
			content = true
		}
	}
	return 0
}
