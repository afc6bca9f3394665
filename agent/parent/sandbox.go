package parent

import (
	"os"

	"golang.org/x/sys/unix"
)

// sandboxEnd returns what is closed when the pod's first process ends: its pause process, which the runtime ends after all
// containers and before it takes the network away. In between there is just time to end the stolen connections; later
// their clients would be left in silence. It is nil where no such process is to be seen.
//
// Goroutine: one, which ends with that process.
func (t *target) sandboxEnd() <-chan struct{} {
	if !t.kube() {
		return nil
	}
	found, err := first(t.netns, func(p process) bool { return p.cgroup.Container != t.container && t.member(p) })
	if err != nil {
		return nil
	}
	oldest := t.process
	for _, p := range found {
		if p.start < oldest.start || p.start == oldest.start && p.pid < oldest.pid {
			oldest = p
		}
	}
	if oldest.pid == t.process.pid {
		return nil
	}
	fd, err := unix.PidfdOpen(oldest.pid, 0)
	if err != nil {
		return nil
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	if now, ok := look(oldest.pid); !ok || now.start != oldest.start {
		pidfd.Close()
		return nil
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer pidfd.Close()
		waitReadable(pidfd, -1)
	}()
	return ended
}
