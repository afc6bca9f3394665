package delve

import (
	"os"
	"regexp"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// maxEnvFile bounds an envFile, in bytes: a process gets at most that much (execve(2), ARG_MAX).
const maxEnvFile = 2 << 20

// launchEnv is envFile, later files over earlier ones, and over that env.
func (d *Debugger) launchEnv() (map[string]*string, error) {
	env := map[string]*string{}
	for _, name := range d.keys.EnvFile {
		path := absolute(d.base, name)
		f, err := os.ReadFile(path)
		if err == nil && len(f) > maxEnvFile {
			return nil, fail.New(fail.ConfigValue, "", "envFile %s is larger than %d bytes", path, maxEnvFile)
		}
		if err != nil {
			return nil, fail.Wrap(fail.ConfigValue, err, "envFile is relative to "+d.base, "envFile cannot be read")
		}
		parseEnvFile(string(f), env, d.place.Environ)
	}
	for k, v := range d.keys.Env {
		if k == "" || strings.ContainsAny(k, "=\x00") {
			return nil, fail.New(fail.ConfigValue, "", "env: %q cannot be the name of a variable", k)
		}
		env[k] = v
	}
	return env, nil
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
			return lookup(environ, name)
		})
		env[m[1]] = &value
	}
}

// lookup is a variable's value in an environment; the last one counts, as with the shell.
func lookup(environ []string, name string) string {
	for _, e := range slices.Backward(environ) {
		if k, v, _ := strings.Cut(e, "="); k == name {
			return v
		}
	}
	return ""
}

// over is the environment with variables set and, where nil, unset.
func over(environ []string, env map[string]*string) []string {
	out := slices.DeleteFunc(slices.Clone(environ), func(e string) bool {
		name, _, _ := strings.Cut(e, "=")
		_, changed := env[name]
		return changed
	})
	for _, name := range sortedNames(env) {
		if v := env[name]; v != nil {
			out = append(out, name+"="+*v)
		}
	}
	return out
}

func sortedNames(env map[string]*string) []string {
	names := make([]string, 0, len(env))
	for name := range env {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// scrubber blots out the pod's values in dlv's own log.
type scrubber struct {
	mu     sync.Mutex
	values []string // longest first, so that none leaves a tail of another
}

func newScrubber() *scrubber { return &scrubber{} }

// shortest is the length below which a value is no secret, and blotting it out would make the log unreadable: "1",
// "true", "8080".
const shortest = 6

// learn takes the values that the user did not write himself. dlv logs them as JSON and as Go strings: both forms.
func (s *scrubber) learn(env, own map[string]*string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, v := range env {
		if v == nil || len(*v) < shortest || own[name] != nil && *own[name] == *v {
			continue
		}
		s.values = append(s.values, *v)
		for part := range strings.FieldsFuncSeq(*v, func(r rune) bool { return strings.ContainsRune("\n\r\t\"\\<>&", r) }) {
			if len(part) >= shortest && part != *v {
				s.values = append(s.values, part)
			}
		}
	}
	slices.Sort(s.values)
	s.values = slices.Compact(s.values)
	sort.SliceStable(s.values, func(i, j int) bool { return len(s.values[i]) > len(s.values[j]) })
}

func (s *scrubber) scrub(line string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.values {
		line = strings.ReplaceAll(line, v, "•••")
	}
	return line
}
