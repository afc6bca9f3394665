package config

import (
	"encoding/json"
	"reflect"
)

// Value is one key of a configuration and what is in force.
type Value struct {
	Key  string // by its path: "incoming.mode"
	Text string // as JSON
	From string // file:line of where it was written, or "default"
}

// notShown stands for what may be a secret.
const notShown = "(not shown)"

// Values lists what is in force, in the order of the reference: what was written and what has a default. Variables' values
// are not shown: people send this list to others.
func (l *Launch) Values() []Value {
	raw, err := json.Marshal(Default())
	if err != nil {
		return nil // a struct of ours
	}
	defaults, err := parseJSON(raw)
	if err != nil {
		return nil
	}
	var out []Value
	l.values("", launchType, defaults.root, &out)
	return out
}

func (l *Launch) values(path string, t reflect.Type, defaults *node, out *[]Value) {
	keys, byKey := keysOf(t)
	for _, key := range keys {
		at, typ := join(path, key), byKey[key].Type
		switch {
		case typ == reflect.TypeFor[Debugger](), typ.Kind() == reflect.Map:
			l.leaves(at, l.written.at(at), out)
		case typ.Kind() == reflect.Struct:
			l.values(at, typ, defaults.get(key), out)
		default:
			l.leaf(at, l.written.at(at), defaults.get(key), out)
		}
	}
}

// leaves lists an object whose keys are the user's own.
func (l *Launch) leaves(path string, n *node, out *[]Value) {
	if n == nil || n.kind != object {
		return
	}
	for _, f := range n.fields {
		if at := join(path, f.key); at == "debugger.env" {
			l.leaves(at, f.value, out)
		} else {
			l.leaf(at, f.value, nil, out)
		}
	}
}

func (l *Launch) leaf(at string, written, fallback *node, out *[]Value) {
	inDebugger := len(at) > len("debugger.") && at[:len("debugger.")] == "debugger."
	switch {
	case written != nil && (written.kind != null || inDebugger):
		v := Value{Key: at, Text: string(written.json()), From: "launch arguments"}
		if isVariable(at) && written.kind != null {
			v.Text = notShown
		}
		if l.origin != nil {
			v.From = l.origin(at)
		}
		*out = append(*out, v)
	case fallback != nil:
		*out = append(*out, Value{Key: at, Text: string(fallback.json()), From: "default"})
	}
}

func isVariable(at string) bool {
	for _, parent := range []string{"env.override.", "debugger.env."} {
		if len(at) > len(parent) && at[:len(parent)] == parent {
			return true
		}
	}
	return false
}

// WithoutValues is the configuration without the values of variables.
func (l *Launch) WithoutValues() *Launch {
	out := *l
	if l.Env.Override != nil {
		out.Env.Override = map[string]string{}
		for name := range l.Env.Override {
			out.Env.Override[name] = notShown
		}
	}
	vars := map[string]json.RawMessage{}
	if json.Unmarshal(l.Debugger.Keys["env"], &vars) != nil {
		return &out
	}
	out.Debugger.Keys = map[string]json.RawMessage{}
	for key, value := range l.Debugger.Keys {
		out.Debugger.Keys[key] = value
	}
	for name, value := range vars {
		if string(value) != "null" {
			vars[name], _ = json.Marshal(notShown) // a string cannot fail
		}
	}
	out.Debugger.Keys["env"], _ = json.Marshal(vars) // nor can what has been read
	return &out
}
