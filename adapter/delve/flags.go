package delve

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
)

// buildFlags is a string, split like a shell would at spaces with single quotes, or a list.
type buildFlags struct {
	list []string
	text bool // it was a string
}

// UnmarshalJSON words its error as Delve does.
func (f *buildFlags) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	if json.Unmarshal(b, &f.list) == nil {
		return nil
	}
	var s string
	err := json.Unmarshal(b, &s)
	if t, ok := err.(*json.UnmarshalTypeError); ok {
		return fmt.Errorf(`cannot unmarshal %v into "buildFlags" of type []string or string`, t.Value)
	}
	f.list, f.text = splitQuoted(s), true
	return err
}

// splitQuoted splits at white space; single quotes keep it, and within them a backslash keeps the next character.
func splitQuoted(s string) []string {
	var fields []string
	var field strings.Builder
	begun, quoted, escaped := false, false, false
	for _, r := range s {
		switch {
		case escaped:
			field.WriteRune(r)
			escaped = false
		case quoted && r == '\\':
			escaped = true
		case r == '\'':
			quoted, begun = !quoted, true
		case !quoted && unicode.IsSpace(r):
			if begun {
				fields = append(fields, field.String())
				field.Reset()
				begun = false
			}
		default:
			field.WriteRune(r)
			begun = true
		}
	}
	if begun {
		fields = append(fields, field.String())
	}
	return fields
}

// goArguments is the go command's command line as Delve writes it: a leading -C stays first, as go demands, and
// flags in a list come before ours, those in a string behind.
func goArguments(test bool, output, program string, f buildFlags) []string {
	args := []string{"build"}
	if test {
		args = []string{"test"}
	}
	rest := f.list
	if len(rest) >= 2 && rest[0] == "-C" {
		args, rest = append(args, rest[:2]...), rest[2:]
	} else if len(rest) >= 1 && strings.HasPrefix(rest[0], "-C=") {
		args, rest = append(args, rest[0]), rest[1:]
	}
	if test {
		args = append(args, "-c")
	}
	ours := []string{"-o", output, "-gcflags", "all=-N -l"}
	if f.text {
		args = append(append(args, ours...), rest...)
	} else {
		args = append(append(args, rest...), ours...)
	}
	return append(args, program)
}
