package mirror

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Of the kernel's include/uapi/linux/{sock_diag,inet_diag}.h and its TCP states.
const (
	sockDiagByFamily = 20
	diagRequestLen   = 56 // struct inet_diag_req_v2
	diagLen          = 72 // struct inet_diag_msg
	stateListen      = 10
)

// openDiag returns a finder that asks the kernel (sock_diag(7)), until end; that takes no right. It costs some microseconds.
func openDiag() (find finder, end func(), err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, nil, fmt.Errorf("mirror: %w", os.NewSyscallError("socket", err))
	}
	timeout := unix.NsecToTimeval(int64(tick)) // the kernel answers within the call that asks
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)
	answer := make([]byte, 4<<10)
	return func(k key) bool {
		if unix.Sendto(fd, question(k), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) != nil {
			return true
		}
		n, _, err := unix.Recvfrom(fd, answer, 0)
		if err != nil || n < unix.NLMSG_HDRLEN {
			return true // not known: then nothing is held back
		}
		if binary.NativeEndian.Uint16(answer[4:]) == unix.NLMSG_ERROR { // ENOENT: there is none
			return false
		}
		return n >= unix.NLMSG_HDRLEN+diagLen && answer[unix.NLMSG_HDRLEN+1] != stateListen
	}, func() { unix.Close(fd) }, nil
}

// question asks for one connection. Where there is none the kernel answers with the listener that would take it.
func question(k key) []byte {
	b := make([]byte, 0, unix.NLMSG_HDRLEN+diagRequestLen)
	b = binary.NativeEndian.AppendUint32(b, unix.NLMSG_HDRLEN+diagRequestLen)
	b = binary.NativeEndian.AppendUint16(b, sockDiagByFamily)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST)
	b = append(b, make([]byte, 8)...)
	family := byte(unix.AF_INET6)
	if k.local.Addr().Is4() {
		family = unix.AF_INET
	}
	b = append(b, family, unix.IPPROTO_TCP, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, ^uint32(0)) // all states
	b = binary.BigEndian.AppendUint16(b, k.local.Port())
	b = binary.BigEndian.AppendUint16(b, k.client.Port())
	for _, addr := range [][]byte{k.local.Addr().AsSlice(), k.client.Addr().AsSlice()} {
		b = append(append(b, addr...), make([]byte, 16-len(addr))...)
	}
	b = binary.NativeEndian.AppendUint32(b, 0)             // any interface
	return binary.NativeEndian.AppendUint64(b, ^uint64(0)) // INET_DIAG_NOCOOKIE
}
