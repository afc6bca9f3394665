package shell

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseEnvFile(t *testing.T) {
	env := map[string]*string{}
	parseEnvFile("\ufeff# comment\n\nA=1\nexport B = two words \nC=\"a\\nb\"\nD='a\\nb ${A}'\nE=${A}${HOST}${NONE}\nF=\\${A}\nG=\nnonsense\nH.i-j=x=y\r\nA2=\"\n", env,
		[]string{"HOST=h"})
	got := map[string]string{}
	for k, v := range env {
		got[k] = *v
	}
	want := map[string]string{"A": "1", "B": "two words", "C": "a\nb", "D": `a\nb 1`, "E": "1h", "F": "${A}", "G": "", "H.i-j": "x=y", "A2": `"`}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func FuzzEnvFile(f *testing.F) {
	f.Add("A=1\nexport B=\"${A}\\n\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		env := map[string]*string{}
		parseEnvFile(text, env, nil)
		for name, v := range env {
			if name == "" || v == nil || strings.ContainsAny(name, "= \n") {
				t.Errorf("%q", name)
			}
		}
	})
}
