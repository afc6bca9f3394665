package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// sound says that a result is either a complete configuration or an error for a person.
func sound(t *testing.T, l *Launch, err error) {
	t.Helper()
	if err != nil {
		var e *fail.Error
		if !errors.As(err, &e) || e.Hint == "" || e.Code == fail.Internal {
			t.Fatalf("an error without number or hint: %v", err)
		}
		return
	}
	if _, err := ParseTarget(l.Target); err != nil {
		t.Fatalf("accepted with target %q", l.Target)
	}
	for _, p := range l.Incoming.Ports {
		if p == 0 {
			t.Fatal("accepted with port 0")
		}
	}
	for _, v := range []string{l.Incoming.Mode, l.Incoming.Existing, l.Outgoing.Loopback, l.Files.Mode, l.FrontEnd, l.OnLost, l.Agent.Mode} {
		if v == "" {
			t.Fatalf("accepted with an empty value: %+v", l)
		}
	}
	raw, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(raw)
	if err != nil {
		t.Fatalf("what was accepted is refused when written back: %v\n%s", err, raw)
	}
	second, err := json.Marshal(again)
	if err != nil || !reflect.DeepEqual(raw, second) {
		t.Fatalf("written back it is another configuration:\n%s\n%s (%v)", raw, second, err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"target":"local/1"}`, `{"target":"local/1","incoming":{"mode":"steal","ports":[8080],"map":{"8080":80}}}`,
		`{"target":"local/1","outgoing":{"host":["*","tcp://[::1]:80"],"pod":["db:5432"]}}`, `{"a":{"a":1,"a":2}}`, `[`, `null`,
		`{"target":"local/1","debugger":{"type":"go","env":{"A":null}},"agent":{"ttl":"5m"},"files":{"map":{"/a":"/b"}}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Parse(data)
		sound(t, l, err)
	})
}

func FuzzYAML(f *testing.F) {
	for _, s := range []string{
		"target: local/1\n", "target: local/1\nincoming:\n  mode: off\n  ports: [80]\n", "a: &a [*a]\n", "? {a: b}\n: c\n", "\t", "---\n---\n",
		"target: local/1\nenv: {override: {A: b}, file: x}\n", "<<: {target: local/1}\n", "dns: !!bool 'true'\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := ParseYAML("/w/stepin.yaml", data)
		if err != nil {
			sound(t, nil, err)
			return
		}
		l, err := Merge(file, []byte(`{"target":"local/1"}`))
		sound(t, l, err)
	})
}

// FuzzParseLaunch reads what an editor writes, with comments: every byte stays where it was, and JSON stays as it is.
func FuzzParseLaunch(f *testing.F) {
	for _, s := range []string{
		`{"configurations":[{"type":"stepin","target":"pick","debugger":{"type":"go",},},/* x */{"type":"go","stepin":{"target":"pod/x"}}],} // end`,
		`{"target":"local/1","linux":{"dns":false},"incoming":{"mode":"${input:m}","ports":["${input:p}"]}}`, `[1,/*`, `{"a":"//,]",}`, `[,]`, `/`,
		`{"configurations":[{"type":"node","stepin":[]},{"type":"stepin","configurations":[]},3]}`, `{"stepin":{"debugger":1},"type":"go"}`, `"\`,
	} {
		f.Add([]byte(s))
	}
	under, err := ParseYAML("/w/stepin.yaml", []byte("incoming:\n  ports: [80]\nfiles:\n  map: {/a: /b}\n"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		plain := WithoutComments(data)
		if len(plain) != len(data) || bytes.Count(plain, []byte("\n")) != bytes.Count(data, []byte("\n")) {
			t.Fatalf("bytes have moved:\n%q\n%q", data, plain)
		}
		if json.Valid(data) && !bytes.Equal(plain, data) {
			t.Fatalf("JSON was changed:\n%q\n%q", data, plain)
		}
		all, err := ParseLaunch("launch.json", data)
		if err != nil {
			sound(t, nil, err)
			return
		}
		for _, w := range all {
			l, err := w.Launch(under)
			if err != nil {
				sound(t, nil, err)
				continue
			}
			for _, v := range l.Values() {
				if v.Key == "" || !json.Valid([]byte(v.Text)) && v.Text != notShown {
					t.Fatalf("shown as %+v", v)
				}
			}
			if _, err := json.Marshal(l.WithoutValues()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzParseRule(f *testing.F) {
	for _, s := range []string{"*", "*:53", "udp://*:53", "db.shop.svc:5432", "*.example.com", "10.0.0.0/8", "[fd00::/8]:443", "::1", ":80", "::ffff:1.2.3.4"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRule(s)
		if err != nil {
			return
		}
		kinds := 0
		for _, set := range []bool{r.Name != "", r.Suffix != "", r.Prefix.IsValid(), r.All} {
			if set {
				kinds++
			}
		}
		if kinds != 1 {
			t.Fatalf("%q is %d kinds of rule: %+v", s, kinds, r)
		}
	})
}

func FuzzParseEnvFile(f *testing.F) {
	f.Add([]byte("A=1\nexport B=\"x\\n\" # c\nC='y'\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		vars, err := ParseEnvFile(data)
		if err != nil {
			return
		}
		for name := range vars {
			if name == "" {
				t.Fatal("a variable without a name")
			}
		}
	})
}
