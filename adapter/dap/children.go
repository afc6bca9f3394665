package dap

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/peer"
)

// childKey is where a child session's configuration says how it comes back to its parent. Keys that begin with two
// underscores are the client's own to the rest of stepin.
const childKey = "__stepin"

// childEvent asks our own extension for a child session; its body is what startDebugging's arguments are.
const childEvent = "stepin.startDebugging"

// childWay is what childKey holds. It has nothing of the pod's: an editor may keep it.
type childWay struct {
	Socket    string          `json:"socket"`    // of the parent's relay
	Arguments json.RawMessage `json:"arguments"` // for the real debugger, as it wrote them
}

// withheld are keys of a child session's configuration that the editor does not get: debugpy copies the parent's launch
// arguments, with the pod's variables and the stub in them, and attaches without.
var withheld = []string{"env", "python", "pythonPath", "debugLauncherPython"}

// maxChildren bounds the child sessions of one real debugger: a debuggee may fork without end.
const maxChildren = 128

// relay is where the child sessions of one real debugger connect: between them and it, so that a child session may live in
// another stepin process (an editor that talks on standard input starts one for each) and its parent still knows which
// of its processes stand.
//
// Goroutines: accept (ends with the listener); two a child, which end with either side's connection. All are in the
// conversation's wg.
type relay struct {
	r        *run
	listener net.Listener
	network  string // where the real debugger takes child sessions
	address  string

	mu       sync.Mutex
	closed   bool
	conns    map[net.Conn]bool
	standing map[net.Conn]bool // children that stand
}

// relayOn returns the relay that listens on "unix" or "tcp" and leads to the real debugger's address.
func (r *run) relayOn(own, network, address string) (*relay, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if y := r.relays[own]; y != nil {
		return y, nil
	}
	if r.childless {
		return nil, fmt.Errorf("dap: listening for child sessions: %s has ended", r.name)
	}
	at := "127.0.0.1:0"
	if own == "unix" {
		at = filepath.Join(r.session.runner.Dir(), filepath.Base(r.socket)+"c")
	}
	l, err := net.Listen(own, at)
	if err != nil {
		return nil, fmt.Errorf("dap: listening for child sessions: %w", err)
	}
	y := &relay{r: r, listener: l, network: network, address: address, conns: map[net.Conn]bool{}, standing: map[net.Conn]bool{}}
	if r.relays == nil {
		r.relays = map[string]*relay{}
	}
	r.relays[own] = y
	r.c.wg.Go(y.accept)
	return y, nil
}

func (y *relay) accept() {
	for {
		child, err := y.listener.Accept()
		if err != nil {
			return
		}
		if err := peer.SameUser(child); err != nil {
			y.r.c.log.Warn("refused a child session", "reason", err)
			child.Close()
			continue
		}
		debugger, err := net.Dial(y.network, y.address)
		if err != nil {
			y.r.c.log.Warn("reaching the debugger for a child session", "reason", err)
			child.Close()
			continue
		}
		if !y.add(child, debugger) {
			continue
		}
		answers := &answering{Conn: child}
		y.r.c.wg.Go(func() {
			y.pass(answers, debugger)
			debugger.Close()
		})
		y.r.c.wg.Go(func() {
			y.follow(answers, debugger)
			y.remove(child, debugger)
		})
	}
}

func (y *relay) add(both ...net.Conn) bool {
	y.mu.Lock()
	defer y.mu.Unlock()
	full := y.closed || len(y.conns) >= 2*maxChildren
	for _, c := range both {
		if full {
			c.Close()
		} else {
			y.conns[c] = true
		}
	}
	return !full
}

func (y *relay) remove(child, debugger net.Conn) {
	child.Close()
	debugger.Close()
	y.mu.Lock()
	delete(y.conns, child)
	delete(y.conns, debugger)
	y.mu.Unlock()
	y.stand(child, false)
}

// answering is a child's connection, to which both the real debugger and we write, each a whole message at a time.
type answering struct {
	net.Conn
	mu sync.Mutex
}

func (a *answering) Write(b []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.Conn.Write(b)
}

