package session

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// sharedAgent is an agent of this machine's with these sessions. It remembers which were stopped.
type sharedAgent struct {
	all     []wire.SessionInfo
	hellos  chan wire.Hello
	stopped chan string
}

// serveLocal runs it behind a socket in the runtime directory.
func (a *sharedAgent) serveLocal(t *testing.T, socket string) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			go a.serve(t, raw)
		}
	}()
}

func (a *sharedAgent) serve(t *testing.T, raw net.Conn) {
	conn, err := mux.Serve(t.Context(), raw, func(h wire.Hello) (wire.Welcome, error) {
		a.hellos <- h
		return wire.Welcome{}, nil
	}, mux.Config{})
	if err != nil {
		return
	}
	for {
		r, err := conn.Accept()
		if err != nil {
			return
		}
		switch r.Kind {
		case wire.KindSessions:
			if s, err := r.Accept(nil); err == nil {
				_ = json.NewEncoder(s).Encode(a.all)
				s.Close()
			}
		case wire.KindStop:
			var ask wire.Stop
			if wire.Decode(r.Body, &ask) != nil || strings.HasPrefix(ask.Session, "b") {
				r.Refuse(&wire.Refusal{Errno: syscall.EPERM, Message: "session \"b\" is bob@desk's; only they can stop it"})
				continue
			}
			a.stopped <- ask.Session
			if s, err := r.Accept(nil); err == nil {
				s.Close()
			}
		}
	}
}

// TestSessions: this machine's agents are asked, and a session is stopped by as much of its id as is one's only.
func TestSessions(t *testing.T) {
	base, err := os.MkdirTemp("", "s") // t.TempDir's path may be too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	t.Setenv("XDG_RUNTIME_DIR", base)
	if list, missing, err := Sessions(t.Context(), Survey{}); len(list)+len(missing) > 0 || err != nil {
		t.Errorf("%v, %v, %v", list, missing, err)
	}
	dir := filepath.Join(base, "stepin")
	if _, err := os.Stat(dir); err == nil {
		t.Error("looking has made the directory")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	a := &sharedAgent{hellos: make(chan wire.Hello, 10), stopped: make(chan string, 10), all: []wire.SessionInfo{
		{ID: "a1234567890", Who: "ann@desk", Since: since, Ports: []wire.Port{{Network: "tcp", Port: 8080}}, Mode: "steal", Mine: true, Paused: true},
		{ID: "a2", Who: "ann@desk", Since: since.Add(time.Second), Mine: true}, {ID: "b", Who: "bob@desk", Since: since},
		{ID: wire.ToolPrefix + "x", Who: "ann@desk", Since: since},
	}}
	a.serveLocal(t, filepath.Join(dir, "4026531840.secret"))
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, "4026531841.other")})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	if err := os.WriteFile(filepath.Join(dir, "0123456789.agent"), nil, 0o600); err != nil { // a cluster's
		t.Fatal(err)
	}

	list, _, err := Sessions(t.Context(), Survey{})
	if err != nil || len(list) != 3 {
		t.Fatalf("%+v, %v", list, err)
	}
	if u := list[0]; u.Short() != "a1234567" || u.Who != "ann@desk" || !u.Since.Equal(since) || len(u.Ports) != 1 || !u.Mine || !u.Paused || u.Mode != "steal" ||
		list[1].ID != "b" || list[1].Mine || list[2].ID != "a2" {
		t.Errorf("%+v", list)
	}
	if h := <-a.hellos; h.Token != "secret" || !strings.HasPrefix(h.Session, wire.ToolPrefix) || h.Resume != "" {
		t.Errorf("%+v", h)
	}
	if u, err := Stop(t.Context(), Survey{}, "a12"); err != nil || u.ID != "a1234567890" || <-a.stopped != u.ID {
		t.Error(u, err)
	}
	for id, want := range map[string]struct {
		code fail.Code
		text string
	}{
		"a": {fail.SessionUnknown, `both session a1234567890 and session a2 begin with "a"`},
		"b": {fail.AgentRefused, `it is not stopped: session "b" is bob@desk's; only they can stop it`},
		"c": {fail.SessionUnknown, `there is no session "c"`}, "": {fail.SessionUnknown, `there is no session ""`},
		wire.ToolPrefix: {fail.SessionUnknown, `there is no session "` + wire.ToolPrefix + `"`},
	} {
		if _, err := Stop(t.Context(), Survey{}, id); err == nil || err.Error() != want.text || fail.CodeOf(err) != want.code || fail.Hint(err) == "" {
			t.Errorf("stop %q: %v", id, err)
		}
	}
	if len(a.stopped) > 0 {
		t.Error("another was stopped, too")
	}
}

// TestStoppedEnds: an agent's word that the session was stopped is told from all other ends, now or when it comes back.
func TestStoppedEnds(t *testing.T) {
	for err, want := range map[error]bool{
		mux.ByeError{Reason: "x", Stopped: true}:   true,
		mux.ByeError{Reason: "the pod has gone"}:   false,
		&wire.Refusal{Errno: syscall.ECANCELED}:    true,
		&wire.Refusal{Errno: syscall.EACCES}:       false,
		fail.Wrap(fail.AgentLost, errGone, "", ""): false,
	} {
		if wasStopped(err) != want {
			t.Errorf("%#v", err)
		}
	}
}
