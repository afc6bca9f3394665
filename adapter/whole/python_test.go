package whole

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stepin-dev/stepin/pkg/podlet"
)

// systemPython has debugpy.
const systemPython = "/usr/bin/python3"

// pythonLaunch is a configuration for the service in Python.
func pythonLaunch(t *testing.T, p *podlet.Pod, more map[string]any) map[string]any {
	t.Helper()
	return merge(map[string]any{
		"type":     "stepin",
		"target":   fmt.Sprintf("local/%d", p.MainPID()),
		"debugger": map[string]any{"type": "python", "python": systemPython, "program": filepath.Join(source(t, "python"), "service.py"), "env": map[string]any{"WHO": "debuggee", "UNSET": nil}},
		"incoming": map[string]any{"mode": "steal"},
	}, more)
}

// TestPython is F5 on a program in Python: debugpy outside, the debuggee in the pod's place.
func TestPython(t *testing.T) {
	at := func(name string) string { return filepath.Join(source(t, "python"), name) }
	testScript(t, language{service: at("service.py"), child: at("child.py"), variable: "answer", launch: pythonLaunch})
}
