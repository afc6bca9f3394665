package parent

import (
	"os"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestParsePod(t *testing.T) {
	if pid, err := parsePod("local/42"); pid != 42 || err != nil {
		t.Error(pid, err)
	}
	for _, bad := range []string{"", "42", "local/", "local/0", "local/-1", "local/x", "local/1/2", "pod/orders"} {
		if _, err := parsePod(bad); err == nil || !strings.Contains(err.Error(), " hint: ") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestOpenTarget(t *testing.T) {
	own, err := openTarget(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer own.close()
	if !own.alive() || !own.same(os.Getpid()) || own.status.UID != os.Geteuid() || !own.userns || own.String() == "" {
		t.Errorf("%+v", own)
	}
	if _, err := openTarget(1 << 30); err == nil {
		t.Error("a process that cannot be")
	}
}

// FuzzLock: what holds the lock may be anything.
func FuzzLock(f *testing.F) {
	f.Add("agent 1 by a@b since 2026-11-23T12:00:00Z\n")
	f.Add("\x1b[31m\xff\n")
	f.Fuzz(func(t *testing.T, s string) {
		line, err := readLock(strings.NewReader(s))
		if err != nil {
			return
		}
		if !utf8.ValidString(line) || strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) || len(line) > maxLockLine {
			t.Errorf("%q", line)
		}
	})
}
