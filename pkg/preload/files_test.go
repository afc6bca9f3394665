package preload

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/podfs"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// podTree makes the two volumes of pkg/conform's pod in a directory.
func podTree(t *testing.T) string {
	t.Helper()
	dir := shortDir(t)
	for path, text := range map[string]string{
		"data/plain": "a plain file", "data/sub/deep/file": "a deep file", "data/json": `{"key": "value"}`,
		"config/..2026/greeting": "hello", "config/..2026/colour": "blue",
		"app/run": "#!/bin/sh -e \necho \"$0 $*: $(cat /data/plain)\"\n", "app/twice": "#! /app/run  first second\n", "app/self": "#!/app/self\n",
		"app/forbidden": "#!/bin/sh\necho here\n",
	} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, script := range []string{"run", "twice", "self"} {
		if err := os.Chmod(filepath.Join(dir, "app", script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	lib := shop.make(t, "pods.so", "bash", "-c", "echo 'int answer(void) { return 42; }' | gcc -shared -x c -o $0 -", "OUT")
	if err := os.Link(lib, filepath.Join(dir, "app/lib.so")); err != nil {
		t.Fatal(err)
	}
	tool := shop.make(t, "pods-tool", "bash", "-c", `echo 'int puts(const char *); int main(void) { puts("a tool"); }' | gcc -x c -o $0 -`, "OUT")
	if err := os.Link(tool, filepath.Join(dir, "app/tool")); err != nil {
		t.Fatal(err)
	}
	for path, to := range map[string]string{
		"data/link": "plain", "data/dangling": "absent", "data/loop": "loop", "data/folder": "sub", "data/short": "sub/deep",
		"config/..data": "..2026", "config/greeting": "..data/greeting", "config/colour": "..data/colour",
	} {
		if err := os.Symlink(to, filepath.Join(dir, path)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// onDisk is a pod's files in a directory.
type onDisk string

func (d onDisk) Lstat(_ context.Context, p string) (wire.Attr, error) {
	var st unix.Stat_t
	if err := unix.Lstat(string(d)+p, &st); err != nil {
		return wire.Attr{}, err
	}
	return wire.Attr{Ino: st.Ino, Mode: st.Mode, Nlink: uint32(st.Nlink), Size: uint64(st.Size), Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano(), Atime: st.Atim.Nano()}, nil
}

func (d onDisk) ReadLink(_ context.Context, p string) (string, error) {
	return os.Readlink(string(d) + p)
}

func (d onDisk) ReadDir(ctx context.Context, p string) (out []wire.DirEntry, err error) {
	entries, err := os.ReadDir(string(d) + p)
	for _, e := range entries {
		a, err := d.Lstat(ctx, p+"/"+e.Name())
		if err != nil {
			return nil, err
		}
		out = append(out, wire.DirEntry{Name: wire.Name(e.Name()), Attr: a})
	}
	return out, err
}

func (d onDisk) Open(ctx context.Context, p string) (podfs.File, error) {
	a, err := d.Lstat(ctx, p)
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(string(d) + p)
	return whole{a, content}, err
}

// whole is a file of which all comes with the open.
type whole struct {
	attr    wire.Attr
	content []byte
}

func (w whole) Attr() wire.Attr                                    { return w.attr }
func (w whole) Head() []byte                                       { return w.content }
func (w whole) ReadAt(context.Context, []byte, int64) (int, error) { return 0, io.EOF }
func (w whole) Close() error                                       { return nil }

// newFilesPod is a pod whose volumes are a directory of this machine's, read-only by the table: in the place of a mount, or
// asked for.
func newFilesPod(t *testing.T, action uint16) *pod {
	t.Helper()
	p, tree := &pod{t: t}, podTree(t)
	c := Config{Dir: shortDir(t), Serve: ServeFiles | ServeExec | ServeHostname, Hostname: podName, Handler: p, Stand: tree}
	if action == PathFetch {
		c.Stand = filepath.Join(c.Dir, MountName)
		c.Files = podfs.New(podfs.Config{Source: onDisk(tree), Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid()),
			Covered: func(p string) bool { return strings.Count(p, "/") > 1 || p == "/app" || p == "/config" || p == "/data" }})
	}
	for _, v := range []string{"/app", "/config", "/data"} {
		c.Table = append(c.Table, Rule{Prefix: v, Action: action, To: c.Stand + v, WriteError: syscall.EROFS})
	}
	var err error
	if p.Server, err = New(c); err != nil {
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
// natively) with what the library makes of a directory elsewhere: stat, statx, listdir, realpath, mmap, rename, inotify,
// relative paths after chdir, openat beneath a directory descriptor, and the rest of its two subjects.
func TestFiles(t *testing.T) { asTheKernel(t, PathTranslate) }

// TestFilesNoFUSE is the same where nothing is mounted, and the session is asked.
func TestFilesNoFUSE(t *testing.T) { asTheKernel(t, PathFetch) }

func asTheKernel(t *testing.T, action uint16) {
	want, err := os.ReadFile("testdata/files.txt")
	if err != nil {
		t.Fatal(err)
	}
	compared := func(line string) bool { // what a file system is asked of itself is not the library's
		return !strings.HasPrefix(line, "files statvfs:") && !strings.HasPrefix(line, "files getxattr:")
	}
	subjects := map[string][]string{} // each word of the row, and how its lines begin
	for _, row := range [][2]string{
		{"stat", "stat|lstat|fstatat|access|fstat"}, {"statx", "statx"}, {"listdir", "opendir|scandir|scandirat|fdopendir|readdir_r|getdents64"},
		{"realpath", "realpath|readlink"}, {"mmap", "mmap"},
		{"rename", "rename|unlink|mkdir|rmdir|link|symlink|chmod|truncate|utimensat|creat|mkstemp"}, {"inotify", "inotify"},
		{"chdir", "chdir|fchdir|getcwd"}, {"openat", "openat|faccessat|readlinkat"},
	} {
		subjects[row[0]] = strings.Split(row[1], "|")
	}
	for _, name := range []string{"glibc", "sanitized"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newFilesPod(t, action)
			got := keep(p.said(t, name, "files", "places"), compared)
			if begin := "the program watches the pod's files by inotify"; !p.says(begin) {
				t.Errorf("not said: %s", begin)
			}
			for word, begins := range subjects {
				t.Run(word, func(t *testing.T) {
					about := func(line string) bool {
						f := strings.Fields(strings.ReplaceAll(line, ":", " "))
						return len(f) > 1 && slices.Contains(begins, f[1])
					}
					mine, theirs := keep(got, about), keep(strings.Split(string(want), "\n"), about)
					if len(theirs) == 0 {
						t.Error("nothing is compared")
					}
					alike(t, mine, theirs)
				})
			}
			alike(t, got, keep(strings.Split(strings.TrimSpace(string(want)), "\n"), compared))
		})
	}
}

// alike compares line by line: what is printed, and in which order, is the program's.
func alike(t *testing.T, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			t.Errorf("missing: %s", want[i])
		case i >= len(want):
			t.Errorf("more: %s", got[i])
		case got[i] != want[i]:
			t.Errorf("natively: %s\n         : %s", want[i], got[i])
		}
	}
}

func keep(lines []string, f func(string) bool) (out []string) {
	for _, l := range lines {
		if f(l) {
			out = append(out, l)
		}
	}
	return out
}

// TestProcesses: each way to start a program gives one that sees the pod, whatever its environment has lost, and each
// failure is the kernel's own.
func TestProcesses(t *testing.T) {
	for name, action := range map[string]uint16{"mounted": PathTranslate, "NoFUSE": PathFetch} {
		t.Run(name, func(t *testing.T) { processes(t, newFilesPod(t, action)) })
	}
}

// TestScripts: a script of the pod's is run by the interpreter that it names, which sees it at its path in the pod; other
// programs of the pod's are run as well.
func TestScripts(t *testing.T) {
	for name, action := range map[string]uint16{"mounted": PathTranslate, "NoFUSE": PathFetch} {
		t.Run(name, func(t *testing.T) {
			p := newFilesPod(t, action)
			for _, c := range []struct{ command, want string }{
				{"/app/run one two", "/app/run one two: a plain file\n"},
				{"exec /app/run", "/app/run : a plain file\n"},
				{"/app/twice three", "/app/run first second /app/twice three: a plain file\n"},
				{"PATH=/absent:/app:/usr/bin:/bin; run four", "/app/run four: a plain file\n"},
				{"cd /app; ./run five", "./run five: a plain file\n"},
				{"/app/tool", "a tool\n"},
				{"/app/forbidden 2>/dev/null; echo $?", "126\n"},
				{"/app/self 2>/dev/null; echo $?", "127\n"}, // ELOOP, to dash,
			} {
				out, err := p.inside(t, "glibc", "/bin/sh", "-c", c.command).Output()
				if string(out) != c.want || err != nil {
					t.Errorf("%s: %q, %v", c.command, out, err)
				}
			}
			// The session must look at what is executed: a program that the library cannot serve would be out of the pod's place.
			want := map[uint16]string{PathTranslate: "/app/tool", PathFetch: "/proc/self/fd/"}[action]
			p.mu.Lock()
			defer p.mu.Unlock()
			if !slices.ContainsFunc(p.executed, func(program string) bool { return strings.Contains(program, want) }) {
				t.Errorf("not asked about: %q", p.executed)
			}
		})
	}
}

// TestLibraries: a library of the pod's is loaded from the mount. Where there is none, and for what libc would do with a path
// inside itself, nothing of this machine's takes the pod's place without a word.
func TestLibraries(t *testing.T) {
	const python = `
import ctypes, errno, os
def attempt(f):
    try:
        return f()
    except OSError as e:
        return errno.errorcode.get(e.errno, "OSError")
def refused(result):
    return "ok" if result not in (-1, None) else errno.errorcode[ctypes.get_errno()]
libc = ctypes.CDLL(None, use_errno=True)
libc.fts_open.restype = ctypes.c_void_p
print(attempt(lambda: ctypes.CDLL("/app/lib.so").answer()))
print(refused(libc.nftw(b"/data", None, 5, 0)), refused(libc.fts_open((ctypes.c_char_p * 2)(b"/data", None), 16, None)))
print(attempt(lambda: os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn("/usr/bin/cmp", ["cmp", "-s", "-", "/data/plain"], os.environ,
    file_actions=[(os.POSIX_SPAWN_OPEN, 0, "/data/plain", os.O_RDONLY, 0)]), 0)[1])))
`
	for name, c := range map[string]struct {
		action  uint16
		want    string
		notices []string
	}{
		"mounted": {PathTranslate, "42\nENOSYS ENOSYS\n0\n", []string{"nftw does not", "fts_open does not"}},
		"NoFUSE": {PathFetch, "OSError\nENOSYS ENOSYS\nENOSYS\n", []string{"nftw does not", "fts_open does not",
			"a library of the pod's cannot be loaded without FUSE", "posix_spawn cannot open a file of the pod's without FUSE"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newFilesPod(t, c.action)
			out, err := p.inside(t, "glibc", "python3", "-c", python).Output()
			if string(out) != c.want || err != nil {
				t.Errorf("%q, not %q: %v", out, c.want, err)
			}
			for _, want := range c.notices {
				if !p.says(want) {
					t.Errorf("not said: %s", want)
				}
			}
		})
	}
}

// says waits until a notice that begins so has come: nobody answers one.
func (p *pod) says(begin string) bool {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		p.mu.Lock()
		said := slices.ContainsFunc(p.notices, func(line string) bool { return strings.HasPrefix(line, begin) })
		p.mu.Unlock()
		if said {
			return true
		}
	}
	return false
}

func processes(t *testing.T, p *pod) {
	got := p.said(t, "glibc", "processes")
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
