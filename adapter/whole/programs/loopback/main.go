// Command loopback listens and calls as it is told, by its arguments first and then by the lines of its standard input,
// and prints one line for each. It must never wait for what does not come.
//
//	listen NETWORK ADDRESS   answers every caller with WHO of the environment and what it sees of the caller's host
//	close NETWORK ADDRESS    listens there no longer
//	dial NETWORK ADDRESS     prints the answer, or the error
//	begin NETWORK ADDRESS    listens, calls itself at once, listens no longer, and then talks
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

const wait = 5 * time.Second

var open = map[string]io.Closer{} // by NETWORK ADDRESS

func main() {
	for _, line := range os.Args[1:] {
		fmt.Println(line+":", do(strings.Fields(line)))
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fmt.Println(lines.Text()+":", do(strings.Fields(lines.Text())))
	}
}

func do(words []string) string {
	if len(words) != 3 {
		return "?"
	}
	what, network, addr := words[0], words[1], words[2]
	key := network + " " + addr
	switch what {
	case "listen":
		c, _, err := listen(network, addr)
		open[key] = c
		return said(err)
	case "close":
		return said(open[key].Close())
	case "dial":
		return call(network, addr)
	case "begin":
		return begin(network, addr)
	}
	return "?"
}

// said leaves out what two runs need not have in common: the ports that the kernel chose.
func said(err error) string {
	if err == nil {
		return "ok"
	}
	for e := err; ; {
		u, ok := e.(interface{ Unwrap() error })
		if !ok {
			return e.Error()
		}
		if e = u.Unwrap(); e == nil {
			return err.Error()
		}
		if no, ok := e.(syscall.Errno); ok {
			return no.Error()
		}
	}
}

func host(a net.Addr) string {
	h, _, _ := net.SplitHostPort(a.String())
	return h
}

func listen(network, addr string) (io.Closer, net.Addr, error) {
	if network == "udp" {
		c, err := net.ListenPacket(network, addr)
		if err != nil {
			return nil, nil, err
		}
		go func() {
			b := make([]byte, 100)
			for {
				_, from, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = c.WriteTo([]byte(os.Getenv("WHO")+" sees "+host(from)+"\n"), from)
			}
		}()
		return c, c.LocalAddr(), nil
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		return nil, nil, err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, "%s sees %s at %s\n", os.Getenv("WHO"), host(c.RemoteAddr()), host(c.LocalAddr()))
			_ = c.Close()
		}
	}()
	return l, l.Addr(), nil
}

func call(network, addr string) string {
	c, err := net.DialTimeout(network, addr, wait)
	if err != nil {
		return said(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(wait))
	if network == "udp" {
		fmt.Fprintln(c, "who")
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return said(err)
	}
	return strings.TrimSpace(line)
}

func begin(network, addr string) string {
	if network == "udp" {
		c, at, err := listen(network, addr)
		if err != nil {
			return said(err)
		}
		defer c.Close()
		return call(network, at.String())
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		return said(err)
	}
	c, err := net.DialTimeout(network, l.Addr().String(), wait)
	if err != nil {
		return said(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		return said(err)
	}
	defer s.Close()
	_ = l.Close()
	_ = c.SetDeadline(time.Now().Add(wait))
	_ = s.SetDeadline(time.Now().Add(wait))
	for range 5 { // while others may notice that the listener has gone
		time.Sleep(30 * time.Millisecond)
		b := make([]byte, 4)
		for _, way := range [][2]net.Conn{{c, s}, {s, c}} {
			if _, err := way[0].Write([]byte("ping")); err != nil {
				return said(err)
			}
			if _, err := io.ReadFull(way[1], b); err != nil {
				return said(err)
			}
		}
	}
	return "talked"
}
