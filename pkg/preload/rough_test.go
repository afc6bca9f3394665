package preload

import (
	"bytes"
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestRough: what programs do to themselves neither loses the pod nor harms them.
func TestRough(t *testing.T) {
	each(t, func(t *testing.T, name string) {
		p := newPod(t)
		children := "10000"
		if name == "sanitized" {
			children = "200" // a fork of its shadow memory takes 5 ms
		}
		for _, c := range []struct {
			args []string
			want string
		}{
			{[]string{"plain"}, "1\n"},
			{[]string{"closed"}, "1 1\n"},
			{[]string{"forked", children}, children + "\n"},
			{[]string{"vforked"}, "1 1\n"},
			{[]string{"cleared"}, "1\n"},
			{[]string{"signals"}, "1\n"},
			{[]string{"threads"}, "400\n"},
			{[]string{"handler"}, "1\n"},
			{[]string{"pointers"}, "connect EFAULT\nbind EFAULT\nsendto EFAULT\nsendmsg EFAULT\nrecvmsg EFAULT\ngetsockname EFAULT\n" +
				"getpeername EFAULT\nno socket EBADF\nshort EINVAL\n"},
			{[]string{"ring"}, "Function not implemented\n"},
			{[]string{"full"}, map[bool]string{true: "No file descriptors available\n", false: "Too many open files\n"}[name == "musl"]},
		} {
			if name == "sanitized" && c.args[0] == "pointers" {
				continue // the sanitizer's own wrappers read what the kernel would refuse
			}
			t.Run(c.args[0], func(t *testing.T) {
				same(t, p.run(t, name, "rough", c.args...), c.want)
			})
		}
		for _, what := range []string{"root", "user"} {
			if os.Getuid() == 0 {
				same(t, p.run(t, name, "rough", what), "1\n")
			}
		}
	})
}

// TestSanitizedProgram: one that has the sanitizer in itself takes the library all the same.
func TestSanitizedProgram(t *testing.T) {
	p := newPod(t)
	rough := shop.make(t, "rough-address", "gcc", "-std=gnu11", "-D_GNU_SOURCE", "-g", "-fsanitize=address,undefined", "-o", "OUT", "preload/test/rough.c")
	for _, what := range []string{"plain", "threads", "forked"} {
		cmd := p.inside(t, "glibc", rough, what, "50")
		cmd.Env = append(cmd.Env, "ASAN_OPTIONS=")
		out, err := cmd.CombinedOutput()
		if want := map[string]string{"plain": "1\n", "threads": "400\n", "forked": "50\n"}[what]; err != nil || string(out) != want {
			t.Errorf("%s: %v, %q", what, err, out)
		}
	}
}

// TestGreeting: without a session a program ends in words, or goes on where it was told to; what is not the debuggee is
// left alone.
func TestGreeting(t *testing.T) {
	each(t, func(t *testing.T, name string) {
		p := newPod(t)
		gone, l := greeter(t, nil)
		l.Close()
		mute, _ := greeter(t, nil)
		other, _ := greeter(t, func() (HelloAnswer, syscall.Errno) { return HelloAnswer{}, syscall.EPROTONOSUPPORT })
		host, _ := greeter(t, func() (HelloAnswer, syscall.Errno) { return HelloAnswer{}, 0 })
		stranger := strings.Replace(p.variable, p.token, strings.Repeat("0", TokenLen), 1)
		for _, c := range []struct {
			what, variable string
			code           int
			words          string
		}{
			{"served", p.variable, 0, ""},
			{"a host program", host, 0, ""},
			{"not the debuggee", "X=1", 0, ""},
			{"no session", gone, 125, "nobody answers"},
			{"no session, and told to go on", strings.Replace(gone, ":-:", ":h:", 1), 0, ""},
			{"a silent session", mute, 125, "within 2 seconds"},
			{"another version", other, 125, "another version"},
			{"a wrong token", stranger, 125, "does not know it"},
			{"nonsense", Variable + "=1:-:zzz", 125, "not what this version"},
			{"the next version", strings.Replace(p.variable, "=1:", "=2:", 1), 125, "not what this version"},
		} {
			cmd := p.inside(t, name, program(t, name, "rough"), "pointers")
			cmd.Env[len(cmd.Env)-1] = c.variable
			var errs bytes.Buffer
			cmd.Stderr = &errs
			err := cmd.Run()
			code := 0
			if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
				code = exit.ExitCode()
			} else if err != nil {
				t.Fatal(err)
			}
			if name == "sanitized" && c.code == 0 {
				continue
			}
			if code != c.code || !strings.Contains(errs.String(), c.words) || (c.code != 0) != strings.Contains(errs.String(), "\nhint: ") {
				t.Errorf("%s: status %d, %q", c.what, code, errs.String())
			}
		}
	})
}

