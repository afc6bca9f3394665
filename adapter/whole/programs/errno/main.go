// Command errno prints which errno a program gets from the network it runs in: each case in several ways, a line each,
// in the order of the arguments. The same program runs in the pod and in its place, and the outputs are compared, so it
// must never print what may differ between two runs: a time, a port of the kernel's choice.
//
// A case is NETWORK/WHAT/ADDRESS or NETWORK/WHAT/ADDRESS/WAY/LATER, in one way only and so much later than the others.
// NETWORK is tcp or udp; WHAT is
//
//	connect   how the connection fails
//	quiet     likewise, without saying whether that was known at once or later
//	short     how connecting ends that may take 0.3 s only
//	reset     the server reads a byte and resets
//	answer    the server says hello first, and resets when it has been heard
//	last      the server says hello and resets at once
//	flood     the server resets while the program writes
//	closed    the server closes in order, and the program writes on
package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// short is what a program waits that does not wait for the kernel to give up, and udpWait what it gives an answer that
// never comes.
const (
	short   = 300 * time.Millisecond
	udpWait = time.Second
)

func main() {
	ways := []struct {
		name string
		run  func(network, what string, to netip.AddrPort) string
	}{{"blocking", blocking}, {"epoll", viaEpoll}, {"go", viaGo}}
	lines := make([]string, len(os.Args[1:])*len(ways))
	var wg sync.WaitGroup
	for i, arg := range os.Args[1:] {
		part := strings.SplitN(arg, "/", 5)
		to := netip.MustParseAddrPort(part[2])
		for j, w := range ways {
			if len(part) > 3 && part[3] != w.name {
				continue
			}
			wg.Go(func() {
				if len(part) > 4 {
					later, _ := time.ParseDuration(part[4])
					time.Sleep(later)
				}
				lines[i*len(ways)+j] = arg + " " + w.name + ": " + w.run(part[0], part[1], to)
			})
		}
	}
	wg.Wait()
	for _, l := range lines {
		if l != "" {
			fmt.Println(l)
		}
	}
}

var names = map[syscall.Errno]string{0: "ok", syscall.EACCES: "EACCES", syscall.EPERM: "EPERM", syscall.EAGAIN: "EAGAIN",
	syscall.ECONNREFUSED: "ECONNREFUSED", syscall.ECONNRESET: "ECONNRESET", syscall.EHOSTUNREACH: "EHOSTUNREACH",
	syscall.ENETUNREACH: "ENETUNREACH", syscall.ETIMEDOUT: "ETIMEDOUT", syscall.EPIPE: "EPIPE", syscall.EINVAL: "EINVAL",
	syscall.EINPROGRESS: "EINPROGRESS", syscall.ENOTCONN: "ENOTCONN", syscall.ECONNABORTED: "ECONNABORTED"}

// name is an error's errno; what has none is told as it is.
func name(err error) string {
	var no syscall.Errno
	var timeout net.Error
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &no):
		if s := names[no]; s != "" {
			return s
		}
		return fmt.Sprintf("errno %d", int(no))
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return err.Error()
}

// socket makes one that gives up soon: after two SYNs (TCP_SYNCNT, tcp(7)) instead of seven.
func socket(network string, to netip.AddrPort, flags int) (int, syscall.Sockaddr) {
	family, kind := syscall.AF_INET6, syscall.SOCK_STREAM
	var sa syscall.Sockaddr = &syscall.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}
	if to.Addr().Is4() {
		family = syscall.AF_INET
		sa = &syscall.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
	}
	if network == "udp" {
		kind = syscall.SOCK_DGRAM
	}
	fd, err := syscall.Socket(family, kind|syscall.SOCK_CLOEXEC|flags, 0)
	if err != nil {
		panic(err)
	}
	hasten(network, fd)
	return fd, sa
}

func hasten(network string, fd int) {
	if network == "tcp" {
		_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_SYNCNT, 1)
	}
}

// again repeats a call that a signal of Go's own interrupted.
func again(call func() error) error {
	for {
		if err := call(); err != syscall.EINTR {
			return err
		}
	}
}

func blocking(network, what string, to netip.AddrPort) string {
	fd, sa := socket(network, to, 0)
	defer syscall.Close(fd)
	if what == "short" {
		tv := syscall.NsecToTimeval(int64(short))
		_ = syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &tv)
	}
	err := again(func() error { return syscall.Connect(fd, sa) })
	if network == "udp" {
		tv := syscall.NsecToTimeval(int64(udpWait))
		_ = syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &tv)
		if err == nil {
			_, err = syscall.Write(fd, []byte("x"))
		}
		if err == nil {
			_, err = read(fd)
		}
		return name(err)
	}
	if err != nil || what == "connect" || what == "quiet" || what == "short" {
		return name(err)
	}
	return talk(what, func(b []byte) error { return send(fd, b) }, func() (string, error) { return read(fd) })
}

