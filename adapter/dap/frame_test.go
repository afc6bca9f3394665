package dap

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
)

func TestReadFrame(t *testing.T) {
	for _, c := range []struct{ in, body, err string }{
		{"Content-Length: 2\r\n\r\n{}", "{}", ""},
		{"content-length:2\r\nContent-Type: application/vscode-jsonrpc; charset=utf-8\r\n\r\n{}", "{}", ""},
		{"Content-Length: 2\n\n{}", "{}", ""},
		{"", "", "EOF"},
		{"Content-Length: 2", "", "unexpected EOF"},
		{"Content-Length: 2\r\n\r\n{", "", "unexpected EOF"},
		{"Content-Length: 3\r\nContent-Length: 2\r\n\r\n{}", "", "bad Content-Length"},
		{"Content-Length: -1\r\n\r\n", "", "bad Content-Length"},
		{"Content-Length: 99999999\r\n\r\n", "", "bad Content-Length"},
		{"\r\n{}", "", "no Content-Length"},
		{"Content-Type: x\r\n\r\n{}", "", "no Content-Length"},
		{"POST / HTTP/1.1\r\n\r\n", "", "unknown header field"},
		{"Content-Length: 2\r\nHost: localhost\r\n\r\n{}", "", "unknown header field"},
		{"Content-Length : 2\r\n\r\n{}", "", "unknown header field"},
		{strings.Repeat("Content-Type: x\r\n", 9) + "\r\n", "", "too many header fields"},
		{"Content-Type: " + strings.Repeat("x", 1000) + "\r\n\r\n", "", "header line too long"},
	} {
		body, err := ReadFrame(bufio.NewReader(strings.NewReader(c.in)))
		if string(body) != c.body || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: %q %v, want %q %q", c.in, body, err, c.body, c.err)
		}
	}
}

// TestMessagePasses checks that what stepin does not know stays as it is.
func TestMessagePasses(t *testing.T) {
	in := `{"seq":7,"type":"request","command":"launch","later":[null,{"x":1.00}],"arguments":{"env":{"A":null},"big":12345678901234567890,"html":"<&>"}}`
	m, err := ParseMessage([]byte(in))
	if err != nil {
		t.Fatal(err)
	}
	out, err := m.encode(3)
	if err != nil {
		t.Fatal(err)
	}
	for _, keep := range []string{`"later":[null,{"x":1.00}]`, `"env":{"A":null}`, `12345678901234567890`, `"<&>"`, `"seq":3`} {
		if !bytes.Contains(out, []byte(keep)) {
			t.Errorf("%s lacks %s", out, keep)
		}
	}
}

func TestIncomplete(t *testing.T) {
	for in, want := range map[string]int{"": 0, "a": 0, "ä": 0, "ä"[:1]: 1, "€"[:2]: 2, "😀"[:3]: 3, "a😀"[:2]: 1, "\xff": 0, "a\x80\x80\x80\x80": 0} {
		if got := incomplete([]byte(in)); got != want {
			t.Errorf("%q: %d, want %d", in, got, want)
		}
	}
}

// FuzzFrames feeds bytes to what reads the editor's stream: no input may do more than end it.
func FuzzFrames(f *testing.F) {
	for _, s := range []string{
		"Content-Length: 2\r\n\r\n{}",
		`Content-Length: 52` + "\r\n\r\n" + `{"seq":1,"type":"request","command":"initialize"}   `,
		"POST / HTTP/1.1\r\n\r\n",
		"Content-Length: 16777217\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bufio.NewReader(bytes.NewReader(in))
		for {
			body, err := ReadFrame(r)
			if err != nil {
				if errors.Is(err, io.EOF) && len(in) > 0 && r.Buffered() > 0 {
					t.Errorf("stopped before the end: %v", err)
				}
				return
			}
			m, err := ParseMessage(body)
			if err != nil {
				continue
			}
			out, err := m.encode(5)
			if err != nil {
				t.Fatalf("%s: %v", body, err)
			}
			again, err := ParseMessage(out)
			if err != nil || again.Seq != 5 || again.Type != m.Type || again.Command != m.Command || again.Event != m.Event {
				t.Fatalf("%s became %s: %v", body, out, err)
			}
			var a, b map[string]any
			if json.Unmarshal(body, &a) == nil && json.Unmarshal(out, &b) == nil {
				delete(a, "seq")
				delete(b, "seq")
				delete(a, "request_seq")
				delete(b, "request_seq")
				if !reflect.DeepEqual(a, b) {
					t.Fatalf("%s became %s", body, out)
				}
			}
		}
	})
}
