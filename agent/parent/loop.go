package parent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/agent/mirror"
	"github.com/stepin-dev/stepin/agent/pair"
	"github.com/stepin-dev/stepin/agent/steal"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// loop answers the child and whoever joins, one question after the other, until there is nothing left to do.
func (p *Parent) loop(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	poll := time.NewTicker(successorPoll)
	defer poll.Stop()
	for {
		p.detach(p.table.Expire(time.Now()))
		until, ok := p.deadline()
		if ok && !time.Now().Before(until) && p.table.Idle() {
			p.Log.Info("no session any more")
			return p.retire(pair.Retire{Reason: "the agent had no session any more"})
		}
		wait := time.Hour
		if ok {
			wait = max(0, time.Until(until))
		}
		timer.Reset(wait)
		var searching <-chan time.Time
		if !p.gone.IsZero() {
			searching = poll.C
		}
		select {
		case m, ok := <-p.child.messages:
			if !ok {
				return p.childEnded()
			}
			p.answer(m)
		case <-p.child.done:
			return p.childEnded()
		case j := <-p.joins:
			p.Log.Info("a token for", "who", j.who)
			j.answer <- p.tokens.mint(p.table.Uses)
		case <-p.ended:
			if p.ending { // its network goes next, and would leave stolen connections in silence
				return p.retire(podGone)
			}
			if p.Inside { // where the pod's containers share their processes it outlives its target, and cannot enter the next
				return p.retire(containerGone)
			}
			p.targetEnded()
		case <-p.sandbox:
			if p.sandbox = p.target.sandboxEnd(); !p.target.sandbox(os.Getpid(), p.child.cmd.Process.Pid) {
				return p.retire(podGone)
			}
		case <-searching:
			if done, err := p.follow(); done || err != nil {
				return err
			}
		case <-ctx.Done():
			return p.retire(pair.Retire{Reason: "the agent was ended"})
		case <-timer.C:
		}
	}
}

var (
	podGone       = pair.Retire{Reason: "the pod has gone, and the agent with it"}
	containerGone = pair.Retire{Reason: "the pod's container has ended, and the agent that was made for it"}
)

// childEnded is the end of the parent, too: without it the steal would go nowhere. A child that has only broken or closed
// its end of the pair is killed.
func (p *Parent) childEnded() error {
	p.child.end()
	if words := p.child.words.String(); words != "" && p.child.cmd.ProcessState.Exited() {
		return errors.New(words)
	}
	return fmt.Errorf("the agent's child ended (%v)", p.child.cmd.ProcessState)
}

// deadline is when the loop has something to do of itself.
func (p *Parent) deadline() (time.Time, bool) {
	if next, ok := p.table.Next(); ok {
		return next, true
	}
	if p.table.Used() {
		p.idle = time.Time{}
		return time.Time{}, false
	}
	if p.joined && p.idle.IsZero() {
		p.idle = time.Now()
	}
	switch {
	case !p.table.Idle(): // somebody asks who is here: he gets his answer, and the agent no longer life
		return time.Time{}, false
	case !p.joined:
		return p.began.Add(max(firstSession, p.TTL)), true
	}
	return p.idle.Add(p.TTL), true
}

// retire lets the child say goodbye before the end.
func (p *Parent) retire(r pair.Retire) error {
	p.leaving = true
	if err := p.child.retire(r); err != nil {
		return err
	}
	timeout := time.NewTimer(retireWait)
	defer timeout.Stop()
	for {
		select {
		case <-p.child.done:
			return nil
		case <-timeout.C:
			return nil // close kills it
		case m, ok := <-p.child.messages: // it tells of the sessions that leave
			if !ok {
				return nil
			}
			p.answer(m)
		}
	}
}

