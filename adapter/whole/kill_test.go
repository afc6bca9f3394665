package whole

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/adapter/dap/client"
	"github.com/stepin-dev/stepin/adapter/dap/talk"
	"github.com/stepin-dev/stepin/pkg/podlet"
)

const (
	// podTime is what the pod may take to serve again after any kill.
	podTime = time.Second
	// tidyTime is what the rest may take: an agent that lost its session keeps the reservation for 10 s and leaves then.
	tidyTime = 15 * time.Second
	// wordTime is what it may take to tell the developer.
	wordTime = 5 * time.Second
)

// victim is who is killed.
type victim struct {
	name  string
	roles []string // killed one right after the other; "" is the adapter
	group bool     // the adapter's process group
	word  string   // what the developer reads where the adapter lives
	over  bool     // and the debugging is over then
	early string   // what the launch is refused with, where that is what happens
	when  string   // whose start a launch gets as far as, where that is not the holder's or the victim's own
}

// lives says that the adapter does.
func (v victim) lives() bool { return !v.group && !slices.Contains(v.roles, "") }

var victims = []victim{
	{name: "adapter", roles: []string{""}},
	{name: "agent's parent", roles: []string{"agent"}, word: "the agent is gone", early: "agent"},
	{name: "agent's child", roles: []string{"agent's child"}, word: "the agent is gone", early: "agent"},
	{name: "holder", roles: []string{"holder"}, word: "the debuggee's namespaces are gone", over: true, early: "namespaces"},
	{name: "dlv", roles: []string{"dlv"}, word: "dlv ended unexpectedly (signal: killed)", over: true, early: "dlv ended"},
	{name: "debuggee", roles: []string{"debuggee"}, over: true, early: "launch: "}, // in Delve's words
	{name: "adapter and holder", roles: []string{"", "holder"}},
	{name: "process group", group: true},
	{name: "adapter with a new agent", roles: []string{""}, when: "agent"},
}

// find finds a role among the adapter's descendants.
func find(all []process, role string) (process, bool) {
	i := slices.IndexFunc(all, func(p process) bool { return p.is(role, all) })
	if i < 0 {
		return process{}, false
	}
	return all[i], true
}

func (p process) is(role string, all []process) bool {
	below := func(role string) bool {
		i := slices.IndexFunc(all, func(q process) bool { return q.pid == p.parent })
		return i >= 0 && all[i].is(role, all)
	}
	switch role {
	case "agent":
		return slices.Contains(p.argv, "--token-sha256") && !below(role)
	case "agent's child":
		return below("agent") && len(p.argv) == 2 && p.argv[1] == "child"
	case "holder":
		return len(p.argv) == 2 && p.argv[1] == "holder"
	case "dlv":
		return len(p.argv) > 1 && p.argv[1] == "dap" && filepath.Base(p.argv[0]) == "dlv"
	case "debuggee":
		return below("dlv") && filepath.Base(p.argv[0]) == "service" // dlv has a child of its own, too
	}
	return false
}

// scene is one session that somebody of is killed.
type scene struct {
	t      *testing.T
	victim victim
	pod    *podlet.Pod
	dir    string
	a      *adapter
	before snapshot
	seen   []process // the adapter's descendants
	killed time.Time
}

// TestKill kills each part by SIGKILL while a launch is under way, while the debuggee runs and while it stands at a
// breakpoint: the pod serves within a second, the developer is told, and nothing is left.
func TestKill(t *testing.T) {
	var scenes []*scene
	for _, lives := range []bool{false, true} { // first those after which an agent waits for its session
		t.Run(map[bool]string{false: "with the adapter", true: "under the adapter"}[lives], func(t *testing.T) {
			for _, state := range []string{"launching", "running", "stopped"} {
				for _, v := range victims {
					if v.lives() != lives || v.when != "" && state != "launching" {
						continue
					}
					s := &scene{victim: v}
					scenes = append(scenes, s)
					t.Run(v.name+" while "+state, func(t *testing.T) {
						t.Parallel()
						s.play(t, state)
					})
				}
			}
		})
	}
	for _, s := range scenes { // apart, since what is waited for here passes for all at once
		if s.pod == nil {
			continue // it has failed already
		}
		t.Run("left by "+path.Base(s.t.Name()), func(t *testing.T) { s.tidy(t) })
	}
}

