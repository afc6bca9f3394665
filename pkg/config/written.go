package config

import (
	"fmt"
	"strings"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// Written is one launch configuration as it stands in a file of an editor's: comments and a comma too many are fine, and
// what the editor will fill in (${variables}, and the target, which it may ask for) is left open.
type Written struct {
	Name   string // its "name", or ""
	Line   int    // where it begins, from 1 on
	Debugs bool   // it is an editor's, and must say which debugger it starts

	path, prefix string // of the file; of the configuration within it
	doc          document
	text         []byte
	root         *node // its keys, a block's and a platform's among them
	checked      checker
}

// pick is what an editor's configuration says for "ask at each start".
const pick = "pick"

// unsettled says that only the editor knows what the value at path will be.
func unsettled(path, value string) bool {
	return strings.Contains(value, "${") || path == "target" && value == pick
}

// ParseLaunch reads a launch.json, and returns those of its configurations that are stepin's: of that type, or with a block
// "stepin" in another's. A file that is no list of configurations is one. An error is about its syntax; what is wrong with
// a configuration Launch says.
func ParseLaunch(path string, data []byte) ([]*Written, error) {
	text := WithoutComments(data)
	doc, err := parseJSON(text)
	if err != nil {
		line, column, what := position(text, err)
		return nil, fail.New(fail.ConfigSyntax, "check commas, quotes and braces", "%s:%d:%d: this is not JSON: %s", path, line, column, what)
	}
	list := doc.root.get("configurations")
	if list == nil {
		return []*Written{written(path, "", doc, text, doc.root)}, nil
	}
	var ours []*Written
	for i, n := range list.items {
		if typ := n.get("type"); n.get(block) != nil || typ != nil && typ.text == "stepin" {
			w := written(path, fmt.Sprintf("configurations[%d]", i), doc, text, n)
			w.Debugs = true
			ours = append(ours, w)
		}
	}
	return ours, nil
}

func written(path, prefix string, doc document, text []byte, n *node) *Written {
	w := &Written{path: path, prefix: prefix, doc: doc, text: text}
	w.Line, _ = lineColumn(text, doc.places[prefix])
	if name := n.get("name"); name != nil {
		w.Name = name.text
	}
	w.checked = checker{open: true, where: func(at string) string { return w.Place(at) + ": " }}
	w.root = w.unfolded(platform(n))
	return w
}

// platform is what VS Code makes of a configuration with keys for one kind of machine: those for Linux go over its own.
func platform(n *node) *node {
	if n.kind != object {
		return n
	}
	out := &node{kind: object}
	for _, f := range n.fields {
		if f.key != "linux" && f.key != "osx" && f.key != "windows" {
			out.fields = append(out.fields, f)
		}
	}
	if own := n.get("linux"); own != nil && own.kind == object {
		for _, f := range own.fields {
			out.set(f.key, f.value)
		}
	}
	return out
}

// block is the key of our keys in a configuration of another extension's, and blockTypes are its types that stepin can
// take, with the debugger.type that they are; editors/vscode/src/block.ts does what unfolded does here.
const block = "stepin"

var blockTypes = map[string]string{"go": "go", "debugpy": "python", "python": "python", "pwa-node": "node", "node": "node"}

func (w *Written) unfolded(n *node) *node {
	own, typ := n.get(block), n.get("type")
	if own == nil || typ == nil || typ.text == "stepin" {
		return n
	}
	kind, known := blockTypes[typ.text]
	switch {
	case !known:
		w.checked.add(fail.ConfigValue, block, `leave the key out, or write "type": "stepin"`, "stepin does not debug what the type %q debugs", typ.text)
	case own.kind != object:
		w.checked.add(fail.ConfigValue, block, `for example: "stepin": {"target": "deployment/orders"}`, "must be %s, not %s", object, own.kind)
	case own.get("debugger") != nil:
		w.checked.add(fail.ConfigUnknownKey, block+".debugger", "the debugger's keys are the configuration's own, beside the block", "unknown key")
	default:
		top, debugger := &node{kind: object}, &node{kind: object}
		for _, f := range n.fields {
			switch {
			case f.key == block || f.key == "type":
			case f.key != "console" && (editorKeys[f.key] || f.key == "request" || strings.HasPrefix(f.key, "__")):
				top.set(f.key, f.value)
			default:
				debugger.set(f.key, f.value)
			}
		}
		debugger.set("type", textNode(kind))
		for _, f := range own.fields {
			top.set(f.key, f.value)
		}
		top.set("debugger", debugger)
		return top
	}
	return &node{kind: object}
}

// Place is where a value stands, as file:line:column: the value itself, or the configuration.
func (w *Written) Place(at string) string {
	line, column := lineColumn(w.text, w.offset(at))
	return fmt.Sprintf("%s:%d:%d", w.path, line, column)
}

// offset is that of the key or the item at a path of a launch, which in the file may stand in a block or for a platform.
func (w *Written) offset(at string) int {
	inner, _ := strings.CutPrefix(at, "debugger.")
	for _, path := range []string{"linux." + at, block + "." + at, at, "linux." + inner, inner} {
		if offset, ok := w.doc.places[within(w.prefix, path)]; ok {
			return offset
		}
	}
	return w.doc.places[w.prefix]
}

// within is the path of what stands at path in the value at prefix.
func within(prefix, path string) string {
	if prefix == "" || path == "" {
		return prefix + path
	}
	return prefix + "." + path
}

// Program is the debugger's key "program" as written, from where a stepin.yaml is looked for upwards, or "".
func (w *Written) Program() string {
	if p := w.root.get("debugger").get("program"); p != nil {
		return p.text
	}
	return ""
}

// Launch puts the configuration over file, which may be nil, as Merge does. An error is a *fail.Error or Problems: all that
// is wrong with the configuration or, if nothing is wrong with itself, with the two together.
func (w *Written) Launch(file *File) (*Launch, error) {
	c := w.checked
	c.document(w.root, w.repeated())
	if err := c.problems.err(); err != nil {
		return nil, err
	}
	root := *w.root
	root.fields = append([]field(nil), w.root.fields...) // settle takes the editor's out
	l, err := settle(file, &root, checker{open: true, where: func(at string) string { return origin(file, w, at) + ": " }})
	if err != nil {
		return nil, err
	}
	if w.Debugs && l.Debugger.Type == "" {
		return nil, fail.New(fail.ConfigValue, hintDebugger, "%s: debugger.type: it is missing: stepin does not know which debugger to start", w.Place("debugger"))
	}
	l.origin = func(at string) string { return origin(file, w, at) }
	return l, nil
}

// repeated are the keys of this configuration that stand twice.
func (w *Written) repeated() (paths []string) {
	for _, path := range w.doc.repeated {
		if w.prefix == "" {
			paths = append(paths, path)
		} else if rest, ok := strings.CutPrefix(path, w.prefix+"."); ok {
			paths = append(paths, rest)
		}
	}
	return paths
}

// Launch is what the file says alone; the target may be missing.
func (f *File) Launch() (*Launch, error) {
	c := checker{open: true, where: func(at string) string { return f.place(at) + ": " }}
	l, err := settle(f, &node{kind: object}, c)
	if err == nil {
		l.origin = func(at string) string { return origin(f, nil, at) }
	}
	return l, err
}

func (f *File) place(at string) string { return fmt.Sprintf("%s:%d", f.Path, lineOf(f.lines, at)) }

// origin is where the value at a path comes from; either document may be nil.
func origin(file *File, w *Written, at string) string {
	switch {
	case w != nil && w.root.at(at) != nil:
		return w.Place(at)
	case file != nil && file.root.at(at) != nil:
		return file.place(at)
	case w != nil:
		return w.Place("")
	}
	return file.place(at)
}
