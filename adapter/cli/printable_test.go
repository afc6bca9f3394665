package cli

import (
	"errors"
	"strings"
	"testing"
)

// TestPrintable: no escape sequence of the pod's reaches the terminal.
func TestPrintable(t *testing.T) {
	for raw, want := range map[string]string{
		"plain, …, ü\n\tmore":          "plain, …, ü\n\tmore",
		"\x1b]52;c;cm0=\x07host\r\x9b": "?]52;c;cm0=?host?\ufffd",
		"a\u202eb\u0085":               "a?b?",
	} {
		if have := printable(raw); have != want {
			t.Errorf("%q: %q, want %q", raw, have, want)
		}
	}
	var out strings.Builder
	if Status(errors.New("\x1b[2J"), &out); strings.Contains(out.String(), "\x1b") {
		t.Errorf("%q", out.String())
	}
}
