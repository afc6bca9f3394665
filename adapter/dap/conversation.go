package dap

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
)

// Time limits. VS Code gives a disconnect 2000 ms and then ends the adapter, nvim-dap 3 s.
const (
	politeEnd   = 700 * time.Millisecond  // the real debugger's time to end the debuggee and itself when asked
	answerEnd   = 1700 * time.Millisecond // disconnect is answered after this, whatever has not ended by then
	flushEnd    = 200 * time.Millisecond  // the editor's time to read the last messages
	cleanEnd    = 10 * time.Second        // what still has not ended is left to the session's own guards
	connectTime = 20 * time.Second        // from starting a real debugger to its connection; Delve needs 0.05 s
	// terminalTime is connectTime when the editor starts it in a terminal: shells have start-up files, and some
	// editors ask the user first.
	terminalTime = 60 * time.Second
)

// Options are what a conversation needs from outside. They may not be changed once Serve has them.
type Options struct {
	Parse     func(arguments json.RawMessage) (*config.Launch, error) // launch arguments, with stepin.yaml underneath
	Debuggers map[string]NewDebugger                                  // by debugger.type
	Start     Starter
	Place     Place
	Terminal  []string // the command that is Enter, without the socket
	Log       *slog.Logger
}

type phase int

const (
	idle      phase = iota // before launch, or after a failed one
	launching              // the operation is a launch
	running                // run is set; the operation may be a restart
	ending                 // no way back
)

// client is what the editor can do (DAP: InitializeRequestArguments).
type client struct {
	Progress bool `json:"supportsProgressReporting"`
	Terminal bool `json:"supportsRunInTerminalRequest"`
	Children bool `json:"supportsStartDebuggingRequest"`

	extension
}

// extension is what our own extension says with launch, and with a child's (keys with two underscores are the client's, by
// the DAP specification).
type extension struct {
	// OwnErrors: it shows itself why a launch or restart failed, with buttons; the editor's dialog would be a second one.
	OwnErrors bool `json:"__showsErrors"`
	// OwnChildren: it starts child sessions itself, by childEvent. The editor would give each a console and a stop button that
	// know nothing of the parent's.
	OwnChildren bool `json:"__startsChildren"`
	// OwnProgress: it shows the progress itself, for every session; VS Code does so only for the one that has its focus.
	OwnProgress bool `json:"__showsProgress"`
}

// operation is a launch or restart under way.
type operation struct {
	seq      int // the editor's number of the request
	cancel   context.CancelFunc
	progress *progress
	done     chan struct{}
}

// conversation is one editor's connection, from initialize to disconnect.
//
// Goroutines: (1) the editor's reader, which handles requests in order and never waits for a peer; (2) one per
// operation (launch, restart), at most one at a time, ended by operation.cancel; (3) per real debugger its reader, the
// watchers of its process (run.go) and of its debuggee (standing.go), two readers of its output pipes (output.go); (4) the session's watcher, from
// launch to end, and who tells its state; (5) one shutdown, once; (6) requests of stepin's own (own.go). All but (1) are in wg.
type conversation struct {
	o      Options
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelFunc
	editor *link
	wg     sync.WaitGroup
	ended  chan struct{} // shutdown is through

	mu          sync.Mutex
	phase       phase
	client      client
	initArgs    json.RawMessage // as the editor sent them
	announced   map[string]json.RawMessage
	cancels     bool // the real debugger knows cancel
	op          *operation
	session     *live // nil before launch
	run         *run
	swap        *swap // non-nil while a restart is under way
	memory      memory
	paused      bool
	childPaused bool       // one of its child sessions stands
	child       bool       // it is a child session itself
	kind        string     // launch arguments' type
	terminated  bool       // the editor has been told
	disconnects []*Message // to be answered at the end
	owns        int        // requests of stepin's own under way
}

// live is what one launch made and restarts keep.
type live struct {
	runner   Runner
	stop     context.CancelFunc // ends the context that the session was started with
	config   *config.Launch
	noDebug  bool
	debugger Debugger   // the present one
	former   []Debugger // of earlier runs whose configuration has changed since
	program  string     // what the present one debugs
	closing  sync.Once
	closed   chan struct{}
	arrival  arrival
}