// targetEnded begins the search for the process that takes the target's place. The child serves on, but not the ended
// one's files: they would be empty, and kept from being unmounted.
func (p *Parent) targetEnded() {
	p.Log.Info("the target has ended", "pid", p.target.process.pid)
	p.ended, p.gone, p.goneTicks = nil, time.Now(), ticks()
	p.target.release()
	notice := ""
	if p.target.kube() {
		notice = "the pod's container has ended; until it runs again its files are out of reach"
	}
	p.view(nil, notice)
}

// follow looks once. done says that there is nothing to wait for any more: of a process on this machine after a while; of
// a pod when its sandbox has gone, for a container that fails again and again is started again only after minutes.
func (p *Parent) follow() (done bool, err error) {
	if time.Since(p.gone) > successorWait && time.Since(p.looked) < sandboxPoll {
		return false, nil
	}
	p.looked = time.Now()
	if next := p.successor(); next != nil {
		return false, p.take(next)
	}
	if p.target.kube() {
		if p.target.sandbox(os.Getpid(), p.child.cmd.Process.Pid) {
			return false, nil
		}
		return true, p.retire(podGone)
	}
	if _, ok := p.table.Next(); time.Since(p.gone) < successorWait && (ok || !p.table.Idle() || !p.joined) {
		return false, nil
	}
	return true, p.retire(pair.Retire{
		Reason: fmt.Sprintf("the pod's process %d (%s) has ended and no other took its place", p.target.process.pid, p.target.exe)})
}

// successor opens the one that is there; nil if there is none.
func (p *Parent) successor() *target {
	hint := p.hint
	if hint == p.target.container {
		hint = ""
	}
	found := p.target.successor(hint, p.goneTicks)
	if found.pid == 0 {
		return nil
	}
	at := p.target.place
	if at.kube() {
		at.container = found.cgroup.Container
	}
	next, err := openTarget(at, found)
	if err != nil {
		return nil
	}
	if next.netns != p.target.netns || at.kube() && next.cgroup.Container != at.container {
		next.close()
		return nil
	}
	p.guessed = hint == ""
	return next
}

// take puts the agent on the target's successor. The steal stays, and where the child can stay, every connection does.
func (p *Parent) take(next *target) error {
	p.Log.Info("another process took the target's place", "pid", next.process.pid)
	last := p.target
	p.target, p.gone = next, time.Time{}
	same := last.like(next)
	last.close()
	if same {
		p.view(next, fmt.Sprintf("the pod's process has ended; %s took its place", next))
		p.awaitEnd()
		return nil
	}
	p.child.end()
	p.engine.ReleaseAll()
	p.table.Pause(time.Now())
	return p.newChild(true)
}

// view tells the child what there is to see of the target: nothing while t is nil.
func (p *Parent) view(t *target, notice string) {
	var v pair.View
	var files []*os.File
	if t != nil {
		v, files = t.view()
	}
	v.Notice = notice
	raw, err := json.Marshal(v)
	if err != nil {
		p.Log.Error("telling the child of the target", "err", err)
		return
	}
	_ = p.child.send(pair.Message{Op: pair.OpView, Body: raw}, files...) // it kills a child that takes nothing
}

// follows is a session's word on which container took the target's place. It sees the pod's status; it cannot name
// another than one of this sandbox that began after the target had ended.
func (p *Parent) follows(q pair.Target) {
	p.ending = p.ending || q.Ending && p.target.kube()
	if len(q.Container) != idLen {
		return
	}
	p.hint = q.Container
	if p.gone.IsZero() && p.guessed && p.hint != p.target.container {
		if next := p.successor(); next != nil {
			if err := p.take(next); err != nil {
				p.Log.Error("following a session's word", "err", err)
			}
		}
	}
}

// idLen is the length of a container's ID.
const idLen = 64

func (p *Parent) detach(ports []wire.Port) {
	for _, port := range ports {
		p.engine.Detach(steal.Port{Network: port.Network, Number: port.Port})
	}
}

