package namespaces

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The steps of making the namespaces, in their order, by the names that doctor shows.
const (
	stepClone    = "namespaces of its own"
	stepMap      = "user and group ids"
	stepHostname = "host name"
	stepNetwork  = "network"
	stepTun      = "TUN device"
	stepSlave    = "mounts of its own"
	stepFuse     = "FUSE device"
	stepMount    = "FUSE mount"
	stepRoot     = "root directory"
	stepEnter    = "entering from outside"
	stepPorts    = "ports below 1024" // a session does without
)

var steps = []string{stepClone, stepMap, stepHostname, stepTun, stepNetwork, stepSlave, stepFuse, stepMount, stepRoot, stepEnter, stepPorts}

// holder is the process inside that made the namespaces and keeps them. It runs nothing, listens to nobody but the control
// socket, and ends with it. Goroutines: the caller's, and one that turns the end of ctx into the end of the socket.
type holder struct {
	plan    Plan
	control control
	tun     int        // -1 until it is open
	lo      int        // packet socket into lo, -1 where there is none
	notes   []string   // see message.Notes
	ports   *stepError // see message.Ports
	mounts  int
}

// HolderMain is the body of the hidden `stepin holder` command, which Start runs in new namespaces. Control is the
// descriptor 3 that Start gave it; descriptor 4, the keeper's pipe, stays open and untouched until the process ends. It
// returns when the session has closed the socket, has died, or ctx ends, after every other process in its namespaces is dead;
// or when a step fails, which it also tells the session.
func HolderMain(ctx context.Context, file *os.File) error {
	c, err := newControl(file)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	m, _, err := c.receive()
	if err != nil {
		return err
	}
	if m.Kind != kindPlan || m.Plan == nil {
		return fmt.Errorf("namespaces: the session sent %q before a plan", m.Kind)
	}
	h := &holder{plan: *m.Plan, control: c, tun: -1, lo: -1}
	if err := h.setUp(); err != nil {
		var failed *stepError
		if !errors.As(err, &failed) {
			failed = &stepError{Step: stepRoot, Call: "holder", Text: err.Error()}
		}
		c.send(message{Kind: kindFailed, Failed: failed})
		return err
	}
	err = h.serve()
	in, inErr := inodesOf("/proc/self")
	if inErr != nil {
		return errors.Join(err, inErr)
	}
	return errors.Join(err, in.reap(os.Getpid()))
}

// setUp builds everything and reports it. What it opened is the session's after that.
func (h *holder) setUp() error {
	if h.plan.Hostname != "" {
		if err := unix.Sethostname([]byte(h.plan.Hostname)); err != nil {
			return failedStep(stepHostname, err, "sethostname(%q)", h.plan.Hostname)
		}
	}
	files, err := h.network()
	defer func() { closeAll(files) }()
	if err != nil {
		return err
	}
	if err := h.files(); err != nil {
		return err
	}
	if err := h.dropRights(); err != nil {
		h.note("the holder keeps its capabilities: %v", err)
	}
	// The session opens /proc/PID/ns and enters by a pidfd; a process that has had more rights than its user is closed to that.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
		return failedStep(stepEnter, err, "prctl(PR_SET_DUMPABLE)")
	}
	return h.control.send(message{Kind: kindReady, Mounts: h.mounts, Notes: h.notes, Ports: h.ports}, files...)
}

// maxNotes bounds what the ready message says; a machine with more oddities is odd enough.
const maxNotes = 32

func (h *holder) note(format string, args ...any) {
	if len(h.notes) < maxNotes {
		h.notes = append(h.notes, fmt.Sprintf(format, args...))
	}
}

// serve answers the session until the socket's end.
func (h *holder) serve() error {
	for {
		m, fds, err := h.control.receive()
		closeAll(fds)
		if errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
		if m.Kind != kindSockets {
			return fmt.Errorf("namespaces: the session asks for %q", m.Kind)
		}
		made, err := makeSockets(m.Family, m.Count)
		answer := message{Kind: kindSockets}
		if err != nil && !errors.As(err, &answer.Failed) {
			answer.Failed = &stepError{Step: stepNetwork, Call: "transparent sockets", Text: err.Error()}
		}
		err = h.control.send(answer, made...)
		closeAll(made)
		if err != nil && !errors.Is(err, unix.EPIPE) {
			return err
		}
	}
}
