package namespaces

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Transparent sockets are made ahead of need: one exchange with the holder brings a batch (some 100 µs), so that most
// incoming flows cost none. An unused one holds 2 KiB of the kernel's memory.
const (
	socketBatch   = 32
	socketTimeout = 2 * time.Second // the holder has nothing else to do
)

// TransparentSocket returns a TCP socket of the namespaces that may be bound to any address, the true client's, and then be
// connected to the debuggee's listener: IP_TRANSPARENT (IPV6_TRANSPARENT), SO_REUSEADDR, not blocking, close-on-exec. Family
// is unix.AF_INET or unix.AF_INET6; the caller owns the file. The listener's port must be own (OwnPort) for the answers to
// arrive.
func (n *Namespaces) TransparentSocket(family int) (*os.File, error) {
	if family != unix.AF_INET && family != unix.AF_INET6 {
		return nil, fmt.Errorf("namespaces: making a transparent socket: address family %d", family)
	}
	n.poolMu.Lock()
	defer n.poolMu.Unlock()
	if n.pool == nil {
		return nil, errClosed
	}
	if len(n.pool[family]) == 0 {
		fds, err := n.askSockets(family)
		if err != nil {
			return nil, err
		}
		n.pool[family] = fds
	}
	last := len(n.pool[family]) - 1
	fd := n.pool[family][last]
	n.pool[family] = n.pool[family][:last]
	return os.NewFile(uintptr(fd), "transparent"), nil
}

// askSockets asks the holder for a batch.
func (n *Namespaces) askSockets(family int) ([]int, error) {
	n.control.SetDeadline(time.Now().Add(socketTimeout))
	defer n.control.SetDeadline(time.Time{})
	if err := n.control.send(message{Kind: kindSockets, Family: family, Count: socketBatch}); err != nil {
		return nil, err
	}
	m, fds, err := n.control.receive()
	if err != nil {
		return nil, fmt.Errorf("namespaces: asking the holder for sockets: %w", err)
	}
	if m.Failed != nil {
		closeAll(fds)
		return nil, fmt.Errorf("namespaces: asking the holder for sockets: %w", m.Failed)
	}
	if m.Kind != kindSockets || len(fds) == 0 {
		closeAll(fds)
		return nil, fmt.Errorf("namespaces: asking the holder for sockets: it answered %q with %d descriptors", m.Kind, len(fds))
	}
	return fds, nil
}

// makeSockets is the holder's part of it.
func makeSockets(family, count int) ([]int, error) {
	if count < 1 || count > maxFiles {
		return nil, fmt.Errorf("namespaces: %d sockets asked for, at most %d", count, maxFiles)
	}
	level, option := unix.SOL_IP, unix.IP_TRANSPARENT
	if family == unix.AF_INET6 {
		level, option = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
	}
	var fds []int
	for range count {
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			closeAll(fds)
			return nil, failedStep(stepNetwork, err, "socket(%d, SOCK_STREAM)", family)
		}
		fds = append(fds, fd)
		err = unix.SetsockoptInt(fd, level, option, 1)
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		}
		if err != nil {
			closeAll(fds)
			return nil, failedStep(stepNetwork, err, "setsockopt(IP_TRANSPARENT)")
		}
	}
	return fds, nil
}
