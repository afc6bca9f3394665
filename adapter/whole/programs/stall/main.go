// Command stall opens or takes many connections whose reader stands still, and then shows that another one is
// unharmed. It must never read from those it holds.
//
//	stall dial  COUNT ADDR ECHO   dials COUNT connections, writes to each until it blocks, reads none
//	stall serve COUNT PORT ECHO   the same with connections that it accepts
//
// When all are full (or have been for a moment without progress) it sends 1 MiB through a connection to ECHO, checks
// what comes back, prints "unharmed" and waits to be killed.
package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"time"
)

// written counts what went into the stalled connections.
type stalled struct{ written, opened atomic.Int64 }

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Println("stall:", err)
		os.Exit(1)
	}
	select {}
}

func run(args []string) error {
	if len(args) != 4 {
		return fmt.Errorf("usage: stall dial|serve COUNT ADDR ECHO")
	}
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	var s stalled
	if args[0] == "serve" {
		l, err := net.Listen("tcp", ":"+args[2])
		if err != nil {
			return err
		}
		fmt.Println("listening")
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				s.opened.Add(1)
				go s.fill(c)
			}
		}()
	} else {
		for range count {
			c, err := net.Dial("tcp", args[2])
			if err != nil {
				return err
			}
			s.opened.Add(1)
			go s.fill(c)
		}
	}
	s.settle(count)
	fmt.Println("stalled", s.opened.Load())
	return echo(args[3])
}

// fill writes until the connection takes no more.
func (s *stalled) fill(c net.Conn) {
	// Thousands of sockets with buffers of megabytes would put the whole machine's TCP under memory pressure.
	_ = c.(*net.TCPConn).SetWriteBuffer(64 << 10)
	_ = c.(*net.TCPConn).SetReadBuffer(64 << 10)
	block := make([]byte, 16<<10)
	for {
		n, err := c.Write(block)
		s.written.Add(int64(n))
		if err != nil {
			return
		}
	}
}

// settle waits until all are open and nothing has moved for a second.
func (s *stalled) settle(count int) {
	for last := int64(-1); ; {
		time.Sleep(time.Second)
		now := s.written.Load()
		if s.opened.Load() >= int64(count) && now == last {
			return
		}
		last = now
	}
}

func echo(addr string) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	data := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	go c.Write(data)
	got := make([]byte, len(data))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(got, data) {
		return fmt.Errorf("the other flow was harmed")
	}
	fmt.Println("unharmed")
	return nil
}
