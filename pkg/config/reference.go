package config

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/invopop/jsonschema"
)

const referenceHead = `# Configuration

stepin reads the same keys from two places: the arguments of a launch configuration (` + "`launch.json`" + `) and
` + "`stepin.yaml`" + `, which is looked for beside the program and then in each directory above it. Where both have a key,
` + "`launch.json`" + ` wins; objects are merged key by key, lists are replaced. A key that does not exist is an error.

` + "`stepin.yaml`" + ` must belong to you, to root, or to the owner of the program's own directory, because it can name
programs to run.

` + "```jsonc" + `
{
  "type": "stepin", "request": "launch", "name": "orders, in the cluster",
  "target": "deployment/orders", "namespace": "shop",
  "debugger": { "type": "go", "program": "${workspaceFolder}/cmd/orders" },
  "incoming": { "mode": "steal", "ports": [8080] }
}
` + "```" + `

` + "`stepin config check`" + ` names every mistake, ` + "`stepin config show`" + ` what is in force and where it was written, and
` + "`stepin config schema`" + ` prints the JSON schema that editors complete and check by. ` + "`stepin config import FILE`" + ` makes a
` + "`stepin.yaml`" + ` of a mirrord.json.

This page is made from the program itself: ` + "`go test ./pkg/config -run TestReference -update`" + `.
`

// Reference returns docs/configuration.md, made from the schema.
func Reference() []byte {
	var b bytes.Buffer
	b.WriteString(referenceHead)
	s := schema()
	fmt.Fprint(&b, "\n## Keys\n\n")
	table(&b, s, "")
	for pair := s.Properties.Oldest(); pair != nil; pair = pair.Next() {
		if pair.Value.Properties == nil || pair.Value.Properties.Len() == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", pair.Key, pair.Value.Description)
		table(&b, pair.Value, pair.Key+".")
	}
	b.WriteString("\n## Which rule wins\n\n" +
		"In `outgoing`: a name before an address, an address before `*.suffix` (the longer suffix first), that before a\n" +
		"CIDR (the longer prefix first), that before `*`; among equals one with a port, then one with a protocol.\n" +
		"`*` says nothing about loopback, which `outgoing.loopback` decides. In `files`: the longest path.\n" +
		"In `env`: `include` before `exclude`, then `file`, `override`, `unset`, and the debugger's own `env` last.\n")
	return b.Bytes()
}

func table(b *bytes.Buffer, s *jsonschema.Schema, prefix string) {
	fmt.Fprint(b, "| key | type | default | meaning |\n|---|---|---|---|\n")
	for pair := s.Properties.Oldest(); pair != nil; pair = pair.Next() {
		p := pair.Value
		fallback := ""
		if p.Default != nil {
			fallback = fmt.Sprintf("`%v`", p.Default)
		}
		words := typeWords(p)
		if prefix == "" && p.Type == "object" {
			words = p.Type // it has a table of its own
		}
		fmt.Fprintf(b, "| `%s%s` | %s | %s | %s |\n", prefix, pair.Key, words, fallback, strings.ReplaceAll(p.Description, "*", `\*`))
	}
}

func typeWords(s *jsonschema.Schema) string {
	switch {
	case len(s.Enum) > 0:
		words := make([]string, len(s.Enum))
		for i, v := range s.Enum {
			words[i] = fmt.Sprintf("`%v`", v)
		}
		return strings.Join(words, ", ")
	case s.Type == "integer":
		return "port"
	case s.Type == "array" && s.Items.Type == "object":
		return "list of " + strings.Join(keysIn(s.Items), ", ")
	case s.Type == "object" && s.Properties != nil && s.Properties.Len() > 0:
		return "object of " + strings.Join(keysIn(s), ", ")
	case s.Type == "array":
		return "list of " + typeWords(s.Items) + "s"
	case s.Type == "object" && s.AdditionalProperties != nil && s.AdditionalProperties.Type != "":
		return "object of " + typeWords(s.AdditionalProperties) + "s"
	default:
		return s.Type
	}
}

// keysIn lists the keys of an object that has no table of its own.
func keysIn(s *jsonschema.Schema) (keys []string) {
	for pair := s.Properties.Oldest(); pair != nil; pair = pair.Next() {
		keys = append(keys, "`"+pair.Key+"`")
	}
	return keys
}
