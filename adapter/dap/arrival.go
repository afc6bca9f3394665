package dap

import (
	"context"
	"sync"
)

// arrival is whether the debuggee of a session is where it should be: a front end that is a library in it learns that only
// when the debuggee has begun. It is asked once a session, when the real debugger has shown that a program runs.
//
// Goroutines: one, which ends with the question.
type arrival struct {
	once   sync.Once
	mu     sync.Mutex
	cancel context.CancelFunc // nil: nothing has begun
	told   chan struct{}      // closed when what was to be said has been
	err    error              // why it is not there
}

// astray is why the debuggee is not where it should be, nil where it is, or where that is not known.
func (a *arrival) astray() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

// settle has the question answered now: what began has ended, and the editor hears nothing after that.
func (a *arrival) settle() {
	a.mu.Lock()
	cancel, told := a.cancel, a.told
	a.mu.Unlock()
	if cancel != nil {
		cancel()
		<-told
	}
}

// begun is called when the debuggee runs; one that is not in the session's place is ended, with a line.
func (r *run) begun() {
	a := &r.session.arrival
	a.once.Do(func() {
		ctx, cancel := context.WithCancel(r.c.ctx)
		told := make(chan struct{})
		a.mu.Lock()
		a.cancel, a.told = cancel, told
		a.mu.Unlock()
		r.c.wg.Go(func() {
			defer cancel()
			err := r.session.runner.Arrived(ctx)
			r.mu.Lock()
			asked := r.quiet || r.ending || r.c.ctx.Err() != nil
			r.mu.Unlock()
			if err == nil || asked {
				close(told)
				return
			}
			a.mu.Lock()
			a.err = err
			a.mu.Unlock()
			r.c.mu.Lock()
			answers := r.c.phase == launching // the request to launch is answered with it
			r.c.mu.Unlock()
			if !answers {
				r.c.say(err)
			}
			close(told)
			r.end(nil)
			if !answers {
				r.c.terminate()
			}
		})
	})
}
