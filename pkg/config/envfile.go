package config

import (
	"fmt"
	"strings"
)

// ParseEnvFile reads env.file: NAME=value lines, empty lines and # comments; "export " before a name is skipped.
// A value in single quotes is literal, one in double quotes knows \n \r \t \" \\ and \$, one without quotes ends at
// the end of the line or at " #". Nothing is expanded: a $ is a $. Errors name the line and never the value.
func ParseEnvFile(data []byte) (map[string]string, error) {
	out := map[string]string{}
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		name = strings.TrimSpace(name)
		if !ok || name == "" || strings.ContainsAny(name, " \t\"'\x00") {
			return nil, fmt.Errorf("line %d: this is not NAME=value", i+1)
		}
		value, err := unquote(strings.TrimSpace(value))
		if err != nil {
			return nil, fmt.Errorf("line %d: %s: %w", i+1, name, err)
		}
		out[name] = value
	}
	return out, nil
}

func unquote(s string) (string, error) {
	if strings.ContainsRune(s, 0) {
		return "", fmt.Errorf("the value holds a NUL byte")
	}
	if s == "" || s[0] != '"' && s[0] != '\'' {
		if s != "" && s[0] == '#' {
			return "", nil
		}
		before, _, _ := strings.Cut(s, " #")
		return strings.TrimRight(before, " \t"), nil
	}
	var b strings.Builder
	quote := s[0]
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == quote:
			if rest := strings.TrimSpace(s[i+1:]); rest != "" && rest[0] != '#' {
				return "", fmt.Errorf("something follows the closing quote")
			}
			return b.String(), nil
		case s[i] == '\\' && quote == '"' && i+1 < len(s):
			i++
			b.WriteString(unescape(s[i]))
		default:
			b.WriteByte(s[i])
		}
	}
	return "", fmt.Errorf("the quote does not end on its line")
}

func unescape(c byte) string {
	switch c {
	case 'n':
		return "\n"
	case 'r':
		return "\r"
	case 't':
		return "\t"
	case '"', '\\', '$':
		return string(c)
	default:
		return "\\" + string(c)
	}
}
