package preload

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// podTree makes the two volumes of pkg/conform's pod in a directory.
func podTree(t *testing.T) string {
	t.Helper()
	dir := shortDir(t)
	for path, text := range map[string]string{
		"data/plain": "a plain file", "data/sub/deep/file": "a deep file", "data/json": `{"key": "value"}`,
		"config/..2026/greeting": "hello", "config/..2026/colour": "blue",
	} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for path, to := range map[string]string{
		"data/link": "plain", "data/dangling": "absent", "data/loop": "loop", "data/folder": "sub",
		"config/..data": "..2026", "config/greeting": "..data/greeting", "config/colour": "..data/colour",
	} {
		if err := os.Symlink(to, filepath.Join(dir, path)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// newFilesPod is a pod whose volumes are a directory of this machine's, read-only by the table.
func newFilesPod(t *testing.T) *pod {
	t.Helper()
	p, tree := &pod{t: t}, podTree(t)
	var rules []Rule
	for _, v := range []string{"/config", "/data"} {
		rules = append(rules, Rule{Prefix: v, Action: PathTranslate, To: tree + v, WriteError: syscall.EROFS})
	}
	var err error
	p.Server, err = New(Config{Dir: shortDir(t), Serve: ServeFiles | ServeExec | ServeHostname, Hostname: podName, Handler: p, Table: rules})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	p.variable = Variable + "=" + p.Value()
	return p
}

// conformance builds the C program of pkg/conform.
func conformance(t *testing.T) string {
	t.Helper()
	sources, err := filepath.Glob("../conform/programs/c/*.c")
	if err != nil || len(sources) == 0 {
		t.Fatal(err, sources)
	}
	argv := []string{"gcc", "-std=gnu11", "-O1", "-g", "-pthread", "-o", "OUT"}
	for _, s := range sources {
		argv = append(argv, "pkg/"+strings.TrimPrefix(s, "../")) // the workshop stands at the top
	}
	return shop.make(t, "conform-c", argv...)
}

// said runs subjects of the conformance program with the library.
func (p *pod) said(t *testing.T, name string, subjects ...string) []string {
	t.Helper()
	cmd := p.inside(t, name, append([]string{conformance(t)}, subjects...)...)
	cmd.Env = append(cmd.Env, "ASAN_OPTIONS=detect_leaks=0", "GREETING=hello") // the program is none of ours
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil || errs.Len() > 0 {
		t.Errorf("%v: %v\n%s", subjects, err, errs.String())
	}
	return strings.Split(strings.TrimSpace(out.String()), "\n")
}

// TestFiles compares what the kernel says of two read-only mounts (testdata/files.txt, of pkg/conform's C program run
// natively) with what the library makes of a directory elsewhere. What a file system is asked of itself is not the library's.
func TestFiles(t *testing.T) {
	want, err := os.ReadFile("testdata/files.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"glibc", "sanitized"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := slices.DeleteFunc(newFilesPod(t).said(t, name, "files", "places"), func(line string) bool {
				return strings.HasPrefix(line, "files statvfs:")
			})
			same(t, strings.Join(got, "\n")+"\n", string(want))
		})
	}
}

// TestProcesses: each way to start a program gives one that sees the pod, whatever its environment has lost, and each
// failure is the kernel's own.
func TestProcesses(t *testing.T) {
	got := newFilesPod(t).said(t, "glibc", "processes")
	children := 0
	for _, line := range got {
		if _, child, found := strings.Cut(line, "child "); found {
			children++
			if !strings.Contains(child, "host "+podName+", file a plain file") {
				t.Errorf("outside of the pod: %s", line)
			}
		}
	}
	if children < 15 {
		t.Errorf("%d children:\n%s", children, strings.Join(got, "\n"))
	}
	for _, want := range []string{
		"posix_spawn absent: ENOENT", "posix_spawnp absent: ENOENT", "exec absent: ENOENT", "exec of a directory: EACCES", "exec of a file: EACCES",
		"exec below a file: ENOTDIR", "exec of the pod's file: EACCES", "script, no interpreter: ENOENT", "fork in a thread: status 0",
		"system: status 7", "popen: status 7",
	} {
		if !slices.Contains(got, "processes "+want) {
			t.Errorf("no line %q", want)
		}
	}
}
