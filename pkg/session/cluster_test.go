package session

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/kube"
	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// fakePods is a workload whose pods the test decides on.
type fakePods struct {
	mu      sync.Mutex
	pods    []kube.Pod
	changed func([]kube.Pod)
	single  bool
	deleted bool
}

func (f *fakePods) Pods() []kube.Pod {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]kube.Pod(nil), f.pods...)
}

func (f *fakePods) Single() bool { return f.single }

func (f *fakePods) Exists(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.deleted {
		return fail.New(fail.TargetUnknown, "", "gone")
	}
	return nil
}

func (f *fakePods) Watch(ctx context.Context, changed func([]kube.Pod)) error {
	f.mu.Lock()
	f.changed = changed
	f.mu.Unlock()
	<-ctx.Done()
	return ctx.Err()
}

// set has the watch tell of other pods.
func (f *fakePods) set(t *testing.T, names ...string) {
	t.Helper()
	eventually(t, "the pods are watched", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.changed != nil
	})
	f.mu.Lock()
	f.pods = podsOf(names...)
	changed := f.changed
	f.mu.Unlock()
	changed(nil)
}

func podsOf(names ...string) (pods []kube.Pod) {
	for _, n := range names {
		pods = append(pods, kube.Pod{Name: n, UID: "uid-" + n, ContainerID: "id-" + n, Container: "web"})
	}
	return pods
}

// fakeAgent is a pod's agent on the wire: it answers what is asked by its pod's name, and refuses a second session of
// the same id, as the real one does.
type fakeAgent struct {
	pod string

	mu      sync.Mutex
	channel *mux.Conn
	ending  bool
	silent  bool // it closes every connection before the first byte
	noted   map[string]*kube.Note
	patches int
	denied  error    // what Note says
	users   []string // sessions, for KindSessions; nil: it does not know that
}

func (a *fakeAgent) Token() string                 { return "token" }
func (a *fakeAgent) Says() []string                { return nil }
func (a *fakeAgent) Discard(context.Context) error { return nil }

// Note is the Job's annotations.
func (a *fakeAgent) Note(_ context.Context, notes map[string]*kube.Note) (ids []string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.noted == nil {
		a.noted = map[string]*kube.Note{}
	}
	a.patches++
	if a.denied != nil {
		return nil, a.denied
	}
	for id, n := range notes {
		if a.noted[id] = n; n == nil {
			delete(a.noted, id)
		}
	}
	return slices.Collect(maps.Keys(a.noted)), nil
}

func (a *fakeAgent) Dial(context.Context) (net.Conn, error) {
	near, far := net.Pipe()
	a.mu.Lock()
	silent := a.silent
	a.mu.Unlock()
	if silent {
		far.Close()
		return near, nil
	}
	go a.serve(far)
	return near, nil
}

func (a *fakeAgent) serve(far net.Conn) {
	c, err := mux.Serve(context.Background(), far, func(h wire.Hello) (wire.Welcome, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.channel != nil {
			select {
			case <-a.channel.Done():
			default:
				return wire.Welcome{}, &wire.Refusal{Errno: syscall.EBUSY, Message: "there is such a session"}
			}
		}
		return wire.Welcome{Resume: a.pod}, nil
	}, mux.Config{OnMessage: func(kind wire.Kind, body []byte) {
		var target wire.Target
		if kind == wire.KindTarget && wire.Decode(body, &target) == nil {
			a.mu.Lock()
			a.ending = a.ending || target.Ending
			a.mu.Unlock()
		}
	}})
	if err != nil {
		return
	}
	a.mu.Lock()
	a.channel = c
	a.mu.Unlock()
	for {
		r, err := c.Accept()
		if err != nil {
			return
		}
		a.mu.Lock()
		users := a.users
		a.mu.Unlock()
		if r.Kind == wire.KindSessions && users != nil {
			infos := []wire.SessionInfo{}
			for _, id := range users {
				infos = append(infos, wire.SessionInfo{ID: id})
			}
			if s, err := r.Accept(nil); err == nil {
				_ = json.NewEncoder(s).Encode(infos)
				s.Close()
			}
			continue
		}
		r.Refuse(&wire.Refusal{Errno: syscall.EADDRNOTAVAIL, Message: a.pod})
	}
}

// bye is the end of the pod.
func (a *fakeAgent) bye() {
	a.mu.Lock()
	c := a.channel
	a.silent = true
	a.mu.Unlock()
	_ = c.Close("the pod has gone")
}

func (a *fakeAgent) current() *mux.Conn {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.channel
}

func (a *fakeAgent) told() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ending
}

// around is a session that is nothing but its ways into a cluster.
type around struct {
	*Session
	c      *cluster
	pods   *fakePods
	mu     sync.Mutex
	agents map[string]*fakeAgent
	lines  strings.Builder
}

