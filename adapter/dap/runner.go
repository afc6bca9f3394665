package dap

import (
	"context"
	"encoding/json"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/requests"
)

// Runner is the session as the adapter sees it: a place that processes can be started in. pkg/session implements it.
type Runner interface {
	// Wrap turns a command line into one that runs it in the session's place; argv[0] is absolute.
	Wrap(argv []string) []string
	// PodEnviron is what the launch arguments' env must set, or unset (nil), over the adapter's own clean environment,
	// so that the debuggee has the pod's variables; launch is what the user wrote there.
	PodEnviron(launch map[string]*string) map[string]*string
	// Dir is a private directory (0700) that both sides see under the same path. It is removed with the session.
	Dir() string
	// Arrived waits, some seconds at most, until what has begun is known to be in the session's place; an error says that it is
	// not, or was not when ctx ended.
	Arrived(ctx context.Context) error
	// SetPaused says that the debuggee stands at a breakpoint. It does not wait.
	SetPaused(paused bool)
	// State is what the session is doing, as the body of stepin.state, and what is closed when that may have changed.
	State() (body any, changed <-chan struct{})
	// SetMode switches what becomes of the pods' requests. An error leaves it as it was.
	SetMode(ctx context.Context, mode string) error
	// Sessions are those on the session's pods, as a list for stepin.sessions; Stop ends one of this user's.
	Sessions(ctx context.Context) any
	Stop(ctx context.Context, id string) error
	// Done is closed when the session has ended by itself; Err says why.
	Done() <-chan struct{}
	Err() error
	// Close ends the session and every process in it. It is idempotent.
	Close() error
}

// Hints tell the session what it is for.
type Hints struct {
	Program   string // absolute path of what will be run, or of its sources; "" if unknown
	Runtime   string // absolute path of what is executed to run it (npm, a script); "": Program itself
	Debugger  string // absolute path of the real debugger; "" if unknown
	Cwd       string // absolute working directory of the debuggee; "" if unknown
	Workspace string // the folder that holds the sources: it stays the developer's own
}

// Hooks are called by a Starter while it works, from any goroutine; none waits.
type Hooks struct {
	Progress func(title string, done, total int) // what is being done; total 0: unknown
	Notice   func(line string)                   // one line for the user
	Request  func(requests.Request)              // a request to the debuggee that has been answered; one goroutine
	Dir      func(path string)                   // the private directory exists; optional, lets the build begin early
}

// Starter starts a session. It must return soon after ctx has ended.
type Starter func(ctx context.Context, c *config.Launch, h Hints, k Hooks) (Runner, error)

// Console says where the debuggee's standard streams are.
type Console string

// The consoles, as launch configurations name them.
const (
	InternalConsole    Console = "internalConsole"
	IntegratedTerminal Console = "integratedTerminal"
	ExternalTerminal   Console = "externalTerminal"
)

// Way is how a real debugger talks DAP and, with it, where it runs.
type Way int

const (
	// Dials: inside, as the debuggee's parent. It connects to the socket, the debuggee's output comes by the files of
	// Launching, and in a console of the editor's it is the real debugger that is started there.
	Dials Way = iota
	// Streams: outside, on its standard input and output. It starts the debuggee by the command line that Arguments has
	// wrapped, passes the debuggee's output on, and asks for a terminal itself.
	Streams
	// Serves: as Streams, but it listens at the socket, where its child sessions connect, too.
	Serves
)

// Command is how to start a real debugger.
type Command struct {
	Way  Way
	Argv []string // argv[0] absolute
	Env  []string // its whole environment: the developer's own, without the pod's
	Dir  string   // absolute
	Drop []string // variables that Env lacks and a terminal's environment may hold: unset there
}

// Launching is what the launch request to a real debugger needs besides the configuration.
type Launching struct {
	Program        string                                             // what Build returned
	Wrap           func(argv []string) []string                       // Runner.Wrap
	Environ        func(launch map[string]*string) map[string]*string // Runner.PodEnviron
	Stdout, Stderr string                                             // files that take the debuggee's output; "": leave them
	Children       bool                                               // the editor can start child sessions
}

// Debugger is one kind of real debugger, prepared for one launch configuration.
type Debugger interface {
	Name() string     // for sentences: "dlv"
	Hints() Hints     // for the session
	Console() Console // where the debuggee's standard streams are
	// Build makes what is to be debugged, in dir if need be, without anything of the pod. A failure that the user
	// reads in the console is reported there and returned as fail.BuildFailed. It may be called again (restart); the
	// former result must stay usable if it fails.
	Build(ctx context.Context, dir string, report func(category, text string)) (program string, err error)
	// Command starts it; the socket is a path in the session's directory, for the Ways that have one.
	Command(socket string) Command
	// Arguments are those of the real debugger's launch request.
	Arguments(l Launching) (json.RawMessage, error)
	// Log takes what it prints on its own standard streams, line by line, and returns the line to show, if any.
	Log(line string) (string, bool)
	// Close removes what Build left outside of dir.
	Close() error
}

// Place is where the adapter runs: what the developer's shell would give a debugger.
type Place struct {
	Dir     string   // working directory, absolute
	Environ []string // environment
	// Carried are real debuggers that the editor brings, by their Name. They come after what the launch configuration or the
	// environment names and what is the program's own, and before what other editors keep.
	Carried map[string]string
}

// NewDebugger prepares a real debugger for a configuration; noDebug is the editor's "run without debugging".
type NewDebugger func(c *config.Launch, noDebug bool, p Place) (Debugger, error)