// pass passes on what a child's editor says to the real debugger, but for requests of stepin's own.
func (y *relay) pass(child *answering, debugger net.Conn) {
	in := bufio.NewReader(child)
	for {
		body, err := ReadFrame(in)
		if err != nil {
			return
		}
		if m, err := ParseMessage(body); err == nil && m.Type == "request" && isOwn(m) {
			y.r.c.onOwn(m, func(answer *Message) {
				if text, err := answer.encode(0); err == nil { // a number of its own it needs not: the child goes by request_seq
					_, _ = child.Write(AppendFrame(nil, text)) // to one that has gone there is nothing to say
				}
			})
			continue
		}
		if _, err := debugger.Write(AppendFrame(nil, body)); err != nil {
			return
		}
	}
}

// follow passes on what the real debugger says to a child, and reads along.
func (y *relay) follow(answers *answering, debugger net.Conn) {
	child := answers.Conn
	in := bufio.NewReader(debugger)
	for {
		body, err := ReadFrame(in)
		if err != nil {
			return
		}
		m, err := ParseMessage(body)
		if err != nil {
			return
		}
		switch y.heard(child, m) {
		case drop:
			continue
		case changed:
			if body, err = m.encode(m.Seq); err != nil {
				return
			}
		}
		if _, err := answers.Write(AppendFrame(nil, body)); err != nil {
			return
		}
	}
}

// fate is what becomes of a message that passes.
type fate int

const (
	pass fate = iota
	changed
	drop
)

// heard reads one message.
func (y *relay) heard(child net.Conn, m *Message) fate {
	switch {
	case m.Type == "event" && m.Event == "stopped":
		y.stand(child, true)
	case m.Type == "event" && (m.Event == "continued" || m.Event == "terminated" || m.Event == "exited"),
		m.Type == "response" && m.Success && goesOn(m.Command):
		y.stand(child, false)
	case m.Type == "event" && m.Event == "process":
		y.r.onProcess(m)
	case m.Type == "event" && m.Event == "debugpyAttach":
		return y.r.onAttachEvent(m)
	case m.Type == "request" && m.Command == "startDebugging":
		if err := y.r.adopt(m); err != nil {
			y.r.c.log.Debug("a child of a child session", "error", err)
			return pass
		}
		return changed
	}
	return pass
}

func (y *relay) stand(child net.Conn, stands bool) {
	y.mu.Lock()
	if stands {
		y.standing[child] = true
	} else {
		delete(y.standing, child)
	}
	some := len(y.standing) > 0
	y.mu.Unlock()
	y.r.c.setChildPaused(y.r, some)
}

func (y *relay) close() {
	y.listener.Close()
	y.mu.Lock()
	defer y.mu.Unlock()
	y.closed = true
	for c := range y.conns {
		c.Close()
	}
}

// closeRelays ends all child sessions.
func (r *run) closeRelays() {
	r.mu.Lock()
	relays := r.relays
	r.childless = true
	r.mu.Unlock()
	for _, y := range relays {
		y.close()
	}
}

// adopt changes the real debugger's wish for a child session (startDebugging, or debugpy's own debugpyAttach where the
// editor does not know that) such that the child comes back to us.
func (r *run) adopt(m *Message) error {
	name := "arguments"
	if m.Type == "event" {
		name = "body"
	}
	outer := fields(m, name)
	conf := outer
	if m.Type != "event" {
		conf = map[string]json.RawMessage{}
		if err := decode(outer["configuration"], &conf); err != nil {
			return fmt.Errorf("dap: reading the configuration of a child session: %w", err)
		}
	}
	network, address, err := r.childAddress(conf)
	if err != nil {
		return err
	}
	for _, key := range withheld {
		delete(conf, key)
	}
	if m.Type == "event" {
		y, err := r.relayOn("tcp", network, address)
		if err != nil {
			return err
		}
		at := y.listener.Addr().(*net.TCPAddr)
		conf["connect"] = mustRaw(map[string]any{"host": at.IP.String(), "port": at.Port})
		m.raw[name] = mustRaw(conf)
		return nil
	}
	y, err := r.relayOn("unix", network, address)
	if err != nil {
		return err
	}
	outer["configuration"] = mustRaw(map[string]any{
		"type": r.c.editorType(), "name": conf["name"], "request": outer["request"],
		childKey: childWay{y.listener.Addr().String(), mustRaw(conf)},
	})
	m.raw[name] = mustRaw(outer)
	return nil
}

