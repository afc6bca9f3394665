// Command probe is what the tests run in a pod: a static program that does one thing and prints what came of it.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func run(what string, args []string) error {
	switch what {
	case "serve": // ADDR…: tells each peer both addresses
		term := make(chan os.Signal, 1)
		signal.Notify(term, syscall.SIGTERM) // who sees it listen may end it
		for _, a := range args {
			l, err := net.Listen("tcp", a)
			if err != nil {
				return err
			}
			go serve(l)
		}
		<-term
		fmt.Println("ending")
	case "dial": // NETWORK ADDR
		c, err := net.DialTimeout(args[0], args[1], 3*time.Second)
		if err == nil && args[0] == "udp" {
			c.SetDeadline(time.Now().Add(3 * time.Second))
			if _, err = c.Write([]byte("x")); err == nil {
				_, err = c.Read(make([]byte, 1))
			}
		}
		if err != nil {
			return err
		}
		fmt.Println("connected")
	case "cat":
		b, err := os.ReadFile(args[0])
		if err != nil {
			return err
		}
		os.Stdout.Write(b)
	case "host": // NAME
		addrs, err := net.LookupHost(args[0])
		if err != nil {
			return err
		}
		fmt.Println(strings.Join(addrs, " "))
	case "write":
		return os.WriteFile(args[0], []byte("x"), 0o644)
	case "id":
		name, err := os.Hostname()
		groups, _ := os.Getgroups()
		fmt.Println(name, os.Getuid(), os.Getgid(), groups, os.Getpid(), os.Environ())
		return err
	case "exit":
		os.Exit(7)
	}
	return nil
}

func serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			fmt.Fprintf(c, "peer %v me %v\n", c.RemoteAddr(), c.LocalAddr())
			io.Copy(c, c)
			c.Close()
		}()
	}
}
