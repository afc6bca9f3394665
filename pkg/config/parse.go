package config

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// Parse reads and checks launch.json's arguments alone, as Merge does without a file.
func Parse(launch []byte) (*Launch, error) { return Merge(nil, launch) }

// Merge puts launch.json's arguments (a JSON object as DAP's launch request carries it) over file, which may be nil:
// launch.json wins key by key, lists are replaced, null means as if the key were not there; inside debugger a null is
// kept, where it means that a variable is unset. The result is complete and checked. An error is a *fail.Error or
// Problems.
func Merge(file *File, launch []byte) (*Launch, error) {
	doc, err := parseJSON(launch)
	if err != nil {
		line, column, what := position(launch, err)
		return nil, fail.New(fail.ConfigSyntax, "check commas, quotes and braces",
			"the launch configuration is not JSON: line %d, column %d: %s", line, column, what)
	}
	c := checker{where: func(string) string { return "" }}
	c.document(doc.root, doc.repeated)
	if err := c.problems.err(); err != nil {
		return nil, err
	}
	return settle(file, doc.root, checker{where: c.where})
}

// settle puts a checked root over file and checks what only the whole shows, with c.
func settle(file *File, root *node, c checker) (*Launch, error) {
	editor := takeEditor(root)
	if file != nil {
		root = merge(file.root, root)
	}
	l := Default()
	l.Editor, l.written = editor, root
	if err := json.Unmarshal(root.json(), l); err != nil {
		return nil, fail.Wrap(fail.ConfigValue, err, "please report this", "the checked configuration cannot be read")
	}
	if err := l.check(&c).err(); err != nil {
		return nil, err
	}
	return l, nil
}

// takeEditor removes the keys that are not ours from the top and returns them.
func takeEditor(root *node) map[string]json.RawMessage {
	_, ours := keysOf(launchType)
	taken := map[string]json.RawMessage{}
	kept := root.fields[:0]
	for _, f := range root.fields {
		if _, ok := ours[f.key]; ok {
			kept = append(kept, f)
		} else {
			taken[f.key] = f.value.json()
		}
	}
	root.fields = kept
	return taken
}

// NeedDebugger is the check of a launch that debugs: the object must be there and say its type.
func (l *Launch) NeedDebugger() error {
	if l.Debugger.Type != "" {
		return nil
	}
	return fail.New(fail.ConfigValue, hintDebugger,
		"debugger.type: it is missing: stepin does not know which debugger to start")
}

// hintDebugger shows the form.
const hintDebugger = `for example: "debugger": {"type": "go", "program": "${workspaceFolder}"}`

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