// onAttachEvent treats debugpy's own wish for a child session: editors that know startDebugging are asked by that.
func (r *run) onAttachEvent(m *Message) fate {
	wish := m
	if r.c.hasChildren() {
		wish = newRequest("startDebugging", map[string]any{"request": "attach", "configuration": m.Field("body")})
	}
	if err := r.adopt(wish); err != nil {
		r.c.log.Debug("a child session", "error", err)
		return drop
	}
	switch {
	case wish == m:
		return changed
	case r.c.ownChildren():
		r.c.toEditor(newEvent(childEvent, wish.Field("arguments")))
		return drop
	}
	if _, err := r.c.editor.ask(wish, &pending{command: wish.Command, done: func(*Message) {}}); err != nil {
		r.c.log.Debug("asking for a child session", "error", err)
	}
	return drop
}

// childAddress is where the real debugger takes a child session.
func (r *run) childAddress(conf map[string]json.RawMessage) (network, address string, err error) {
	if r.way == Serves {
		return "unix", r.socket, nil
	}
	var connect struct {
		Host string `json:"host"`
		Port int    `json:"port"`
	}
	if err := decode(conf["connect"], &connect); err != nil || connect.Port == 0 {
		return "", "", errors.New("dap: reading the configuration of a child session: it does not say where to connect")
	}
	return "tcp", net.JoinHostPort(connect.Host, strconv.Itoa(connect.Port)), nil
}

// childOf returns the way back to the parent if launch or attach arguments are a child session's.
func childOf(m *Message) (way childWay, ok bool) {
	return way, decode(fields(m, "arguments")[childKey], &way) == nil && way.Socket != ""
}

// onChild begins a child session: its real debugger is there already, and its session the parent's.
func (c *conversation) onChild(m *Message, way childWay) {
	if !c.toLaunching(m) {
		return
	}
	c.mu.Lock()
	c.child = true
	c.mu.Unlock()
	c.begin(m, "stepin", func(ctx context.Context, op *operation) error {
		s := &live{runner: parentRunner{}, stop: func() {}, closed: make(chan struct{})}
		return c.settleLaunch(s, c.await(ctx, m, op, s, func(st starting) (*run, error) {
			return c.joinParent(ctx, m.Command, s, way, st)
		}))
	})
}

// joinParent connects a child session to its parent's relay and has it begin.
func (c *conversation) joinParent(ctx context.Context, command string, s *live, way childWay, st starting) (*run, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", way.Socket)
	if err == nil {
		if err = peer.SameUser(conn); err != nil {
			conn.Close()
		}
	}
	if err != nil {
		return nil, fail.Wrap(fail.DebuggerFailed, err, "start the parent again", "the parent of this session is gone")
	}
	r := &run{c: c, name: "the debugger", way: Serves, start: st, session: s, gone: make(chan struct{}), link: newLink("parent", conn, c.log)}
	c.introduce(r, command, way.Arguments)
	return r, nil
}

// parentRunner stands for the parent's session, which the parent looks after.
type parentRunner struct{ Runner }

func (parentRunner) SetPaused(bool)        {}
func (parentRunner) Done() <-chan struct{} { return nil }
func (parentRunner) Err() error            { return nil }
func (parentRunner) Close() error          { return nil }

func (c *conversation) isChild() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.child
}

// hasChildren says that the editor can start child sessions.
func (c *conversation) hasChildren() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.client.Children
}

// ownChildren says that our own extension starts them.
func (c *conversation) ownChildren() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.client.OwnChildren
}

// editorType is what the editor's configuration calls this adapter.
func (c *conversation) editorType() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kind == "" {
		return "stepin"
	}
	return c.kind
}
