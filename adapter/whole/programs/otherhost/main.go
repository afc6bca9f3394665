// Command otherhost runs a command on a machine whose name server is another: in a network and a mount namespace that
// its caller has made (unshare(2)), it brings the loopback up, puts a resolv.conf over the machine's, answers each
// question for an IPv4 address with the same one, and then runs the command. It must never run anywhere else: it would
// change the machine's names.
//
//	otherhost OWN-NETNS RESOLV.CONF COMMAND ARGS...
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"unsafe"
)

// answer is documentation's (RFC 5737), so that nobody has it.
var answer = [4]byte{192, 0, 2, 77}

const server = "127.0.0.53:53"

func main() {
	if len(os.Args) < 4 {
		fail(errors.New("too few arguments"))
	}
	if ns, err := os.Readlink("/proc/self/ns/net"); err != nil || ns == os.Args[1] {
		fail(fmt.Errorf("in the caller's own network: %v", err))
	}
	if err := loopbackUp(); err != nil {
		fail(err)
	}
	if err := syscall.Mount(os.Args[2], "/etc/resolv.conf", "", syscall.MS_BIND, ""); err != nil {
		fail(err)
	}
	c, err := net.ListenPacket("udp", server)
	if err != nil {
		fail(err)
	}
	go serve(c)
	cmd := exec.Command(os.Args[3], os.Args[4:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		fail(err)
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "otherhost:", err)
	os.Exit(1)
}

// loopbackUp sets IFF_UP (netdevice(7)).
func loopbackUp() error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	var request struct {
		name  [syscall.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(request.name[:], "lo")
	request.flags = syscall.IFF_UP
	if _, _, no := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&request))); no != 0 {
		return no
	}
	return nil
}

// serve answers questions (RFC 1035 §4.1): one name, one record, the rest of the message is left out.
func serve(c net.PacketConn) {
	b := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		end := 12
		for end < n && b[end] != 0 {
			end += int(b[end]) + 1
		}
		if end += 5; end > n {
			continue
		}
		isA := binary.BigEndian.Uint16(b[end-4:]) == 1
		out := append([]byte(nil), b[:end]...)
		binary.BigEndian.PutUint16(out[2:], 0x8180) // an answer, without error
		copy(out[4:12], []byte{0, 1, 0, 0, 0, 0, 0, 0})
		if isA {
			out[7] = 1
			out = append(out, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4)
			out = append(out, answer[:]...)
		}
		_, _ = c.WriteTo(out, from)
	}
}
