package preload

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestBecomes: a program that becomes another user, or changes its root directory, and executes another, has that in the
// pod's place or refused in words: never outside without one.
func TestBecomes(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("becoming another user takes root")
	}
	each(t, func(t *testing.T, name string) {
		if name == "sanitized" {
			return // its loading reads files that the other user cannot
		}
		rough := program(t, name, "rough")
		image, err := os.ReadFile(library(t, name))
		if err != nil {
			t.Fatal(err)
		}
		kept := filepath.Join(shortDir(t), "kept.so") // in a directory of root's own
		root := shortDir(t)
		for path, content := range map[string][]byte{kept: image, filepath.Join(root, "rough"): nil} {
			if err := os.WriteFile(path, content, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		const nobody = "65534"
		for _, c := range []struct {
			what, library string
			others        bool
			args          []string
			out, said     string
			status        int
		}{
			{"another user", library(t, name), true, []string{"executed", nobody, "-", rough, "plain"}, "1\n", "", 0},
			{"another user, who cannot ask", library(t, name), false, []string{"executed", nobody, "-", rough, "plain"}, "", "nobody answers", 125},
			{"another user, who cannot load", kept, true, []string{"executed", nobody, "-", rough, "plain"}, "Operation not permitted\n",
				" cannot be run in the pod's place: its process has changed its root directory or its user", 0},
			{"another user's rights", library(t, name), true, []string{"effective", nobody, rough, "plain"}, "Operation not permitted\n",
				" cannot be run in the pod's place: its process has the rights of another user", 0},
			{"another root", library(t, name), true, []string{"executed", "-", root, "/rough", "plain"}, "Operation not permitted\n",
				" cannot be run in the pod's place: its process has changed its root directory or its user", 0},
			{"what is not there", kept, true, []string{"executed", nobody, "-", "/absent", "plain"}, "No such file or directory\n", "", 0},
		} {
			t.Run(c.what, func(t *testing.T) {
				p := &pod{t: t}
				dir := shortDir(t)
				mode := map[bool]os.FileMode{true: 0o711, false: 0o700}[c.others]
				if err := os.Chmod(dir, mode); err != nil {
					t.Fatal(err)
				}
				p.Server, err = New(Config{Dir: dir, Others: c.others, Serve: ServeTCP | ServeExec, Handler: p})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(p.Close)
				p.variable = Variable + "=" + p.Value()
				cmd := p.inside(t, name, append([]string{rough}, c.args...)...)
				cmd.Env = append(cmd.Env, "LD_PRELOAD="+c.library)
				var out, errs bytes.Buffer
				cmd.Stdout, cmd.Stderr = &out, &errs
				_ = cmd.Run() // the status tells
				p.Close()
				said := errs.String() + strings.Join(p.notices, "\n")
				if out.String() != c.out || cmd.ProcessState.ExitCode() != c.status || !strings.Contains(said, c.said) || c.said == "" && said != "" {
					t.Errorf("%q, status %d, said %q", out.String(), cmd.ProcessState.ExitCode(), said)
				}
			})
		}
	})
}

// TestOtherUsers: who is not the debuggee's user is let in by the token only, and the developer is told of him once.
func TestOtherUsers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("becoming another user takes root")
	}
	var became []int
	p := &pod{t: t}
	dir := shortDir(t)
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	var err error
	p.Server, err = New(Config{Dir: dir, Others: true, Serve: ServeTCP, Handler: p, Became: func(uid int) { became = append(became, uid) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	for value, want := range map[string]string{p.Value(): "1\n1\n", strings.Replace(p.Value(), p.token, strings.Repeat("0", TokenLen), 1): ""} {
		p.variable = Variable + "=" + value
		var out string
		for range 2 {
			cmd := p.inside(t, "glibc", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program(t, "glibc", "rough"), "plain")
			cmd.Env = slices.DeleteFunc(cmd.Env, func(e string) bool { return strings.HasPrefix(e, "LD_PRELOAD=") })
			cmd.Args = slices.Insert(cmd.Args, 4, "env", "LD_PRELOAD="+library(t, "glibc")) // setpriv itself is not the debuggee
			text, _ := cmd.Output()
			out += string(text)
		}
		same(t, out, want)
	}
	p.Close()
	if !slices.Equal(became, []int{65534}) {
		t.Errorf("told of %v", became)
	}
}
