package config

import (
	"strconv"
	"strings"
)

// lineOf returns the line (from 1) on which the value at path stands in a YAML text, or that of the nearest enclosing
// key that it finds. It reads block style by indentation; a key inside {braces} or behind an alias gets its parent's
// line. The library tells lines of syntax errors only.
func lineOf(lines []string, path string) int {
	from, to, line := 0, len(lines), 0
	for _, step := range steps(path) {
		at := find(lines[from:to], step)
		if at < 0 {
			break
		}
		line = from + at
		end := line + 1
		for end < to && (blank(lines[end]) || deeper(lines, line, end, step)) {
			end++
		}
		from, to = line+1, end
		if step.index >= 0 {
			from = line // the item's first key stands on the dash's own line
		}
	}
	return line + 1
}

type step struct {
	key   string
	index int // of a list, or -1
}

// steps takes a path as join makes it apart.
func steps(path string) []step {
	var out []step
	for path != "" {
		switch {
		case path[0] == '[':
			end := strings.IndexByte(path, ']')
			if end < 0 {
				return out
			}
			i, _ := strconv.Atoi(path[1:end])
			out, path = append(out, step{index: i}), path[end+1:]
		case path[0] == '"':
			quoted, err := strconv.QuotedPrefix(path)
			if err != nil {
				return out
			}
			key, _ := strconv.Unquote(quoted)
			out, path = append(out, step{key: key, index: -1}), path[len(quoted):]
		default:
			end := strings.IndexAny(path, ".[")
			if end < 0 {
				end = len(path)
			}
			out, path = append(out, step{key: path[:end], index: -1}), path[end:]
		}
		path = strings.TrimPrefix(path, ".")
	}
	return out
}

func blank(line string) bool {
	t := strings.TrimSpace(line)
	return t == "" || t[0] == '#'
}

func indent(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

// deeper says whether line i still belongs to the value that begins on line start. A list may stand at its key's own
// indentation.
func deeper(lines []string, start, i int, s step) bool {
	own, other := indent(lines[start]), indent(lines[i])
	if other != own {
		return other > own
	}
	return s.index < 0 && dashed(lines[i]) && !dashed(lines[start])
}

func dashed(line string) bool {
	t := strings.TrimSpace(line)
	return t == "-" || strings.HasPrefix(t, "- ")
}

// find returns the first line of the block, at its outermost indentation, that is the step's; -1 if none is.
func find(block []string, s step) int {
	outer, items := -1, -1
	for i, line := range block {
		if blank(line) {
			continue
		}
		column := indent(line)
		if s.index < 0 {
			column = len(line) - len(strings.TrimLeft(line, " -")) // a list item's first key stands behind the dash
		}
		if outer < 0 {
			outer = column
		}
		if s.index < 0 && column == outer && keyOf(line) == s.key {
			return i
		}
		if s.index >= 0 && column == outer && dashed(line) {
			if items++; items == s.index {
				return i
			}
		}
	}
	return -1
}

// keyOf returns the key that a line begins with, without dash and quotes.
func keyOf(line string) string {
	t := strings.TrimPrefix(strings.TrimSpace(line), "- ")
	if len(t) > 1 && (t[0] == '"' || t[0] == '\'') {
		if end := strings.IndexByte(t[1:], t[0]); end >= 0 {
			return t[1 : 1+end]
		}
	}
	key, _, ok := strings.Cut(t, ":")
	if !ok {
		return ""
	}
	return strings.TrimSpace(key)
}
