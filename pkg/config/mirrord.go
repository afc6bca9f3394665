package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// FromMirrord makes a stepin.yaml of a mirrord.json (or its YAML form). Left names each key that has no counterpart, or
// another meaning here, with what to do; nothing is dropped in silence. Source: mirrord's documentation of its
// configuration, version 3.2.
func FromMirrord(path string, data []byte) (out []byte, left []string, err error) {
	asJSON, err := yamlToJSON(WithoutComments(data))
	var doc map[string]any
	if err == nil {
		err = json.Unmarshal(asJSON, &doc)
	}
	if err != nil {
		line, what := yamlError(err)
		return nil, nil, fail.New(fail.ConfigSyntax, "JSON and YAML are read; TOML and templates are not", "%s:%d: %s", path, line, what)
	}
	m := &migration{out: map[string]any{}, table: mirrordKeys()}
	m.walk("", doc)
	m.portsOfMap()
	if out, err = yaml.Marshal(m.out); err != nil {
		return nil, nil, fmt.Errorf("config: writing %s: %w", Name, err)
	}
	file, err := ParseYAML(Name, out)
	if err == nil {
		_, err = file.Launch()
	}
	return out, m.left, err
}

// migration is one file on its way.
type migration struct {
	out   map[string]any
	left  []string
	table map[string]taken
}

// walk hands each key to the table, and opens the objects that are not in it.
func (m *migration) walk(path string, doc map[string]any) {
	for _, key := range slices.Sorted(maps.Keys(doc)) {
		at, value := join(path, key), doc[key]
		take, known := m.table[at]
		inner, object := value.(map[string]any)
		switch {
		case value == nil:
		case known && take.into != nil:
			take.into(m, at, value)
		case known:
			m.leave(at, take.why)
		case object:
			m.walk(at, inner)
		default:
			m.leave(at, "the key is not known")
		}
	}
}

func (m *migration) leave(at, why string) { m.left = append(m.left, at+": "+why) }

// set writes a value at a path of ours.
func (m *migration) set(path string, value any) {
	at, keys := m.out, strings.Split(path, ".")
	for _, key := range keys[:len(keys)-1] {
		inner, ok := at[key].(map[string]any)
		if !ok {
			inner = map[string]any{}
			at[key] = inner
		}
		at = inner
	}
	at[keys[len(keys)-1]] = value
}

// taken is what becomes of one key: either it goes somewhere, or it is left, with a reason.
type taken struct {
	into func(m *migration, at string, value any)
	why  string
}

func to(path string) taken {
	return taken{into: func(m *migration, _ string, v any) { m.set(path, v) }}
}

func texts(path string) taken {
	return taken{into: func(m *migration, _ string, v any) { m.set(path, separated(v)) }}
}

// separated reads a list of strings, or mirrord's other form of one: semicolons between them.
func separated(v any) (out []string) {
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			out = append(out, fmt.Sprint(item))
		}
	case string:
		out = strings.Split(strings.Trim(v, ";"), ";")
	default:
		out = []string{fmt.Sprint(v)}
	}
	return out
}

func paths(path string) taken {
	return taken{into: func(m *migration, at string, v any) {
		var plain []string
		for _, item := range separated(v) {
			if p, ok := prefixOf(item); ok {
				plain = append(plain, p)
			} else {
				m.leave(at, fmt.Sprintf("%q is no path: rules here are path prefixes", item))
			}
		}
		if plain != nil {
			m.set(path, plain)
		}
	}}
}

// when sets a value of ours where mirrord's is true.
func when(path string, value any) taken {
	return taken{into: func(m *migration, _ string, v any) {
		if v == true {
			m.set(path, value)
		}
	}}
}

var plainPath = regexp.MustCompile(`^/[^\\.*+?()\[\]{}|^$]*(\\?\.[^\\.*+?()\[\]{}|^$]+)*$`)

// prefixOf reads a regular expression that means a path and all below it.
func prefixOf(re string) (string, bool) {
	s := strings.TrimPrefix(re, "^")
	for _, end := range []string{"$", ".*", ".+", "(/|$)", "/"} {
		s = strings.TrimSuffix(s, end)
	}
	return strings.ReplaceAll(s, `\.`, "."), s != "" && plainPath.MatchString(s)
}

func (m *migration) target(_ string, v any) {
	o, ok := v.(map[string]any)
	if !ok {
		o = map[string]any{"path": v}
	}
	if ns, ok := o["namespace"]; ok && ns != nil {
		m.set("namespace", ns)
	}
	switch p := o["path"].(type) {
	case string:
		if p == "targetless" {
			m.leave("target", "a program without a pod does not exist here: name one")
			return
		}
		m.set("target", p)
	case map[string]any:
		m.targetObject(p)
	}
}

