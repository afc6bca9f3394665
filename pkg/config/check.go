package config

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stepin-dev/stepin/pkg/fail"
)

var (
	launchType    = reflect.TypeFor[Launch]()
	debuggerTypes = []string{"go", "python", "node"}
)

// maxProblems bounds what one configuration is told: beyond that it is not the file that was meant.
const maxProblems = 10

// Problems are all that is wrong with a configuration, in the order of the document. Each is one sentence; the first
// gives code and hint (fail.CodeOf and fail.Hint find it through Unwrap).
type Problems []*fail.Error

// Error joins the sentences.
func (p Problems) Error() string {
	words := make([]string, len(p))
	for i, e := range p {
		words[i] = e.Error()
	}
	return strings.Join(words, "; also ")
}

// Unwrap returns the problems as errors.
func (p Problems) Unwrap() []error {
	out := make([]error, len(p))
	for i, e := range p {
		out[i] = e
	}
	return out
}

// err returns nil, the only problem, or all of them.
func (p Problems) err() error {
	switch len(p) {
	case 0:
		return nil
	case 1:
		return p[0]
	default:
		return p
	}
}

// checker walks one document beside the type it is to become.
type checker struct {
	yaml     bool                     // "off" is false there, and editors' keys are nobody's
	open     bool                     // an editor has yet to fill in its variables, and may ask for the target
	where    func(path string) string // prefix of a problem: file and line
	problems Problems
	paths    []string // of the problems
}

func (c *checker) add(code fail.Code, path, hint, format string, args ...any) {
	if len(c.problems) < maxProblems {
		c.problems = append(c.problems, fail.New(code, hint, "%s%s: %s", c.where(path), path, fmt.Sprintf(format, args...)))
		c.paths = append(c.paths, path)
	}
}

// document checks the whole.
func (c *checker) document(n *node, repeated []string) {
	for _, path := range repeated {
		c.add(fail.ConfigSyntax, path, "remove one of the two", "the key stands here twice")
	}
	if n.kind != object {
		c.problems = append(c.problems, fail.New(fail.ConfigValue, `for example: {"target": "local/4711"}`,
			"%sthe configuration must be an object, not %s", c.where(""), n.kind))
		c.paths = append(c.paths, "")
		return
	}
	c.fields("", n, launchType)
}

// keysOf returns the keys of a struct type in the order of its fields.
func keysOf(t reflect.Type) (keys []string, byKey map[string]reflect.StructField) {
	byKey = map[string]reflect.StructField{}
	for f := range t.Fields() {
		key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if key == "-" || key == "" {
			continue
		}
		keys, byKey[key] = append(keys, key), f
	}
	return keys, byKey
}

func (c *checker) fields(path string, n *node, t reflect.Type) {
	keys, byKey := keysOf(t)
	for _, f := range n.fields {
		at := join(path, f.key)
		field, known := byKey[f.key]
		switch {
		case known:
			c.value(at, f.value, field.Type, enumOf(field))
		case laterKeys[at] != "":
			c.add(fail.ConfigLater, at, laterKeys[at], "the key does not exist in this version")
		case path == "" && !c.yaml && (editorKeys[f.key] || strings.HasPrefix(f.key, "__")):
		case path == "" && !c.yaml && f.key == "request":
			c.value(at, f.value, reflect.TypeFor[string](), []string{"launch"})
		default:
			c.unknown(path, f.key, keys)
		}
	}
}

func (c *checker) unknown(path, key string, keys []string) {
	at := join(path, key)
	hint := "the keys at the top are " + strings.Join(keys, ", ")
	if path != "" {
		hint = "the keys of " + path + " are " + strings.Join(keys, ", ")
	}
	near := nearest(key, keys)
	if near == "" && path != "" && slices.Contains(topKeys(), key) {
		c.add(fail.ConfigUnknownKey, at, hint, "unknown key; it belongs at the top, beside %q", path)
		return
	}
	if near == "" || slices.Contains(debuggerKeys, key) {
		if elsewhere := c.elsewhere(path, key); elsewhere != "" {
			near = elsewhere
		}
	}
	if near == "" {
		if path == "env" {
			hint = `the program's variables belong in "debugger": {"env": {…}} or in env.override; ` + hint
		}
		c.add(fail.ConfigUnknownKey, at, hint, "unknown key")
		return
	}
	c.add(fail.ConfigUnknownKey, at, hint, "unknown key; did you mean %q?", near)
}

func topKeys() []string {
	keys, _ := keysOf(launchType)
	return keys
}

// elsewhere finds a key that is right but stands in the wrong object.
func (c *checker) elsewhere(path, key string) string {
	if path == "" && slices.Contains(debuggerKeys, key) {
		return "debugger." + key
	}
	top, byKey := keysOf(launchType)
	for _, k := range top {
		t := byKey[k].Type
		if k == path || t.Kind() != reflect.Struct || t == reflect.TypeFor[Debugger]() {
			continue
		}
		if inner, _ := keysOf(t); slices.Contains(inner, key) {
			return k + "." + key
		}
	}
	return ""
}