func send(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := syscall.SendmsgN(fd, b, nil, nil, syscall.MSG_NOSIGNAL)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func read(fd int) (string, error) {
	b := make([]byte, 100)
	for {
		n, err := syscall.Read(fd, b)
		if err != syscall.EINTR {
			return string(b[:max(n, 0)]), err
		}
	}
}

// talk is the conversation after a connect, in one line.
func talk(what string, write func([]byte) error, read func() (string, error)) string {
	var said []string
	say := func(what string, err error) { said = append(said, what+" "+name(err)) }
	reading := func() {
		got, err := read()
		say(fmt.Sprintf("read %q", got), err)
	}
	switch what {
	case "reset":
		say("write", write([]byte("r")))
		reading()
		say("write", write([]byte("x")))
		reading()
	case "answer":
		say("write", write([]byte("h")))
		reading()
		say("write", write([]byte("k")))
		reading()
		say("write", write([]byte("x")))
	case "last":
		say("write", write([]byte("l")))
		reading()
		reading()
	case "flood":
		err := write([]byte("r"))
		for b := make([]byte, 64<<10); err == nil; {
			err = write(b)
		}
		say("write", err)
		say("write", write([]byte("x")))
		reading()
	case "closed":
		say("write", write([]byte("c")))
		reading()
		err := write([]byte("x"))
		for err == nil { // the first ones are still taken
			time.Sleep(time.Millisecond)
			err = write([]byte("x"))
		}
		say("write", err)
		reading()
	}
	return strings.Join(said, ", ")
}

// viaEpoll registers the socket before it connects it, as event loops do.
func viaEpoll(network, what string, to netip.AddrPort) string {
	fd, sa := socket(network, to, syscall.SOCK_NONBLOCK)
	defer syscall.Close(fd)
	ep, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		panic(err)
	}
	defer syscall.Close(ep)
	const rdhup = 0x2000
	watch := func(op int, events uint32) {
		if err := syscall.EpollCtl(ep, op, fd, &syscall.EpollEvent{Events: events, Fd: int32(fd)}); err != nil {
			panic(err)
		}
	}
	if network == "udp" {
		watch(syscall.EPOLL_CTL_ADD, syscall.EPOLLIN)
	} else {
		watch(syscall.EPOLL_CTL_ADD, syscall.EPOLLIN|syscall.EPOLLOUT|rdhup)
	}
	wait := func(limit time.Duration) string {
		events := make([]syscall.EpollEvent, 1)
		for {
			n, err := syscall.EpollWait(ep, events, int(limit.Milliseconds()))
			switch {
			case err == syscall.EINTR:
				continue
			case n == 0:
				return "no event"
			}
			return mask(events[0].Events)
		}
	}
	err = syscall.Connect(fd, sa)
	if network == "udp" {
		if err == nil {
			_, err = syscall.Write(fd, []byte("x"))
		}
		if err != nil {
			return name(err)
		}
		events := wait(udpWait)
		if what == "quiet" {
			return name(pending(fd))
		}
		return events + " " + name(pending(fd))
	}
	limit := 30 * time.Second
	if what == "short" {
		limit = short
	}
	if err != syscall.EINPROGRESS {
		if what != "quiet" {
			return "at once " + name(err)
		}
		return name(err)
	}
	events := wait(limit)
	switch what {
	case "connect", "short":
		return events + " " + name(pending(fd))
	case "quiet":
		return name(pending(fd))
	}
	if err := pending(fd); err != nil {
		return "connect: " + name(err)
	}
	write := func(b []byte) error {
		for {
			err := send(fd, b)
			if err != syscall.EAGAIN {
				return err
			}
			watch(syscall.EPOLL_CTL_MOD, syscall.EPOLLOUT)
			wait(limit)
		}
	}
	return talk(what, write, func() (string, error) {
		watch(syscall.EPOLL_CTL_MOD, syscall.EPOLLIN|rdhup)
		events := wait(limit)
		if events == "ERR" { // tcp_reset in the kernel sets the error an instant before the end of both directions
			time.Sleep(time.Millisecond)
			events = wait(limit)
		}
		got, err := read(fd)
		if what != "last" { // there the second event may have come with the first
			got += " after " + events
		}
		return got, err
	})
}

// pending reads SO_ERROR, which clears it.
func pending(fd int) error {
	no, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_ERROR)
	if err != nil {
		return err
	}
	if no != 0 {
		return syscall.Errno(no)
	}
	return nil
}

func mask(events uint32) string {
	var all []string
	for _, e := range []struct {
		bit  uint32
		name string
	}{{syscall.EPOLLIN, "IN"}, {syscall.EPOLLOUT, "OUT"}, {syscall.EPOLLERR, "ERR"}, {syscall.EPOLLHUP, "HUP"}, {0x2000, "RDHUP"}} {
		if events&e.bit != 0 {
			all = append(all, e.name)
		}
	}
	return strings.Join(all, "+")
}

// viaGo uses what Go programs use.
func viaGo(network, what string, to netip.AddrPort) string {
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { hasten(network, int(fd)) })
	}}
	if what == "short" {
		d.Timeout = short
	}
	c, err := d.Dial(network, to.String())
	if err != nil {
		return name(err)
	}
	defer c.Close()
	if network == "udp" {
		_ = c.SetReadDeadline(time.Now().Add(udpWait))
		_, err := c.Write([]byte("x"))
		if err == nil {
			_, err = c.Read(make([]byte, 100))
		}
		return name(err)
	}
	if what == "connect" || what == "quiet" || what == "short" {
		return "ok"
	}
	return talk(what, func(b []byte) error {
		_, err := c.Write(b)
		return err
	}, func() (string, error) {
		b := make([]byte, 100)
		n, err := c.Read(b)
		return string(b[:n]), err
	})
}