// answer does what the child asks. Every question there is, is here.
func (p *Parent) answer(m message) {
	var body any
	var files []*os.File
	owned := false // files are to be closed after the answer
	var err error
	switch m.Op {
	case pair.OpHello:
		var q pair.Hello
		if err = json.Unmarshal(m.Body, &q); err == nil {
			body, err = p.hello(q)
		}
	case pair.OpSteal:
		var q pair.Steal
		if err = json.Unmarshal(m.Body, &q); err == nil {
			body, files, err = p.steal(q)
		}
	case pair.OpMirror:
		var q pair.Steal
		if err = json.Unmarshal(m.Body, &q); err == nil {
			body, files, err = p.mirror(q)
			owned = true
		}
	case pair.OpUnsteal:
		var q pair.Unsteal
		if err = json.Unmarshal(m.Body, &q); err == nil {
			p.detach(p.table.Unsteal(q.Session, q.Generation, q.Stream))
		}
	case pair.OpGone:
		var q pair.Channel
		if err = json.Unmarshal(m.Body, &q); err == nil {
			p.detach(p.table.Gone(q.Session, q.Generation, time.Now()))
		}
	case pair.OpBye:
		var q pair.Channel
		if err = json.Unmarshal(m.Body, &q); err == nil {
			p.detach(p.table.Bye(q.Session, q.Generation))
		}
	case pair.OpOriginal:
		var q pair.Original
		if err = json.Unmarshal(m.Body, &q); err == nil {
			body, files, err = p.original(q)
			owned = true
		}
	case pair.OpStop:
		var q pair.Stop
		if err = json.Unmarshal(m.Body, &q); err == nil {
			var detach []wire.Port
			detach, err = p.table.Stop(q.Session, q.Generation, q.Other)
			p.detach(detach)
		}
	case pair.OpSessions:
		var q pair.Channel
		if err = json.Unmarshal(m.Body, &q); err == nil {
			files, err = p.sessions(q)
			owned = true
		}
	case pair.OpTarget:
		var q pair.Target
		if err = json.Unmarshal(m.Body, &q); err == nil {
			p.follows(q)
		}
	case pair.OpRelease:
		var q pair.Dialable
		if err = json.Unmarshal(m.Body, &q); err == nil {
			p.engine.Release(q.ID)
		}
	default:
		err = &wire.Refusal{Errno: syscall.EOPNOTSUPP, Message: "parent: what is " + m.Op + "?"}
	}
	if m.ID == 0 {
		if err != nil {
			p.Log.Info("the child told something wrong", "op", m.Op, "err", err)
		}
	} else if err := m.from.send(pair.Answer(m.Message, body, err), files...); err != nil && !errors.Is(err, pair.ErrClosed) {
		p.Log.Error("answering the child", "op", m.Op, "err", err)
	}
	if owned {
		pair.CloseAll(files)
	}
}

func (p *Parent) hello(q pair.Hello) (pair.Lease, error) {
	if p.leaving {
		return pair.Lease{}, &wire.Refusal{Errno: syscall.ESHUTDOWN, Message: "this agent is about to end"}
	}
	if !p.tokens.know(q.TokenHash) {
		return pair.Lease{}, &wire.Refusal{Errno: syscall.EACCES, Message: "this agent does not know the session's token"}
	}
	info, err := p.table.Hello(q.Session, q.Resume, q.Who, [32]byte(q.TokenHash), time.Now())
	if err != nil {
		return pair.Lease{}, err
	}
	p.joined = p.joined || !wire.Tool(q.Session)
	p.detach(info.Detach)
	return pair.Lease{Resume: info.Resume, Resumed: info.Resumed, Since: info.Since, Generation: info.Generation}, nil
}

