package parent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/agent/pod"
)

// target is the pod's process and what is open of it. It owns its files.
type target struct {
	pid    int
	exe    string // its executable's path, for messages and to know a successor by
	file   fileID // the executable itself
	netns  uint64 // inode of its network namespace
	status pod.Status
	// userns says that it is in this process's user namespace: only then its capabilities mean the same here.
	userns bool

	pidfd                                *os.File
	net, uts, root, environ, mounts, own *os.File
}

type fileID struct{ dev, ino uint64 }

// parsePod reads --pod. Other kinds than local/PID will follow.
func parsePod(s string) (pid int, err error) {
	kind, rest, _ := strings.Cut(s, "/")
	if kind != "local" {
		return 0, fmt.Errorf("--pod %q: only local/PID is known hint: give the number of a process on this machine", s)
	}
	pid, err = strconv.Atoi(rest)
	if err != nil || pid < 1 {
		return 0, fmt.Errorf("--pod %q: %q is no process number hint: give the number of a process on this machine", s, rest)
	}
	return pid, nil
}

// openTarget opens all there is to open of a process. The pidfd comes first: what is read afterwards is of that
// process, if it still lives at the end.
func openTarget(pid int) (t *target, err error) {
	t = &target{pid: pid}
	defer func() {
		if err != nil {
			t.close()
			t = nil
		}
	}()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return t, explain(pid, err)
	}
	t.pidfd = os.NewFile(uintptr(fd), "pidfd")
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
	status, err := os.ReadFile(dir + "status")
	if err != nil {
		return t, explain(pid, err)
	}
	if t.status, err = pod.ParseStatus(status); err != nil {
		return t, err
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

func explain(pid int, err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = fmt.Errorf("%s: %w", path.Path, path.Err)
	}
	switch {
	case errors.Is(err, syscall.ESRCH) || errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no process %d hint: see `ps -e` for its number", pid)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("process %d is not ours to enter (%v) hint: take one of your own processes, or be root", pid, err)
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
	for _, f := range []*os.File{t.pidfd, t.net, t.uts, t.root, t.environ, t.mounts, t.own} {
		if f != nil {
			f.Close()
		}
	}
}

// caps are the target's capabilities as far as they mean anything to the child.
func (t *target) caps() uint64 {
	if !t.userns {
		return 0
	}
	return t.status.CapEff
}

func (t *target) String() string {
	return fmt.Sprintf("local/%d (%s)", t.pid, filepath.Base(t.exe))
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

// successor finds a process of the same executable in the same network namespace; 0 if there is none. It must not be
// the ended one itself, which may still be there as a zombie.
func (t *target) successor() int {
	proc, err := os.Open("/proc")
	if err != nil {
		return 0
	}
	defer proc.Close()
	for {
		const batch = 512
		names, err := proc.Readdirnames(batch)
		for _, n := range names {
			pid, nerr := strconv.Atoi(n)
			if nerr == nil && pid != t.pid && t.same(pid) {
				return pid
			}
		}
		if err == io.EOF || err != nil {
			return 0
		}
	}
}

func (t *target) same(pid int) bool {
	dir := fmt.Sprintf("/proc/%d/", pid)
	netns, err := idOf(dir + "ns/net")
	if err != nil || netns.ino != t.netns {
		return false
	}
	if file, err := idOf(dir + "exe"); err == nil && file == t.file {
		return true
	}
	exe, err := os.Readlink(dir + "exe")
	return err == nil && exe == t.exe
}