func (s *scene) play(t *testing.T, state string) {
	s.t = t
	s.furnish()
	s.a = dapIn(t, "", s.environ())
	var pending <-chan string
	switch state {
	case "launching":
		s.launching()
		return
	case "running":
		s.run()
		s.expect("debuggee", askPod(t, s.pod))
		if len(take(t, s.pod, s.dir).differences(s.before)) < 5 {
			t.Error("a snapshot sees nothing of a session that runs")
		}
	case "stopped":
		file := filepath.Join(source(t, "service"), "main.go")
		s.run(lineOf(t, file, "the breakpoint of the tests"))
		first := askPod(t, s.pod)
		thread, _, _ := s.a.stopped()
		s.a.goOn(thread)
		s.expect("debuggee", first)
		pending = askPod(t, s.pod)
		s.a.stopped()
	}
	s.seen = family(s.a.cmd.Process.Pid)
	s.kill()
	s.podServes()
	// Whose request stood at the breakpoint must not wait for ever. Not so by redirect, which an ordinary user has: it ends
	// with the parent, before the child's sockets do, and their reset comes from a port that the client does not know.
	// Its keep-alive (15 s in Go) tells it.
	if pending != nil && (os.Getuid() == 0 || s.victim.name != "agent's parent") {
		select {
		case <-pending:
		case <-time.After(wordTime):
			t.Error("the request at the breakpoint has got no end")
		}
	}
	s.told()
	s.leave()
}

// furnish makes a pod and private directories, and remembers what they are like.
func (s *scene) furnish() {
	s.t.Helper()
	spec := podlet.Spec{Files: []podlet.File{{Path: "/service", Host: program(s.t, "service"), Mode: 0o755}}}
	spec.Main = podlet.Main{Argv: []string{"/service"}, Env: []string{"WHO=pod"}}
	p, err := podlet.Start(limit(s.t), spec)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := p.WaitListening(limit(s.t), netip.AddrPortFrom(p.Addr(false), 8080)); err != nil {
		s.t.Fatal(err)
	}
	if s.dir, err = os.MkdirTemp("/tmp", "k"); err != nil { // with longer paths stepin would go elsewhere
		s.t.Fatal(err)
	}
	for _, d := range []string{"tmp", "run"} {
		if err := os.Mkdir(filepath.Join(s.dir, d), 0o700); err != nil {
			s.t.Fatal(err)
		}
	}
	local := p.Addr(true).String()
	eventually(s.t, patience, "the kernel has entered the pod's addresses", func() bool {
		s.before = take(s.t, p, s.dir)
		return strings.Contains(strings.Join(s.before.Network, "\n"), "Dst: "+local+"/")
	})
	s.pod = p
}

// environ is what stepin gets: the scene's own directories.
func (s *scene) environ(more ...string) []string {
	return append(append(os.Environ(), "TMPDIR="+filepath.Join(s.dir, "tmp"), "XDG_RUNTIME_DIR="+filepath.Join(s.dir, "run")), more...)
}

func (s *scene) configuration() map[string]any {
	return replacing(s.pod, "", map[string]any{"debugger": map[string]any{"mode": "exec", "program": program(s.t, "service")}})
}

// run launches and waits until the pod's port is taken.
func (s *scene) run(lines ...int) {
	s.t.Helper()
	s.a.launch(s.configuration(), filepath.Join(source(s.t, "service"), "main.go"), lines...)
	if err := s.a.WaitOutput(limit(s.t), "console", "tcp port 8080"); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) expect(who string, answer <-chan string) {
	s.t.Helper()
	if got := <-answer; got != who {
		s.t.Errorf("answered by %q, want %q", got, who)
	}
}

// launching kills the victim as soon as there is one; those that are there from the beginning, when the holder is.
func (s *scene) launching() {
	s.expect("pod", askPod(s.t, s.pod))
	s.a.must("initialize", talk.Initialize, nil)
	_, answered, err := s.a.Send("launch", s.configuration())
	if err != nil {
		s.t.Fatal(err)
	}
	last := cmp.Or(s.victim.when, "holder")
	for _, role := range s.victim.roles {
		if role != "" {
			last = role
		}
	}
	eventually(s.t, patience, "there is a "+last, func() bool {
		s.seen = family(s.a.cmd.Process.Pid)
		_, ok := find(s.seen, last)
		return ok
	})
	s.kill()
	s.podServes()
	if !s.victim.lives() {
		s.leave()
		return
	}
	var m *client.Message
	select {
	case m = <-answered:
	case <-time.After(wordTime):
		s.t.Error("launch is not answered")
	}
	switch {
	case m == nil:
	case m.Err() == nil:
		if again, ok := find(family(s.a.cmd.Process.Pid), "agent"); !ok || slices.ContainsFunc(s.seen, func(p process) bool { return p.pid == again.pid }) {
			s.told() // else it has started another one, and nothing is lost
		}
	default:
		said := strings.Split(m.Err().Error()+s.a.Output("stderr"), "\n")[0]
		if !strings.Contains(said, s.victim.early) {
			s.t.Errorf("launch is refused with %q", said)
		}
	}
	s.leave()
}

