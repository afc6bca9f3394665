package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestRead has `go test -json` run little modules, so that the events are the real ones of this Go.
func TestRead(t *testing.T) {
	for _, test := range []struct {
		name, source            string
		passed, failed, skipped int
		err                     string
		has, hasNot             []string
	}{
		{
			name: "pass and skip",
			source: `func TestA(t *testing.T) { t.Log("quiet"); t.Run("sub", func(*testing.T) {}) }
				func TestB(t *testing.T) { print("no newline"); }
				func TestC(t *testing.T) { t.Skip("the moon is not full") }`,
			passed: 2, skipped: 1,
			has:    []string{"the moon is not full", "ok  \tlittle", "2 passed, 0 failed, 1 skipped\n"},
			hasNot: []string{"quiet", "=== RUN"},
		},
		{
			name: "fail",
			source: `func TestA(t *testing.T) { t.Run("sub", func(t *testing.T) { t.Error("one is not two") }) }
				func TestB(t *testing.T) { t.Log("quiet") }`,
			passed: 1, failed: 1, err: "1 failed",
			has:    []string{"one is not two", "--- FAIL: TestA", "FAIL\tlittle"},
			hasNot: []string{"quiet"},
		},
		{
			name:   "does not build",
			source: `func TestA(t *testing.T) { undefined() }`,
			failed: 1, err: "1 failed", has: []string{"undefined: undefined", "does not build"},
		},
		{
			name:   "dies",
			source: `func TestA(t *testing.T) {}; func TestB(t *testing.T) { t.Log("last words"); panic("help") }`,
			passed: 1, failed: 1, err: "1 failed", has: []string{"last words", "panic: help"},
		},
		{
			name:   "exits in a test",
			source: `func TestA(t *testing.T) { os.Exit(3) }; var _ = os.Exit`,
			failed: 1, err: "1 failed", has: []string{"FAIL\tlittle: failed outside"},
		},
		{name: "no test", source: ``, err: "no test ran"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			c := newTally(&out)
			err := c.read(bytes.NewReader(events(t, test.source)))
			text := out.String()
			if test.name == "fail" && strings.Join(c.names, "") != "TestA\n" || test.name == "pass and skip" && len(c.names) != 0 {
				t.Errorf("names of what failed: %q", c.names)
			}
			if c.passed != test.passed || c.failed != test.failed || c.skipped != test.skipped {
				t.Errorf("%d %d %d, want %d %d %d", c.passed, c.failed, c.skipped, test.passed, test.failed, test.skipped)
			}
			if (err != nil || test.err != "") && (err == nil || err.Error() != test.err) {
				t.Errorf("error %v, want %q", err, test.err)
			}
			for _, s := range test.has {
				if !strings.Contains(text, s) {
					t.Errorf("lacks %q", s)
				}
			}
			for _, s := range test.hasNot {
				if strings.Contains(text, s) {
					t.Errorf("has %q", s)
				}
			}
			if t.Failed() {
				t.Log(text)
			}
		})
	}
}

func events(t *testing.T, source string) []byte {
	t.Helper()
	dir := t.TempDir()
	imports := "import \"testing\"\nvar _ testing.TB\n"
	if strings.Contains(source, "os.") {
		imports = "import (\"os\"; \"testing\")\n"
	}
	for name, text := range map[string]string{
		"go.mod":         "module little\n",
		"little_test.go": "package little\n" + imports + source,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "test", "-json", "-vet=off", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath", "GOWORK=off")
	out, err := cmd.Output() // go test exits with 1 where a test fails
	if len(out) == 0 {
		t.Fatalf("go test: %v", err)
	}
	return out
}

// A run cut off (go test killed) must not pass.
func TestCutOff(t *testing.T) {
	for _, in := range []string{
		`{"Action":"start","Package":"p"}` + "\n" + `{"Action":"pass","Package":"p","Test":"TestA"}` + "\n",
		`{"Action":"pass","Package":"p","Test":"TestA"}` + "\n" + `{"Act`,
		`not JSON`,
		``,
	} {
		var out bytes.Buffer
		if err := newTally(&out).read(strings.NewReader(in)); err == nil {
			t.Errorf("%q passes: %s", in, out.String())
		}
	}
}
