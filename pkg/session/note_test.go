package session

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/kube"
)

// noting has a session of these pods note itself, until the test or what is returned ends it.
func (r *around) noting(t *testing.T) (end func()) {
	t.Helper()
	r.ports = newPorts(r.Session)
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() {
		defer close(over)
		r.c.note(ctx)
	}()
	end = func() {
		cancel()
		<-over
	}
	t.Cleanup(end)
	return end
}

// notes are what stands on the agent's Job, and how often something was written.
func (a *fakeAgent) notes() (modes map[string]string, patches int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	modes = map[string]string{}
	for id, n := range a.noted {
		modes[id] = n.Mode
	}
	return modes, a.patches
}

// TestNotes: a session stands on each of its agents' Jobs, as it is, until its end; what others that are gone have left goes.
func TestNotes(t *testing.T) {
	r := startAround(t, &fakePods{}, "a", "b")
	home := r.agent("a")
	home.mu.Lock()
	home.noted = map[string]*kube.Note{"alive": {Mode: "steal"}, "killed": {Mode: "steal"}}
	home.users = []string{"session", "alive", "tool-x"}
	home.mu.Unlock()
	end := r.noting(t)
	stands := func(pod, mode string) func() bool {
		return func() bool {
			modes, _ := r.agent(pod).notes()
			return modes["session"] == mode
		}
	}
	for _, pod := range []string{"a", "b"} {
		eventually(t, "the session is noted on "+pod, func() bool { modes, _ := r.agent(pod).notes(); _, ok := modes["session"]; return ok })
	}
	eventually(t, "what a killed session has left is gone", func() bool {
		modes, _ := home.notes()
		_, killed := modes["killed"]
		return !killed && modes["alive"] == "steal"
	})
	r.ports.mu.Lock()
	r.ports.mode = modeSteal
	r.ports.mu.Unlock()
	for range 100 {
		r.changed.ring()
	}
	eventually(t, "the new mode is noted", stands("a", modeSteal))
	eventually(t, "the new mode is noted", stands("b", modeSteal))
	if _, patches := home.notes(); patches > 4 {
		t.Errorf("%d patches", patches)
	}
	end()
	for _, pod := range []string{"a", "b"} {
		if modes, _ := r.agent(pod).notes(); slices.Contains(keys(modes), "session") {
			t.Errorf("%s: %v", pod, modes)
		}
	}
}

func keys(m map[string]string) (all []string) {
	for k := range m {
		all = append(all, k)
	}
	return all
}

// TestNotesDenied: who may not write there is not asked again, and the developer hears nothing.
func TestNotesDenied(t *testing.T) {
	r := startAround(t, &fakePods{}, "a")
	a := r.agent("a")
	a.mu.Lock()
	a.denied = fail.Wrap(fail.ClusterForbidden, errors.New("no"), "", "the right to patch jobs is missing")
	a.mu.Unlock()
	r.noting(t)
	eventually(t, "it was tried", func() bool { _, patches := a.notes(); return patches == 1 })
	r.changed.ring()
	r.mu.Lock()
	defer r.mu.Unlock()
	if text := r.lines.String(); text != "" {
		t.Error(text)
	}
}
