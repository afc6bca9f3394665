package parent

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// inside is a thread in the pod's network and UTS namespaces. Sockets made there stay there, processes started there are
// there. It lives as long as the parent: the child dies with the thread that started it (PR_SET_PDEATHSIG, prctl(2)).
//
// Goroutine: the one locked to that thread; never unlocked, so that no other goroutine runs there.
type inside struct {
	jobs chan func()
	// uts is why the host name is not the pod's; nil if it is.
	uts error
}

// enter takes a new thread to the namespaces; nil ones are this process's own already. Without the network it fails;
// without the other it does not.
func enter(netns, uts *os.File) (*inside, error) {
	in := &inside{jobs: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread()
		if netns != nil {
			if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
				ready <- fmt.Errorf("entering the pod's network: setns: %w", err)
				return // the thread ends with its goroutine
			}
		}
		if uts != nil {
			in.uts = unix.Setns(int(uts.Fd()), unix.CLONE_NEWUTS)
		}
		ready <- nil
		for f := range in.jobs {
			f()
		}
	}()
	if err := <-ready; err != nil {
		return nil, err
	}
	return in, nil
}

// do runs f on the thread.
func (in *inside) do(f func() error) error {
	done := make(chan error)
	in.jobs <- func() { done <- f() }
	return <-done
}
