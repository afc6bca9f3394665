package session

import (
	"context"
	"net"
	"net/netip"
	"os/exec"
	"syscall"

	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/namespaces"
)

// frontEnd makes the debuggee see the pod, and tells the session what the debuggee does. It asks the session about each
// outgoing flow (Session.tcp, Session.udp) and holds no policy. Its methods may be called from any goroutine.
type frontEnd interface {
	// Wrap returns the command line that runs argv in the pod's place, Begin starts a command there. A program that cannot be
	// run there is a fail.Error.
	Wrap(argv []string) []string
	Begin(cmd *exec.Cmd) error
	// Arrived is the session's: for what others than Begin have begun.
	Arrived(ctx context.Context) error
	// Environ adds what the front end needs to the debuggee's environment. Never to a real debugger's.
	Environ(env []string) []string

	// Listeners are the debuggee's sockets that listen now, Connected the TCP ports with connections of the debuggee's.
	Listeners() ([]namespaces.Listener, error)
	// Processes are the debuggee's.
	Processes() ([]int, error)
	Connected() (map[uint16]bool, error)
	// OwnPort says that the debuggee listens on a port, DisownPort that nothing of it is left.
	OwnPort(network string, port uint16) error
	DisownPort(network string, port uint16) error
	// OnHost says that a port of the debuggee's is this machine's own already, and which it is there.
	OnHost(network string, port uint16) (at uint16, ok bool)
	// Deliver connects to the debuggee's listener at dst, which shall see the client's address.
	Deliver(ctx context.Context, client, dst netip.AddrPort) (*net.TCPConn, error)
	// SendUDP has the debuggee's socket at dst receive a datagram from the client's address.
	SendUDP(client, dst netip.AddrPort, data []byte) error

	// Done is closed when the debuggee cannot be where it was any more, and nothing of it is left; Err says why.
	Done() <-chan struct{}
	Err() error
	// Close ends every process of the debuggee's tree and leaves nothing behind.
	Close() error
}

// notRun says why a program does not run in the pod's place. text is what else is known.
func notRun(program string, missing bool, errno syscall.Errno, text string) error {
	switch {
	case missing:
		return fail.New(fail.ProgramMissing, "it takes a path of this machine, or of the pod where the pod's files are seen",
			"%s: no such program in the pod's place", program)
	case errno == syscall.ENOEXEC:
		return fail.Wrap(fail.ProgramMissing, errno, "run it by its interpreter; or build it for this machine", "%s is not a program", program)
	case errno != 0:
		return fail.Wrap(fail.ProgramMissing, errno, "chmod +x, or run it by its interpreter; not everything can be run from where the pod's files are seen",
			"%s cannot be run in the pod's place", program)
	}
	return fail.New(fail.Internal, "start it again", "%s cannot be run in the pod's place: %s", program, text)
}
