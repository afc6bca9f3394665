package dap

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/peer"
)

// runInTerminal has the editor start the command in a terminal, so that the debuggee has it as its standard streams.
// The environment that goes with it holds nothing of the pod.
func (c *conversation) runInTerminal(ctx context.Context, argv []string, command Command, d Debugger) error {
	kind := "integrated"
	if d.Console() == ExternalTerminal {
		kind = "external"
	}
	env := map[string]*string{}
	for _, name := range command.Drop {
		env[name] = nil
	}
	answer := make(chan *Message, 1)
	request := newRequest("runInTerminal", struct {
		Kind  string             `json:"kind"`
		Title string             `json:"title"`
		Cwd   string             `json:"cwd"`
		Args  []string           `json:"args"`
		Env   map[string]*string `json:"env"`
	}{kind, "stepin", command.Dir, argv, env})
	if _, err := c.editor.ask(request, &pending{command: "runInTerminal", done: func(m *Message) { answer <- m }}); err != nil {
		return fail.Wrap(fail.DebuggerFailed, err, "", "the editor cannot be asked for a terminal")
	}
	select {
	case m := <-answer:
		if m.Success {
			return nil
		}
		var message string
		if json.Unmarshal(m.Field("message"), &message) != nil || message == "" {
			message = "no reason given"
		}
		return fail.New(fail.DebuggerFailed, `use "console": "internalConsole"`,
			"the editor did not open a terminal: %s", message)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// cleanTerminal sees to it that a real debugger's wish for a terminal starts only what it may know there: variables that
// the debuggee is not to have from the terminal are unset.
func (r *run) cleanTerminal(m *Message) error {
	env := map[string]json.RawMessage{}
	if err := decode(fields(m, "arguments")["env"], &env); err != nil {
		return fail.Wrap(fail.DebuggerFailed, err, "", "%s asks for a terminal in a way that stepin does not know", r.name)
	}
	if env == nil {
		env = map[string]json.RawMessage{}
	}
	for _, name := range r.drop {
		if _, own := env[name]; !own {
			env[name] = json.RawMessage("null")
		}
	}
	if r.way == Serves {
		return r.handOver(m, env)
	}
	m.raw["arguments"] = withField(m.Field("arguments"), "env", mustRaw(env))
	return nil
}

// entry is what a program in a terminal is to become.
type entry struct {
	Args []string           `json:"args"`
	Env  map[string]*string `json:"env"` // over the terminal's own; null unsets
}

// handOver keeps the variables that are the debuggee's, the pod's among them, from the editor, which would show them in the
// terminal: a program of ours is started there, and fetches them by a socket.
//
// Goroutine: one, which waits for that program and ends with the run.
func (r *run) handOver(m *Message, env map[string]json.RawMessage) error {
	args := fields(m, "arguments")
	var e entry
	if err := errors.Join(decode(args["args"], &e.Args), decode(mustRaw(env), &e.Env)); err != nil || len(e.Args) == 0 {
		return fail.New(fail.DebuggerFailed, "", "%s asks for a terminal in a way that stepin does not know", r.name)
	}
	r.mu.Lock()
	r.entries++
	path := fmt.Sprintf("%st%d", r.socket, r.entries)
	r.mu.Unlock()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fail.Wrap(fail.DebuggerFailed, err, "", "no socket for the program in the terminal")
	}
	ended := make(chan struct{})
	r.c.wg.Go(func() {
		select {
		case <-r.gone:
		case <-ended:
		}
		l.Close()
	})
	r.c.wg.Go(func() {
		defer close(ended)
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			if err = peer.SameUser(conn); err == nil {
				err = json.NewEncoder(conn).Encode(e)
			}
			conn.Close()
			if err == nil {
				return
			}
			r.c.log.Warn("handing a program over to a terminal", "reason", err)
		}
	})
	args["args"] = mustRaw(append(slices.Clone(r.c.o.Terminal), path))
	args["env"] = json.RawMessage("{}")
	delete(args, "argsCanBeInterpretedByShell")
	m.raw["arguments"] = mustRaw(args)
	return nil
}

// Enter makes of this process what a real debugger wants in a terminal; the socket says what. It returns only if it
// fails.
func Enter(ctx context.Context, socket string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return fail.Wrap(fail.DebuggerFailed, err, "start it again", "the debugger that wanted this terminal is gone")
	}
	defer conn.Close()
	if err := peer.SameUser(conn); err != nil {
		return fail.Wrap(fail.DebuggerFailed, err, "", "what is to be started comes from somebody else")
	}
	var e entry
	if err := json.NewDecoder(io.LimitReader(conn, MaxMessage)).Decode(&e); err != nil || len(e.Args) == 0 {
		return fail.Wrap(fail.DebuggerFailed, err, "start it again", "the debugger does not say what is to be started")
	}
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		_, changed := e.Env[name]
		return changed
	})
	for name, v := range e.Env {
		if v != nil {
			env = append(env, name+"="+*v)
		}
	}
	err = unix.Exec(e.Args[0], e.Args, env) // the descriptor of conn is closed by it
	return fail.Wrap(fail.DebuggerFailed, err, "", "%s does not start", e.Args[0])
}
