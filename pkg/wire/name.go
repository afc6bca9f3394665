package wire

import (
	"encoding/base64"
	"fmt"
	"unicode/utf8"
)

// Name is a string as the kernel has it: bytes without a NUL, a file's name or a variable, in whatever encoding. JSON
// knows UTF-8 only, so what is not UTF-8 goes as a NUL, which no such string holds, and the bytes in base64.
type Name string

// MarshalText gives the text that JSON carries.
func (n Name) MarshalText() ([]byte, error) {
	if utf8.ValidString(string(n)) && (n == "" || n[0] != 0) {
		return []byte(n), nil
	}
	return base64.StdEncoding.AppendEncode([]byte{0}, []byte(n)), nil
}

// UnmarshalText undoes MarshalText.
func (n *Name) UnmarshalText(b []byte) error {
	if len(b) == 0 || b[0] != 0 {
		*n = Name(b)
		return nil
	}
	raw, err := base64.StdEncoding.DecodeString(string(b[1:]))
	if err != nil {
		return fmt.Errorf("wire: a name: %v", err)
	}
	*n = Name(raw)
	return nil
}
