package whole

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// badScripts: what keeps a program in Python or JavaScript from being debugged is said before it starts.
func badScripts(t *testing.T, b *bench) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good.py", "print(1)\n")
	if out, err := exec.Command(systemPython, "-m", "venv", "--without-pip", filepath.Join(dir, "bare")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	file("broken/pyvenv.cfg", "")
	if err := os.MkdirAll(filepath.Join(dir, "broken", "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/nowhere/python3", filepath.Join(dir, "broken", "bin", "python")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name       string
		debugger   map[string]any
		id         fail.Code
		what, hint string
	}{
		{"script that does not exist", map[string]any{"type": "python", "python": systemPython, "program": "absent.py"}, fail.ProgramMissing, "absent.py: no such file", "relative to"},
		{"script that does not exist, of Node", map[string]any{"type": "node", "program": "absent.js"}, fail.ProgramMissing, "absent.js: no such file", "relative to"},
		{"interpreter that does not exist", map[string]any{"type": "python", "python": "absent/python", "program": good}, fail.DebuggerMissing, "absent/python: no such program", "interpreter"},
		{"interpreter without debugpy", map[string]any{"type": "python", "python": "bare/bin/python", "program": good}, fail.DebuggerMissing, "has no debugpy", "-m pip install debugpy"},
		{"broken virtual environment", map[string]any{"type": "python", "python": "broken/bin/python", "program": good}, fail.DebuggerMissing, "its Python leads to /nowhere/python3", "venv --clear"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _ := b.launch(t, dir, b.environ("HOME="+dir, "VIRTUAL_ENV="), map[string]any{"target": b.target(), "debugger": c.debugger})
			r.check(t, c.id, c.what, c.hint)
		})
	}
}

// badPreload: what the library cannot serve, or cannot be loaded into, is a line and never runs outside without one.
func badPreload(t *testing.T, b *bench) {
	preloaded := func(t *testing.T, environ []string, argv ...string) refusal {
		file := filepath.Join(t.TempDir(), "stepin.yaml")
		if err := os.WriteFile(file, []byte("frontEnd: preload\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return b.exec(t, "/", environ, append([]string{"--config", file, "--target", b.target(), "--"}, argv...)...)
	}
	node := func(runtime string) map[string]any {
		return map[string]any{"target": b.target(), "frontEnd": "preload", "debugger": map[string]any{"type": "node", "runtimeExecutable": runtime}}
	}
	const hint = `"frontEnd": "namespaces"`
	t.Run("static program", func(t *testing.T) {
		preloaded(t, b.environ(), b.exe, "exit", "0").check(t, 0, "cannot be run with frontEnd preload: it is a Go program", hint)
		r, _ := b.launch(t, "/", b.environ(), merge(b.ending("exit", "0"), preloading))
		r.check(t, fail.PreloadForbidden, "cannot be run with frontEnd preload: it is a Go program", hint)
		r, _ = b.launch(t, "/", b.environ(), node(b.exe))
		r.check(t, fail.PreloadForbidden, "cannot be run with frontEnd preload: it is a Go program", hint)
	})
	t.Run("setuid program", func(t *testing.T) {
		program := setuid(t)
		preloaded(t, b.environ(), program).check(t, 0, "cannot be run with frontEnd preload: it is a setuid program", hint)
		r, _ := b.launch(t, "/", b.environ(), node(program))
		r.check(t, fail.PreloadForbidden, "cannot be run with frontEnd preload: it is a setuid program", hint)
	})
	t.Run("library that cannot be loaded", func(t *testing.T) {
		blank := filepath.Join(b.dir, "tmp", "a b")
		if err := os.Mkdir(blank, 0o700); err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(blank)
		preloaded(t, b.environ("TMPDIR="+blank), "/bin/true").check(t, 0, "no library can be loaded from", "TMPDIR")
	})
	t.Run("library that is not loaded", func(t *testing.T) {
		program := deaf(t)
		preloaded(t, b.environ(), program).check(t, 0, "deaf does not load stepin's library, and would have run on this machine", hint)
		// As an interpreter it has to say where it is and has debugpy.
		interpreter := filepath.Join(t.TempDir(), "python")
		text := fmt.Sprintf("#!/bin/sh\necho '{\"executable\": \"%s\", \"debugpy\": \"'$(%s -c 'import debugpy; print(debugpy.__path__[0])')'\"}'\n", program, systemPython)
		if err := os.WriteFile(interpreter, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		// Without noDebug debugpy itself gives up: it waits for the debuggee to connect.
		a := dapIn(t, "/", b.environ())
		a.must("initialize", map[string]any{"adapterID": "stepin"}, nil)
		a.must("launch", map[string]any{"target": b.target(), "frontEnd": "preload", "noDebug": true, "debugger": map[string]any{"type": "python",
			"python": interpreter, "debugAdapterPython": systemPython, "module": "this"}}, nil)
		a.until("terminated")
		if said := a.Output("stderr"); strings.Count(said, "deaf does not load stepin's library, and runs on this machine") != 1 || !strings.Contains(said, hint) {
			t.Errorf("the user reads %q", said)
		}
		a.disconnect()
	})
	t.Run("port taken on the host", func(t *testing.T) { preloadMoved(t, b.pod) })
}

// setuid is a program that gets another user's rights.
func setuid(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		return "/bin/su" // an ordinary user can make none
	}
	path := filepath.Join(t.TempDir(), "raised")
	image, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{os.WriteFile(path, image, 0o755), os.Chown(path, otherUser, otherUser), os.Chmod(path, 0o755|os.ModeSetuid)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// deaf is a program that looks like any other, whose loader, however, takes no library: it is a program itself, which waits.
func deaf(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	const waits = `void _start(void)
{
	for (;;)
#ifdef __x86_64__
		__asm__ volatile("syscall" : : "a"(34) : "rcx", "r11", "memory"); // pause
#else
		__asm__ volatile("mov x0, #0\n mov x1, #0\n mov x2, #0\n mov x3, #0\n mov x8, #73\n svc 0" : : : "x0", "x1", "x2", "x3", "x8", "memory"); // ppoll
#endif
}
`
	for name, text := range map[string]string{"loader.c": waits, "deaf.c": "int main(void) { return 0; }\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range []string{"-static-pie -nostdlib -ffreestanding -o loader loader.c", fmt.Sprintf("-Wl,--dynamic-linker=%s/loader -o deaf deaf.c", dir)} {
		cmd := exec.Command("gcc", strings.Fields(line)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	return filepath.Join(dir, "deaf")
}
