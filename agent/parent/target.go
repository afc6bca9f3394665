package parent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/agent/pair"
	"github.com/stepin-dev/stepin/agent/pod"
)

// target is the pod's process and what is open of it. It owns its files; root, environ and mounts are nil where they
// are out of reach, which limits says.
type target struct {
	place
	process
	exe    string // its executable's path, for messages and to know a successor by; "" where it is not to be seen
	file   fileID // the executable itself
	netns  uint64 // inode of its network namespace
	status pod.Status
	// userns says that it is in this process's user namespace: only then its capabilities mean the same here.
	userns bool
	limits []string

	pidfd                                *os.File
	net, uts, root, environ, mounts, own *os.File
}

type fileID struct{ dev, ino uint64 }

// openTarget opens all there is to open of a process. The pidfd comes first: what is read afterwards is of that
// process, if it still lives at the end.
func openTarget(at place, p process) (t *target, err error) {
	pid := p.pid
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
	dir := fmt.Sprintf("/proc/%d/", pid)
	for _, f := range []struct {
		into **os.File
		name string
		flag int
	}{
		{&t.net, dir + "ns/net", unix.O_RDONLY}, {&t.uts, dir + "ns/uts", unix.O_RDONLY},
		{&t.root, dir + "root", unix.O_PATH | unix.O_DIRECTORY}, {&t.environ, dir + "environ", unix.O_RDONLY},
		{&t.mounts, dir + "mountinfo", unix.O_RDONLY}, {&t.own, "/proc/self/mountinfo", unix.O_RDONLY},
	} {
		if *f.into, err = os.OpenFile(f.name, f.flag, 0); err != nil {
			return t, explain(pid, err)
		}
	}
	if t.exe, err = os.Readlink(dir + "exe"); err != nil {
		return t, explain(pid, err)
	}
	if t.file, err = idOf(dir + "exe"); err != nil {
		return t, explain(pid, err)
	}
	var netns unix.Stat_t // of what is open: the process may change its namespace meanwhile
	if err := unix.Fstat(int(t.net.Fd()), &netns); err != nil {
		return t, explain(pid, &fs.PathError{Op: "stat", Path: t.net.Name(), Err: err})
	}
	t.netns = netns.Ino
	theirs, err := idOf(dir + "ns/user")
	if err != nil {
		return t, explain(pid, err)
	}
	ours, err := idOf("/proc/self/ns/user")
	if err != nil {
		return t, err
	}
	t.userns = ours == theirs
	if !t.alive() {
		return t, explain(pid, syscall.ESRCH)
	}
	return t, nil
}

// identify opens the pidfd and reads who the process is. It must be the one that was found, if that is known (start is not
// 0): meanwhile its number may have become another's.
func (t *target) identify(found process) error {
	pid := found.pid
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return explain(pid, err)
	}
	t.pidfd = os.NewFile(uintptr(fd), "pidfd")
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return explain(pid, err)
	}
	if t.status, err = pod.ParseStatus(status); err != nil {
		return err
	}
	p, ok := look(pid)
	if !ok || found.start != 0 && p.start != found.start {
		return explain(pid, syscall.ESRCH)
	}
	t.process = p
	return nil
}

func explain(pid int, err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = fmt.Errorf("%s: %w", path.Path, path.Err)
	}
	switch {
	case errors.Is(err, syscall.ESRCH) || errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no process %d hint: see `ps -e` for its number", pid)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("process %d is not ours to enter (%v) hint: take one of your own processes, or be root; in a cluster the agent lacks a capability of docs/cluster.md", pid, err)
	}
	return fmt.Errorf("opening process %d: %w", pid, err)
}

