package preload

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestInspect(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(shell)
	if err != nil {
		t.Fatal(err)
	}
	inside, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	write("tool", "#!"+shell+"\n", 0o700)
	for _, row := range []struct {
		path, why string
		who       Who
	}{
		{shell, "", Self()},
		{inside, "it is a Go program", Self()},
		{write("script", "#! "+shell+" -e\necho\n", 0o700), "", Self()},
		{write("found", "#!/usr/bin/env -S A=1 tool\n", 0o700), "", Self()},
		{write("go", "#!"+inside+"\n", 0o700), "it is a Go program", Self()},
		{write("text", "echo\n", 0o700), "it is no program", Self()},
		{write("empty", "", 0o700), "it is no program", Self()},
		{write("again", "#!"+filepath.Join(dir, "again")+"\n", 0o700), "it is no program", Self()},
		{write("raised", string(image), 0o700|os.ModeSetuid), "it is a setuid program", Who{Self().UID + 1, Self().GID}},
		{write("raised by its group", string(image), 0o700|os.ModeSetgid), "it is a setuid program", Who{Self().UID, Self().GID + 1}},
		{write("its own", string(image), 0o700|os.ModeSetuid|os.ModeSetgid), "", Self()},
	} {
		p, err := Inspect(row.path, dir, row.who)
		if err != nil {
			t.Errorf("%s: %v", row.path, err)
			continue
		}
		if why := p.Why(); !strings.HasPrefix(why, row.why) || (why == "") != (row.why == "") {
			t.Errorf("%s: %q, not %q (%+v)", row.path, why, row.why, p)
		}
	}
	for _, path := range []string{filepath.Join(dir, "missing"), dir, "/dev/null"} {
		if p, err := Inspect(path, "", Self()); err == nil {
			t.Errorf("%s: %+v", path, p)
		}
	}
	if !(Program{Loader: "/lib/ld-musl-x86_64.so.1"}).Musl() || (Program{Loader: "/lib64/ld-linux-x86-64.so.2"}).Musl() {
		t.Error("the libc is told by the loader")
	}
}

func FuzzInspect(f *testing.F) {
	f.Add([]byte("#!/usr/bin/env sh\n"))
	f.Add([]byte("\x7fELF\x02\x01\x01"))
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "program")
		if err := os.WriteFile(path, content, 0o700); err != nil {
			t.Fatal(err)
		}
		if p, err := Inspect(path, "/nowhere", Self()); err == nil && p.Path == "" {
			t.Error("no path")
		}
	})
}
