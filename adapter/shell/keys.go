package shell

import (
	"encoding/json"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// Keys reads those of a debugger's keys that stepin reads itself into the struct that keys points to. A wrong type is named.
func Keys(raw map[string]json.RawMessage, keys any) error {
	all, err := json.Marshal(raw)
	if err == nil {
		err = json.Unmarshal(all, keys)
	}
	if t, ok := err.(*json.UnmarshalTypeError); ok {
		return fail.New(fail.ConfigValue, "", "debugger.%s: it is of the wrong type: %s", t.Field, t.Value)
	}
	if err != nil {
		return fail.Wrap(fail.ConfigValue, err, "", "the debugger's keys")
	}
	return nil
}
