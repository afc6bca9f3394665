package config

import "github.com/invopop/jsonschema"

// debuggerKey describes one of a real debugger's own keys, for the editor's help alone: stepin passes every key on, these
// and others. kind is a JSON type; "strings" is a list of them, "variables" an object of strings and nulls.
type debuggerKey struct{ name, kind, text string }

// commonKeys are every real debugger's.
var commonKeys = []debuggerKey{
	{"args", "strings", "The program's arguments."},
	{"cwd", "string", "The program's working directory."},
	{"env", "variables", "Variables over the pod's; null unsets one."},
	{"envFile", "any", "A file of NAME=value lines, or a list of such files; env goes over it."},
	{"console", "console", "Where the program's standard streams are."},
}

// ownKeys are those of each debugger.type. Sources: Delve's service/dap/types.go and VS Code's Go extension; debugpy's
// wiki, "Debug configuration settings"; js-debug's OPTIONS.md.
var ownKeys = map[string][]debuggerKey{
	"go": {
		{"program", "string", "The package's folder, a Go file of it, or with mode exec an executable."},
		{"mode", "mode", "What program is. auto: tests for a file _test.go, else a package or an executable."},
		{"buildFlags", "any", "Flags for go build, as one string or a list."},
		{"output", "string", "Where the built executable goes while it runs."},
		{"stopOnEntry", "boolean", "Stop at the program's first instruction."},
		{"substitutePath", "array", "Where sources are found: a list of objects with from and to."},
		{"stackTraceDepth", "integer", "How many frames are shown at most."},
		{"showGlobalVariables", "boolean", "Show the package's variables as well."},
		{"showRegisters", "boolean", "Show the registers as well."},
		{"hideSystemGoroutines", "boolean", "Leave out the runtime's own goroutines."},
		{"goroutineFilters", "string", "Which goroutines are shown, in Delve's words."},
		{"dlvToolPath", "string", "Delve itself. Empty: dlv on PATH, in GOBIN or in GOPATH/bin."},
		{"dlvFlags", "strings", "Further flags for dlv."},
		{"dlvCwd", "string", "Where dlv and go build run, and relative paths start."},
		{"showLog", "boolean", "Show dlv's own log, without the pod's values."},
		{"logOutput", "string", "Which parts of dlv log, separated by commas."},
	},
	"python": {
		{"program", "string", "The file to run."},
		{"module", "string", "The module to run, as python -m does."},
		{"code", "any", "The code to run, as python -c does."},
		{"python", "any", "The interpreter, with its own arguments as a list."},
		{"justMyCode", "boolean", "Step only through code that is not a library's."},
		{"subProcess", "boolean", "Debug child processes as well."},
		{"stopOnEntry", "boolean", "Stop at the program's first line."},
		{"redirectOutput", "boolean", "Show the program's output in the debug console."},
		{"django", "boolean", "Debug Django's templates."},
		{"jinja", "boolean", "Debug Jinja's templates."},
		{"pathMappings", "array", "Where sources are found: a list of objects with localRoot and remoteRoot."},
		{"debugAdapterPath", "string", "The folder debugpy/adapter of another debugpy than the interpreter's own."},
	},
	"node": {
		{"program", "string", "The file to run."},
		{"runtimeExecutable", "string", "What runs it: node, npm, tsx …; a name on PATH or an absolute path."},
		{"runtimeArgs", "strings", "The runtime's own arguments, before the program."},
		{"stopOnEntry", "boolean", "Stop at the program's first line."},
		{"skipFiles", "strings", "Files that are not stepped into, as patterns; <node_internals>/** are Node's own."},
		{"smartStep", "boolean", "Step over code that no source map covers."},
		{"sourceMaps", "boolean", "Use source maps."},
		{"outFiles", "strings", "Where compiled files are, as patterns."},
		{"resolveSourceMapLocations", "strings", "Where source maps are taken from, as patterns."},
		{"autoAttachChildProcesses", "boolean", "Debug child processes as well."},
		{"outputCapture", "string", "std: show all that the program writes; console: only what it logs."},
		{"debugAdapterPath", "string", "js-debug's DAP server, dapDebugServer.js, where it is not found."},
	},
}

// schema is the key as a JSON schema.
func (k debuggerKey) schema() *jsonschema.Schema {
	s := &jsonschema.Schema{Type: k.kind, Description: k.text}
	switch k.kind {
	case "any":
		s.Type = ""
	case "strings":
		s.Type, s.Items = "array", &jsonschema.Schema{Type: "string"}
	case "variables":
		s.Type = "object"
	case "console":
		s.Type, s.Enum = "string", []any{"internalConsole", "integratedTerminal", "externalTerminal"}
	case "mode":
		s.Type, s.Enum = "string", []any{"auto", "debug", "test", "exec"}
	}
	return s
}

// ofType is the help for one debugger.type.
func ofType(typ string) *jsonschema.Schema {
	is := jsonschema.NewProperties()
	is.Set("type", &jsonschema.Schema{Const: typ})
	own := jsonschema.NewProperties()
	for _, list := range [][]debuggerKey{ownKeys[typ], commonKeys} {
		for _, k := range list {
			own.Set(k.name, k.schema())
		}
	}
	return &jsonschema.Schema{If: &jsonschema.Schema{Properties: is}, Then: &jsonschema.Schema{Properties: own}}
}
