package node

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// mounts gives the node directories of its own: /run in memory, /var in the state directory, and the state directory
// at Home. What is mounted later (by containerd, runc and the kubelet) goes nowhere else.
func mounts(state string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("/proc: %w", err)
	}
	dir, err := os.Open(state) // it may lie below a directory that is covered next
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("/run: %w", err)
	}
	if err := os.MkdirAll(Home, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()), Home, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("%s: %w", Home, err)
	}
	if err := directories(); err != nil {
		return err
	}
	if err := unix.Mount(Home+"/var", "/var", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("/var: %w", err)
	}
	// The kubelet wants a shared tree: it mounts for pods that pass mounts on.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("sharing mounts: %w", err)
	}
	return nil
}

// directories are those that programs expect.
func directories() error {
	for _, dir := range []string{
		"/run/lock", "/run/netns", Home + "/etcd", Home + "/containerd", Home + "/cni", Home + "/conf",
		Home + "/var/lib/kubelet", Home + "/var/lib/cni", Home + "/var/log/pods", Home + "/var/cache", Home + "/var/tmp",
	} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.Symlink("/run", Home+"/var/run"); err != nil && !os.IsExist(err) {
		return err
	}
	return os.Chmod(Home+"/var/tmp", 0o1777)
}

// sysctls covers those of the whole machine that the kubelet sets (pkg/kubelet/cm/container_manager_linux.go) by files
// that hold what it wants to see: it finds nothing to set, and there is nothing to put back.
func sysctls() error {
	const covers = "/run/sysctl"
	for name, value := range map[string]string{
		"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
		"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
	} {
		cover, covered := filepath.Join(covers, name), filepath.Join("/proc/sys", name)
		if _, err := os.Stat(covered); err != nil {
			continue // a kernel without it
		}
		if err := os.MkdirAll(filepath.Dir(cover), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(cover, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(cover, covered, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("covering %s: %w", covered, err)
		}
	}
	return nil
}

// network configures the node's end of the veth pair. Routing is a setting of the network namespace.
func network() error {
	if err := syscall.Sethostname([]byte(Name)); err != nil {
		return err
	}
	for _, name := range []string{"lo", Link} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if name == Link {
			addr, err := netlink.ParseAddr(fmt.Sprintf("%s/%d", Address, Prefix))
			if err != nil {
				return err
			}
			if err := netlink.AddrReplace(link, addr); err != nil {
				return fmt.Errorf("address of %s: %w", name, err)
			}
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	gateway, err := netlink.ParseAddr(Machine + "/32")
	if err != nil {
		return err
	}
	if err := netlink.RouteReplace(&netlink.Route{Gw: gateway.IP}); err != nil {
		return fmt.Errorf("default route: %w", err)
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644)
}
