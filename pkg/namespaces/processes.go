package namespaces

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// inodes are the numbers by which /proc names a mount and a network namespace. They are given again to other namespaces once
// these are gone, so whoever compares with them must hold them open (see pins) or be inside.
type inodes struct{ mnt, net string }

// Bounds of reaping. A process in an uninterruptible wait dies only when that ends; nobody waits longer for it than this.
const (
	reapTime  = 1500 * time.Millisecond // an editor's disconnect may take 2 s in all
	reapPause = 2 * time.Millisecond
)

// inodesOf reads those of a process by its directory in /proc.
func inodesOf(dir string) (inodes, error) {
	mnt, err := os.Readlink(dir + "/ns/mnt")
	if err != nil {
		return inodes{}, err
	}
	net, err := os.Readlink(dir + "/ns/net")
	return inodes{mnt, net}, err
}

// inside says whether the process is in the mount or the network namespace. Either will do: a program inside may make a
// further one of a kind (a browser's or a build tool's sandbox), hardly both. A process whose first thread has ended shows its
// namespaces in the others only (ENOENT at its own).
func (in inodes) inside(pid int) bool {
	dir := "/proc/" + strconv.Itoa(pid)
	got, err := inodesOf(dir)
	if err == nil || !errors.Is(err, unix.ENOENT) {
		return err == nil && (got.mnt == in.mnt || got.net == in.net)
	}
	threads, err := os.ReadDir(dir + "/task")
	if err != nil {
		return false
	}
	for _, t := range threads {
		if got, err := inodesOf(dir + "/task/" + t.Name()); err == nil && (got.mnt == in.mnt || got.net == in.net) {
			return true
		}
	}
	return false
}

// processes lists those inside, except the given ones. It costs a few microseconds per process of the machine.
func (in inodes) processes(except ...int) ([]int, error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("namespaces: listing processes: %w", err)
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("namespaces: listing processes: %w", err)
	}
	var pids []int
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err == nil && !slices.Contains(except, pid) && in.inside(pid) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// reap kills every process inside except the given ones, until there is none or reapTime is over; then it says how many
// are left.
func (in inodes) reap(except ...int) error {
	for end := time.Now().Add(reapTime); ; time.Sleep(reapPause) {
		pids, err := in.processes(except...)
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("namespaces: ending the processes inside: %v still there after %v", pids, reapTime)
		}
		for _, pid := range pids {
			in.kill(pid)
		}
	}
}

// kill sends SIGKILL by a pidfd, having looked again: the number may be somebody else's by now.
func (in inodes) kill(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // gone
	}
	defer unix.Close(fd)
	if in.inside(pid) {
		unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
}

// holdsSocket says whether the process has the socket of that inode among its descriptors.
func holdsSocket(pid int, inode uint32) bool {
	dir := "/proc/" + strconv.Itoa(pid) + "/fd/"
	want := "socket:[" + strconv.FormatUint(uint64(inode), 10) + "]"
	d, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	for _, n := range names {
		if to, err := os.Readlink(dir + n); err == nil && strings.HasPrefix(to, "socket:") && to == want {
			return true
		}
	}
	return false
}