// steal takes all ports or none, and then ends the connections already open.
func (p *Parent) steal(q pair.Steal) (stolen pair.Stolen, files []*os.File, err error) {
	if q.Existing != "" && q.Existing != "close" && q.Existing != "keep" {
		return stolen, nil, &wire.Refusal{Errno: syscall.EINVAL, Message: fmt.Sprintf("existing connections cannot be %q", q.Existing)}
	}
	if own := p.own(); own != 0 && slices.ContainsFunc(q.Ports, func(port wire.Port) bool { return port.Network == "tcp" && port.Port == own }) {
		return stolen, nil, &wire.Refusal{Errno: syscall.EADDRINUSE,
			Message: fmt.Sprintf("port %d is where the agent itself listens in the pod", own)}
	}
	if p.noUDP != "" && slices.ContainsFunc(q.Ports, func(port wire.Port) bool { return port.Network == "udp" }) {
		return stolen, nil, &wire.Refusal{Errno: syscall.EPERM, Message: p.noUDP}
	}
	if err := p.table.Steal(q.Session, q.Generation, q.Stream, q.Ports, time.Now()); err != nil {
		return stolen, nil, err
	}
	for _, port := range q.Ports {
		udp, err := p.engine.Attach(steal.Port{Network: port.Network, Number: port.Port}, port.Loopback)
		if err != nil {
			p.detach(p.table.Unsteal(q.Session, q.Generation, q.Stream))
			return stolen, nil, err
		}
		if port.Network != "udp" {
			continue
		}
		var have [2]bool
		for i, f := range udp {
			if f != nil {
				have[i] = true
				files = append(files, f)
			}
		}
		stolen.UDP = append(stolen.UDP, have)
	}
	if q.Existing == "keep" {
		return stolen, files, nil
	}
	for _, port := range q.Ports {
		if port.Network != "tcp" {
			continue
		}
		n, err := p.engine.CloseExisting(steal.Port{Network: port.Network, Number: port.Port}, port.Loopback)
		if err != nil { // the steal works for what comes
			p.Log.Warn("connections already open", "port", port.Port, "err", err)
		}
		stolen.Closed += n
	}
	return stolen, files, nil
}

// mirror opens a socket that sees the pod's frames. Which of them and what is in them is the child's business.
func (p *Parent) mirror(q pair.Steal) (pair.Mirror, []*os.File, error) {
	if p.noMirror != nil {
		return pair.Mirror{}, nil, &wire.Refusal{Errno: syscall.EPERM, Message: fmt.Sprintf(
			"incoming traffic cannot be mirrored: the agent lacks NET_RAW: %v", p.noMirror)}
	}
	if err := p.table.Mirror(q.Session, q.Generation, q.Stream, q.Ports); err != nil {
		return pair.Mirror{}, nil, err
	}
	f, err := p.packets()
	if err != nil {
		p.table.Unsteal(q.Session, q.Generation, q.Stream)
		return pair.Mirror{}, nil, err
	}
	return pair.Mirror{Mark: p.engine.Mark()}, []*os.File{f}, nil
}

// packets opens a packet socket in the pod's network.
func (p *Parent) packets() (f *os.File, err error) {
	err = p.in.do(func() (err error) { f, err = mirror.Open(); return err })
	return f, err
}

func (p *Parent) original(q pair.Original) (pair.Dialable, []*os.File, error) {
	local := netip.AddrPortFrom(q.Local.Addr().Unmap(), q.Local.Port())
	if !local.IsValid() || local.Port() == 0 || q.Network != "tcp" && q.Network != "udp" {
		return pair.Dialable{}, nil, syscall.EINVAL
	}
	f, id, err := p.engine.Original(q.Network, local)
	if err != nil {
		return pair.Dialable{}, nil, err
	}
	return pair.Dialable{ID: id}, []*os.File{f}, nil
}

// sessions writes the list to a memory file: it may be larger than a message of the pair.
func (p *Parent) sessions(q pair.Channel) ([]*os.File, error) {
	raw, err := json.Marshal(p.table.Sessions(q.Session, q.Generation))
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("sessions", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "sessions")
	if _, err := f.WriteAt(raw, 0); err != nil {
		f.Close()
		return nil, err
	}
	return []*os.File{f}, nil
}
