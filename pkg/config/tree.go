package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// kind says what a JSON value is, in the words of the messages.
type kind string

const (
	object kind = "an object"
	list   kind = "a list"
	text   kind = "a string"
	number kind = "a number"
	truth  kind = "true or false"
	null   kind = "null"
)

// node is one JSON value as it was written: the order of its keys is kept, so that problems come in the order in
// which a reader meets them. encoding/json alone keeps neither order nor repeated keys, and ignores case.
type node struct {
	kind   kind
	raw    json.RawMessage // scalars only
	text   string          // of a string
	fields []field         // of an object
	items  []*node         // of a list
}

type field struct {
	key   string
	value *node
}

// get returns the value of key, or nil.
func (n *node) get(key string) *node {
	if n != nil {
		for _, f := range n.fields {
			if f.key == key {
				return f.value
			}
		}
	}
	return nil
}

// at returns the value at a path as join makes it, or nil.
func (n *node) at(path string) *node {
	for _, s := range steps(path) {
		switch {
		case n == nil:
			return nil
		case s.index < 0:
			n = n.get(s.key)
		case s.index < len(n.items):
			n = n.items[s.index]
		default:
			return nil
		}
	}
	return n
}

// set replaces the value of key or adds it.
func (n *node) set(key string, value *node) {
	for i, f := range n.fields {
		if f.key == key {
			n.fields[i].value = value
			return
		}
	}
	n.fields = append(n.fields, field{key, value})
}

func textNode(s string) *node {
	raw, _ := json.Marshal(s) // a string cannot fail
	return &node{kind: text, raw: raw, text: s}
}

// document is one JSON value and what a message about it needs.
type document struct {
	root     *node
	repeated []string       // the paths of keys that stand twice in one object
	places   map[string]int // by path: the byte at which a key, or an item of a list, begins
}

// parseJSON reads one JSON value. An error is about the syntax, and is told with line and column (see position).
func parseJSON(data []byte) (document, error) {
	// The whole is checked first: it bounds the depth (10,000, encoding/json) and leaves one place for syntax errors.
	var whole json.RawMessage
	if err := json.Unmarshal(data, &whole); err != nil {
		return document{}, err
	}
	p := parser{data: data, dec: json.NewDecoder(bytes.NewReader(data)), document: document{places: map[string]int{}}}
	p.dec.UseNumber()
	p.mark("")
	root, err := p.value("")
	p.root = root
	return p.document, err
}

// position says where in data a syntax error is, from 1 on, and what it is.
func position(data []byte, err error) (line, column int, what string) {
	var syntax *json.SyntaxError
	if len(bytes.TrimSpace(data)) == 0 {
		return 1, 1, "it is empty"
	}
	if !errors.As(err, &syntax) {
		return 1, 1, err.Error()
	}
	line, column = lineColumn(data, int(syntax.Offset)-1)
	return line, column, err.Error()
}

// lineColumn is where byte number at stands, from 1 on; columns are bytes.
func lineColumn(data []byte, at int) (line, column int) {
	before := data[:min(max(at, 0), len(data))]
	return 1 + bytes.Count(before, []byte("\n")), len(before) - bytes.LastIndexByte(before, '\n')
}

type parser struct {
	document
	data []byte
	dec  *json.Decoder
}

// mark writes down where the next token begins.
func (p *parser) mark(path string) {
	at := int(p.dec.InputOffset())
	for at < len(p.data) && strings.IndexByte(" \t\r\n,:", p.data[at]) >= 0 {
		at++
	}
	p.places[path] = at
}

func (p *parser) value(path string) (*node, error) {
	tok, err := p.dec.Token()
	if err != nil {
		return nil, fmt.Errorf("config: reading JSON: %w", err)
	}
	switch v := tok.(type) {
	case json.Delim:
		if v == '{' {
			return p.object(path)
		}
		return p.list(path)
	case string:
		return textNode(v), nil
	case json.Number:
		return &node{kind: number, raw: json.RawMessage(v)}, nil
	case bool:
		return &node{kind: truth, raw: fmt.Append(nil, v)}, nil
	default:
		return &node{kind: null, raw: json.RawMessage("null")}, nil
	}
}

func (p *parser) object(path string) (*node, error) {
	n := &node{kind: object}
	seen := map[string]bool{}
	for p.dec.More() {
		p.mark(keyAhead)
		tok, err := p.dec.Token()
		if err != nil {
			return nil, fmt.Errorf("config: reading a key: %w", err)
		}
		key, ok := tok.(string)
		if !ok {
			return nil, io.ErrUnexpectedEOF
		}
		at := join(path, key)
		p.places[at] = p.places[keyAhead]
		value, err := p.value(at)
		if err != nil {
			return nil, err
		}
		if seen[key] {
			p.repeated = append(p.repeated, at)
		}
		seen[key] = true
		n.fields = append(n.fields, field{key, value})
	}
	_, err := p.dec.Token() // the closing brace
	return n, err
}

// keyAhead is no path: a key's place is known before the key is.
const keyAhead = "\x00"

func (p *parser) list(path string) (*node, error) {
	n := &node{kind: list}
	for p.dec.More() {
		at := fmt.Sprintf("%s[%d]", path, len(n.items))
		p.mark(at)
		item, err := p.value(at)
		if err != nil {
			return nil, err
		}
		n.items = append(n.items, item)
	}
	_, err := p.dec.Token() // the closing bracket
	return n, err
}

// write appends n as JSON.
func (n *node) write(b *bytes.Buffer) {
	switch n.kind {
	case object:
		b.WriteByte('{')
		for i, f := range n.fields {
			if i > 0 {
				b.WriteByte(',')
			}
			b.Write(textNode(f.key).raw)
			b.WriteByte(':')
			f.value.write(b)
		}
		b.WriteByte('}')
	case list:
		b.WriteByte('[')
		for i, item := range n.items {
			if i > 0 {
				b.WriteByte(',')
			}
			item.write(b)
		}
		b.WriteByte(']')
	default:
		b.Write(n.raw)
	}
}

func (n *node) json() []byte {
	var b bytes.Buffer
	n.write(&b)
	return b.Bytes()
}

// merge returns over laid on top of under: objects key by key, everything else is replaced.
func merge(under, over *node) *node {
	if under == nil || under.kind != object || over.kind != object {
		return over
	}
	out := &node{kind: object, fields: append([]field(nil), under.fields...)}
	for _, f := range over.fields {
		out.set(f.key, merge(out.get(f.key), f.value))
	}
	return out
}

// join makes the path of a key; a key that would read as two gets quotes.
func join(path, key string) string {
	if key == "" || strings.ContainsAny(key, ".[] \t\r\n\"") {
		key = fmt.Sprintf("%q", key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}
