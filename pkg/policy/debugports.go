package policy

import (
	"encoding/json"
	"net"
	"net/url"
	"path"
	"strconv"
	"strings"
)

// Process is what tells the debuggee's ports from those that a debugger has opened in it.
type Process struct {
	Exe     string   // the target of its /proc/PID/exe
	Args    []string // its command line
	Environ []string // as it was started
}

// DebugPorts are the ports that a process of the debuggee's says a debugger has, wherever they are.
type DebugPorts struct {
	Numbers []uint16 // of anybody's
	Own     []uint16 // if it is the process's own
	All     bool     // each of the process's own
	Chosen  bool     // one of the process's own on the loopback, whose number the kernel chose and nobody knows beforehand
	Awaited bool     // likewise, and its child will say which
}

// nodeInspector is where Node's inspector listens unless it is told where: by --inspect, SIGUSR1 or inspector.open().
const nodeInspector = 9229

// What js-debug gives to the debuggee and to the program that watches over its inspector (src/targets/node of 1.112).
const (
	jsDebuggee = "VSCODE_INSPECTOR_OPTIONS"
	jsWatchdog = "NODE_INSPECTOR_INFO"
)

// Interprets says whether an executable is one that DebuggersOf knows something of.
func Interprets(exe string) bool {
	switch interpreterOf(exe) {
	case "node", "nodejs", "python":
		return true
	}
	return false
}

func interpreterOf(exe string) string {
	return unversioned(path.Base(strings.TrimSuffix(exe, " (deleted)")))
}

// DebuggersOf reads a process. Sources: node(1), --inspect and its kin, which NODE_OPTIONS may hold, too; debugpy's
// server/cli.py and server/api.py, which start an adapter beside a debuggee that listens.
func DebuggersOf(p Process) (d DebugPorts) {
	vars := variables(p.Environ)
	switch interpreterOf(p.Exe) {
	case "node", "nodejs":
		if info, ok := vars[jsWatchdog]; ok {
			d.Numbers = inspectorOf(info)
			return d
		}
		d.Own = []uint16{nodeInspector}
		flags := strings.Fields(vars["NODE_OPTIONS"])
		for _, a := range p.Args[min(1, len(p.Args)):] {
			if !strings.HasPrefix(a, "-") {
				break // the script; what follows is its own
			}
			flags = append(flags, a)
		}
		for _, f := range flags {
			switch port, ok := inspectFlag(f); {
			case !ok:
			case port == 0:
				d.Chosen = true
			default:
				d.Own = append(d.Own, port)
			}
		}
		_, d.Awaited = vars[jsDebuggee]
	case "python":
		d.All, d.Numbers = debugpyAdapter(p.Args)
	}
	return d
}

// inspectorOf is the port in what js-debug tells its watchdog: JSON with the inspector's address.
func inspectorOf(info string) []uint16 {
	var told struct {
		URL string `json:"inspectorURL"`
	}
	if json.Unmarshal([]byte(info), &told) != nil {
		return nil
	}
	u, err := url.Parse(told.URL)
	if err != nil {
		return nil
	}
	if port, ok := portOf(u.Port()); ok && port != 0 {
		return []uint16{port}
	}
	return nil
}

// inspectFlag reads --inspect[-brk|-wait|-port][=[host:]port] and --debug-port.
func inspectFlag(flag string) (port uint16, ok bool) {
	name, value, _ := strings.Cut(flag, "=")
	switch name {
	case "--inspect", "--inspect-brk", "--inspect-wait", "--inspect-port", "--debug-port":
	default:
		return 0, false
	}
	if _, after, err := net.SplitHostPort(value); err == nil {
		value = after
	}
	if port, ok = portOf(value); ok {
		return port, true
	}
	return nodeInspector, true
}

func portOf(text string) (uint16, bool) {
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err == nil
}

// debugpyAdapter says whether a command line is that of debugpy's adapter beside a debuggee, whose ports are all a
// debugger's, and which of the debuggee's own it was told.
func debugpyAdapter(args []string) (is bool, told []uint16) {
	for i, a := range args {
		switch {
		case strings.HasSuffix(a, "/debugpy/adapter"), a == "debugpy.adapter" && i > 0 && args[i-1] == "-m":
			is = true
		case a == "--for-server" && is && i+1 < len(args):
			if port, ok := portOf(args[i+1]); ok && port != 0 {
				told = append(told, port)
			}
		}
	}
	return is, told
}
