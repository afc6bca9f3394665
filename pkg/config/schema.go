package config

import (
	"encoding/json"
	"fmt"

	"github.com/invopop/jsonschema"
)

// schemaID names the schema; it is a name and nothing is fetched from it.
const schemaID = "https://stepin.dev/schema/launch.json"

// Schema returns the JSON schema (draft 2020-12) of launch.json's arguments and of stepin.yaml, indented. No key is
// required: each may be in the other document.
func Schema() ([]byte, error) {
	out, err := json.MarshalIndent(schema(), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("config: writing the schema: %w", err)
	}
	return append(out, '\n'), nil
}

func schema() *jsonschema.Schema {
	r := jsonschema.Reflector{
		Anonymous:                  true,
		DoNotReference:             true, // one page that editors and people read from top to bottom
		RequiredFromJSONSchemaTags: true,
	}
	s := r.Reflect(&Launch{})
	s.ID = schemaID
	s.Title = "stepin"
	s.Description = "Runs a program under the debugger as if it were inside a pod."
	return s
}
