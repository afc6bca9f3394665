package dap

import (
	"encoding/json"
	"errors"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// onRequest is the one place that says what becomes of an editor's request. What is not listed is the real
// debugger's: it is forwarded as it came, and refused by the real debugger if it does not know it.
func (c *conversation) onRequest(m *Message) {
	if isOwn(m) && !c.isChild() { // a child's are for its parent, to which all of its requests go
		c.onOwn(m, c.reply)
		return
	}
	switch m.Command {
	// Ours alone.
	case "initialize": // answered at once, before it is known which debugger it will be
		c.onInitialize(m)
	case "launch", "attach": // configuration, session, build, real debugger; or a child session
		way, child := childOf(m)
		switch {
		case child:
			c.onChild(m, way)
		case m.Command == "attach":
			c.refuse(m.Seq, m.Command, fail.New(fail.ConfigLater, `use "request": "launch"`, "attach does not exist yet"))
		default:
			c.onLaunch(m)
		}
	case "restart": // build, then a new real debugger in the same session: Delve cannot rebuild what it did not build
		if c.isChild() {
			c.forward(m, "")
			return
		}
		c.onRestart(m)
	case "disconnect": // at any moment, within 2 s
		c.end(m)
	case "terminate": // the real debugger's if it has one; not announced with Delve, whose debuggee at a breakpoint could not end itself anyway
		c.onTerminate(m)
	case "cancel": // ours by request or progress, else the real debugger's if it can
		c.onCancel(m)

	// Refused.
	case "runInTerminal", "startDebugging":
		c.refuse(m.Seq, m.Command, fail.New(fail.Internal, "", "%s goes from the adapter to the editor only", m.Command))

	// The real debugger's, and remembered: a restart plays them again.
	case "setBreakpoints", "setFunctionBreakpoints", "setExceptionBreakpoints", "setInstructionBreakpoints",
		"setDataBreakpoints", "configurationDone":
		c.forward(m, c.remember(m))

	default:
		c.forward(m, "")
	}
}

// capabilities are announced before the real debugger is known: what Delve 1.27 does on this machine, and what
// stepin adds. A real debugger that differs corrects them by a capabilities event.
func capabilities() map[string]json.RawMessage {
	c := map[string]json.RawMessage{
		"exceptionBreakpointFilters": json.RawMessage(`[` +
			`{"filter":"unrecovered-panic","label":"Unrecovered Panics","default":true},` +
			`{"filter":"runtime-fatal-throw","label":"Fatal Throws","default":true}]`),
	}
	for _, name := range []string{
		"supportsConfigurationDoneRequest", "supportsConditionalBreakpoints", "supportsHitConditionalBreakpoints",
		"supportsDelayedStackTraceLoading", "supportsFunctionBreakpoints", "supportsInstructionBreakpoints",
		"supportsExceptionInfoRequest", "supportsSetVariable", "supportsEvaluateForHovers", "supportsClipboardContext",
		"supportsSteppingGranularity", "supportsLogPoints", "supportsDisassembleRequest", "supportsReadMemoryRequest",
		"supportsWriteMemoryRequest", "supportsDataBreakpoints",
	} {
		c[name] = json.RawMessage("true")
	}
	for name := range ownCapabilities {
		c[name] = json.RawMessage("true")
	}
	return c
}

// ownCapabilities hold whatever the real debugger says: those requests are answered by stepin.
var ownCapabilities = map[string]bool{"supportsRestartRequest": true, "supportsCancelRequest": true}

func (c *conversation) onInitialize(m *Message) {
	var format struct {
		Path    *string `json:"pathFormat"`
		Lines   *bool   `json:"linesStartAt1"`
		Columns *bool   `json:"columnsStartAt1"`
	}
	var cl client
	args := m.Field("arguments")
	if err := errors.Join(decode(args, &format), decode(args, &cl)); err != nil {
		c.refuse(m.Seq, m.Command, fail.Wrap(fail.ConfigValue, err, "", "initialize arguments"))
		return
	}
	if format.Path != nil && *format.Path != "path" || format.Lines != nil && !*format.Lines ||
		format.Columns != nil && !*format.Columns {
		c.refuse(m.Seq, m.Command, fail.New(fail.ConfigValue, "Delve knows nothing else",
			`only pathFormat "path" with lines and columns from 1 is supported`))
		return
	}
	c.mu.Lock()
	c.client, c.initArgs, c.announced = cl, args, capabilities()
	body := mustRaw(c.announced)
	c.mu.Unlock()
	c.reply(newResponse(m.Seq, m.Command, body))
}

// decode reads optional arguments: missing ones leave v as it is.
func decode(raw json.RawMessage, v any) error {
	if len(raw) == 0 {
		return nil
	}
	return json.Unmarshal(raw, v)
}

// forward passes a request to the real debugger; key is what remember returned. While a restart changes the real
// debugger, requests wait for the new one.
func (c *conversation) forward(m *Message, key string) {
	c.mu.Lock()
	r, p := c.run, c.phase
	if p == running && c.swap != nil && c.swap.changing {
		full := !c.swap.hold(held{m, key})
		c.mu.Unlock()
		if full {
			c.refuse(m.Seq, m.Command, fail.New(fail.Internal, "", "a restart is under way"))
		}
		return
	}
	c.mu.Unlock()
	if r == nil || p == ending {
		c.reply(newFailure(m.Seq, m.Command, "No debug session started", int(fail.Internal),
			"No debug session started: Use launch first.", false))
		return
	}
	r.forward(m, key)
}

// forward passes a request to this real debugger.
func (r *run) forward(m *Message, key string) {
	seq, command := m.Seq, m.Command
	if _, err := r.link.ask(m, &pending{command: command, seq: seq, key: key}); err != nil {
		r.c.refuse(seq, command, fail.Wrap(fail.DebuggerFailed, err, "", "%s cannot be asked", r.name))
	}
}

func (c *conversation) onTerminate(m *Message) {
	c.mu.Lock()
	r, ready := c.run, c.phase == running && c.swap == nil
	forwards := string(c.announced["supportsTerminateRequest"]) == "true"
	c.mu.Unlock()
	if !ready || r == nil {
		c.refuse(m.Seq, m.Command, fail.New(fail.Internal, "use disconnect", "nothing runs that could be terminated"))
		return
	}
	if forwards {
		r.forward(m, "")
		return
	}
	c.reply(newResponse(m.Seq, m.Command, nil))
	c.wg.Go(func() { r.end(nil) }) // its terminated event reaches the editor, which then disconnects
}

// onCancel ends an operation of ours, named by its request or its progress; other requests are the real debugger's.
func (c *conversation) onCancel(m *Message) {
	var args struct {
		RequestID  *int    `json:"requestId"`
		ProgressID *string `json:"progressId"`
	}
	if err := decode(m.Field("arguments"), &args); err != nil {
		c.refuse(m.Seq, m.Command, fail.Wrap(fail.ConfigValue, err, "", "cancel arguments"))
		return
	}
	c.mu.Lock()
	op, r := c.op, c.run
	forwards := c.cancels
	c.mu.Unlock()
	switch {
	case op != nil && (args.RequestID != nil && *args.RequestID == op.seq ||
		args.ProgressID != nil && op.progress != nil && *args.ProgressID == op.progress.id):
		op.cancel()
		c.reply(newResponse(m.Seq, m.Command, nil))
	case r != nil && forwards:
		if args.RequestID != nil {
			m.raw["arguments"] = withField(m.Field("arguments"), "requestId", number(r.link.find(*args.RequestID)))
		}
		r.forward(m, "")
	default:
		c.reply(newFailure(m.Seq, m.Command, "cannot be cancelled", int(fail.Internal), "cannot be cancelled", false))
	}
}

// withField returns the object with one field set; other fields stay byte by byte.
func withField(object json.RawMessage, name string, value json.RawMessage) json.RawMessage {
	fields := map[string]json.RawMessage{}
	if err := decode(object, &fields); err != nil || fields == nil {
		fields = map[string]json.RawMessage{}
	}
	fields[name] = value
	return mustRaw(fields)
}
