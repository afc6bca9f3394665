package dap_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// TestState: the requests and the event of stepin's own.
func TestState(t *testing.T) {
	a := startAdapter(t, "/")
	must(t, a.Client, "initialize", initialize)
	m := refused(t, a.Client, "stepin.state", nil)
	if text := m.Err().Error(); !strings.Contains(text, "there is no session yet") || !strings.Contains(text, "hint: ") {
		t.Errorf("before launch: %v", m.Err())
	}

	a = startScripted(t)
	var state struct {
		Mode   string
		Paused bool
	}
	told := func(mode string, paused bool) {
		t.Helper()
		for range 10 {
			body(t, event(t, a.Client, "stepin.state").Body, &state)
			if state.Mode == mode && state.Paused == paused {
				return
			}
		}
		t.Fatalf("the editor is told %+v, want %s, %v", state, mode, paused)
	}
	told("mirror", false)
	body(t, must(t, a.Client, "stepin.state", nil).Body, &state)
	if state.Mode != "mirror" {
		t.Errorf("%+v", state)
	}
	body(t, must(t, a.Client, "stepin.setMode", map[string]any{"mode": "steal", "later": 1}).Body, &state)
	if state.Mode != "steal" {
		t.Errorf("%+v", state)
	}
	told("steal", false)

	a.place.mu.Lock()
	a.place.refuse = fail.New(fail.StealConflict, "ask them", "port 80 is held by bob")
	a.place.mu.Unlock()
	m = refused(t, a.Client, "stepin.setMode", map[string]any{"mode": "off"})
	var failed struct {
		Error struct {
			ID     int
			Format string
		}
	}
	if err := json.Unmarshal(m.Body, &failed); err != nil || failed.Error.ID != int(fail.StealConflict) || failed.Error.Format != "port 80 is held by bob\nhint: ask them" {
		t.Errorf("%s, %v", m.Body, err)
	}
	for command, arguments := range map[string]any{"stepin.nonsense": nil, "stepin.setMode": []int{1}} {
		if text := refused(t, a.Client, command, arguments).Err().Error(); !strings.Contains(text, "docs/protocol.md") {
			t.Errorf("%s: %s", command, text)
		}
	}
	if got := string(must(t, a.Client, "stepin.sessions", nil).Body); got != `{"sessions":[{"id":"4f3a","own":true}]}` {
		t.Error(got)
	}
	must(t, a.Client, "stepin.stopSession", map[string]any{"id": "4f3a"})
	refused(t, a.Client, "stepin.stopSession", map[string]any{"id": "0"})
	must(t, a.Client, "disconnect", nil)
}
