package namespaces

import (
	"bufio"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// holderRights are the capabilities, in its own user namespace only, that an ordinary user's holder is started with. They
// must be ambient: exec takes all others from a process that is not root.
var holderRights = []uintptr{
	unix.CAP_SYS_ADMIN,  // mounts, host name
	unix.CAP_NET_ADMIN,  // TUN, addresses, routes; transparent sockets
	unix.CAP_NET_RAW,    // the packet socket into lo
	unix.CAP_SYS_PTRACE, // reading /proc/PID/ns of processes that are not dumpable
	unix.CAP_KILL,       // ending setuid ones, where there are several ids
}

// keptRights are those that it still needs when all is built.
const keptRights = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_SYS_PTRACE | 1<<unix.CAP_KILL

// dropRights takes the rest from every thread, and the ambient ones altogether. Root keeps what root has: the debuggee,
// root as well, has no less. A build with cgo, as the race detector needs, cannot change all threads at once and says so.
func (h *holder) dropRights() error {
	if os.Geteuid() == 0 {
		return nil
	}
	if _, _, e := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, 0); e != 0 {
		return fmt.Errorf("namespaces: prctl(PR_CAP_AMBIENT_CLEAR_ALL): %w", e)
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	set := [2]unix.CapUserData{{Effective: keptRights, Permitted: keptRights}}
	if _, _, e := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&set[0])), 0); e != 0 {
		return fmt.Errorf("namespaces: capset: %w", e)
	}
	return nil
}

// IDMaps says how ids inside are those outside: an ordinary user's own id alone, which is all that the kernel allows him; for
// root every id that root itself has, each as itself. With 0 alone root could not write what belongs to another user.
func IDMaps() (uids, gids []syscall.SysProcIDMap, err error) {
	if uid := os.Geteuid(); uid != 0 {
		gid := os.Getegid()
		return []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}, []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}, nil
	}
	if uids, err = ownMap("/proc/self/uid_map"); err != nil {
		return nil, nil, err
	}
	gids, err = ownMap("/proc/self/gid_map")
	return uids, gids, err
}

// ownMap reads the ids that exist in our user namespace (user_namespaces(7)) and maps each to itself.
func ownMap(path string) ([]syscall.SysProcIDMap, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("namespaces: reading our ids: %w", err)
	}
	defer f.Close()
	var maps []syscall.SysProcIDMap
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var inside, outside, size int
		if _, err := fmt.Sscan(lines.Text(), &inside, &outside, &size); err != nil {
			return nil, fmt.Errorf("namespaces: reading our ids: %w", err)
		}
		maps = append(maps, syscall.SysProcIDMap{ContainerID: inside, HostID: inside, Size: size})
	}
	return maps, nil
}
