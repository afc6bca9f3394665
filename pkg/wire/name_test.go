package wire

import (
	"encoding/json"
	"testing"
	"unicode/utf8"
)

// FuzzName: every string comes back as it was.
func FuzzName(f *testing.F) {
	for _, s := range []string{"", "PATH=/bin", "caf\xe9", "\xff\xfe", "\x00", "a\x00b", "\ufffd", "<&>\u2028"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		raw, err := json.Marshal(DirEntry{Name: Name(s), Target: Name(s)})
		if err != nil || !utf8.Valid(raw) {
			t.Fatal(string(raw), err)
		}
		var back DirEntry
		if err := json.Unmarshal(raw, &back); err != nil || back.Name != Name(s) || back.Target != Name(s) {
			t.Fatalf("%q: %+v, %v", s, back, err)
		}
		_ = new(Name).UnmarshalText([]byte(s)) // whatever a peer sends
	})
}
