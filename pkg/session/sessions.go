package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/kube"
	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

const (
	askWait = 15 * time.Second // for one agent's answers: 0.1 s on a quiet machine, and a dozen round trips of a far one
	askMost = 16               // agents that are asked at once
	shortID = 8                // of a session's id, where a person reads it: 32 bits
)

// errStopped is the end of a session by its owner's wish.
var errStopped error = fail.New(fail.SessionStopped, "", "this session was stopped by its owner, with stepin sessions stop")

// wasStopped says whether an agent has said so, in the channel's last message or to one that came back.
func wasStopped(err error) bool {
	var bye mux.ByeError
	var refusal *wire.Refusal
	return errors.As(err, &bye) && bye.Stopped || errors.As(err, &refusal) && refusal.Errno == syscall.ECANCELED
}

// Survey says where sessions are looked for.
type Survey struct {
	Cluster *kube.Cluster // nil: nowhere but on this machine
	All     bool          // in all namespaces
	Join    bool          // ask agents for a token that this user has none of, which takes the right to create pods/exec
	Tokens  string        // directory of the tokens; "" the usual one
}

// Used is one session on one pod; or, without an ID, an agent of which only that it runs is known, by whom and since when
// it was started.
type Used struct {
	ID        string      `json:"id,omitempty"`
	Namespace string      `json:"namespace,omitempty"` // "" on this machine
	Target    string      `json:"target,omitempty"`    // the pod's workload, or local/PID; "" where it is not seen
	Pod       string      `json:"pod,omitempty"`
	Container string      `json:"container,omitempty"`
	Agent     string      `json:"agent,omitempty"` // the way it is with the pod
	Who       string      `json:"who"`
	Since     time.Time   `json:"since,omitzero"`
	Ports     []wire.Port `json:"ports"`
	Mode      string      `json:"mode,omitempty"`
	Paused    bool        `json:"paused"`
	Lost      bool        `json:"lost"`
	Mine      bool        `json:"mine"`          // may be stopped by this user
	Own       bool        `json:"own,omitempty"` // it is the session that asks
	Note      string      `json:"note,omitempty"`
}

// Short is the id as a person is shown it; Stop takes it, too.
func (u Used) Short() string { return u.ID[:min(shortID, len(u.ID))] }

// Sessions lists who is with which pod. missing says what is left out, one sentence each.
func Sessions(ctx context.Context, o Survey) (list []Used, missing []string, err error) {
	asked, missing, err := o.ask(ctx)
	if err != nil {
		return nil, nil, err
	}
	list = []Used{}
	for _, a := range asked {
		a.close()
		list = append(list, a.used()...)
	}
	return list, missing, nil
}

// Stop ends a session of this user's, on every pod that it is with. id may be the beginning of one, if it is one's only.
func Stop(ctx context.Context, o Survey, id string) (stopped Used, err error) {
	asked, _, err := o.ask(ctx)
	if err != nil {
		return Used{}, err
	}
	for _, a := range asked {
		defer a.close()
	}
	return stopAmong(ctx, asked, id)
}

// stopAmong ends a session on every pod that it is with, as these agents tell.
func stopAmong(ctx context.Context, asked []*asking, id string) (stopped Used, err error) {
	var found []Used
	var at []*asking
	unknown := 0
	for _, a := range asked {
		if a.conn == nil {
			unknown++
			continue
		}
		for _, u := range a.used() {
			if id != "" && strings.HasPrefix(u.ID, id) {
				found, at = append(found, u), append(at, a)
			}
		}
	}
	if len(found) == 0 {
		hint := "stepin sessions lists them; -n and -A say where"
		if unknown > 0 {
			hint += "; what others do on agents that you have no token for is not seen: --join asks for one"
		}
		return Used{}, fail.New(fail.SessionUnknown, hint, "there is no session %q", id)
	}
	if i := slices.IndexFunc(found, func(u Used) bool { return u.ID != found[0].ID }); i > 0 {
		return Used{}, fail.New(fail.SessionUnknown, "write more of it", "both session %s and session %s begin with %q", found[0].ID, found[i].ID, id)
	}
	for i, u := range found {
		err := at[i].stop(ctx, u.ID)
		if err != nil && !(i > 0 && errors.Is(err, syscall.ENOENT)) { // it ends everywhere when one pod's agent has ended it
			return Used{}, err
		}
	}
	return found[0], nil
}

// asking is a conversation with one agent.
type asking struct {
	place Used // what is known without it
	conn  *mux.Conn
	all   []wire.SessionInfo
	err   error // why it says nothing; nil where there is no token
}

func (a *asking) close() {
	if a.conn != nil {
		_ = a.conn.Close("")
	}
}

// ask finds the agents and asks those that would answer.
//
// Goroutines: one an agent, at most askMost at once; all have ended when it returns.
func (o Survey) ask(ctx context.Context) (all []*asking, missing []string, err error) {
	var work []func(*asking)
	if o.Cluster != nil {
		agents, left, err := o.Cluster.Agents(ctx, o.All, o.Tokens)
		if err != nil {
			return nil, nil, err
		}
		missing = left
		for _, r := range agents {
			all = append(all, &asking{place: Used{Namespace: r.Namespace, Target: r.Target, Pod: r.Pod, Container: r.Container, Agent: r.Rung, Who: r.Who, Since: r.Since}})
			work = append(work, func(a *asking) { a.inCluster(ctx, r, o.Join) })
		}
	}
	for _, socket := range localSockets() {
		all = append(all, &asking{place: Used{Agent: "local"}})
		work = append(work, func(a *asking) { a.onMachine(ctx, socket) })
	}
	var wait sync.WaitGroup
	slots := make(chan struct{}, askMost)
	for i, a := range all {
		wait.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			work[i](a)
		})
	}
	wait.Wait()
	gone := func(a *asking) bool { return errors.Is(a.err, errGone) || errors.Is(a.err, kube.ErrPodGone) }
	return slices.DeleteFunc(all, gone), missing, nil
}

