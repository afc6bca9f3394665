package session

import (
	"os"
	"strings"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/policy"
)

// readEnvFile reads env.file.
func readEnvFile(path string) (map[string]string, error) {
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fail.Wrap(fail.ConfigValue, cause(err), "give the file's absolute path, or remove env.file",
			"env.file: %s cannot be read", path)
	}
	vars, err := config.ParseEnvFile(data)
	if err != nil {
		return nil, fail.Wrap(fail.ConfigValue, err, "write one NAME=value a line", "env.file: %s", path)
	}
	return vars, nil
}

// Environ is the debuggee's whole environment; launch is what the launch configuration sets or unsets (nil).
func (s *Session) Environ(launch map[string]*string) []string {
	env, _ := s.environ(launch)
	return s.front.Environ(env)
}

func (s *Session) environ(launch map[string]*string) ([]string, []policy.Left) {
	pod := make([]string, len(s.pod.Env))
	for i, v := range s.pod.Env {
		pod[i] = string(v)
	}
	return policy.Environ(policy.EnvInput{Host: s.options.Place.Environ, Pod: pod, Config: s.config.Env,
		File: s.envFile, Launch: launch})
}

// PodEnviron is what turns a real debugger's environment (policy.DebuggerEnviron) into the debuggee's.
func (s *Session) PodEnviron(launch map[string]*string) map[string]*string {
	return policy.Delta(policy.DebuggerEnviron(s.options.Place.Environ), s.Environ(launch))
}

// variable returns the value of one variable of an environment.
func variable(env []string, name string) string {
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v
		}
	}
	return ""
}
