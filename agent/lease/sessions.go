package lease

import (
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// Uses says whether a session has the token of this hash.
func (t *Table) Uses(token [32]byte) bool {
	for _, s := range t.sessions {
		if s.token == token {
			return true
		}
	}
	return false
}

// Sessions lists all, for the session of a channel, oldest first. Who is at a breakpoint it does not know.
func (t *Table) Sessions(id string, generation uint64) []wire.SessionInfo {
	asker := t.connected(id, generation)
	all := []wire.SessionInfo{}
	for _, s := range t.sessions {
		info := wire.SessionInfo{ID: s.id, Who: s.who, Since: s.since, Ports: []wire.Port{}, Lost: !s.until.IsZero(),
			Mine: asker != nil && asker.token == s.token}
		for _, h := range t.ports {
			if h.owner == s {
				info.Ports, info.Mode = append(info.Ports, h.port), "steal"
			}
		}
		for _, m := range s.mirrors {
			info.Ports, info.Mode = append(info.Ports, m.ports...), "mirror"
		}
		slices.SortFunc(info.Ports, func(a, b wire.Port) int {
			return (int(a.Port)-int(b.Port))*2 + strings.Compare(a.Network, b.Network)
		})
		all = append(all, info)
	}
	slices.SortFunc(all, func(a, b wire.SessionInfo) int {
		if c := a.Since.Compare(b.Since); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all
}

// Stop ends another session of the same token, with its reservations, for good: if its channel is lost just now, Hello
// says so when it comes back. The ports are to be detached.
func (t *Table) Stop(id string, generation uint64, other string) (detach []wire.Port, err error) {
	asker, s := t.connected(id, generation), t.sessions[other]
	switch {
	case asker == nil:
		return nil, &wire.Refusal{Errno: syscall.ESTALE, Message: "this channel's session has moved to another one"}
	case s == nil:
		return nil, &wire.Refusal{Errno: syscall.ENOENT, Message: fmt.Sprintf("there is no session %q any more", clean(other))}
	case s.token != asker.token:
		return nil, &wire.Refusal{Errno: syscall.EPERM,
			Message: fmt.Sprintf("session %q is %s's, since %s; only they can stop it", clean(s.id), s.who, s.since.UTC().Format("15:04:05 UTC"))}
	}
	detach = t.unplug(s)
	t.drop(s)
	if len(t.stopped) >= maxStopped {
		t.stopped = t.stopped[1:]
	}
	t.stopped = append(t.stopped, other)
	return detach, nil
}