// enumOf returns the values that a field's tag allows, nil for any.
func enumOf(f reflect.StructField) []string {
	var enum []string
	for word := range strings.SplitSeq(f.Tag.Get("jsonschema"), ",") {
		if v, ok := strings.CutPrefix(word, "enum="); ok {
			enum = append(enum, v)
		}
	}
	return enum
}

// value checks one value against the Go type it is to become. Null means: as if the key were not there.
func (c *checker) value(path string, n *node, t reflect.Type, enum []string) {
	if n.kind == null {
		return
	}
	switch {
	case t == reflect.TypeFor[Debugger]():
		c.debugger(path, n)
	case t == reflect.TypeFor[Duration]():
		c.duration(path, n)
	case t == reflect.TypeFor[Port]():
		c.port(path, n)
	case t.Kind() == reflect.Struct:
		if c.is(path, n, object, "") {
			c.fields(path, n, t)
		}
	case t.Kind() == reflect.Bool:
		c.is(path, n, truth, "write true or false, without quotes")
	case t.Kind() == reflect.String:
		c.text(path, n, enum)
	case t.Kind() == reflect.Slice:
		c.list(path, n, t.Elem())
	case t.Kind() == reflect.Map:
		c.dict(path, n, t)
	default:
		panic(fmt.Sprintf("config: Launch has a %v at %s, which the checker does not know", t, path))
	}
}

func (c *checker) is(path string, n *node, want kind, hint string) bool {
	if n.kind == want {
		return true
	}
	if want == object && hint == "" {
		hint = "put the keys of " + path + " in {braces}"
	}
	c.add(fail.ConfigValue, path, hint, "must be %s, not %s", want, n.kind)
	return false
}

func (c *checker) debugger(path string, n *node) {
	if !c.is(path, n, object, hintDebugger) {
		return
	}
	if typ := n.get("type"); typ != nil { // else it may be in the other document: see NeedDebugger
		c.value(join(path, "type"), typ, reflect.TypeFor[string](), debuggerTypes)
	}
}

func (c *checker) text(path string, n *node, enum []string) {
	if c.yaml && n.kind == truth && slices.Contains(enum, "off") && string(n.raw) == "false" {
		*n = *textNode("off") // YAML 1.1 reads a bare off as false
	}
	hint := "put it in quotes"
	if enum != nil {
		hint = "write " + alternatives(enum)
	}
	if !c.is(path, n, text, hint) {
		return
	}
	if enum == nil {
		c.content(path, n.text)
		return
	}
	if slices.Contains(enum, n.text) || c.open && unsettled(path, n.text) {
		return
	}
	if later, ok := laterValues[path][n.text]; ok {
		c.add(fail.ConfigLater, path, later, "%q does not exist in this version", n.text)
		return
	}
	what := ""
	if near := nearest(n.text, enum); near != "" {
		what = fmt.Sprintf("; did you mean %q?", near)
	}
	c.add(fail.ConfigValue, path, hint, "%q is not known%s", n.text, what)
}

func alternatives(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = strconv.Quote(w)
	}
	return strings.Join(quoted, " or ")
}

func (c *checker) list(path string, n *node, elem reflect.Type) {
	hint := "put it in [brackets]"
	if !c.is(path, n, list, hint) {
		return
	}
	for i, item := range n.items {
		at := fmt.Sprintf("%s[%d]", path, i)
		if item.kind == null {
			c.add(fail.ConfigValue, at, "remove it", "must not be null")
			continue
		}
		c.value(at, item, elem, nil)
	}
}

func (c *checker) dict(path string, n *node, t reflect.Type) {
	if !c.is(path, n, object, "") {
		return
	}
	for _, f := range n.fields {
		at := join(path, f.key)
		c.key(path, at, f.key)
		if c.yaml && (f.key == "true" || f.key == "false") {
			c.add(fail.ConfigValue, at, "put the key in quotes", "YAML reads a bare y, n, yes, no, on or off as true or false")
		}
		if f.value.kind == null {
			c.add(fail.ConfigValue, at, "leave the key out; env.unset removes a variable", "must not be null")
			continue
		}
		c.value(at, f.value, t.Elem(), nil)
	}
}

func (c *checker) duration(path string, n *node) {
	const hint = `write for example "5m" or "90s"`
	if !c.is(path, n, text, hint) {
		return
	}
	if d, err := time.ParseDuration(n.text); err != nil || d < 0 {
		c.add(fail.ConfigValue, path, hint, "%q is no duration", n.text)
	}
}

func (c *checker) port(path string, n *node) {
	if !c.is(path, n, number, "write the port's number, without quotes") {
		return
	}
	var v float64
	if json.Unmarshal(n.raw, &v) != nil || v < 1 || v > math.MaxUint16 || v != math.Trunc(v) {
		c.add(fail.ConfigValue, path, "ports go from 1 to 65535", "%s is no port", n.raw)
		return
	}
	n.raw = fmt.Append(nil, uint16(v)) // 8080.0 and 8.08e3 are integers to JSON and not to encoding/json
}