// close ends the session and removes what the build left; it may be called often and returns when all is through.
func (l *live) close(log *slog.Logger) {
	l.closing.Do(func() {
		defer close(l.closed)
		if err := l.runner.Close(); err != nil {
			log.Debug("closing the session", "error", err)
		}
		l.stop()
		for _, d := range append(l.former, l.debugger) {
			if d == nil { // a child session's is its parent's
				continue
			}
			if err := d.Close(); err != nil {
				log.Debug("removing what the build left", "error", err)
			}
		}
	})
	<-l.closed
}

// Serve talks to one editor until it disconnects, its stream ends or ctx does, and returns when everything that it
// started has ended, at most cleanEnd later. It owns conn. The error is nil unless the peer does not talk DAP.
func Serve(ctx context.Context, conn io.ReadWriteCloser, o Options) error {
	c := &conversation{o: o, log: o.Log, ended: make(chan struct{})}
	c.memory.init()
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	defer c.cancel()
	c.editor = newLink("editor", conn, c.log)
	read := make(chan error, 1)
	go func() { read <- c.editor.read(c.onEditor) }()
	var err error
	select {
	case err = <-read:
		c.end(nil)
	case <-ctx.Done():
		c.end(nil)
	case <-c.ended:
	}
	<-c.ended
	if errors.Is(err, errForeign) {
		return err
	}
	return nil
}

func (c *conversation) onEditor(m *Message) {
	switch m.Type {
	case "request":
		c.onRequest(m)
	case "response":
		c.onEditorResponse(m)
	default:
		c.log.Debug("dropped", "message", m.String())
	}
}

// onEditorResponse takes the editor's answer to a request of ours or of the real debugger. Editors number such answers
// as they like (VS Code: 0), so only request_seq counts.
func (c *conversation) onEditorResponse(m *Message) {
	p := c.editor.take(m.RequestSeq)
	switch {
	case p == nil:
		c.log.Debug("dropped", "message", m.String())
	case p.done != nil:
		p.done(m)
	default:
		m.RequestSeq = p.seq
		if err := p.from.link.send(m); err != nil {
			c.log.Debug("forwarding an answer", "error", err)
		}
	}
}

// toEditor sends a message to the editor; a slow editor holds the caller until the conversation ends.
func (c *conversation) toEditor(m *Message) {
	if err := c.editor.sendWait(c.ctx, m); err != nil {
		c.log.Debug("sending to the editor", "message", m.String(), "error", err)
	}
}

// reply sends an answer or event of ours; it never waits.
func (c *conversation) reply(m *Message) {
	if err := c.editor.send(m); err != nil {
		c.log.Debug("sending to the editor", "message", m.String(), "error", err)
	}
}

// outputBody is the body of an output event.
type outputBody struct {
	Category string `json:"category"`
	Output   string `json:"output"`
}

// print shows text in the editor's console; category as in DAP's OutputEvent.
func (c *conversation) print(category, text string) {
	c.toEditor(newEvent("output", outputBody{Category: category, Output: text}))
}

// notice shows one line of stepin's own. It does not wait: the session calls it from anywhere.
func (c *conversation) notice(line string) {
	c.reply(newEvent("output", outputBody{Category: "console", Output: "stepin: " + line + "\n"}))
}

// refuse answers a request with an error: its number, its sentence and hint, and whether the editor should show it.
func (c *conversation) refuse(seq int, command string, err error) {
	c.log.Debug("request failed", "command", command, "code", fail.CodeOf(err))
	what, code := err.Error(), int(fail.CodeOf(err))
	switch {
	case fail.CodeOf(err) == fail.BuildFailed:
		// The compiler's text is in the debug console, where Go developers look for it: no pop-up (as Delve does).
		what = "Failed to " + command
		c.reply(newFailure(seq, command, what, code, what+": Build error: Check the debug console for details.", false))
	case errors.Is(err, context.Canceled):
		c.reply(newFailure(seq, command, "cancelled", code, command+" was cancelled", false))
	default:
		c.mu.Lock()
		show := !c.client.OwnErrors || command != "launch" && command != "restart"
		c.mu.Unlock()
		c.reply(newFailure(seq, command, what, code, describe(err), show))
	}
}

// describe is the sentence and its hint; a configuration with several problems has several.
func describe(err error) string {
	var many config.Problems
	if errors.As(err, &many) {
		lines := make([]string, len(many))
		for i, e := range many {
			lines[i] = describe(e)
		}
		return strings.Join(lines, "\n")
	}
	if hint := fail.Hint(err); hint != "" {
		return err.Error() + "\nhint: " + hint
	}
	return err.Error()
}
