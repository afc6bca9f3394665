// Command steps is a debuggee that does what it is told, one step after another, and says what it got: steps are its
// arguments or, without any, the lines of its standard input. It must never do anything that no step names, so that a
// list of what reached the pod can be checked against the steps.
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// patience bounds each step.
const patience = 60 * time.Second

// steps are the words before the "=" and what they do. The result is one line.
var steps = map[string]func(string) (string, error){
	"dial":    dial,
	"udp":     datagram,
	"lookup":  lookup,
	"cat":     cat,
	"list":    list,
	"stat":    stat,
	"sum":     sum,
	"all":     all,
	"shared":  func(path string) (string, error) { return mapped(path, syscall.MAP_SHARED) },
	"private": func(path string) (string, error) { return mapped(path, syscall.MAP_PRIVATE) },
	"create":  create,
	"env":     func(name string) (string, error) { return os.Getenv(name), nil },
	"envsum": func(name string) (string, error) {
		return fmt.Sprintf("%x", sha256.Sum256([]byte(os.Getenv(name)))), nil
	},
	"run": run,
}

func main() {
	for _, s := range os.Args[1:] { // the first line
		step(s)
	}
	if len(os.Args) == 1 {
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			step(in.Text())
		}
	}
}

// step prints the result, or the errno, which is the same on every machine.
func step(s string) {
	word, what, _ := strings.Cut(s, "=")
	do, ok := steps[word]
	if !ok {
		fmt.Printf("%s: no such step\n", s)
		return
	}
	result, err := do(what) // the breakpoint of the tests
	var no syscall.Errno
	var dns *net.DNSError
	switch {
	case errors.As(err, &no):
		result = "errno: " + no.Error()
	case errors.As(err, &dns) && dns.IsNotFound:
		result = "not found"
	case err != nil:
		result = "error: " + err.Error()
	}
	fmt.Printf("%s: %s\n", s, strings.ReplaceAll(strings.TrimRight(result, "\n"), "\n", "|"))
}

func dial(addr string) (string, error) {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return "", err
	}
	return "connected", c.Close()
}

// datagram sends one and waits for its echo.
func datagram(addr string) (string, error) {
	c, err := net.Dial("udp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("ping")); err != nil {
		return "", err
	}
	b := make([]byte, 64)
	n, err := c.Read(b)
	return string(b[:n]), err
}

func lookup(name string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupHost(ctx, name)
	slices.Sort(addrs)
	if len(addrs) > 8 {
		return fmt.Sprintf("%d addresses", len(addrs)), err
	}
	return strings.Join(addrs, " "), err
}

func cat(path string) (string, error) {
	b, err := os.ReadFile(path)
	return string(b), err
}

func list(path string) (string, error) {
	entries, err := os.ReadDir(path)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " "), err
}

func stat(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%v %d", info.Mode(), info.Size()), nil
}

// sum reads a file in order, as a copy does.
func sum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{f}, make([]byte, 256<<10))
	return fmt.Sprintf("%x", h.Sum(nil)), err
}

// all reads every file of a directory.
func all(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	n, h := 0, sha256.New()
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return "", err
		}
		n++
		h.Write(b)
	}
	return fmt.Sprintf("%d files %x", n, h.Sum(nil)), nil
}

// mapped goes through a file by its pages.
func mapped(path string, flags int) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	b, err := syscall.Mmap(int(f.Fd()), 0, int(info.Size()), syscall.PROT_READ, flags)
	if err != nil {
		return "", err
	}
	defer syscall.Munmap(b)
	return fmt.Sprintf("%x", sha256.Sum256(b)), nil
}

func create(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return "", err
	}
	return "created", f.Close()
}

// run starts another program, its arguments separated by commas.
func run(line string) (string, error) {
	argv := strings.Split(line, ",")
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = nil
	}
	return string(out), err
}
