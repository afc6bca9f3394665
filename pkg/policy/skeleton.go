package policy

import (
	"net/netip"
	"syscall"

	"github.com/stepin-dev/stepin/pkg/config"
)

// EnvInput is all that decides the debuggee's environment.
type EnvInput struct {
	Host, Pod []string           // NAME=value
	Config    config.Env         // include, exclude, override, unset
	File      map[string]string  // the content of Config.File
	Launch    map[string]*string // the launch configuration's own env; nil unsets
}

// Left is a variable of the pod that the debuggee does not get.
type Left struct{ Name, Why string }

// Environ returns the debuggee's whole environment, sorted, and what was left out.
func Environ(in EnvInput) (env []string, left []Left) { return nil, nil }

// Delta returns what turns the environment base into env: a value to set, or nil to unset.
func Delta(base, env []string) map[string]*string { return nil }

// DebuggerEnviron returns the environment that a real debugger is started with, made from the host's.
func DebuggerEnviron(host []string) []string { return nil }

// FilesInput is all that decides which paths come from the pod. Paths are absolute.
type FilesInput struct {
	Volumes                                        []string // where something is mounted in the pod
	HostTop, PodTop                                []string // names of the top-level directories, "app"
	Present                                        []string // those of Probes that the pod has
	Program, Workdir, Workspace, Interpreter, Home string
	Own                                            []string // what stepin itself needs at its place: the session's directory, TMPDIR
	DNS, Hostname                                  bool     // config.Launch's
	Config                                         config.Files
}

// Kept is a path that stays on the host although a rule or the default would take it from the pod.
type Kept struct{ Path, Why string }

// FilesPlan says which paths come from the pod.
type FilesPlan struct {
	Cover    []string          // from the pod, minimal, sorted
	Host     []string          // inside a covered path and yet the host's, sorted
	Hide     []string          // covered with nothing, sorted
	HostView []string          // covered paths that host programs see as the host has them
	Map      map[string]string // a path to the pod's path it shows
	Kept     []Kept
}

// Probes returns the paths to look for in the pod before Cover is asked.
func Probes() []string { return nil }

// Cover decides.
func Cover(in FilesInput) FilesPlan { return FilesPlan{} }

// Covered says whether path (clean, absolute) comes from the pod.
func (p FilesPlan) Covered(path string) bool { return false }

// PodPath returns the pod's path that a covered path shows.
func (p FilesPlan) PodPath(path string) string { return path }

// Where is where a flow leaves from.
type Where uint8

// The verdicts.
const (
	Pod         Where = iota // through the agent
	Host                     // from this machine
	HostThenPod              // loopback: from this machine, and where that refuses, through the agent
	Deny                     // not at all, with an errno
)

// Verdict is one decision.
type Verdict struct {
	Where Where
	Errno syscall.Errno // of Deny
	Rule  string        // the user's rule that decided, "" if none did
}

// Outgoing is the table of config.Outgoing.
type Outgoing struct{}

// NewOutgoing reads the rules.
func NewOutgoing(c config.Outgoing) (*Outgoing, error) { return nil, nil }

// NeedNames says whether a rule goes by name, so that the session must remember which name led to which address.
func (o *Outgoing) NeedNames() bool { return false }

// Name says whose resolver answers for name.
func (o *Outgoing) Name(name string) Verdict { return Verdict{} }

// Verdict decides on a flow; network is "tcp" or "udp", names are those that lately led to dst's address.
func (o *Outgoing) Verdict(network string, dst netip.AddrPort, names ...string) Verdict {
	return Verdict{}
}

// Lost is the verdict on new flows while the pod cannot be reached; onLost is config.Launch's.
func Lost(onLost string) Verdict { return Verdict{} }

// IsHostProgram says whether a process is none of the pod's business; exe is its /proc/PID/exe, args its command line.
func IsHostProgram(exe string, args []string, extra []string) bool { return false }