func idOf(path string) (fileID, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return fileID{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return fileID{st.Dev, st.Ino}, nil
}

func (t *target) close() {
	t.release()
	for _, f := range []*os.File{t.pidfd, t.net, t.uts, t.own} {
		if f != nil {
			f.Close()
		}
	}
}

// release closes what would keep an ended process's mounts from going.
func (t *target) release() {
	for _, f := range []**os.File{&t.root, &t.environ, &t.mounts} {
		if *f != nil {
			(*f).Close()
			*f = nil
		}
	}
}

// elsewhere are its network and UTS namespace where they are not this process's own: to enter one takes a right even then
// (setns(2)).
func (t *target) elsewhere() (netns, uts *os.File) {
	same := func(f *os.File, own string) bool {
		var theirs, ours unix.Stat_t
		return f == nil || unix.Fstat(int(f.Fd()), &theirs) == nil && unix.Stat(own, &ours) == nil && theirs.Ino == ours.Ino
	}
	if !same(t.net, "/proc/self/ns/net") {
		netns = t.net
	}
	if !same(t.uts, "/proc/self/ns/uts") {
		uts = t.uts
	}
	return netns, uts
}

// view is what the child is to see, and its files, in the order of pair.FileRoot and on. What is out of reach is an empty
// file.
func (t *target) view() (pair.View, []*os.File) {
	return pair.View{Target: t.String(), Files: t.root != nil}, []*os.File{or(t.root, t.own), or(t.environ, t.own), or(t.mounts, t.own)}
}

// or is an open file in the place of one that is not.
func or(f, otherwise *os.File) *os.File {
	if f != nil {
		return f
	}
	return otherwise
}

// caps are the target's capabilities as far as they mean anything to the child.
func (t *target) caps() uint64 {
	if !t.userns {
		return 0
	}
	return t.status.CapEff
}

func (t *target) String() string {
	name := t.status.Name
	if t.exe != "" {
		name = filepath.Base(t.exe)
	}
	return fmt.Sprintf("%s (%s)", t.place, name)
}

// alive asks the pidfd: it becomes readable when the process ends.
func (t *target) alive() bool { return !waitReadable(t.pidfd, 0) }

// wait blocks until the process has ended.
func (t *target) wait() { waitReadable(t.pidfd, -1) }

func waitReadable(f *os.File, milliseconds int) bool {
	p := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(p, milliseconds)
		if err != unix.EINTR {
			return err == nil && n > 0
		}
	}
}

// like says that next may take t's place without anybody noticing but by its files: a child that is t's user is its user.
func (t *target) like(next *target) bool {
	return t.userns == next.userns && t.status.UID == next.status.UID && t.status.GID == next.status.GID &&
		slices.Equal(t.status.Groups, next.status.Groups) && t.caps() == next.caps()
}

// successor finds the process that took the place of t, which has ended at the time ended; none has the number 0. hint is
// the container that the session knows to follow, "" if it does not. Without it, it is one of the same executable: of a
// pod, the first of another container that began since. It must not be the ended one itself, which may still be there
// as a zombie. In this machine's own network any program of anybody's could be it, so there is none.
func (t *target) successor(hint string, ended uint64) (found process) {
	if !t.kube() && t.netns == netnsOf(os.Getpid()) {
		return process{}
	}
	if !t.kube() {
		_ = processes(func(other int) bool {
			if other != t.process.pid && netnsOf(other) == t.netns && t.same(other) {
				found, _ = look(other)
			}
			return found.pid == 0
		})
		return found
	}
	// A container starts after the one before it has ended; the clock counts in ticks, and the end is seen a moment late.
	const slack = 100
	fresh, err := first(t.netns, func(p process) bool {
		return p.cgroup.Container != t.container && (hint == "" || p.cgroup.Container == hint) && t.member(p)
	})
	if err != nil {
		return process{}
	}
	for _, p := range fresh {
		if p.start+slack >= ended && (hint != "" && !initializing(p.pid) || t.same(p.pid)) {
			return p
		}
	}
	return process{}
}

// initializing says that a process is still the runtime's own, in the container but not yet what the container runs.
func initializing(pid int) bool {
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	name := strings.TrimSuffix(string(comm), "\n")
	return err != nil || strings.HasPrefix(name, "runc") || name == "crun" || name == "youki"
}

// member says that a process of the pod's network namespace is the pod's, as far as its cgroup is known: the network may be
// the node's.
func (t *target) member(p process) bool { return t.cgroup.Pod == "" || p.cgroup.Pod == t.cgroup.Pod }

// sandbox says that the pod's sandbox is still there: its pause process, or any other of the pod, the agent's apart.
func (t *target) sandbox(ours ...int) (there bool) {
	err := processes(func(pid int) bool {
		if slices.Contains(ours, pid) || netnsOf(pid) != t.netns {
			return true
		}
		p, ok := look(pid)
		there = ok && t.member(p)
		return !there
	})
	return there || err != nil
}

// same says that a process has the same executable.
func (t *target) same(pid int) bool {
	dir := fmt.Sprintf("/proc/%d/", pid)
	if file, err := idOf(dir + "exe"); err == nil && file == t.file {
		return true
	}
	exe, err := os.Readlink(dir + "exe")
	return err == nil && exe == t.exe
}
