package parent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/stepin-dev/stepin/agent/pair"
	"github.com/stepin-dev/stepin/agent/steal"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// loop answers the child, one question after the other, until there is nothing left to do.
func (p *Parent) loop(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
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
		select {
		case m, ok := <-p.child.messages:
			if !ok {
				return p.childEnded()
			}
			p.answer(m)
		case <-p.child.done:
			return p.childEnded()
		case <-p.ended:
			if done, err := p.replace(ctx); done || err != nil {
				return err
			}
		case <-ctx.Done():
			return p.retire(pair.Retire{Reason: "the agent was ended"})
		case <-timer.C:
		}
	}
}

// childEnded is the end of the parent, too: without it the steal would go nowhere. A child that has only broken or closed
// its end of the pair is killed.
func (p *Parent) childEnded() error {
	p.child.end()
	return fmt.Errorf("the agent's child ended (%v)", p.child.cmd.ProcessState)
}

// deadline is when the loop has something to do of itself.
func (p *Parent) deadline() (time.Time, bool) {
	if next, ok := p.table.Next(); ok {
		return next, true
	}
	if !p.table.Idle() {
		p.idle = time.Time{}
		return time.Time{}, false
	}
	if !p.joined {
		return p.began.Add(max(firstSession, p.TTL)), true
	}
	if p.idle.IsZero() {
		p.idle = time.Now()
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

// replace looks for the process that took the ended target's place and puts a new child on it. Meanwhile the old child
// serves on. done says that there is none.
func (p *Parent) replace(ctx context.Context) (done bool, err error) {
	p.Log.Info("the target has ended", "pid", p.target.pid)
	poll := time.NewTicker(successorPoll)
	defer poll.Stop()
	for end := time.Now().Add(successorWait); time.Now().Before(end); {
		if pid := p.target.successor(); pid != 0 {
			if next, err := openTarget(pid); err == nil {
				if next.netns == p.target.netns {
					return false, p.take(next)
				}
				next.close()
			}
		}
		for waiting := true; waiting; {
			select {
			case m, ok := <-p.child.messages:
				if !ok {
					return true, p.childEnded()
				}
				p.answer(m)
			case <-ctx.Done():
				return true, p.retire(pair.Retire{Reason: "the agent was ended"})
			case <-poll.C:
				waiting = false
			}
		}
		if _, ok := p.table.Next(); !ok && p.table.Idle() && p.joined {
			break // nobody is interested
		}
		p.detach(p.table.Expire(time.Now()))
	}
	return true, p.retire(pair.Retire{
		Reason: fmt.Sprintf("the pod's process %d (%s) has ended and no other took its place", p.target.pid, p.target.exe)})
}

// take replaces the child. The steal stays: what comes meanwhile waits in the listeners' queues.
func (p *Parent) take(next *target) error {
	p.Log.Info("another process took the target's place", "pid", next.pid)
	p.child.end()
	p.engine.ReleaseAll()
	p.table.Pause(time.Now())
	p.target.close()
	p.target = next
	return p.newChild(true)
}

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
	case pair.OpRelease:
		var q pair.Dialable
		if err = json.Unmarshal(m.Body, &q); err == nil {
			p.engine.Release(q.ID)
		}
	default:
		err = &wire.Refusal{Errno: syscall.EOPNOTSUPP, Message: "parent: what is " + m.Op + "?"}
	}
	if err := m.from.send(pair.Answer(m.Message, body, err), files...); err != nil && !errors.Is(err, pair.ErrClosed) {
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
	info, err := p.table.Hello(q.Session, q.Resume, q.Who, time.Now())
	if err != nil {
		return pair.Lease{}, err
	}
	p.joined = true
	p.detach(info.Detach)
	return pair.Lease{Resume: info.Resume, Resumed: info.Resumed, Since: info.Since, Generation: info.Generation}, nil
}

// steal takes all ports or none, and then ends the connections already open.
func (p *Parent) steal(q pair.Steal) (stolen pair.Stolen, files []*os.File, err error) {
	if q.Existing != "" && q.Existing != "close" && q.Existing != "keep" {
		return stolen, nil, &wire.Refusal{Errno: syscall.EINVAL, Message: fmt.Sprintf("existing connections cannot be %q", q.Existing)}
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
