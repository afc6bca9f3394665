package policy

import (
	"reflect"
	"strings"
	"testing"
)

func TestDebuggersOf(t *testing.T) {
	own := func(ports ...uint16) DebugPorts { return DebugPorts{Own: append([]uint16{9229}, ports...)} }
	for _, c := range []struct {
		exe, args string
		environ   []string
		want      DebugPorts
	}{
		{"/usr/bin/node", "node server.js", nil, own()},
		{"/usr/bin/node", "node --inspect=0.0.0.0:9333 server.js --inspect=1", nil, own(9333)},
		{"/usr/bin/node (deleted)", "node --inspect-brk=9333 server.js", nil, own(9333)},
		{"/usr/bin/node", "node --inspect server.js", nil, own(9229)},
		{"/usr/bin/node", "node --inspect=[::1]:7 x", nil, own(7)},
		{"/usr/bin/node", "node --inspect=0 x", nil, DebugPorts{Own: []uint16{9229}, Chosen: true}},
		{"/usr/bin/node", "title", []string{"NODE_OPTIONS=--require x --inspect-port=9333"}, own(9333)},
		{"/usr/bin/node", "node x", []string{"VSCODE_INSPECTOR_OPTIONS=:::{}"}, DebugPorts{Own: []uint16{9229}, Awaited: true}},
		{"/usr/bin/node", "node watchdog.js", []string{`NODE_INSPECTOR_INFO={"inspectorURL":"ws://127.0.0.1:41234/6f-a"}`}, DebugPorts{Numbers: []uint16{41234}}},
		{"/usr/bin/node", "node watchdog.js", []string{`NODE_INSPECTOR_INFO={`}, DebugPorts{}},
		{"/usr/bin/python3.11", "python3 /x/debugpy/adapter --for-server 41000 --host 0.0.0.0 --port 5678", nil, DebugPorts{All: true, Numbers: []uint16{41000}}},
		{"/usr/bin/python3.11", "python3 -m debugpy.adapter", nil, DebugPorts{All: true}},
		{"/usr/bin/python3.11", "python3 app.py --for-server 1", nil, DebugPorts{}},
		{"/usr/bin/app", "app --inspect=9229", nil, DebugPorts{}},
		{"", "", nil, DebugPorts{}},
	} {
		if got := DebuggersOf(Process{c.exe, strings.Fields(c.args), c.environ}); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s %q: %+v, want %+v", c.args, c.environ, got, c.want)
		}
	}
}

func FuzzDebuggersOf(f *testing.F) {
	f.Add("/usr/bin/node", "node\x00--inspect=1:2", "NODE_INSPECTOR_INFO={\"inspectorURL\":\"ws://[::1]:1/\"}")
	f.Fuzz(func(t *testing.T, exe, args, environ string) {
		d := DebuggersOf(Process{exe, strings.Split(args, "\x00"), strings.Split(environ, "\x00")})
		for _, n := range d.Numbers {
			if n == 0 {
				t.Error("port 0")
			}
		}
	})
}