func (m *migration) targetObject(p map[string]any) {
	for kind, name := range p {
		if labels, ok := name.(map[string]any); ok && kind == "labels" {
			var parts []string
			for _, k := range slices.Sorted(maps.Keys(labels)) {
				parts = append(parts, fmt.Sprintf("%s=%v", k, labels[k]))
			}
			m.set("target", "label/"+strings.Join(parts, ","))
		} else if kindOf(kind) != "" {
			target := fmt.Sprintf("%s/%v", kind, name)
			if c := p["container"]; c != nil {
				target += fmt.Sprintf("/container/%v", c)
			}
			m.set("target", target)
		}
	}
}

// filter is one of {"remote": […]} and {"local": […]}.
func (m *migration) filter(at string, v any) {
	o, _ := v.(map[string]any)
	switch {
	case o["remote"] != nil:
		m.set("outgoing.host", []string{"*"})
		m.set("outgoing.pod", o["remote"])
	case o["local"] != nil:
		m.set("outgoing.host", o["local"])
	default:
		m.leave(at, "it is neither remote nor local")
	}
}

// mode is a feature in its short form, or true and false.
func (m *migration) mode(at string, v any) {
	if o, ok := v.(map[string]any); ok {
		m.walk(at, o)
		return
	}
	switch at {
	case "feature.env":
		if v == false {
			m.set("env.exclude", []string{"*"})
		}
	case "feature.fs", "feature.fs.mode":
		m.files(at, v)
	case "feature.network":
		if v == false {
			m.set("incoming.mode", "off")
			m.outgoing(false)
			m.set("dns", false)
		}
	case "feature.network.incoming", "feature.network.incoming.mode":
		if v == false {
			v = "off"
		}
		if v == true {
			v = "mirror"
		}
		m.set("incoming.mode", v)
	case "feature.network.outgoing":
		m.outgoing(v)
	case "feature.network.dns":
		m.set("dns", v)
	}
}

func (m *migration) outgoing(v any) {
	m.set("outgoing.tcp", v)
	m.set("outgoing.udp", v)
}

func (m *migration) files(at string, v any) {
	switch v {
	case "local", "localwithoverrides", false:
		m.set("files.mode", "off")
	default:
		m.set("files.mode", "volumes")
		m.leave(at, "here what is mounted into the pod comes from there, read-only, and not every file; files.pod names more")
	}
}

// include says "only these" there, and "these, too" here.
func (m *migration) include(_ string, v any) {
	m.set("env.exclude", []string{"*"})
	m.set("env.include", separated(v))
}

func (m *migration) portMapping(at string, v any) {
	ports := map[string]any{}
	pairs, _ := v.([]any)
	for _, pair := range pairs {
		p, _ := pair.([]any)
		if len(p) != 2 {
			m.leave(at, "it is no list of pairs")
			return
		}
		ports[fmt.Sprint(p[0])] = p[1]
	}
	m.set("incoming.map", ports)
}

// hosts are two lists there, and one here.
func (m *migration) hosts(_ string, v any) {
	have, _ := m.out["hostPrograms"].([]string)
	m.set("hostPrograms", append(have, separated(v)...))
}

// agent takes what is of any agent's; the rest is of theirs.
func (m *migration) agent(at string, v any) {
	o, _ := v.(map[string]any)
	for _, key := range slices.Sorted(maps.Keys(o)) {
		if _, known := m.table[join(at, key)]; known {
			m.walk(at, map[string]any{key: o[key]})
		} else {
			m.leave(join(at, key), "the agent is another")
		}
	}
}

// portsOfMap adds the ports of incoming.map to incoming.ports, if there are any, as they are meant there.
func (m *migration) portsOfMap() {
	in, _ := m.out["incoming"].(map[string]any)
	ports, _ := in["ports"].([]any)
	table, _ := in["map"].(map[string]any)
	if len(ports) == 0 {
		return
	}
	for _, own := range slices.Sorted(maps.Keys(table)) {
		n, err := strconv.Atoi(own)
		if err == nil && !slices.ContainsFunc(ports, func(p any) bool { return fmt.Sprint(p) == own }) {
			ports = append(ports, n)
		}
	}
	in["ports"] = ports
}

func (m *migration) pullSecrets(_ string, v any) {
	items, _ := v.([]any)
	var names []string
	for _, item := range items {
		if o, ok := item.(map[string]any); ok {
			item = o["name"]
		}
		names = append(names, fmt.Sprint(item))
	}
	m.set("agent.imagePullSecrets", names)
}
