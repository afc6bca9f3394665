// Command go is the conformance program in Go: linked statically it goes past libc altogether, with cgo its names go through it. It
// prints lines "what: result" and must never use what differs between two runs of it.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const patience = 20 * time.Second // for what does answer

func main() {
	if len(os.Args) > 1 && os.Args[1] == "child" {
		child()
		return
	}
	for _, s := range []struct {
		name string
		run  func()
	}{{"environment", environment}, {"names", names}, {"out", out}, {"listen", listen}, {"files", files}, {"processes", processes}} {
		if len(os.Args) == 1 || slices.Contains(os.Args[1:], s.name) {
			s.run()
		}
	}
}

func say(what string, result any, err error) {
	var no syscall.Errno
	var dns *net.DNSError
	switch {
	case err == nil:
		fmt.Printf("%s: %v\n", what, result)
	case errors.As(err, &dns) && dns.IsNotFound:
		fmt.Printf("%s: no such host\n", what)
	case errors.As(err, &no):
		fmt.Printf("%s: %v\n", what, no)
	case errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded):
		fmt.Printf("%s: no answer\n", what)
	default:
		fmt.Printf("%s: %v\n", what, err)
	}
}

func child() {
	host, _ := os.Hostname()
	data, err := os.ReadFile("/data/plain")
	say("child on "+host, fmt.Sprintf("%q", data), err)
	first, err := dial("203.0.113.7:7000", patience)
	say("child calls", first, err)
}

func environment() {
	for _, name := range []string{"GREETING", "TWO_WORDS", "EMPTY", "ABSENT", "HTTP_PROXY"} {
		value, ok := os.LookupEnv(name)
		say(name, fmt.Sprintf("%q %v", value, ok), nil)
	}
	host, err := os.Hostname()
	say("hostname", host, err)
}

func names() {
	for _, name := range []string{"server", "server.shop.svc.cluster.local", "external.example", "alias.example", "absent.example", "localhost"} {
		found, err := net.LookupHost(name)
		slices.Sort(found)
		say("lookup "+name, slices.Compact(found), err)
	}
}

func dial(to string, limit time.Duration) (string, error) {
	c, err := net.DialTimeout("tcp", to, limit)
	if err != nil {
		return "", err
	}
	defer c.Close()
	line, err := bufio.NewReader(c).ReadString('\n')
	own, _, _ := net.SplitHostPort(c.LocalAddr().String())
	return fmt.Sprintf("%s, own %s, peer %s", strings.TrimSpace(line), own, c.RemoteAddr()), err
}

func out() {
	for _, to := range []string{"server:7000", "203.0.113.7:7000", "[2001:db8:7::7]:7000", "203.0.113.7:7001", "192.0.2.193:80"} {
		line, err := dial(to, patience)
		say("dial "+to, line, err)
	}
	_, err := dial("192.0.2.1:80", 1500*time.Millisecond)
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		err = os.ErrDeadlineExceeded
	}
	say("dial silent", "", err)
	response, err := http.Get("http://server:8000/where")
	if err == nil {
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		say("http", strings.TrimSpace(string(body)), nil)
	} else {
		say("http", nil, err)
	}
	u, err := net.Dial("udp", "203.0.113.7:7002")
	if err != nil {
		say("udp", nil, err)
		return
	}
	defer u.Close()
	u.SetDeadline(time.Now().Add(patience))
	fmt.Fprint(u, "one")
	b := make([]byte, 100)
	n, err := u.Read(b)
	say("udp", fmt.Sprintf("%s from %s", b[:n], u.RemoteAddr()), err)
}

func listen() {
	l, err := net.Listen("tcp", ":8090")
	if err != nil {
		say("listen", nil, err)
		return
	}
	defer l.Close()
	say("own", l.Addr(), nil)
	say("listen", "call ready 8090", nil)
	c, err := l.Accept()
	if err != nil {
		say("accept", nil, err)
		return
	}
	defer c.Close()
	peer, _, _ := net.SplitHostPort(c.RemoteAddr().String())
	say("accept", fmt.Sprintf("%s at %s", peer, c.LocalAddr()), nil)
	b := make([]byte, 100)
	n, err := c.Read(b)
	say("heard", string(b[:n]), err)
	fmt.Fprint(c, "answer")
}

func files() {
	for _, path := range []string{"/data", "/data/plain", "/data/sub/deep/file", "/data/link", "/data/dangling", "/data/absent", "/config/greeting"} {
		info, err := os.Stat(path)
		kind := ""
		if err == nil {
			kind = info.Mode().Type().String()
		}
		say("stat "+path, kind, err)
		data, err := os.ReadFile(path)
		say("read "+path, fmt.Sprintf("%q", data), err)
	}
	entries, err := os.ReadDir("/data")
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	say("readdir", list, err)
	real, err := filepath.EvalSymlinks("/data/link")
	say("links", real, err)
	say("write", "", os.WriteFile("/data/new", nil, 0o600))
	say("remove", "", os.Remove("/data/plain"))
	if err := os.Chdir("/data/sub"); err != nil {
		say("chdir", "", err)
		return
	}
	here, err := syscall.Getwd()
	n := len(here)
	say("getwd", here[:n], err)
	data, err := os.ReadFile("deep/file")
	say("relative", fmt.Sprintf("%q", data), err)
}

func processes() {
	for _, file := range []string{os.Getenv("CONFORM_C"), os.Getenv("CONFORM_STATIC")} {
		cmd := exec.Command(file, "child", "go")
		cmd.Env = []string{}
		text, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = nil
		}
		say("exec", fmt.Sprintf("%d %q", cmd.ProcessState.ExitCode(), text), err)
	}
	say("absent", "", exec.Command("/absent/program").Run())
}
