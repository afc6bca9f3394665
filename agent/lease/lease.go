// Package lease arbitrates between the sessions of one agent: who holds which ports since when, and for how long a
// session that was lost keeps them reserved (design §6, Lifetime). It is bookkeeping only: it must never open, attach or
// detach anything, but tells its caller what to.
package lease

import (
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// Grace is how long a lost session's ports stay reserved for it: longer than a laptop needs to change its network.
const Grace = 10 * time.Second

// Bounds of what sessions may ask for.
const (
	MaxSessions = 64
	MaxPorts    = 64  // of one steal: its UDP sockets fit one message
	maxStopped  = 256 // ids of stopped sessions that are remembered
	maxHeld     = 256 // ports of all sessions: each is a descriptor or more
	maxText     = 200 // of an id or a name: they are shown to people
)

// Key is one port as the kernel knows it.
type Key struct {
	Network string // "tcp" or "udp"
	Port    uint16
}

// Info is what a session learns of its lease.
type Info struct {
	Resume     string
	Resumed    bool
	Since      time.Time
	Generation uint64
	Detach     []wire.Port // to be detached now
}

// Table is not safe for concurrent use: the parent answers one question after the other.
type Table struct {
	sessions map[string]*session
	ports    map[Key]*held
	stopped  []string // sessions that were stopped, the latest last: one that was lost then does not know it yet
	last     uint64
}

type session struct {
	id, who, resume string
	token           [32]byte // the hash of its token: whose it is
	since           time.Time
	generation      uint64
	until           time.Time // zero while connected
	mirrors         []mirrored
}

// mirrored is what a session has copied. It excludes nobody, and goes with the channel.
type mirrored struct {
	stream uint32
	ports  []wire.Port
}

// held is one port's state. A port that an earlier channel of its owner attached stays so until that session steals it
// again, or until its time is over.
type held struct {
	owner      *session
	port       wire.Port
	since      time.Time
	generation uint64
	stream     uint32
	attached   bool
	until      time.Time // zero unless attached by an earlier channel
}

// New makes an empty table.
func New() *Table { return &Table{sessions: map[string]*session{}, ports: map[Key]*held{}} }

// Hello begins or resumes a session. One that is connected already is taken over by whoever shows its resume token:
// the old channel is dead and does not know it yet. Its TCP ports stay as they are for the grace time: who comes waits
// in the listener's queue. Its UDP ports go back: their receivers go with the old channel.
func (t *Table) Hello(id, resume, who string, token [32]byte, now time.Time) (Info, error) {
	if id == "" || len(id) > maxText || len(who) > maxText {
		return Info{}, &wire.Refusal{Errno: syscall.EINVAL, Message: "a session needs an id, and its names must be short"}
	}
	t.last++
	if s := t.sessions[id]; s != nil {
		if subtle.ConstantTimeCompare([]byte(s.resume), []byte(resume)) != 1 {
			return Info{}, &wire.Refusal{Errno: syscall.EBUSY,
				Message: fmt.Sprintf("session %q belongs to %s", id, s.who)}
		}
		s.generation, s.until, s.token, s.mirrors = t.last, time.Time{}, token, nil
		info := Info{Resume: s.resume, Resumed: true, Since: s.since, Generation: s.generation}
		for _, h := range t.ports {
			if h.owner != s {
				continue
			}
			h.until = now.Add(Grace)
			if h.attached && h.port.Network == "udp" {
				h.attached = false
				info.Detach = append(info.Detach, h.port)
			}
		}
		return info, nil
	}
	if slices.Contains(t.stopped, id) {
		return Info{}, &wire.Refusal{Errno: syscall.ECANCELED, Message: "this session was stopped by its owner"}
	}
	if len(t.sessions) >= MaxSessions {
		return Info{}, &wire.Refusal{Errno: syscall.EUSERS,
			Message: fmt.Sprintf("this agent serves %d sessions already", MaxSessions)}
	}
	s := &session{id: id, who: clean(who), token: token, resume: rand.Text(), since: now, generation: t.last}
	t.sessions[id] = s
	return Info{Resume: s.resume, Since: s.since, Generation: s.generation}, nil
}

// clean keeps a name that others will read on their terminals printable.
func clean(who string) string {
	who = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return -1
		}
		return r
	}, strings.ToValidUTF8(who, ""))
	if who == "" {
		return "somebody"
	}
	return who
}

// connected finds the session of a channel; nil where the channel is no longer the session's.
func (t *Table) connected(id string, generation uint64) *session {
	s := t.sessions[id]
	if s == nil || s.generation != generation || !s.until.IsZero() {
		return nil
	}
	return s
}

// Steal reserves ports, all or nothing, and counts them as attached.
func (t *Table) Steal(id string, generation uint64, stream uint32, ports []wire.Port, now time.Time) error {
	s := t.connected(id, generation)
	switch {
	case s == nil:
		return &wire.Refusal{Errno: syscall.ESTALE, Message: "this channel's session has moved to another one"}
	case len(ports) == 0 || len(ports) > MaxPorts:
		return &wire.Refusal{Errno: syscall.EINVAL, Message: fmt.Sprintf("a steal is of 1 to %d ports", MaxPorts)}
	}
	seen, fresh := map[Key]bool{}, 0
	for _, p := range ports {
		k := Key{p.Network, p.Port}
		if p.Port == 0 || p.Network != "tcp" && p.Network != "udp" || seen[k] {
			return &wire.Refusal{Errno: syscall.EINVAL, Message: fmt.Sprintf("port %q %d cannot be stolen", p.Network, p.Port)}
		}
		seen[k] = true
		h := t.ports[k]
		if h == nil {
			fresh++
		} else if h.owner != s || h.generation == generation {
			return conflict(h)
		}
	}
	if len(t.ports)+fresh > maxHeld {
		return &wire.Refusal{Errno: syscall.ENOSPC,
			Message: fmt.Sprintf("this agent's sessions hold %d ports already, and it keeps %d at most", len(t.ports), maxHeld)}
	}
	for _, p := range ports {
		k := Key{p.Network, p.Port}
		since := now
		if h := t.ports[k]; h != nil {
			since = h.since
		}
		t.ports[k] = &held{owner: s, port: p, since: since, generation: generation, stream: stream, attached: true}
	}
	return nil
}

