package pair

import (
	"net/netip"
	"time"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// Questions of the child. The parent answers them one after the other, so what is asked first takes effect first.
const (
	OpHello    = "hello"    // Hello, answered by Lease
	OpSteal    = "steal"    // Steal; the answer's files are a UDP port's sockets, IPv4 then IPv6, as Stolen says
	OpMirror   = "mirror"   // Steal, answered by Mirror and one packet socket
	OpUnsteal  = "unsteal"  // Unsteal, of a mirror, too: detached when answered
	OpGone     = "gone"     // Channel: lost; detached when answered, the reservation stays for the grace time
	OpBye      = "bye"      // Channel: ended on purpose; reservations go, too
	OpOriginal = "original" // Original, answered by Dialable and one socket, bound, not connected
	OpStop     = "stop"     // Stop: another session of the same token is over when answered
	OpSessions = "sessions" // Channel; the answer's file holds []wire.SessionInfo as JSON
	OpTarget   = "target"   // Target, without an answer: a session's word on which container to follow
	OpRelease  = "release"  // Dialable: the bypass of an original's socket is not needed any more
	OpPong     = "pong"     // not a question: the child lives
)

// Events of the parent.
const (
	OpStart  = "start"  // Start, the first message; its files in the order of the constants below
	OpRetire = "retire" // Retire: say goodbye and end
	OpView   = "view"   // View: the container has ended (no files), or another took its place (root, environ, mountinfo)
	OpPing   = "ping"   // to be answered by the message OpPong, which has no answer
)

// Files of OpStart. Raw sockets and the trace may be missing: Start says so.
const (
	FileListener = iota // the agent's own, for sessions
	FileRoot            // the pod's root directory
	FileEnviron         // /proc/PID/environ
	FileMounts          // /proc/PID/mountinfo
	FileOurs            // the agent's own mountinfo
	FileRest            // trace if Trace; steal listeners; raw sockets

	// ViewFiles is how many files there are to see of the target: FileRoot to FileMounts.
	ViewFiles = FileOurs - FileRoot
)

// Rights of an agent, for Pod. The modes of package steal are rights, too.
const (
	RightFiles    = "files"
	RightEnv      = "env"
	RightNames    = "names"
	RightOutgoing = "outgoing"
	RightHostname = "hostname"
	RightMirror   = "mirror"
)

// View says what the files of a target are.
type View struct {
	Target string // for messages: local/PID (exe)
	Files  bool   // the root directory is one; else it is out of reach, and the file anything
	Notice string // a line for the sessions; "" for none
}

// Start tells the child what it is.
type Start struct {
	View      View
	PeerUID   uint32       // whose connections are accepted where the listener is a unix socket
	UID, GID  int          // the target's
	Groups    []int        // the target's supplementary groups
	Caps      uint64       // what to keep of the capabilities, as a bit set (capabilities(7))
	Rights    []string     // for Pod
	Limits    []string     // for Pod
	Gateways  []netip.Addr // of the pod
	Redirect  bool         // stolen connections come by NAT: the address called is in the connection tracking
	Trace     bool
	Resuming  bool // there was a child before; its sessions come back to this one
	Listeners int  // how many steal listeners
	Raw       int  // raw UDP sockets to answer stolen datagrams with: IPv4, then IPv6; 0 with Redirect
}

// Hello asks for a session's lease.
type Hello struct {
	Session, Resume, Who string
	TokenHash            []byte // SHA-256 of the token that it showed
}

// Lease answers Hello. Generation names this channel of the session in later questions.
type Lease struct {
	Resume     string
	Resumed    bool
	Since      time.Time
	Generation uint64
}

// Channel names one channel of a session.
type Channel struct {
	Session    string
	Generation uint64
}

// Steal asks for ports, all or nothing. Stream is the number of the steal's stream.
type Steal struct {
	Channel
	Stream   uint32
	Ports    []wire.Port
	Existing string
}

// Stolen answers Steal. For each port of the network udp, in the order of the question, UDP holds two flags: whether an
// IPv4 and an IPv6 socket is among the files.
type Stolen struct {
	UDP    [][2]bool
	Closed int // connections already open that were ended
}

// Mirror answers OpMirror: Mark is what the agent's own packets bear, 0 for none.
type Mirror struct{ Mark uint32 }

// Stop ends the session Other.
type Stop struct {
	Channel
	Other string
}

// Target names a container. Ending says that its end is the pod's.
type Target struct {
	Container string
	Ending    bool
}

// Unsteal ends a steal.
type Unsteal struct {
	Channel
	Stream uint32
}

// Original asks for a socket that reaches the pod's own process past the steal.
type Original struct {
	Network string
	Local   netip.AddrPort // the address that the client called
}

// Dialable names the bypass that a socket was given.
type Dialable struct{ ID uint64 }

// Retire ends the child, which tells its sessions Reason. A child that another is to replace is not told but killed: its
// sessions only lose their channels, and come back to the next.
type Retire struct{ Reason string }
