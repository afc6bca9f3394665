package child

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/agent/pair"
)

// Kept are the capabilities that a child may have where the target has them: those that decide which files it can
// read (capabilities(7)). It writes none.
const Kept = 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH

// leaveRoot makes an empty directory the root of this process for good, so that no path leads anywhere: the pod's files
// are reached by descriptors alone. Of a thread that has ended the kernel shows nothing, so that is the directory.
// Without the right to change its root (CAP_SYS_CHROOT) the process stays where it is: it has no other rights then.
func leaveRoot() error {
	ready, end, ended := make(chan error), make(chan struct{}), make(chan struct{})
	var dir *os.File
	var begin func()
	begin = func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() { // the main thread does not end with its goroutine
			go begin()
			<-ended
			runtime.UnlockOSThread()
			return
		}
		defer close(ended) // never unlocked: the thread ends with its goroutine
		var err error
		dir, err = os.OpenFile("/proc/thread-self/fdinfo", unix.O_PATH|unix.O_DIRECTORY, 0)
		ready <- err
		<-end
	}
	go begin()
	err := <-ready
	if err == nil {
		defer dir.Close()
		if err = unix.Fchdir(int(dir.Fd())); err == nil {
			err = unix.Chroot(".")
		}
	}
	close(end)
	<-ended
	if errors.Is(err, unix.EPERM) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("child: leaving its root directory: %w", err)
	}
	return nil
}

// become takes the target's user, groups and file capabilities, for every thread, and gives everything else up. What
// the user namespace does not allow is returned as limits; only a process that would keep more than the target has is
// an error. These calls must be for all threads: syscall.AllThreadsSyscall fails in a program with cgo, so the agent is
// built without.
func become(start pair.Start) (limits []string, err error) {
	if err := all(unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0); err != nil {
		return nil, fmt.Errorf("child: PR_SET_KEEPCAPS: %w", err)
	}
	if err := setGroups(start.Groups); err != nil {
		limits = append(limits, fmt.Sprintf("files that only a supplementary group may read are out of reach: setgroups: %v", err))
	}
	if err := syscall.Setresgid(start.GID, start.GID, start.GID); err != nil {
		limits = append(limits, fmt.Sprintf("the agent cannot take the pod's group %d: %v", start.GID, err))
	}
	if err := syscall.Setresuid(start.UID, start.UID, start.UID); err != nil {
		if os.Geteuid() == 0 && start.UID != 0 {
			return nil, fmt.Errorf("child: taking the pod's user %d: %w", start.UID, err)
		}
		limits = append(limits, fmt.Sprintf("the agent cannot take the pod's user %d: %v", start.UID, err))
	}
	have, err := permitted()
	if err != nil {
		return nil, fmt.Errorf("child: capget: %w", err)
	}
	if err := setCapabilities(start.Caps & Kept & have); err != nil {
		return nil, fmt.Errorf("child: giving capabilities up: %w", err)
	}
	if start.Caps&Kept != 0 && start.Caps&Kept&have == 0 {
		limits = append(limits, "files that the pod reads by DAC_OVERRIDE or DAC_READ_SEARCH alone are out of reach: the agent lacks what the pod has")
	}
	if err := all(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return nil, fmt.Errorf("child: PR_SET_NO_NEW_PRIVS: %w", err)
	}
	// The change of user has cleared it (prctl(2)).
	if err := all(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0); err != nil {
		return nil, fmt.Errorf("child: PR_SET_PDEATHSIG: %w", err)
	}
	// Where the user has not changed the kernel has not done so itself: the pod's own processes, which may be of this
	// user, are not to read or trace this one (ptrace(2)).
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("child: PR_SET_DUMPABLE: %w", err)
	}
	return limits, nil
}

// setGroups leaves alone what is right already: in a user namespace of one id setgroups(2) is forbidden.
func setGroups(want []int) error {
	have, err := syscall.Getgroups()
	if err == nil {
		slices.Sort(have)
		sorted := slices.Sorted(slices.Values(want))
		if slices.Equal(have, sorted) {
			return nil
		}
	}
	return syscall.Setgroups(want)
}

// permitted are the capabilities that this process may have.
func permitted() (uint64, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&header, &data[0])
	return uint64(data[0].Permitted) | uint64(data[1].Permitted)<<32, err
}

// setCapabilities leaves exactly caps, nothing inheritable, and with that nothing ambient.
func setCapabilities(caps uint64) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{
		{Effective: uint32(caps), Permitted: uint32(caps)},
		{Effective: uint32(caps >> 32), Permitted: uint32(caps >> 32)},
	}
	return capset(&header, &data)
}

func all(trap, a, b, c uintptr) error {
	_, _, errno := syscall.AllThreadsSyscall6(trap, a, b, c, 0, 0, 0)
	if errno == syscall.ENOTSUP {
		return errors.New("this agent was built with cgo")
	}
	if errno != 0 {
		return errno
	}
	return nil
}