// TestLost: the session goes while the program runs.
func TestLost(t *testing.T) {
	for lost, want := range map[uint32]string{LostFail: "connect: No route to host\nNo route to host\n", LostHost: "connect: Connection refused\nConnection refused\n"} {
		variable, l := greeter(t, func() (HelloAnswer, syscall.Errno) { return HelloAnswer{Serve: ServeTCP, Lost: lost}, 0 })
		t.Cleanup(func() { l.Close() })
		p := &pod{variable: variable}
		same(t, p.run(t, "glibc", "late", "block", "127.0.0.1", "1"), want)
	}
}

// TestExports: the wrappers named in the files are what the library exports, no more and no less.
func TestExports(t *testing.T) {
	sources, err := filepath.Glob("../../preload/*.c")
	if err != nil || len(sources) == 0 {
		t.Fatal(err, sources)
	}
	for name, conditional := range map[string]bool{"glibc": true, "musl": false} {
		var want []string
		for _, source := range sources {
			// The preprocessor knows what is for which libc. SP_WRAP of syscall is a comment above its assembly.
			text, err := os.ReadFile(source)
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, wrapped(string(text), conditional)...)
		}
		sort.Strings(want)
		file, err := elf.Open(library(t, name))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		symbols, err := file.DynamicSymbols()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range symbols {
			if s.Section != elf.SHN_UNDEF && !slices.Contains([]string{"_init", "_fini"}, s.Name) {
				got = append(got, s.Name)
			}
		}
		sort.Strings(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s exports\n%v\nits files wrap\n%v", name, got, want)
		}
	}
}

var (
	// SP_WRAP itself, or one of a file's own macros for many alike: of those the lines that define them begin with a tab.
	wrapLine = regexp.MustCompile(`^(?:// )?(?:SP_WRAP\([^,]*, *|(?:ATTRIBUTE|SP_MAKES|SP_REFUSE)\([^,]*, *|(?:SP_(?:X?STAT|X?STATAT|FX?STAT|ACCESS|STATFS|OPEN|OPENAT|OPEN_2|OPENAT_2|CREAT|FOPEN|FREOPEN)|ONE|TWO)\()(\w+)[,)]`)
	ifLine   = regexp.MustCompile(`^#\s*(if|ifdef|ifndef|else|endif)\b(.*)`)
)

// wrapped returns the names that a source wraps for a libc. Of the conditions it knows those on __GLIBC__ alone.
func wrapped(source string, glibc bool) (out []string) {
	var in []bool // for each condition that is open, whether it holds
	for line := range strings.Lines(source) {
		if m := ifLine.FindStringSubmatch(line); m != nil {
			about := strings.TrimSpace(m[2])
			switch {
			case m[1] == "endif":
				in = in[:len(in)-1]
			case m[1] == "else":
				in[len(in)-1] = !in[len(in)-1]
			case strings.HasPrefix(about, "__GLIBC__"):
				in = append(in, (m[1] == "ifdef") == glibc)
			default:
				in = append(in, true)
			}
		}
		if m := wrapLine.FindStringSubmatch(line); m != nil && !slices.Contains(in, false) {
			out = append(out, m[1])
		}
	}
	return out
}

// TestFloor: no symbol is newer than glibc 2.17, of 2012, and the libraries needed are libc's.
func TestFloor(t *testing.T) {
	file, err := elf.Open(library(t, "glibc"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	symbols, err := file.ImportedSymbols()
	if err != nil || len(symbols) == 0 {
		t.Fatal(err)
	}
	for _, s := range symbols {
		if s.Version == "" { // weak: of the compiler's start files
			continue
		}
		number, ok := strings.CutPrefix(s.Version, "GLIBC_2.")
		minor, err := strconv.Atoi(strings.Split(number, ".")[0])
		if !ok || err != nil || minor > 17 {
			t.Errorf("%s needs %s", s.Name, s.Version)
		}
	}
	needed, err := file.ImportedLibraries()
	if err != nil || !slices.Equal(needed, []string{"libdl.so.2", "libc.so.6"}) {
		t.Errorf("it needs %v (%v)", needed, err)
	}
}
