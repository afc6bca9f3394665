// Command ending is a debuggee that ends badly, or does what well-behaved ones do not. It must never need more than an
// address that echoes.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"
)

func main() {
	switch mode, args := os.Args[1], os.Args[2:]; mode {
	case "exit":
		n, _ := strconv.Atoi(args[0])
		os.Exit(n)
	case "panic":
		panic("on purpose")
	case "segv":
		var nowhere *int
		*nowhere = 1
	case "closed":
		const most = 1024
		for fd := range most {
			_ = syscall.Close(fd)
		}
		succeed(echo(args[0]))
	case "connect":
		n, _ := strconv.Atoi(args[1])
		succeed(connect(args[0], n))
	case "daemon":
		succeed(daemonise(args[0], args[1]))
	case "report": // what daemon starts
		succeed(echo(args[0]))
		succeed(os.WriteFile(args[1]+".new", []byte("reached\n"), 0o600))
		succeed(os.Rename(args[1]+".new", args[1]))
		time.Sleep(time.Hour)
	}
}

func succeed(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(9)
	}
}

// echo makes one short connection.
func echo(addr string) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := io.WriteString(c, "x"); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 1))
	return err
}

// connect makes n of them, some at once.
func connect(addr string, n int) error {
	const atOnce = 8
	var wg sync.WaitGroup
	failed := make(chan error, atOnce)
	for range atOnce {
		wg.Go(func() {
			for range n / atOnce {
				if err := echo(addr); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// daemonise starts a process with a session of its own, and waits until it has reached the pod. It stays.
func daemonise(addr, file string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(exe, "report", addr, file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr // held open, as careless daemons do
	if err := cmd.Start(); err != nil {
		return err
	}
	for {
		text, err := os.ReadFile(file)
		if err == nil {
			_, err = os.Stdout.Write(text)
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}
