package dap

import (
	"context"
	"encoding/json"

	"github.com/stepin-dev/stepin/pkg/fail"
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
	m.raw["arguments"] = withField(m.Field("arguments"), "env", mustRaw(env))
	return nil
}