// kill sends the signals.
func (s *scene) kill() {
	s.t.Helper()
	pids := []int{}
	for _, role := range s.victim.roles {
		if role == "" {
			pids = append(pids, s.a.cmd.Process.Pid)
		} else if p, ok := find(s.seen, role); ok {
			pids = append(pids, p.pid)
		} else {
			s.t.Fatalf("there is no %s among %+v", role, s.seen)
		}
	}
	if s.victim.group {
		pids = append(pids, -s.a.cmd.Process.Pid)
	}
	s.killed = time.Now()
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			s.t.Fatalf("kill %d: %v", pid, err)
		}
	}
}

// podServes asks until the pod answers.
func (s *scene) podServes() {
	s.t.Helper()
	ctx, cancel := context.WithDeadline(context.Background(), s.killed.Add(podTime))
	defer cancel()
	c := s.pod.Outside.HTTP(netip.Addr{})
	defer c.CloseIdleConnections()
	for {
		// A request that was under way to the agent may be lost; it must not hide that the next one is answered.
		try, cancel := context.WithTimeout(ctx, podTime/4)
		r, err := get(try, c, "http://"+netip.AddrPortFrom(s.pod.Addr(false), 8080).String()+"/")
		cancel()
		if err == nil && r.Who == "pod" {
			return
		}
		if ctx.Err() != nil {
			s.t.Errorf("the pod does not serve within %v: %+v %v", podTime, r, err)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// told waits for the words that the developer reads, where there is an adapter to say them.
func (s *scene) told() {
	s.t.Helper()
	v := s.victim
	if !v.lives() {
		return
	}
	said := func() string { return s.a.Output("console") + s.a.Output("stderr") }
	for end := time.Now().Add(wordTime); !strings.Contains(said(), v.word); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Errorf("the developer does not read %q but %q", v.word, said())
			break
		}
	}
	if !v.over {
		if d, ok := find(s.seen, "debuggee"); ok && !d.still() {
			s.t.Error("the debuggee has gone with it")
		}
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), wordTime)
	defer cancel()
	if v.name == "debuggee" {
		if e, err := s.a.Event(ctx, "exited"); err != nil || !strings.Contains(string(e.Body), fmt.Sprint(-int(syscall.SIGKILL))) {
			s.t.Errorf("how the debuggee ended is not told: %v %+v", err, e)
		}
	}
	if _, err := s.a.Event(ctx, "terminated"); err != nil {
		s.t.Error(err)
	}
}

// leave ends what still lives, as the editor's stop button does.
func (s *scene) leave() {
	if s.victim.lives() {
		s.a.disconnect()
	}
	select {
	case <-s.a.ended:
	case <-time.After(wordTime):
		s.t.Error("the adapter is still there")
	}
}

// tidy waits until everything is as it was before.
func (s *scene) tidy(t *testing.T) {
	defer func() {
		if err := s.pod.Close(); err != nil {
			t.Error("the pod:", err)
		}
		os.RemoveAll(s.dir)
	}()
	end := s.killed.Add(tidyTime)
	if soon := time.Now().Add(wordTime); end.Before(soon) { // it was not this one's turn before
		end = soon
	}
	for {
		now, err := look(t, s.pod, s.dir)
		left := now.differences(s.before)
		for _, p := range s.seen {
			if p.still() {
				left = append(left, fmt.Sprintf("+ process %d %q", p.pid, p.argv))
			}
		}
		left = append(left, s.inside()...)
		if err == nil && len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%v after the kill: %v\n%s", time.Since(s.killed), err, strings.Join(left, "\n"))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// inside lists processes in the namespaces that the session had. Those that began later are others': the kernel gives
// the numbers out again.
func (s *scene) inside() (left []string) {
	pod := proc(s.pod.MainPID()).namespaces
	for _, p := range living() {
		for _, was := range s.seen {
			theirs := own(was.namespaces)
			for kind, n := range pod {
				if theirs[kind] == n {
					delete(theirs, kind)
				}
			}
			if p.began <= s.last() && p.shares(theirs) {
				left = append(left, fmt.Sprintf("+ process %d %q in namespaces of %q", p.pid, p.argv, was.argv))
			}
		}
	}
	return left
}

// last is when the youngest of the descendants began.
func (s *scene) last() (began uint64) {
	for _, p := range s.seen {
		began = max(began, p.began)
	}
	return began
}
