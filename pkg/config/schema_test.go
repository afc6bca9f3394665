package config

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/configuration.md and the VS Code extension's schema anew")

const (
	referencePage   = "../../docs/configuration.md"
	extensionSchema = "../../editors/vscode/schema/launch.json"
)

func TestReference(t *testing.T) {
	generated(t, referencePage, Reference())
}

// TestReferenceOfExtension: `-run TestReference -update` writes it, too.
func TestReferenceOfExtension(t *testing.T) {
	want, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	generated(t, extensionSchema, want)
}

// generated compares a file with what is to be in it, or writes it.
func generated(t *testing.T, name string, want []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, want) {
		t.Errorf("%s is out of date: go test ./pkg/config -run TestReference -update", name)
	}
}

// walk calls f for each field below Launch that is a key.
func walk(t reflect.Type, path string, f func(path string, field reflect.StructField)) {
	keys, byKey := keysOf(t)
	for _, k := range keys {
		field := byKey[k]
		f(join(path, k), field)
		if field.Type.Kind() == reflect.Struct && field.Type != reflect.TypeFor[Debugger]() {
			walk(field.Type, join(path, k), f)
		}
	}
}

func TestSchemaHoldsEveryKey(t *testing.T) {
	raw, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	var s map[string]any
	if err := json.Unmarshal(raw, &s); err != nil {
		t.Fatal(err)
	}
	if s["additionalProperties"] != false {
		t.Error("the schema lets unknown keys pass")
	}
	walk(launchType, "", func(path string, field reflect.StructField) {
		at := s
		for _, k := range strings.Split(path, ".") {
			props, _ := at["properties"].(map[string]any)
			at, _ = props[k].(map[string]any)
		}
		if d, _ := at["description"].(string); d == "" {
			t.Errorf("%s has no description in the schema", path)
		}
		if want := enumOf(field); want != nil && fmt.Sprint(at["enum"]) != fmt.Sprint(want) {
			t.Errorf("%s: schema allows %v, the reader %v", path, at["enum"], want)
		}
	})
	if strings.Contains(string(raw), "rollout") {
		t.Error("the schema names what does not exist yet")
	}
}

// TestDebuggersHaveHelp: whoever adds a debugger.type says what its keys are.
func TestDebuggersHaveHelp(t *testing.T) {
	for _, typ := range debuggerTypes {
		if len(ownKeys[typ]) == 0 {
			t.Errorf("debugger.type %s has no keys in debuggerkeys.go", typ)
		}
	}
	for typ, keys := range ownKeys {
		seen := map[string]bool{}
		for _, k := range append(slices.Clone(keys), commonKeys...) {
			if seen[k.name] || k.text == "" {
				t.Errorf("%s: %s is there twice, or without a text", typ, k.name)
			}
			seen[k.name] = true
		}
	}
}

// TestDefaults holds the tags, which people read, against Default, which counts.
func TestDefaults(t *testing.T) {
	raw, err := json.Marshal(Default())
	if err != nil {
		t.Fatal(err)
	}
	var have map[string]any
	if err := json.Unmarshal(raw, &have); err != nil {
		t.Fatal(err)
	}
	walk(launchType, "", func(path string, field reflect.StructField) {
		_, want, ok := strings.Cut(field.Tag.Get("jsonschema"), "default=")
		want, _, _ = strings.Cut(want, ",")
		if !ok || path == "agent.ttl" { // omitted when zero, and zero is the default
			return
		}
		at := any(have)
		for _, k := range strings.Split(path, ".") {
			m, _ := at.(map[string]any)
			at = m[k]
		}
		if fmt.Sprint(at) != want {
			t.Errorf("%s: the tag says %q, Default %v", path, want, at)
		}
	})
}

func TestLaterIsNotYet(t *testing.T) {
	now := map[string][]string{"debugger.type": debuggerTypes, "request": {"launch"}}
	walk(launchType, "", func(path string, field reflect.StructField) {
		if laterKeys[path] != "" {
			t.Errorf("%s is a key and is also said not to exist yet", path)
		}
		if _, ok := now[path]; !ok {
			now[path] = enumOf(field)
		}
	})
	for path, values := range laterValues {
		if now[path] == nil {
			t.Errorf("later.go speaks of %s, which is no key with an enum", path)
		}
		for _, v := range now[path] {
			if values[v] != "" {
				t.Errorf("%s: %q exists and is also said not to exist yet", path, v)
			}
		}
	}
}
