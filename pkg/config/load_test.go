package config

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/stepin-dev/stepin/pkg/fail"
)

func TestMerge(t *testing.T) {
	file, err := ParseYAML("/w/stepin.yaml", []byte(`
target: local/1
incoming: {mode: off, ports: [80, 81], map: {80: 8080}}
env:
  override: {A: "1", B: "2"}
  file: cfg/.env
debugger: {type: go, args: [a, b], env: {X: "1", Z: "2"}}
hostname: false
`))
	if err != nil {
		t.Fatal(err)
	}
	l, err := Merge(file, []byte(`{"target":"local/2","type":"stepin","incoming":{"ports":[80],"mode":null},
		"env":{"override":{"B":"3"}},"debugger":{"args":[],"env":{"Z":null}}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Target, want.Hostname = "local/2", false
	want.Incoming.Ports, want.Incoming.Map = []Port{80}, map[Port]Port{80: 8080}
	want.Env.Override, want.Env.File = map[string]string{"A": "1", "B": "3"}, "/w/cfg/.env"
	have := *l
	have.Debugger, have.Editor, have.written = Debugger{}, nil, nil
	if !reflect.DeepEqual(&have, want) {
		t.Errorf("have %+v\nwant %+v", &have, want)
	}
	if k := l.Debugger.Keys; string(k["args"]) != "[]" || string(k["env"]) != `{"X":"1","Z":null}` || l.Debugger.Type != "go" {
		t.Errorf("debugger: %s", k)
	}
	again, err := Merge(file, []byte(`{}`))
	if err != nil || again.Incoming.Mode != "off" || len(again.Incoming.Ports) != 2 {
		t.Errorf("the file changed by being merged: %+v, %v", again, err)
	}
	if _, err := Merge(file, []byte(`{"incoming":{"ports":[9]}}`)); fail.CodeOf(err) != fail.ConfigValue {
		t.Errorf("a conflict between the two documents: %v", err)
	}
}

func TestBrokenYAML(t *testing.T) {
	tests := []struct {
		name, in string
		code     fail.Code
		want     string
	}{
		{"syntax", "target: local/1\nincoming: {\n", fail.ConfigSyntax, "f:2: "},
		{"tab", "target: local/1\nincoming:\n\tmode: off\n", fail.ConfigSyntax, "f:3: found character that cannot start any token"},
		{"indentation", "a:\n  b: 1\n c: 2\n", fail.ConfigSyntax, "f:2: "},
		{"twice", "dns: true\nhostname: true\ndns: false\n", fail.ConfigSyntax, `f:3: key "dns" already set in map`},
		{"two documents", "dns: true\n---\ndns: false\n", fail.ConfigSyntax, "f:2: a second document"},
		{"list", "- a\n", fail.ConfigValue, "f:1: the configuration must be an object, not a list"},
		{"text", "hello", fail.ConfigValue, "f:1: the configuration must be an object, not a string"},
		{"unknown", "# c\n\nincoming:\n  mode: off\n  prots: [80]\n", fail.ConfigUnknownKey, `f:5: incoming.prots: unknown key; did you mean "ports"?`},
		{"other object's key of that name", "outgoing:\n  tcp: true\nincoming:\n  ports:\n  - 80\n  - 0\n", fail.ConfigValue, "f:6: incoming.ports[1]: 0 is no port"},
		{"flow", "dns: true\nincoming: {ports: [80, 0]}\n", fail.ConfigValue, "f:2: incoming.ports[1]: 0 is no port"},
		{"quoted key", "'files':\n  map:\n    \"/a.b\": c\n", fail.ConfigValue, `f:3: files.map."/a.b": "c" is not absolute`},
		{"number for text", "env:\n  override:\n    A: x\n    PORT: 8080\n", fail.ConfigValue, "f:4: env.override.PORT: must be a string, not a number"},
		{"editor keys are not ours here", "name: x\n", fail.ConfigUnknownKey, "f:1: name: unknown key"},
		{"later", "dns: true\nincoming:\n  filter: {}\n", fail.ConfigLater, "f:3: incoming.filter: the key does not exist"},
		{"bare y", "env:\n  override:\n    y: a\n", fail.ConfigValue, "f:2: env.override.true: YAML reads a bare y"},
		{"in the order of the lines", "zz: 1\nincoming:\n  ports: [0]\ndns: 3\n", fail.ConfigUnknownKey, "f:1: zz: unknown key; also f:3: incoming.ports[0]: 0 is no port; also f:4: dns: "},
		{"nested too deep", strings.Repeat("[", 20000), fail.ConfigSyntax, "f:1: exceeded max depth"},
		{"a billion", "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + bomb(), fail.ConfigSyntax, "f:1: document contains excessive aliasing"},
		{"alias", "a: &a [x]\nb: [*a]\n", fail.ConfigUnknownKey, "f:1: a: unknown key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseYAML("f", []byte(tt.in))
			refused(t, tt.in, err, tt.code, tt.want)
		})
	}
	for _, fine := range []string{"", "# only a comment\n", "---\ndns: true\n", "dns: true\n---\n# nothing\n", "%YAML 1.1\n---\ndns: yes\n...\n"} {
		if _, err := ParseYAML("f", []byte(fine)); err != nil {
			t.Errorf("%q: %v", fine, err)
		}
	}
}

// bomb is the rest of "a billion laughs": each line ten times the one before.
func bomb() string {
	var b strings.Builder
	for c := 'b'; c < 'j'; c++ {
		fmt.Fprintf(&b, "%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", c-1), 10), ","))
	}
	return b.String()
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, Name), "target: local/1\n")
	write(t, filepath.Join(dir, "a", "b", "main.go"), "package main\n")
	above := filepath.Join(dir, Name)
	for _, start := range []string{dir, filepath.Join(dir, "a", "b"), filepath.Join(dir, "a", "b", "main.go"), filepath.Join(dir, "a", "none", "x")} {
		if f, err := Load(start); err != nil || f == nil || f.Path != above {
			t.Errorf("Load(%s) = %v, %v", start, f, err)
		}
	}
	nearer := filepath.Join(dir, "a", Name)
	write(t, nearer, "target: local/2\nprots: 1\n")
	_, err := Load(filepath.Join(dir, "a", "b", "main.go"))
	refused(t, "a broken file", err, fail.ConfigUnknownKey, nearer+":2: prots: unknown key")
	if err := os.Remove(nearer); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(nearer, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err = Load(filepath.Join(dir, "a"))
	refused(t, "a directory", err, fail.ConfigSyntax, nearer+" is not a file")
	if err := os.Remove(nearer); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(nearer, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = Load(filepath.Join(dir, "a"))
	refused(t, "a FIFO", err, fail.ConfigSyntax, nearer+" is not a file")
	if err := os.Remove(nearer); err != nil {
		t.Fatal(err)
	}
	write(t, nearer, "#"+strings.Repeat("x", maxFile))
	_, err = Load(filepath.Join(dir, "a"))
	refused(t, "a huge file", err, fail.ConfigSyntax, nearer+" is larger than")
}

// TestLoadStranger: root gives files to somebody else. For an ordinary user root is somebody else, once he is in a user
// namespace that knows nobody but him (user_namespaces(7)): there the test runs again, with links to root's files.
func TestLoadStranger(t *testing.T) {
	const stranger = 65534 // also the number of those that a namespace does not know
	if os.Geteuid() != 0 {
		again := exec.Command("/proc/self/exe", "-test.run=^TestLoadStranger$", "-test.v")
		again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}}
		if out, err := again.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestLoadStranger") {
			t.Errorf("in a user namespace: %v\n%s", err, out)
		}
		return
	}
	dir := t.TempDir()
	path, work := filepath.Join(dir, Name), filepath.Join(dir, "work")
	write(t, path, "target: local/1\n")
	if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	give := func(path, roots string) {
		err := os.Chown(path, stranger, stranger)
		if errors.Is(err, syscall.EINVAL) { // there is no such user in this namespace
			err = errors.Join(os.Remove(path), os.Symlink(roots, path))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	give(path, "/etc/passwd")
	_, err := Load(work)
	refused(t, "a stranger's file", err, fail.ConfigSyntax, path+" belongs to uid 65534")
	give(work, "/etc")
	f, err := Load(filepath.Join(work, "main.go"))
	if _, link := os.Readlink(path); link == nil && err != nil && !strings.Contains(err.Error(), "belongs to") {
		return // passwd is read, which is no YAML
	}
	if err != nil || f == nil {
		t.Errorf("the file of the one whose code is run: %v, %v", f, err)
	}
}

func TestLineOf(t *testing.T) {
	lines := strings.Split("a: 1\nb:\n  c: 2\n\n  # d: 9\n  d:\n  - e: 3\n    f: 4\n  - 'g': 5\nc: 6\n", "\n")
	for path, want := range map[string]int{"": 1, "a": 1, "b": 2, "b.c": 3, "b.d": 6, "b.d[0]": 7, "b.d[0].e": 7, "b.d[0].f": 8,
		"b.d[1].g": 9, "c": 10, "b.zzz": 2, "zzz": 1, "b.d[7]": 6} {
		if have := lineOf(lines, path); have != want {
			t.Errorf("lineOf(%s) = %d, want %d", path, have, want)
		}
	}
}
