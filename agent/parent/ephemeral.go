package parent

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// openInside opens the target of an ephemeral container: process 1 of the process namespace that it shares. Network and
// host name are the pod's already. There is no right to look into just any process here, so what is out of reach is a
// limit and not an error.
func openInside(at place) (t *target, err error) {
	const first = 1
	if os.Getpid() == first {
		return nil, errors.New("this container does not share the target's processes, so there is no target to be seen " +
			"hint: its runtime does not know targetContainerName; use agent.mode pod")
	}
	t = &target{place: at}
	defer func() {
		if err != nil {
			t.close()
			t = nil
		}
	}()
	if err := t.identify(first); err != nil {
		return t, err
	}
	if c := t.cgroup.Container; at.kube() && c != "" && c != at.container {
		return t, fmt.Errorf("process 1 is of container %s, not of the target %s hint: the container has restarted, or is not the one that was asked for",
			c[:shownID], at.container[:shownID])
	}
	if t.net, err = os.Open("/proc/self/ns/net"); err != nil {
		return t, err
	}
	if t.own, err = os.Open("/proc/self/mountinfo"); err != nil {
		return t, err
	}
	own, err := idOf("/proc/self/ns/net")
	if err != nil {
		return t, err
	}
	t.netns, t.userns = own.ino, true // a pod's containers share their user namespace
	for _, f := range []struct {
		into **os.File
		name string
		flag int
		what string
	}{
		{&t.root, "/proc/1/root", unix.O_PATH | unix.O_DIRECTORY, "the pod's files are out of reach"},
		{&t.environ, "/proc/1/environ", unix.O_RDONLY, "the pod's environment is out of reach"},
		{&t.mounts, "/proc/1/mountinfo", unix.O_RDONLY, "the pod's volumes cannot be listed"},
	} {
		if *f.into, err = t.openAs(f.name, f.flag); err != nil {
			t.limits = append(t.limits, fmt.Sprintf("%s: %v", f.what, err))
		}
	}
	t.exe, _ = os.Readlink("/proc/1/exe")
	return t, nil
}

// openAs opens a file of the target's /proc: as this process's user or, where that may not, as the target's. The kernel
// lets a process look into those of its own user that can do no more than itself (ptrace(2), PTRACE_MODE_READ_FSCREDS).
//
// Goroutine: one, which has ended on return.
func (t *target) openAs(name string, flag int) (f *os.File, err error) {
	if f, err = os.OpenFile(name, flag, 0); err == nil || t.status.UID == os.Geteuid() {
		return f, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with its goroutine, and so does what it has become
		// By the system calls themselves: the library's are for all threads.
		_, _, _ = unix.RawSyscall(unix.SYS_SETFSGID, uintptr(t.status.GID), 0, 0)
		_, _, _ = unix.RawSyscall(unix.SYS_SETFSUID, uintptr(t.status.UID), 0, 0)
		f, err = os.OpenFile(name, flag, 0)
	}()
	<-done
	// The change of a thread's user has taken that from the whole process (prctl(2)), and with it the sight of /proc/self
	// from whoever joins.
	if perr := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); perr != nil && err == nil {
		f.Close()
		return nil, os.NewSyscallError("prctl", perr)
	}
	return f, err
}
