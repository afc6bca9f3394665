package dap_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stepin-dev/stepin/adapter/dap"
	"github.com/stepin-dev/stepin/adapter/dap/client"
	"github.com/stepin-dev/stepin/adapter/dap/talk"
	"github.com/stepin-dev/stepin/adapter/delve"
	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
)

// The editor's side of a conversation is shared with the tests of the shipped binary.
type lockedBuffer = talk.Buffer

var (
	initialize = talk.Initialize
	must       = talk.Must
	refused    = talk.Refused
	event      = talk.Event
	begin      = talk.Begin
	mark       = talk.Mark
	exit       = talk.Exit
	edit       = talk.Edit
	limit      = talk.Limit
	environ    = talk.Environ
)

// launchArgs wraps Delve's keys as a user of stepin writes them.
func launchArgs(keys map[string]any) map[string]any { return talk.Args("local/1", keys) }

// program copies a folder of testdata, so that a test may edit it.
func program(t *testing.T, name string) string { return talk.Copy(t, filepath.Join("testdata", name)) }

// place is a session without a pod: processes run where the test runs.
type place struct {
	dir    string
	pod    map[string]*string
	done   chan struct{}
	mu     sync.Mutex
	paused []bool
	closed int
	err    error
	astray func(context.Context) error // what Arrived says; nil: that all is well

	mode    string
	changed chan struct{} // with mu; closed and replaced
	refuse  error         // what SetMode says
}

func newPlace(t *testing.T) *place {
	dir, err := os.MkdirTemp("", "s") // short: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &place{dir: dir, done: make(chan struct{}), mode: "mirror", changed: make(chan struct{})}
}

func (p *place) Wrap(argv []string) []string { return argv }
func (p *place) PodEnviron(launch map[string]*string) map[string]*string {
	env := maps.Clone(p.pod)
	if env == nil {
		env = map[string]*string{}
	}
	maps.Copy(env, launch)
	return env
}
func (p *place) Dir() string           { return p.dir }
func (p *place) Done() <-chan struct{} { return p.done }
func (p *place) Err() error            { return p.err }
func (p *place) Arrived(ctx context.Context) error {
	if p.astray == nil {
		return nil
	}
	return p.astray(ctx)
}
func (p *place) SetPaused(paused bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = append(p.paused, paused)
}
func (p *place) State() (any, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return map[string]any{"mode": p.mode, "paused": len(p.paused) > 0 && p.paused[len(p.paused)-1]}, p.changed
}
func (p *place) SetMode(_ context.Context, mode string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuse == nil {
		p.mode = mode
		close(p.changed)
		p.changed = make(chan struct{})
	}
	return p.refuse
}
func (p *place) Sessions(context.Context) any {
	return []map[string]any{{"id": "4f3a", "own": true}}
}
func (p *place) Stop(_ context.Context, id string) error {
	if id == "4f3a" {
		return nil
	}
	return fail.New(fail.SessionUnknown, "look", "there is no session %q", id)
}
func (p *place) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed++
	return nil
}

// adapter is one conversation with stepin.
type adapter struct {
	*client.Client
	place *place
	log   *lockedBuffer
	ended chan struct{} // Serve has returned
}

// parse stands for the command's configuration reader.
func parse(raw json.RawMessage) (*config.Launch, error) {
	l := config.Default()
	return l, json.Unmarshal(raw, l)
}

type option func(*dap.Options)

// startAdapter begins a conversation with an adapter whose working directory is dir.
func startAdapter(t *testing.T, dir string, opts ...option) *adapter {
	p := newPlace(t)
	a := &adapter{place: p, log: &lockedBuffer{}, ended: make(chan struct{})}
	o := dap.Options{
		Parse:     parse,
		Debuggers: map[string]dap.NewDebugger{"go": delve.New},
		Start: func(context.Context, *config.Launch, dap.Hints, dap.Hooks) (dap.Runner, error) {
			return p, nil
		},
		Place: dap.Place{Dir: dir, Environ: environ(t)},
		Log:   slog.New(slog.NewTextHandler(a.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, f := range opts {
		f(&o)
	}
	ours, theirs := net.Pipe()
	go func() {
		defer close(a.ended)
		if err := dap.Serve(context.Background(), theirs, o); err != nil {
			t.Errorf("Serve: %v", err)
		}
	}()
	a.Client = client.New(ours)
	t.Cleanup(func() {
		a.Close()
		<-a.ended
		if t.Failed() {
			t.Logf("adapter's log:\n%s", a.log)
			for _, e := range a.Events() {
				t.Logf("event %s %s", e.Event, e.Body)
			}
		}
	})
	return a
}
