package dap

import (
	"slices"
	"strings"
	"testing"
)

// TestOwnLines reads lines around the sizes where a reader cuts: each comes whole or not at all.
func TestOwnLines(t *testing.T) {
	long := strings.Repeat("x", 64<<10-3) + "secret" + strings.Repeat("y", 64<<10)
	endless := strings.Repeat("z", maxOwnLine-3) + "secret"
	var got []string
	ownLines(strings.NewReader("one\r\n\n"+long+"\n"+endless+"\ntwo\nlast"), func(line string) { got = append(got, line) })
	if len(got) != 5 || strings.Contains(got[2], "z") || len(got[2]) > 100 {
		t.Fatalf("%d lines", len(got))
	}
	if got = slices.Delete(got, 2, 3); !slices.Equal(got, []string{"one", long, "two", "last"}) {
		t.Errorf("%.40q", got)
	}
}
