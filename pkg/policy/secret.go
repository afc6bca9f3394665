package policy

import (
	"fmt"
	"log/slog"
)

// Secret is a value of the pod's (a variable, a file's content) that must not be said: however it is printed or
// logged, it shows its length alone. A conversion to string or []byte gets the value.
type Secret string

// String says the length in bytes.
func (s Secret) String() string { return fmt.Sprintf("(%d bytes)", len(s)) }

// GoString is String, for %#v.
func (s Secret) GoString() string { return s.String() }

// Format is String for every verb: %x and %d would else look inside.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, s.String()) }

// LogValue is String, for slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText is String, for JSON.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
