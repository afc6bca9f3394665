package parent

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// firstPid is the target in a process namespace of its container's own. Where the pod's containers share one
// (shareProcessNamespace) it is the sandbox's.
const firstPid = 1

// inside finds the target's process in the process namespace that this one shares.
func (p place) inside() (process, error) {
	if os.Getpid() == firstPid {
		return process{}, errors.New("this container does not share the target's processes, so there is no target to be seen " +
			"hint: its runtime does not know targetContainerName; use agent.mode pod")
	}
	found, err := first(0, func(o process) bool { return p.kube() && o.cgroup.Container == p.container })
	if err != nil {
		return process{}, fmt.Errorf("looking for the target's process: %w", err)
	}
	if target, ok := found[p.container]; ok {
		return target, nil
	}
	one, ok := look(firstPid)
	if !ok {
		return process{}, explain(firstPid, syscall.ESRCH)
	}
	if c := one.cgroup.Container; p.kube() && c != "" {
		return process{}, fmt.Errorf("process 1 is of container %s, and of the target %s there is no process hint: the container has restarted, or is not the one that was asked for",
			c[:shownID], p.container[:shownID])
	}
	if comm, _ := os.ReadFile("/proc/1/comm"); string(comm) == "pause\n" {
		return process{}, errors.New("the pod's containers share their processes, and which are the target's is not to be told from here " +
			"hint: use agent.mode pod, or leave shareProcessNamespace out of the pod's spec")
	}
	return one, nil
}

// hide keeps this process from being looked into by others of its user, which the target's may be (ptrace(2)). It goes on
// seeing itself: what is asked of one's own thread group is not checked (kernel/ptrace.c, __ptrace_may_access).
func hide() error {
	return os.NewSyscallError("prctl PR_SET_DUMPABLE", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
}

// openInside opens the target of an ephemeral container. Network and host name are the pod's already. There is no right to
// look into just any process here, so what is out of reach is a limit and not an error.
func openInside(at place) (t *target, err error) {
	p, err := at.inside()
	if err != nil {
		return nil, err
	}
	t = &target{place: at}
	defer func() {
		if err != nil {
			t.close()
			t = nil
		}
	}()
	if err := t.identify(p); err != nil {
		return t, err
	}
	dir := fmt.Sprintf("/proc/%d/", p.pid)
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
		{&t.root, dir + "root", unix.O_PATH | unix.O_DIRECTORY, "the pod's files are out of reach"},
		{&t.environ, dir + "environ", unix.O_RDONLY, "the pod's environment is out of reach"},
		{&t.mounts, dir + "mountinfo", unix.O_RDONLY, "the pod's volumes cannot be listed"},
	} {
		if *f.into, err = t.openAs(f.name, f.flag); err != nil {
			t.limits = append(t.limits, fmt.Sprintf("%s: %v", f.what, err))
		}
	}
	t.exe, _ = os.Readlink(dir + "exe")
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
	return f, err
}
