package session

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestOwn: the debugger stays in its place by each of its names.
func TestOwn(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	program, link := filepath.Join(dir, "program"), filepath.Join(dir, "dlv")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(program, link); err != nil {
		t.Fatal(err)
	}
	s := &Session{dir: dir, options: Options{Place: Place{Debugger: link}}}
	if own := s.own(); !slices.Contains(own, link) || !slices.Contains(own, program) {
		t.Error(own)
	}
}

func TestInterpreter(t *testing.T) {
	for _, none := range []string{"", "/", "shape_test.go", "/no/such/file"} {
		if have := interpreter(none); have != "" {
			t.Errorf("%q: %q", none, have)
		}
	}
	sh, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	if have := interpreter(sh); !filepath.IsAbs(have) {
		t.Errorf("%s: %q", sh, have) // no distribution links its shell statically but those of busybox
	} else if _, err := os.Stat(have); err != nil {
		t.Error(err)
	}
}
