package config

import (
	"encoding/json"
	"time"

	"github.com/invopop/jsonschema"
)

// Duration is a time.Duration written as Go writes it: "90s", "5m".
type Duration time.Duration

// String writes the duration as Go does.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText writes the duration as "5m0s".
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads "5m".
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// UnmarshalJSON splits the object into its type and the real debugger's own keys.
func (d *Debugger) UnmarshalJSON(data []byte) error {
	keys := map[string]json.RawMessage{}
	if err := json.Unmarshal(data, &keys); err != nil {
		return err
	}
	typ := ""
	if raw, ok := keys["type"]; ok {
		if err := json.Unmarshal(raw, &typ); err != nil {
			return err
		}
		delete(keys, "type")
	}
	d.Type, d.Keys = typ, keys
	return nil
}

// MarshalJSON writes the object as the user would.
func (d Debugger) MarshalJSON() ([]byte, error) {
	all := make(map[string]json.RawMessage, len(d.Keys)+1)
	for k, v := range d.Keys {
		all[k] = v
	}
	if d.Type != "" {
		typ, err := json.Marshal(d.Type)
		if err != nil {
			return nil, err
		}
		all["type"] = typ
	}
	return json.Marshal(all)
}

// IsZero says that no debugger was written.
func (d Debugger) IsZero() bool { return d.Type == "" && len(d.Keys) == 0 }

// JSONSchema describes the object: its type is ours, every other key is the real debugger's.
func (Debugger) JSONSchema() *jsonschema.Schema {
	props := jsonschema.NewProperties()
	var enum []any
	for _, t := range debuggerTypes {
		enum = append(enum, t)
	}
	props.Set("type", &jsonschema.Schema{
		Type: "string", Enum: enum,
		Description: "go: Delve. python: debugpy. node: js-debug. Every other key of this object is the debugger's own (program, args, env, cwd; mode, buildFlags …; module, python, justMyCode …; runtimeExecutable, outFiles …).",
	})
	s := &jsonschema.Schema{Type: "object", Properties: props}
	for _, t := range debuggerTypes {
		s.AllOf = append(s.AllOf, ofType(t))
	}
	return s
}

// JSONSchema describes a port.
func (Port) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "integer", Minimum: "1", Maximum: "65535"}
}
