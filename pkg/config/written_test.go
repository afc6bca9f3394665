package config

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/pkg/fail"
)

func TestWithoutComments(t *testing.T) {
	for in, want := range map[string]string{
		`{"a": 1, // x`:           `{"a": 1,     `,
		"// a\r\n{}":              "     \n{}",
		"[1,/* , */\n]":           "[1        \n]",
		`{"a": [1 , ] , }`:        `{"a": [1   ]   }`,
		`{"u": "http://x,]"}`:     `{"u": "http://x,]"}`,
		`{"u": "\"//", /**/ "b"}`: `{"u": "\"//",      "b"}`,
		`[,]`:                     `[,]`,
		`[1,,]`:                   `[1,,]`,
		`[1, /* x`:                `[1, /* x`,
		`[1 / 2,]`:                `[1 / 2,]`,
		`"\`:                      `"\`,
		`/`:                       `/`,
		`{} //`:                   `{}   `,
	} {
		if have := string(WithoutComments([]byte(in))); have != want {
			t.Errorf("%q:\nhave %q\nwant %q", in, have, want)
		}
	}
	if have := WithoutComments([]byte(strings.Repeat("[", 1<<20))); len(have) != 1<<20 {
		t.Error("deep nesting")
	}
}

// TestBlockBecomesLaunch: as editors/vscode/src/block.ts makes it.
func TestBlockBecomesLaunch(t *testing.T) {
	all, err := ParseLaunch("f", []byte(`{"configurations": [{"type": "python", "request": "launch", "name": "x", "presentation": {}, "module": "m",
		"console": "integratedTerminal", "env": {"A": "1"}, "stepin": {"target": "pod/x", "agent": {"ttl": "1m"}}}]}`))
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	l, err := all[0].Launch(nil)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := json.Marshal(l.Debugger)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"console":"integratedTerminal","env":{"A":"1"},"module":"m","type":"python"}`; string(keys) != want {
		t.Errorf("debugger: have %s, want %s", keys, want)
	}
	if l.Target != "pod/x" || l.Agent.TTL != Duration(time.Minute) || l.Editor["name"] == nil {
		t.Errorf("have %+v", l)
	}
}

// TestOpen: what an editor fills in is not judged before it has.
func TestOpen(t *testing.T) {
	for in, want := range map[string]string{
		`{"target": "pick"}`: "",
		`{}`:                 "",
		`{"target": "${command:stepin.pickTarget}"}`: "",
		`{"target": "pod/${input:pod}", "namespace": "${env:NS}", "outgoing": {"host": ["${env:A}"], "pod": ["${env:B}"]}, "frontEnd": "${input:f}"}`: "",
		`{"target": "pickle"}`:                    `f:1:2: target: "pickle" is no target`,
		`{"incoming": {"ports": ["${input:p}"]}}`: "f:1:25: incoming.ports[0]: must be a number, not a string",
	} {
		all, err := ParseLaunch("f", []byte(in))
		if err != nil {
			t.Fatal(err)
		}
		_, err = all[0].Launch(nil)
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("%s: %v", in, err)
		}
		if err != nil && fail.Hint(err) == "" {
			t.Errorf("%s: no hint", in)
		}
	}
	if _, err := Parse([]byte(`{"target": "pick"}`)); err == nil {
		t.Error("launch arguments with a target that nobody has picked")
	}
}
