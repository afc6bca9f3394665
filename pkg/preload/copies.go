package preload

import (
	"context"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// copies are the descriptors of the debuggee's connected UDP sockets. Without privileges there is no other way to tell such a
// socket that its datagram was refused than to send one through it to where nobody is. A copy keeps the socket's port taken, so
// it goes with whatever says that the program's own may have gone: SP_CLOSING, the process's end, a program that begins in it,
// a bind to that port. What the program closes past the library is closed with its process.
//
// Goroutines: one for each process that has any, which ends with that process or with the server.
type copies struct {
	mu    sync.Mutex
	by    map[uint64]copied // by inode
	watch map[int]bool      // by pid
}

type copied struct{ fd, pid int }

// port is the socket's own, 0: none yet.
func (c copied) port() uint16 {
	at, err := nameOf(c.fd)
	if err != nil {
		return 0
	}
	return at.Port()
}

// keep takes a descriptor of a process that is followed.
func (c *copies) keep(inode uint64, fd, pid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by == nil {
		c.by = map[uint64]copied{}
	}
	if old, ok := c.by[inode]; ok {
		unix.Close(old.fd)
	}
	c.by[inode] = copied{fd, pid}
}

// drop closes those that are said to go.
func (c *copies) drop(goes func(uint64, copied) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for inode, one := range c.by {
		if goes(inode, one) {
			unix.Close(one.fd)
			delete(c.by, inode)
		}
	}
}

// has says whether there is one of the socket.
func (c *copies) has(inode uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.by[inode]
	return ok
}

// send sends a datagram through a copy, as the program itself would. An error that the program has not read yet is read by
// the first try, and comes again by the second.
func (c *copies) send(inode uint64, data []byte, to netip.AddrPort) {
	c.mu.Lock()
	defer c.mu.Unlock()
	one, ok := c.by[inode]
	if !ok {
		return
	}
	if family, err := unix.GetsockoptInt(one.fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil && family == unix.AF_INET6 {
		to = netip.AddrPortFrom(netip.AddrFrom16(to.Addr().As16()), to.Port())
	}
	for range 2 {
		if unix.Sendto(one.fd, data, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, sockaddr(to)) == nil {
			return
		}
	}
}

// follow has the copies of a process end with it. False: its end could not be seen.
func (s *Server) follow(pid int) bool {
	c := &s.copies
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watch[pid] {
		return true
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	_ = unix.SetNonblock(fd, true) // for the runtime's poller; PIDFD_NONBLOCK itself is of Linux 5.10
	f := os.NewFile(uintptr(fd), "process")
	if c.watch == nil {
		c.watch = map[int]bool{}
	}
	c.watch[pid] = true
	s.wg.Go(func() {
		defer f.Close()
		defer context.AfterFunc(s.ctx, func() { _ = f.SetReadDeadline(longAgo) })()
		if raw, err := f.SyscallConn(); err == nil {
			_ = raw.Read(func(fd uintptr) bool {
				n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
				return n > 0 || err != nil && err != unix.EINTR
			})
		}
		c.mu.Lock()
		delete(c.watch, pid)
		c.mu.Unlock()
		c.drop(func(_ uint64, one copied) bool { return one.pid == pid })
	})
	return true
}

// connectUDP answers a connect of a UDP socket, whose descriptor may have come along.
func (s *Server) connectUDP(q *question, body ConnectQuestion) {
	s.copies.drop(func(inode uint64, _ copied) bool { return inode == body.Inode })
	answer, err := s.association(body.Inode, body.To.AddrPort(), body.Local.AddrPort(), 0)
	if err != nil {
		q.fail(errno(err))
		return
	}
	if answer.Verdict == VerdictPod && q.along >= 0 && s.follow(q.pid) {
		s.copies.keep(body.Inode, q.takeAlong(), q.pid)
	}
	q.closeAlong() // before the answer: what is not told would not be let go, either
	q.answer(answer, nil)
}