func (a *asking) inCluster(ctx context.Context, r *kube.Running, join bool) {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	if !r.Known() {
		if !join {
			return
		}
		if a.err = r.Join(ctx, who()); a.err != nil {
			return
		}
	}
	raw, err := r.Dial(ctx)
	if err != nil {
		a.err = err
		return
	}
	a.hello(ctx, raw, r.Token())
}

// hello begins a channel as nobody who wants anything of the pod, and asks who does.
func (a *asking) hello(ctx context.Context, raw net.Conn, token string) {
	hello, err := newHello()
	if err != nil {
		a.err = err
		return
	}
	hello.Session, hello.Token = wire.ToolPrefix+hello.Session, token
	conn, _, err := mux.Dial(ctx, raw, hello, mux.Config{})
	if err != nil {
		a.err = err
		return
	}
	if a.list(ctx, conn); a.err != nil {
		_ = conn.Close("")
	}
}

// list asks who uses the agent at the other end.
func (a *asking) list(ctx context.Context, conn *mux.Conn) {
	stream, err := conn.Open(ctx, wire.KindSessions, nil, nil)
	if err == nil {
		err = decodeAll(stream, wire.MaxSessionInfos, &a.all)
		stream.Close()
	}
	if err != nil {
		a.err = err
		return
	}
	a.conn = conn
	a.all = slices.DeleteFunc(a.all, func(i wire.SessionInfo) bool { return wire.Tool(i.ID) })
}

// stop ends a session, or says in the agent's words why not.
func (a *asking) stop(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	stream, err := a.conn.Open(ctx, wire.KindStop, wire.Stop{Session: id}, nil)
	if err == nil {
		return stream.Close()
	}
	var refusal *wire.Refusal
	if errors.As(err, &refusal) {
		return fail.Wrap(fail.AgentRefused, refusal, "ask them to end it", "it is not stopped")
	}
	return fail.Wrap(fail.AgentLost, err, "try again", "the agent of pod %s was lost before it had stopped the session", a.place.Pod)
}

// used is what is known of an agent, one element a session; one without an id where nothing is known, and nothing for an
// agent that waits for the next session of whoever asks.
func (a *asking) used() []Used {
	place := a.place
	place.Ports = []wire.Port{}
	var refusal *wire.Refusal
	switch {
	case a.err == nil && a.conn == nil:
		place.Note = "who uses it is told to those who have a token: --join asks for one"
	case errors.As(a.err, &refusal):
		place.Note = refusal.Message
	case a.err != nil:
		place.Note = fmt.Sprintf("it does not answer: %v", a.err)
	case len(a.all) == 0:
		place.Note = "nobody uses it now; the next session finds it warm"
	}
	if place.Note != "" {
		return []Used{place}
	}
	var out []Used
	for _, i := range a.all {
		u := place
		u.ID, u.Who, u.Since, u.Mode, u.Paused, u.Lost, u.Mine = i.ID, i.Who, i.Since, i.Mode, i.Paused, i.Lost, i.Mine
		if i.Ports != nil {
			u.Ports = i.Ports
		}
		out = append(out, u)
	}
	slices.SortStableFunc(out, func(a, b Used) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID)) })
	return out
}

// localSockets are those of this user's agents on this machine; nothing is made to look for them.
func localSockets() []string {
	dir := runtimePath()
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() || info.Mode().Perm()&0o077 != 0 || owner(info) != os.Getuid() {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var sockets []string
	for _, e := range entries {
		netns, _, _ := strings.Cut(e.Name(), ".")
		if _, err := strconv.ParseUint(netns, 10, 64); err == nil && e.Type() == os.ModeSocket {
			sockets = append(sockets, filepath.Join(dir, e.Name()))
		}
	}
	return sockets
}

func (a *asking) onMachine(ctx context.Context, socket string) {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	var d net.Dialer
	raw, err := d.DialContext(ctx, "unix", socket)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT) {
		a.err = errGone
		return
	} else if err != nil {
		a.err = err
		return
	}
	a.place.Target, a.place.Who = listener(raw.(*net.UnixConn))
	a.hello(ctx, raw, strings.TrimPrefix(filepath.Ext(socket), "."))
}

// listener is what the arguments of the agent behind a socket say: whose place it takes, and who has started it.
func listener(c *net.UnixConn) (target, who string) {
	raw, err := c.SyscallConn()
	if err != nil {
		return "", ""
	}
	var cred *unix.Ucred
	var gerr error
	if err := raw.Control(func(fd uintptr) { cred, gerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || gerr != nil {
		return "", ""
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", cred.Pid))
	if err != nil {
		return "", ""
	}
	args := strings.Split(string(line), "\x00")
	for i := range len(args) - 1 {
		switch args[i] {
		case "--pod":
			target = args[i+1]
		case "--who":
			who = args[i+1]
		}
	}
	return target, who
}
