// Package peer says who is at the other end of a connection on this machine. What listens on loopback is reachable
// for every user and, by way of a browser, for every web page; what stepin listens on serves one user only. The
// package must never say yes where it does not know.
package peer

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrUnknown is a peer whose user cannot be found: not on this machine, or gone already.
var ErrUnknown = errors.New("peer: whose connection this is cannot be found")

// SameUser returns nil where the peer of c, a connection over loopback or a unix socket, belongs to our own user.
func SameUser(c net.Conn) error {
	uid, err := UID(c)
	if err != nil {
		return err
	}
	return own(uid)
}

// own is nil for our own user.
func own(uid int) error {
	if uid != os.Getuid() {
		return fmt.Errorf("peer: the caller is user %d", uid)
	}
	return nil
}

// UID returns the user of c's peer. Over TCP it is read from /proc/net/tcp and tcp6 (proc_pid_net(5)): the socket that
// has c's ends the other way round.
func UID(c net.Conn) (int, error) {
	switch c := c.(type) {
	case *net.UnixConn:
		return unixUID(c)
	case *net.TCPConn:
		local, remote := c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()
		for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
			f, err := os.Open(table)
			if err != nil {
				continue // a kernel without IPv6
			}
			uid, ok := find(f, remote, local)
			f.Close()
			if ok {
				return uid, nil
			}
		}
	}
	return 0, ErrUnknown
}

func unixUID(c *net.UnixConn) (int, error) {
	cred, err := credentials(c)
	if err != nil {
		return 0, err
	}
	return int(cred.Uid), nil
}

// SameUserPID returns the process at the other end of c, with an error unless it belongs to our own user. The
// process is the one that connected, or, of a socketpair, made it (SO_PEERCRED in unix(7)).
func SameUserPID(c *net.UnixConn) (int, error) {
	cred, err := credentials(c)
	if err != nil {
		return 0, err
	}
	return int(cred.Pid), own(int(cred.Uid))
}

func credentials(c *net.UnixConn) (*unix.Ucred, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("peer: %w", err)
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, fmt.Errorf("peer: %w", err)
	}
	if cerr != nil {
		return nil, fmt.Errorf("peer: SO_PEERCRED: %w", cerr)
	}
	return cred, nil
}

// find looks for the socket from local to remote in a table. A socket without an inode has been closed by its owner
// and shows user 0, which it need not have been.
func find(table io.Reader, local, remote netip.AddrPort) (uid int, ok bool) {
	for lines := bufio.NewScanner(table); lines.Scan(); {
		f := strings.Fields(lines.Text())
		const uidField, inodeField = 7, 9
		if len(f) <= inodeField || f[inodeField] == "0" {
			continue
		}
		if l, ok := address(f[1]); !ok || l != unmap(local) {
			continue
		}
		if r, ok := address(f[2]); !ok || r != unmap(remote) {
			continue
		}
		uid, err := strconv.Atoi(f[uidField])
		return uid, err == nil
	}
	return 0, false
}

// address reads "0100007F:1F90": words of four bytes in the machine's order, and the port.
func address(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	p, perr := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || perr != nil || len(b) != 4 && len(b) != 16 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	a, _ := netip.AddrFromSlice(b)
	return unmap(netip.AddrPortFrom(a, uint16(p))), true
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
