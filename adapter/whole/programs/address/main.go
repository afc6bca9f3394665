// Command address tells every address that it gets to see: of those who call it, and of those whom it calls when a
// caller asks it to. It must never add to what the calls of the kernel return.
//
// It listens on each argument, NETWORK/ADDRESS. A TCP caller is told "accept A peer B name C", the results of accept,
// getpeername and getsockname; then it may send lines: "dial NETWORK ADDRESS [SOURCE]" is answered by what the program
// sees and what the called one says, "close" and "reset" end the connection from this side. A datagram is answered by
// "from A name B", or, when it is such a line, likewise.
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

func main() {
	for _, arg := range os.Args[1:] {
		network, addr, _ := strings.Cut(arg, "/")
		if network == "udp" {
			c, err := net.ListenPacket(network, addr)
			must(err)
			go datagrams(c.(*net.UDPConn))
			continue
		}
		l, err := net.Listen(network, addr)
		must(err)
		go func() {
			for {
				c, err := l.Accept()
				must(err)
				go serve(c.(*net.TCPConn))
			}
		}()
	}
	fmt.Println("listening")
	select {}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// names asks the kernel for both addresses of a socket.
func names(c syscall.Conn) (peer, name string) {
	raw, err := c.SyscallConn()
	must(err)
	must(raw.Control(func(fd uintptr) {
		peer, name = text(syscall.Getpeername(int(fd))), text(syscall.Getsockname(int(fd)))
	}))
	return peer, name
}

func text(sa syscall.Sockaddr, err error) string {
	switch sa := sa.(type) {
	case *syscall.SockaddrInet4:
		return (&net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}).String()
	case *syscall.SockaddrInet6:
		return (&net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}).String()
	}
	return fmt.Sprint(err)
}

func serve(c *net.TCPConn) {
	defer c.Close()
	peer, name := names(c)
	fmt.Fprintf(c, "accept %s peer %s name %s\n", c.RemoteAddr(), peer, name)
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		switch lines.Text() {
		case "close":
			return
		case "reset":
			_ = c.SetLinger(0)
			return
		}
		fmt.Fprintln(c, dial(strings.Fields(lines.Text())))
	}
}

// dial does what a line says.
func dial(words []string) string {
	if len(words) < 3 || words[0] != "dial" {
		return "?"
	}
	d := net.Dialer{Timeout: 5 * time.Second}
	if len(words) > 3 {
		var err error
		if d.LocalAddr, err = net.ResolveTCPAddr(words[1], words[3]); words[1] == "udp" {
			d.LocalAddr, err = net.ResolveUDPAddr(words[1], words[3])
		}
		if err != nil {
			return err.Error()
		}
	}
	c, err := d.Dial(words[1], words[2])
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if words[1] == "udp" {
		fmt.Fprint(c, "who")
	}
	b := make([]byte, 500)
	n, err := c.Read(b)
	if err != nil {
		return err.Error()
	}
	peer, name := names(c.(syscall.Conn))
	return fmt.Sprintf("peer %s name %s, told: %s", peer, name, strings.TrimSpace(string(b[:n])))
}

func datagrams(c *net.UDPConn) {
	b := make([]byte, 500)
	for {
		n, from, err := c.ReadFrom(b)
		must(err)
		answer := fmt.Sprintf("from %s name %s", from, c.LocalAddr())
		if words := strings.Fields(string(b[:n])); len(words) > 2 {
			answer = dial(words)
		}
		_, err = c.WriteTo([]byte(answer), from)
		must(err)
	}
}