func startAround(t *testing.T, pods *fakePods, names ...string) *around {
	t.Helper()
	pods.pods = podsOf(names...)
	r := &around{pods: pods, agents: map[string]*fakeAgent{}}
	s := &Session{config: &config.Launch{Target: "deployment/web"}, log: slog.New(slog.DiscardHandler), done: make(chan struct{}),
		links: links{all: map[*link]bool{}, changed: make(chan struct{})}}
	s.options = Options{Notice: func(line string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.lines.WriteString(line + "\n")
	}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	r.Session = s
	r.c = makeCluster(s, wire.Hello{Session: "session"}, pods, func(_ context.Context, pod kube.Pod) (podAgent, error) {
		return r.agent(pod.Name), nil
	})
	s.reach = r.c
	if err := s.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.cancel()
		<-s.leave()
		s.following.Wait()
	})
	return r
}

func (r *around) agent(pod string) *fakeAgent {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.agents[pod] == nil {
		r.agents[pod] = &fakeAgent{pod: pod}
	}
	return r.agents[pod]
}

func (r *around) said() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lines.String()
}

// home asks over home's link which pod answers.
func (r *around) home() string {
	var refusal *wire.Refusal
	if err := r.link.ask(r.ctx, wire.KindLstat, nil, nil); errors.As(err, &refusal) {
		return refusal.Message
	}
	return ""
}

func (r *around) count() int {
	all, _ := r.each()
	return len(all)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not in time: ", what)
		}
	}
}

// TestHomeMoves: when home's pod ends, home's link has the channel of a pod that is there already, whose own link goes on;
// and so again when that one ends.
func TestHomeMoves(t *testing.T) {
	r := startAround(t, &fakePods{}, "a", "b")
	eventually(t, "both are joined", func() bool { return r.count() == 2 && r.home() == "a" && r.agent("b").current() != nil })
	var of wire.Steal
	if pod, ok := r.c.steal(r.link, &of); pod != "pod a" || !ok {
		t.Errorf("home asks %q for its requests: %v", pod, ok)
	}
	r.pods.set(t, "b", "c")
	eventually(t, "the agent knows that its pod ends", r.agent("a").told)
	eventually(t, "the new pod is joined", func() bool { return r.count() == 3 })
	if got := r.home(); got != "a" {
		t.Errorf("home has moved to %q before its pod has ended", got)
	}
	before := r.agent("b").current()
	r.agent("a").bye()
	eventually(t, "b is home", func() bool { return r.home() == "b" })
	if r.agent("b").current() != before {
		t.Error("the channel that was there is not the one that is used")
	}
	if _, ok := r.c.steal(r.link, &of); ok {
		t.Error("home's link asks for what the member's has")
	}
	r.pods.set(t, "c")
	r.agent("b").bye()
	eventually(t, "c is home", func() bool { return r.home() == "c" && r.count() == 2 })
	if n := strings.Count(r.said(), "takes the place of the one that ended"); n != 2 {
		t.Errorf("said %d times: %s", n, r.said())
	}
}

// TestTargetEnds: in one sentence, whether it was one pod or a workload that was deleted; one without pods is waited for.
func TestTargetEnds(t *testing.T) {
	for name, test := range map[string]struct {
		pods *fakePods
		word string
	}{
		"a pod":      {&fakePods{single: true}, "has ended, and nothing takes a single pod's place"},
		"a workload": {&fakePods{deleted: true}, "was deleted"},
	} {
		t.Run(name, func(t *testing.T) {
			r := startAround(t, test.pods, "a")
			r.pods.set(t)
			r.agent("a").bye()
			<-r.link.ended
			var over *fail.Error
			if !errors.As(r.link.err, &over) || over.Code != fail.TargetUnknown || !strings.Contains(over.Error(), test.word) {
				t.Errorf("%v", r.link.err)
			}
		})
	}
	t.Run("no pods", func(t *testing.T) {
		r := startAround(t, &fakePods{}, "a")
		r.pods.set(t)
		r.agent("a").bye()
		eventually(t, "it is said", func() bool { return strings.Contains(r.said(), "is ready; waiting for one") })
		r.pods.set(t, "b")
		eventually(t, "b is home", func() bool { return r.home() == "b" })
	})
}

// TestLeaving: a session that ends while it waits, or while a member's agent does not answer, waits for neither.
func TestLeaving(t *testing.T) {
	r := startAround(t, &fakePods{}, "a")
	r.agent("b").silent = true
	r.pods.set(t, "a", "b")
	eventually(t, "b does not answer", func() bool { return strings.Contains(r.said(), "pod b keeps its requests") })
	r.pods.set(t)
	r.agent("a").bye()
	begun := time.Now()
	r.cancel()
	<-r.leave()
	r.following.Wait()
	if took := time.Since(begun); took > joinRetry/2 {
		t.Errorf("left after %v", took)
	}
}
