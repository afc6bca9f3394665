package preload

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The keeper is stepin itself, run again (`stepin keep`), with a pipe whose other end only the session has: the kernel
// closes that however the session ends. Then it ends the debuggee's processes, takes the mount away and removes the
// directory. There are no namespaces to know them by: a process is the debuggee's if it has mapped the session's own copy of
// the library, which it cannot undo, or descends from such a one.
//
// Limits: a process that is not dumpable (prctl(2), PR_SET_DUMPABLE) shows its maps to root only; a static one that has
// outlived all its ancestors of the debuggee's is nobody's any more.

// Bounds of the end.
const (
	reapTime   = 1500 * time.Millisecond // an editor's disconnect may take 2 s in all
	reapPause  = 2 * time.Millisecond
	keeperTime = reapTime + 3*time.Second // with the mount and the directory
)

// LibraryName and MountName are what the keeper knows: the mount in the private directory, the library there or in the open one.
const (
	LibraryName = "libstepin.so"
	MountName   = "pod"
)

// Keeper is the session's hold on it.
type Keeper struct {
	dirs []string
	cmd  *exec.Cmd
	pipe *os.File
	done chan struct{}
}

// StartKeeper runs it for a session's private directory and that of its library, if it is another. The process's command
// line must lead to KeeperMain.
func StartKeeper(dirs ...string) (*Keeper, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("preload: making the keeper's pipe: %w", err)
	}
	defer r.Close()
	cmd := exec.Command("/proc/self/exe", append([]string{"keep"}, dirs...)...)
	cmd.Args[0] = "stepin"
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/bin:/bin"}
	cmd.ExtraFiles = []*os.File{r}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // what a terminal sends is not for it
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, fmt.Errorf("preload: starting the keeper: %w", err)
	}
	k := &Keeper{dirs: dirs, cmd: cmd, pipe: w, done: make(chan struct{})}
	go func() {
		defer close(k.done)
		_ = cmd.Wait()
	}()
	return k, nil
}

// End has it do its work, and waits for that. An error says what is left.
func (k *Keeper) End() error {
	k.pipe.Close()
	select {
	case <-k.done:
	case <-time.After(keeperTime):
		_ = k.cmd.Process.Kill()
		<-k.done
	}
	if k.cmd.ProcessState.Success() {
		return nil
	}
	return tidy(k.dirs) // somebody has ended it, or it could not: then this says why
}

// KeeperMain is the body of the hidden `stepin keep`. control is the read end of the pipe.
func KeeperMain(control io.Reader, dirs []string) error {
	for _, dir := range dirs {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir || !strings.HasPrefix(filepath.Base(dir), "stepin-") {
			return fmt.Errorf("preload: %q is no session's directory", dir)
		}
	}
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGPIPE)
	_, _ = io.Copy(io.Discard, control) // until its end
	return tidy(dirs)
}

// tidy ends the debuggee's processes, takes the mount away and removes the directories.
func tidy(dirs []string) (err error) {
	for _, dir := range dirs {
		err = errors.Join(err, Reap(dir))
	}
	for _, dir := range dirs {
		at := filepath.Join(dir, MountName)
		if mounted(at) {
			err = errors.Join(err, unmount(at))
		}
		if !mounted(at) { // else what is in there is not ours to remove
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}
	return err
}

// mounted says whether something is mounted there (proc_pid_mountinfo(5); blanks in paths are written as \040).
func mounted(at string) bool {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	escaped := strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`).Replace(at)
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == escaped {
			return true
		}
	}
	return false
}

// Reap kills the debuggee's processes until there is none, or reapTime is over.
func Reap(dir string) error {
	for end := time.Now().Add(reapTime); ; time.Sleep(reapPause) {
		pids := Processes(dir)
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("preload: ending the debuggee's processes: %v still there after %v", pids, reapTime)
		}
		for _, pid := range pids {
			kill(pid)
		}
	}
}

// Processes lists those that have mapped the library in the directory, and their descendants. It costs some 50 µs per
// process of this user's.
func Processes(dir string) []int {
	names, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	children := map[int][]int{}
	var ours []int
	self := os.Getpid()
	for _, n := range names {
		pid, err := strconv.Atoi(n.Name())
		if err != nil || pid == self {
			continue
		}
		children[parentOf(pid)] = append(children[parentOf(pid)], pid)
		if hasMapped(pid, dir) {
			ours = append(ours, pid)
		}
	}
	for i := 0; i < len(ours); i++ {
		for _, c := range children[ours[i]] {
			if !slices.Contains(ours, c) && !zombie(c) {
				ours = append(ours, c)
			}
		}
	}
	return ours
}

// hasMapped says whether a process has mapped the library to execute it: a debugger that reads its symbols has not.
func hasMapped(pid int, dir string) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return false
	}
	library := []byte(filepath.Join(dir, LibraryName))
	for line := range bytes.Lines(raw) {
		if f := bytes.Fields(line); len(f) > 5 && bytes.Contains(f[1], []byte("x")) && bytes.Equal(f[5], library) {
			return true
		}
	}
	return false
}

// parentOf reads a process's parent, 0 where it has gone (proc_pid_stat(5)).
func parentOf(pid int) int {
	f := stat(pid)
	if len(f) < 2 {
		return 0
	}
	parent, err := strconv.Atoi(f[1])
	if err != nil {
		return 0
	}
	return parent
}

func zombie(pid int) bool {
	f := stat(pid)
	return len(f) < 1 || f[0] == "Z"
}

// stat is what follows the name in /proc/PID/stat: state, parent, …
func stat(pid int) []string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
}

// kill sends SIGKILL by a pidfd.
func kill(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
}