// Mirror notes that ports are copied. It conflicts with nothing: who mirrors a port takes nothing from whoever has it.
func (t *Table) Mirror(id string, generation uint64, stream uint32, ports []wire.Port) error {
	s := t.connected(id, generation)
	switch {
	case s == nil:
		return &wire.Refusal{Errno: syscall.ESTALE, Message: "this channel's session has moved to another one"}
	case len(ports) == 0 || len(ports) > MaxPorts:
		return &wire.Refusal{Errno: syscall.EINVAL, Message: fmt.Sprintf("a mirror is of 1 to %d ports", MaxPorts)}
	}
	copied := len(ports)
	for _, other := range t.sessions {
		for _, m := range other.mirrors {
			copied += len(m.ports)
		}
	}
	if copied > maxHeld {
		return &wire.Refusal{Errno: syscall.ENOSPC, Message: fmt.Sprintf("this agent's sessions have %d ports copied at most", maxHeld)}
	}
	for _, p := range ports {
		if p.Port == 0 || p.Network != "tcp" {
			return &wire.Refusal{Errno: syscall.EINVAL, Message: fmt.Sprintf("port %q %d cannot be mirrored", p.Network, p.Port)}
		}
	}
	s.mirrors = append(s.mirrors, mirrored{stream, ports})
	return nil
}

func conflict(h *held) error {
	reserved := ""
	if !h.attached {
		reserved = " (reserved while it reconnects)"
	}
	return &wire.Refusal{Errno: syscall.EADDRINUSE, Message: fmt.Sprintf("port %d is held by %s since %s%s",
		h.port.Port, h.owner.who, h.since.UTC().Format("15:04:05 UTC"), reserved)}
}

// Unsteal ends one steal and its reservation, or one mirror. The ports are to be detached.
func (t *Table) Unsteal(id string, generation uint64, stream uint32) (detach []wire.Port) {
	s := t.connected(id, generation)
	if s == nil {
		return nil
	}
	s.mirrors = slices.DeleteFunc(s.mirrors, func(m mirrored) bool { return m.stream == stream })
	for k, h := range t.ports {
		if h.owner == s && h.generation == generation && h.stream == stream {
			detach = append(detach, h.port)
			delete(t.ports, k)
		}
	}
	return detach
}

// Gone is a lost channel: its ports are to be detached and stay reserved for the grace time.
func (t *Table) Gone(id string, generation uint64, now time.Time) (detach []wire.Port) {
	s := t.connected(id, generation)
	if s == nil {
		return nil
	}
	s.until, s.mirrors = now.Add(Grace), nil
	return t.unplug(s)
}

// Bye ends a session with all its reservations. The ports are to be detached.
func (t *Table) Bye(id string, generation uint64) (detach []wire.Port) {
	s := t.connected(id, generation)
	if s == nil {
		return nil
	}
	detach = t.unplug(s)
	t.drop(s)
	return detach
}

// Pause counts every session as lost, because their child is replaced, but leaves the ports attached: connections wait
// in the listener's queue until the session is back or its grace time is over.
func (t *Table) Pause(now time.Time) {
	for _, s := range t.sessions {
		if s.until.IsZero() {
			s.until, s.mirrors = now.Add(Grace), nil
		}
	}
}

// Expire drops the sessions and ports whose grace time is over. The ports are to be detached.
func (t *Table) Expire(now time.Time) (detach []wire.Port) {
	for _, s := range t.sessions {
		if !s.until.IsZero() && !now.Before(s.until) {
			detach = append(detach, t.unplug(s)...)
			t.drop(s)
		}
	}
	for k, h := range t.ports {
		if !h.until.IsZero() && !now.Before(h.until) {
			if h.attached {
				detach = append(detach, h.port)
			}
			delete(t.ports, k)
		}
	}
	return detach
}

// Next is when Expire has something to do; false if never.
func (t *Table) Next() (time.Time, bool) {
	var next time.Time
	for _, s := range t.sessions {
		if !s.until.IsZero() && (next.IsZero() || s.until.Before(next)) {
			next = s.until
		}
	}
	for _, h := range t.ports {
		if !h.until.IsZero() && (next.IsZero() || h.until.Before(next)) {
			next = h.until
		}
	}
	return next, !next.IsZero()
}

// Idle says that there is neither a session nor a reservation.
func (t *Table) Idle() bool { return len(t.sessions) == 0 }

// Used says that there is a session that is more than a tool's question.
func (t *Table) Used() bool {
	for id := range t.sessions {
		if !wire.Tool(id) {
			return true
		}
	}
	return false
}

// unplug marks s's ports as detached and returns those that were not.
func (t *Table) unplug(s *session) (detach []wire.Port) {
	for _, h := range t.ports {
		if h.owner == s && h.attached {
			h.attached = false
			detach = append(detach, h.port)
		}
	}
	slices.SortFunc(detach, func(a, b wire.Port) int { return int(a.Port) - int(b.Port) })
	return detach
}

func (t *Table) drop(s *session) {
	for k, h := range t.ports {
		if h.owner == s {
			delete(t.ports, k)
		}
	}
	delete(t.sessions, s.id)
}
