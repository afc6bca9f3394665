package config

// What the design has and this version does not: refused in words, so that nobody takes silence for success. When
// one of these is built, its row goes and its key or value joins launch.go.

// laterKeys are keys that do not exist yet, with what to do meanwhile.
var laterKeys = map[string]string{
	"incoming.filter": "leave the key out: all requests to the port reach the program",
	"outgoing.unix":   "leave the key out: unix sockets are this machine's",
}

// laterValues are values that do not exist yet, by path and value, with what to do meanwhile.
var laterValues = map[string]map[string]string{
	"request": {
		"attach": `write "request": "launch"`,
	},
	"debugger.type": {
		"lldb": `only "go", "python" and "node" exist yet`,
		"none": `use stepin exec to run a program without a debugger`,
	},
	"incoming.whilePaused": {
		"pod": `write "hold": requests wait until the program runs again`,
	},
	"files.mode": {
		"read":  `write "volumes" and name further paths in files.pod`,
		"write": `write "volumes"; the pod's files are read-only`,
	},
}

// laterTargets are the kinds of targets that do not exist yet.
var laterTargets = []string{"rollout", "none"}

// editorKeys are what editors put beside our keys in launch.json's arguments. They are theirs and are not checked.
// Source: VS Code's launch.json reference and the DAP specification (LaunchRequestArguments); keys that begin with
// two underscores are the client's by the same specification.
var editorKeys = map[string]bool{
	"name": true, "type": true, "preLaunchTask": true, "postDebugTask": true, "internalConsoleOptions": true,
	"presentation": true, "serverReadyAction": true, "suppressMultipleSessionWarning": true, "debugServer": true,
	"noDebug": true, "console": true,
}

// debuggerKeys are keys that people write at the top because their former launch.json had them there.
var debuggerKeys = []string{
	"program", "args", "cwd", "mode", "buildFlags", "envFile", "output", "stopOnEntry", "showLog", "logOutput",
	"dlvToolPath", "dlvFlags", "substitutePath", "trace", "backend", "host", "port", "processId",
	"hideSystemGoroutines", "showGlobalVariables", "showRegisters", "stackTraceDepth", "dlvCwd", "followFork",
	"module", "python", "justMyCode", "subProcess", "django", "jinja", "redirectOutput", "purpose",
	"runtimeExecutable", "runtimeArgs", "outFiles", "sourceMaps", "skipFiles", "resolveSourceMapLocations",
}
