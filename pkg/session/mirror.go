package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// Modes of incoming (config.Incoming).
const (
	modeMirror = "mirror"
	modeSteal  = "steal"
	modeOff    = "off"
)

// The agent's words that it can copy, and take (wire.Pod's Rights).
const (
	rightMirror = "mirror"
	rightSteal  = "steal"
)

// lossEvery is how often it is said that copies are lost.
const lossEvery = 10 * time.Second

// checkIncoming is what becomes of a mirror that the agent cannot make: an error where the user wrote it, else a line.
func (s *Session) checkIncoming() error {
	if s.config.Incoming.Mode != modeMirror || slices.Contains(s.pod.Rights, rightMirror) {
		return nil
	}
	if s.config.Wrote("incoming", "mode") {
		return fail.New(fail.AgentRefused, `have the agent get NET_RAW (stepin doctor -t TARGET says how), or write "incoming": {"mode": "off"}`,
			"requests cannot be mirrored here: the agent lacks the capability NET_RAW")
	}
	s.ports.mode = modeOff // nobody else asks yet
	s.notice("requests stay with the pod alone: to mirror them, which is the default, the agent lacks the capability NET_RAW")
	return nil
}

// mirror has one of a pod's ports copied for as long as ctx lasts.
func (st *stand) mirror(ctx context.Context) {
	s, port := st.p.s, st.port()
	if st.k.network != "tcp" {
		s.sayOnce(st.k.number, "%s stays the pod's alone: datagrams are not mirrored", port)
		return
	}
	losses := &losses{say: s.notice, port: port}
	defer losses.last()
	st.hold(ctx, wire.KindMirror, "mirrored", func(name string, fresh bool, stream io.Reader) error {
		losses.begin(name)
		if fresh {
			s.notice(fmt.Sprintf("%s of %s now sends copies of its connections to this program; the pod answers them", port, name))
			s.sayOnce(st.k.number, "what this program answers to copies is dropped, but its outgoing calls still happen")
		}
		in := json.NewDecoder(stream)
		for {
			var m wire.Mirrored
			if err := in.Decode(&m); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			losses.heard(m)
		}
	})
}

// losses says what a mirror loses: at once when it begins to, and while it goes on every lossEvery.
//
// Goroutines: the timer's, while something is yet to be said.
type losses struct {
	say  func(string)
	port string

	mu        sync.Mutex
	name      string // the pod's
	now, told wire.Mirrored
	at        time.Time // when it was said last
	later     *time.Timer
}

// begin is for a new mirror: its counts begin anew.
func (l *losses) begin(name string) {
	l.last()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.name, l.now, l.told, l.at = name, wire.Mirrored{}, wire.Mirrored{}, time.Time{}
}

func (l *losses) heard(m wire.Mirrored) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m.Text != "" {
		l.say(l.name + ": " + m.Text)
	}
	if l.now = m; l.later == nil && l.changed() {
		l.later = time.AfterFunc(time.Until(l.at.Add(lossEvery)), l.last)
	}
}

func (l *losses) changed() bool {
	return l.now.Lost != l.told.Lost || l.now.LostFlows != l.told.LostFlows || l.now.Dropped != l.told.Dropped
}

// last says what has not been said yet.
func (l *losses) last() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.later != nil {
		l.later.Stop()
		l.later = nil
	}
	if !l.changed() {
		return
	}
	l.told, l.at = l.now, time.Now()
	line := fmt.Sprintf("%s of %s: %d of %d connections were not copied, or not whole (%d bytes): this program, or the way to it, does not keep up",
		l.port, l.name, l.now.LostFlows, l.now.Flows, l.now.Lost)
	if l.now.Dropped > 0 {
		line += fmt.Sprintf("; the pod's kernel dropped %d frames before they were seen", l.now.Dropped)
	}
	l.say(line)
}

// wished is what the user wrote, or has switched to, that is to be done to requests; "" where it is the default, or nothing.
func (s *Session) wished() string {
	mode, chosen := s.ports.current()
	if mode != modeOff && (chosen || s.config.Wrote("incoming", "mode")) {
		return mode
	}
	return ""
}
