package podlet

import (
	"encoding/json"
	"os"
	"path"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// identity is whom a program runs as.
type identity struct {
	UID, GID int
	Groups   []int
	Caps     uint64
	Keep     bool // stay as the warden is
}

// enterMain is the process that a program of the pod starts as: it makes the program's place and becomes it. The warden
// started it in the right network, and as PID 1 where it is the pod's own program. It returns on failure only, which it has
// told the warden then.
func enterMain(order, failure *os.File) error {
	unix.CloseOnExec(int(order.Fd()))
	unix.CloseOnExec(int(failure.Fd()))
	runtime.LockOSThread() // identities are a thread's, and the thread that calls execve decides
	var c command
	err := unpack(order, &c)
	if err == nil {
		err = c.become()
	}
	f := asFailure(err)
	if b, err := json.Marshal(f); err == nil {
		failure.Write(b)
	}
	return f
}

func (c command) become() error {
	switch {
	case c.Main:
		if err := c.makeRoot(); err != nil {
			return err
		}
	case c.Inside:
		if err := c.join(5); err != nil { // the descriptor after order and failure
			return err
		}
	}
	if err := unix.Chdir(c.Dir); err != nil {
		return failed(err, "chdir(%s)", c.Dir)
	}
	if err := c.Identity.take(); err != nil {
		return err
	}
	return failed(unix.Exec(c.Argv[0], c.Argv, c.Env), "execve(%s)", c.Argv[0])
}

// devices are what runtimes give every container.
var devices = []string{"null", "zero", "full", "random", "urandom"}

// makeRoot makes the pod's root of the image and of the volumes' mounts, in this process's own mount namespace.
func (c command) makeRoot() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return failed(err, "mount(/, MS_REC|MS_PRIVATE)")
	}
	if err := unix.Mount(imageDir, imageDir, "", unix.MS_BIND, ""); err != nil {
		return failed(err, "mount(the pod's root, MS_BIND)")
	}
	for _, b := range c.Binds {
		if err := unix.Mount(b.From, imageDir+b.To, "", unix.MS_BIND, ""); err != nil {
			return failed(err, "mount(%s, MS_BIND)", b.To)
		}
		if !b.ReadOnly {
			continue
		}
		if err := unix.Mount("", imageDir+b.To, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
			return failed(err, "mount(%s, MS_REMOUNT|MS_RDONLY)", b.To)
		}
	}
	for _, name := range devices {
		at := path.Join(imageDir, "dev", name)
		f, err := os.OpenFile(at, os.O_CREATE|os.O_WRONLY, 0o666)
		if err != nil {
			return failed(err, "open(/dev/%s, O_CREAT)", name)
		}
		f.Close()
		if err := unix.Mount("/dev/"+name, at, "", unix.MS_BIND, ""); err != nil {
			return failed(err, "mount(/dev/%s, MS_BIND)", name)
		}
	}
	// The kernel lets nobody in a user namespace see more of /proc than the machine shows (containers mask parts): then the
	// machine's, in which PIDs are not the pod's.
	err := unix.Mount("proc", imageDir+"/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if err != nil {
		err = unix.Mount("/proc", imageDir+"/proc", "", unix.MS_BIND|unix.MS_REC, "")
	}
	if err != nil {
		return failed(err, "mount(proc)")
	}
	if err := unix.Chdir(imageDir); err != nil {
		return failed(err, "chdir(the pod's root)")
	}
	if err := unix.PivotRoot(".", "."); err != nil { // the former root lies over the new one then (pivot_root(2))
		return failed(err, "pivot_root")
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return failed(err, "umount2(the former root)")
	}
	return failed(unix.Sethostname([]byte(c.Hostname)), "sethostname(%s)", c.Hostname)
}

// join enters the namespaces of the pod's program: its mounts and its host name, or only the latter, with a few files of the
// pod's over the machine's.
func (c command) join(pidfd int) error {
	unix.CloseOnExec(pidfd)
	spaces := unix.CLONE_NEWNS | unix.CLONE_NEWUTS
	if c.Host {
		spaces = unix.CLONE_NEWUTS
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return failed(err, "mount(/, MS_REC|MS_PRIVATE)")
		}
		for at, from := range c.Etc {
			if err := unix.Mount(from, at, "", unix.MS_BIND, ""); err != nil {
				return failed(err, "mount(%s, MS_BIND)", at)
			}
		}
		if err := unix.Unmount(store, unix.MNT_DETACH); err != nil {
			return failed(err, "umount2(%s)", store)
		}
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // the threads of a process share one root; one that changes it must not
		return failed(err, "unshare(CLONE_FS)")
	}
	return failed(unix.Setns(pidfd, spaces), "setns of the pod's program")
}

// take makes the calling thread i. Raw calls: the wrappers change all threads, which a program with cgo cannot.
func (i identity) take() error {
	if i.Keep {
		return nil
	}
	for c := range uint64(64) {
		if i.Caps>>c&1 == 0 {
			unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0) // EINVAL beyond the last that the kernel knows
		}
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return failed(err, "prctl(PR_SET_KEEPCAPS)")
	}
	if err := i.setGroups(); err != nil {
		return failed(err, "setgroups(%v)", i.Groups)
	}
	for _, set := range []struct {
		call uintptr
		name string
		id   int
	}{{unix.SYS_SETRESGID, "setresgid", i.GID}, {unix.SYS_SETRESUID, "setresuid", i.UID}} {
		id := uintptr(set.id)
		if _, _, e := unix.RawSyscall(set.call, id, id, id); e != 0 {
			return failed(e, "%s(%d)", set.name, set.id)
		}
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	low, high := uint32(i.Caps), uint32(i.Caps>>32)
	set := [2]unix.CapUserData{{Effective: low, Permitted: low, Inheritable: low}, {Effective: high, Permitted: high, Inheritable: high}}
	if err := unix.Capset(&head, &set[0]); err != nil {
		return failed(err, "capset(%#x)", i.Caps)
	}
	if i.UID == 0 {
		return nil // execve gives uid 0 what is inheritable or bounding
	}
	for c := range uint64(64) {
		if i.Caps>>c&1 == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(c), 0, 0); err != nil {
			return failed(err, "prctl(PR_CAP_AMBIENT_RAISE, %d)", c)
		}
	}
	return nil
}

// setGroups leaves alone what is right: an ordinary user's namespace forbids the call.
func (i identity) setGroups() error {
	have, err := syscall.Getgroups()
	if err == nil && len(i.Groups) == 0 && ordinary() {
		return nil // the user's own, shown as nobody's: they cannot be given up
	}
	if err == nil && slices.Equal(have, i.Groups) {
		return nil
	}
	ids := make([]uint32, len(i.Groups)+1) // one more: its address exists
	for k, g := range i.Groups {
		ids[k] = uint32(g)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(i.Groups)), uintptr(unsafe.Pointer(&ids[0])), 0); e != 0 {
		return e
	}
	return nil
}

// ordinary says whether setgroups(2) is forbidden here (user_namespaces(7)).
func ordinary() bool {
	b, err := os.ReadFile("/proc/self/setgroups")
	return err == nil && len(b) > 0 && b[0] == 'd'
}
