package child

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"

	"github.com/stepin-dev/stepin/agent/pair"
	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// session is one channel of one session.
//
// Goroutines: serve, which hands its requests out until the channel ends; one a request.
type session struct {
	pair.Channel
	conn   *mux.Conn
	paused atomic.Bool // the debuggee stands at a breakpoint
}

// serve admits a session and answers its requests until the channel ends.
func (c *Child) serve(ctx context.Context, rw net.Conn) {
	s := &session{}
	slot := false
	defer func() {
		if slot {
			<-c.channels
		}
	}()
	admit := func(h wire.Hello) (wire.Welcome, error) {
		welcome, err := c.admit(h, s)
		if err != nil {
			return welcome, err
		}
		select {
		case c.channels <- struct{}{}:
			slot = true
		default:
			return welcome, errTooMany
		}
		if !c.waiting.leave(rw) {
			return welcome, errTooMany
		}
		return welcome, nil
	}
	conn, err := mux.Serve(ctx, rw, admit,
		mux.Config{Log: c.log, OnMessage: func(kind wire.Kind, body []byte) {
			c.message(s, kind, body)
		}})
	if err != nil {
		c.log.Debug("a channel that began badly", "err", err)
		if s.Session != "" {
			_, _ = c.caller.Call(pair.OpGone, s.Channel, nil)
		}
		return
	}
	s.conn = conn
	c.adoptSession(s)
	c.log.Info("session joined", "session", s.Session)
	for {
		r, err := conn.Accept()
		if err != nil {
			break
		}
		go c.answer(s, r)
	}
	c.endSession(s)
}

// message is what a session says on its control stream.
func (c *Child) message(s *session, kind wire.Kind, body []byte) {
	switch kind {
	case wire.KindState:
		var state wire.State
		if wire.Decode(body, &state) == nil {
			s.paused.Store(state.Paused)
		}
	case wire.KindTarget:
		var t wire.Target
		if wire.Decode(body, &t) == nil {
			_ = c.caller.Tell(pair.OpTarget, pair.Target{Container: t.Container, Ending: t.Ending})
		}
	}
}

// admit has the parent check the token, of which it knows the hash, and that the session is nobody else's.
func (c *Child) admit(h wire.Hello, s *session) (wire.Welcome, error) {
	hash := sha256.Sum256([]byte(h.Token))
	var lease pair.Lease
	if _, err := c.caller.Call(pair.OpHello, pair.Hello{Session: h.Session, Resume: h.Resume, Who: h.Who, TokenHash: hash[:]}, &lease); err != nil {
		return wire.Welcome{}, err
	}
	s.Channel = pair.Channel{Session: h.Session, Generation: lease.Generation}
	return wire.Welcome{Resume: lease.Resume, Resumed: lease.Resumed, Since: lease.Since}, nil
}

// adoptSession enters a channel; a former one of the same session is over, whether it knows or not.
func (c *Child) adoptSession(s *session) {
	c.mu.Lock()
	old := c.sessions[s.Session]
	c.sessions[s.Session] = s
	c.mu.Unlock()
	if old != nil { // it may hang, and the session is to be served at once
		go old.conn.Close("this session has another channel now")
	}
}

// endSession gives the ports back at once; the reservation stays for a while unless the session said goodbye.
func (c *Child) endSession(s *session) {
	op := pair.OpGone
	if errors.As(s.conn.Err(), &mux.ByeError{}) {
		op = pair.OpBye
	}
	c.steals.drop(s)
	c.mu.Lock()
	if c.sessions[s.Session] == s {
		delete(c.sessions, s.Session)
	}
	c.mu.Unlock()
	_, err := c.caller.Call(op, s.Channel, nil)
	c.log.Info("session left", "session", s.Session, "why", s.conn.Err(), "err", err)
}

// answer serves one request. Every kind of the wire is here, so that this list is what the agent does.
func (c *Child) answer(s *session, r *mux.Request) {
	switch r.Kind {
	case wire.KindDescribe:
		c.describe(r)
	case wire.KindDial:
		c.dial(r)
	case wire.KindAssociate:
		c.associate(r)
	case wire.KindLookup:
		c.lookup(r)
	case wire.KindSteal:
		c.steal(s, r)
	case wire.KindWatch:
		c.watch(r)
	case wire.KindLstat:
		c.lstat(r)
	case wire.KindReadlink:
		c.readlink(r)
	case wire.KindReaddir:
		c.readdir(r)
	case wire.KindOpen:
		c.open(r)
	case wire.KindSessions:
		c.list(s, r)
	case wire.KindStop:
		c.stop(s, r)
	case wire.KindMirror:
		c.mirror(s, r)
	case wire.KindAttach:
		r.Refuse(&wire.Refusal{Errno: syscall.EOPNOTSUPP, Message: "this agent cannot attach yet; hint: set request to launch"})
	case wire.KindReply, wire.KindHello, wire.KindIncoming, wire.KindIncomingDG, wire.KindCopy:
		r.Refuse(&wire.Refusal{Errno: syscall.EPROTO, Message: fmt.Sprintf("a session does not open streams of kind %d", r.Kind)})
	default:
		r.Refuse(&wire.Refusal{Errno: syscall.EOPNOTSUPP, Message: fmt.Sprintf(
			"this agent does not know streams of kind %d; hint: it is older than the session, end it and start again", r.Kind)})
	}
}

// list tells who uses this agent.
func (c *Child) list(s *session, r *mux.Request) {
	got, err := c.caller.Call(pair.OpSessions, s.Channel, nil)
	defer pair.CloseAll(got)
	var all []wire.SessionInfo
	if err == nil && len(got) != 1 {
		err = syscall.EBADMSG
	}
	var raw []byte
	if err == nil {
		raw, err = readAll(got[0])
	}
	if err == nil {
		err = json.Unmarshal(raw, &all)
	}
	if err == nil {
		c.mu.Lock()
		for i, info := range all {
			if other := c.sessions[info.ID]; other != nil {
				all[i].Paused = other.paused.Load()
			}
		}
		c.mu.Unlock()
		raw, err = json.Marshal(all)
	}
	if err != nil {
		r.Refuse(err)
		return
	}
	stream, err := r.Accept(nil)
	if err != nil {
		return
	}
	defer stream.Close()
	_, _ = stream.Write(raw)
}

// stop ends another session, if the parent finds that it may be ended.
func (c *Child) stop(s *session, r *mux.Request) {
	var ask wire.Stop
	if !decode(r, &ask) {
		return
	}
	_, err := c.caller.Call(pair.OpStop, pair.Stop{Channel: s.Channel, Other: ask.Session}, nil)
	if err == nil {
		c.mu.Lock()
		other := c.sessions[ask.Session]
		c.mu.Unlock()
		if other != nil {
			defer other.conn.Bye(wire.Bye{Reason: "this session was stopped by its owner", Stopped: true})
		}
	}
	tell(r, nil, err)
}

// decode reads a request's body, or refuses it.
func decode(r *mux.Request, into any) bool {
	if err := wire.Decode(r.Body, into); err != nil {
		r.Refuse(&wire.Refusal{Errno: syscall.EINVAL, Message: err.Error()})
		return false
	}
	return true
}

// untilEnd waits for the end of a stream on which nothing more is due; io.EOF is a clean one.
func untilEnd(stream *mux.Stream) error {
	var b [64]byte
	for {
		if _, err := stream.Read(b[:]); err != nil {
			return err
		}
	}
}
