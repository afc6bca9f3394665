package shell

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// maxEnvFile bounds an envFile, in bytes: a process gets at most that much (execve(2), ARG_MAX).
const maxEnvFile = 2 << 20

// List is a string or a list of strings.
type List []string

// UnmarshalJSON reads either.
func (l *List) UnmarshalJSON(b []byte) error {
	var s string
	if string(b) == "null" {
		return nil
	}
	if json.Unmarshal(b, &s) == nil {
		if s != "" {
			*l = List{s}
		}
		return nil
	}
	if err := json.Unmarshal(b, (*[]string)(l)); err != nil {
		return errors.New("it must be a string or a list of strings")
	}
	return nil
}

// Environ is what the files set, later ones over earlier ones, and over that env; nil unsets. Files are relative to dir,
// and may refer to the variables of environ.
func Environ(files List, env map[string]*string, dir string, environ []string) (map[string]*string, error) {
	all := map[string]*string{}
	for _, name := range files {
		path := Absolute(dir, name)
		f, err := os.ReadFile(path)
		if err == nil && len(f) > maxEnvFile {
			return nil, fail.New(fail.ConfigValue, "", "envFile %s is larger than %d bytes", path, maxEnvFile)
		}
		if err != nil {
			return nil, fail.Wrap(fail.ConfigValue, err, "envFile is relative to "+dir, "envFile cannot be read")
		}
		parseEnvFile(string(f), all, environ)
	}
	for k, v := range env {
		if k == "" || strings.ContainsAny(k, "=\x00") {
			return nil, fail.New(fail.ConfigValue, "", "env: %q cannot be the name of a variable", k)
		}
		all[k] = v
	}
	return all, nil
}

var (
	envLine  = regexp.MustCompile(`^\s*(?:export\s+)?([\w.\-]+)\s*=\s*(.*?)\s*$`)
	envSubst = regexp.MustCompile(`\\?\$\{([a-zA-Z]\w*)\}`)
)

// parseEnvFile adds KEY=VALUE lines to env: export before it and quotes around the value are taken off, \n in double
// quotes is a line's end, ${VAR} is an earlier variable of the files or else one of the environment, \${ is itself.
// Lines that are none of that are skipped, as VS Code's Go extension does.
func parseEnvFile(text string, env map[string]*string, environ []string) {
	text = strings.TrimPrefix(text, "\ufeff")
	for line := range strings.Lines(text) {
		m := envLine.FindStringSubmatch(strings.TrimRight(line, "\r\n"))
		if m == nil {
			continue
		}
		value := m[2]
		if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
			double := value[0] == '"'
			value = value[1 : n-1]
			if double {
				value = strings.ReplaceAll(value, `\n`, "\n")
			}
		}
		value = envSubst.ReplaceAllStringFunc(value, func(ref string) string {
			if ref[0] == '\\' {
				return ref[1:]
			}
			name := ref[2 : len(ref)-1]
			if v := env[name]; v != nil {
				return *v
			}
			return Lookup(environ, name)
		})
		env[m[1]] = &value
	}
}

// Lookup is a variable's value in an environment; the last one counts, as with the shell.
func Lookup(environ []string, name string) string {
	for _, e := range slices.Backward(environ) {
		if k, v, _ := strings.Cut(e, "="); k == name {
			return v
		}
	}
	return ""
}

// Over is the environment with variables set and, where nil, unset.
func Over(environ []string, env map[string]*string) []string {
	out := slices.DeleteFunc(slices.Clone(environ), func(e string) bool {
		name, _, _ := strings.Cut(e, "=")
		_, changed := env[name]
		return changed
	})
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if v := env[name]; v != nil {
			out = append(out, name+"="+*v)
		}
	}
	return out
}
