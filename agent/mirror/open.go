package mirror

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Open makes a socket for Start. It takes CAP_NET_RAW in the network namespace of the calling thread, and is the only
// thing here that takes any right. Until Start it is shown nothing: it is bound to no protocol (packet(7)).
func Open() (*os.File, error) {
	// Without the link layer's header: what comes by any interface begins with the header of IP.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("mirror: a packet socket: %w", os.NewSyscallError("socket", err))
	}
	return os.NewFile(uintptr(fd), "packets"), nil
}
