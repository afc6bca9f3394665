package whole

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/pkg/podlet"
)

const (
	stalledFlows = 1000
	budget       = 64 << 20 // bytes above rest, of session and agent each
)

// TestBudget holds 1,000 flows whose reader stands still, each way, outgoing and stolen: memory stays within the
// budget, and another flow is unharmed.
func TestBudget(t *testing.T) {
	for _, outgoing := range []bool{true, false} {
		name := "stolen"
		if outgoing {
			name = "outgoing"
		}
		t.Run(name, func(t *testing.T) { stall(t, outgoing) })
	}
}

func stall(t *testing.T, outgoing bool) {
	p := servicePod(t, podlet.Spec{})
	gateway := podlet.Gateway(podlet.DefaultAddrs[0])
	echoAt, floodAt := netip.AddrPortFrom(gateway, 7), netip.AddrPortFrom(gateway, 9)
	listen(t, p, echoAt, func(c net.Conn) { _, _ = io.Copy(c, c) })
	listen(t, p, floodAt, flood) // neither end reads, both write: each direction stands still

	args := []string{program(t, "stall"), "dial", strconv.Itoa(stalledFlows), floodAt.String(), echoAt.String()}
	if !outgoing {
		args = []string{program(t, "stall"), "serve", strconv.Itoa(stalledFlows), "8080", echoAt.String()}
	}
	// At rest: the same session without a flow.
	idle := command(t, p, nil, program(t, "stall"), "serve", "1", "9999", echoAt.String())
	lines := output(t, idle)
	expect(t, lines, "listening")
	session, agent := rssAnon(t, idle.Process.Pid), agentRSS(t, p)
	_ = idle.Process.Signal(os.Interrupt)
	_ = idle.Wait()

	cmd := command(t, p, nil, args...)
	lines = output(t, cmd)
	if !outgoing {
		expect(t, lines, "listening")
		to := netip.AddrPortFrom(p.Addr(false), 8080)
		answersNot(t, p)
		for range stalledFlows {
			c, err := p.DialClient(limit(t), "tcp", netip.AddrPort{}, to)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			go flood(c)
		}
	}
	expect(t, lines, "stalled")
	expect(t, lines, "unharmed")
	for what, grown := range map[string]int64{
		"session": rssAnon(t, cmd.Process.Pid) - session,
		"agent":   agentRSS(t, p) - agent,
	} {
		t.Logf("%s: %d MiB above rest", what, grown>>20)
		if grown > budget {
			t.Errorf("%s: RssAnon %d MiB above its value at rest, at most %d", what, grown>>20, budget>>20)
		}
	}
	_ = cmd.Process.Signal(os.Interrupt)
	_ = cmd.Wait()
}

// flood writes until nobody takes more, and reads nothing.
func flood(c net.Conn) {
	// Thousands of sockets with buffers of megabytes would put the whole machine's TCP under memory pressure, and filling
	// them takes half a minute.
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetWriteBuffer(64 << 10)
		_ = tcp.SetReadBuffer(64 << 10)
	}
	block := make([]byte, 16<<10)
	for {
		if _, err := c.Write(block); err != nil {
			return
		}
	}
}

// listen serves each connection at an address of the outside.
func listen(t *testing.T, p *podlet.Pod, at netip.AddrPort, serve func(net.Conn)) {
	t.Helper()
	l, err := p.Outside.Listen(limit(t), "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
}

// answersNot waits until the pod's own program no longer gets what comes: the port is stolen.
func answersNot(t *testing.T, p *podlet.Pod) {
	t.Helper()
	eventually(t, 10*time.Second, "the port is stolen", func() bool {
		c, err := p.DialClient(limit(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(p.Addr(false), 8080))
		if err != nil {
			return false
		}
		defer c.Close()
		fmt.Fprint(c, "GET / HTTP/1.0\r\n\r\n")
		b := make([]byte, 4)
		_, err = io.ReadFull(c, b)
		return err == nil && string(b) != "HTTP"
	})
}

// output starts a command and returns its standard output line by line; it is closed at the end.
func output(t *testing.T, cmd interface {
	StdoutPipe() (io.ReadCloser, error)
	Start() error
}) <-chan string {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	return lines
}

// expect reads lines up to the one wanted.
func expect(t *testing.T, lines <-chan string, want string) {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case l, ok := <-lines:
			if !ok {
				t.Fatalf("the program ended without %q", want)
			}
			if strings.HasPrefix(l, want) {
				return
			}
			t.Log(l)
		case <-timeout:
			t.Fatalf("no %q", want)
		}
	}
}

// rssAnon reads RssAnon of a process (proc_pid_status(5)), in bytes.
func rssAnon(t *testing.T, pid int) int64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range strings.Split(string(data), "\n") {
		if v, ok := strings.CutPrefix(l, "RssAnon:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatalf("process %d has no RssAnon", pid)
	return 0
}

// agentRSS is the RssAnon of the agent on a pod, both its processes.
func agentRSS(t *testing.T, p *podlet.Pod) (sum int64) {
	t.Helper()
	pids := agents(t, p)
	if len(pids) != 2 {
		t.Fatalf("an agent has two processes, not %v", pids)
	}
	for _, pid := range pids {
		sum += rssAnon(t, pid)
	}
	return sum
}

// agents finds the agent's processes on a pod: the child is in the pod's network, the parent is its parent.
func agents(t *testing.T, p *podlet.Pod) (pids []int) {
	t.Helper()
	podNet, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", p.MainPID()))
	if err != nil {
		t.Fatal(err)
	}
	exes, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, exe := range exes {
		target, err := os.Readlink(exe)
		if err != nil || !strings.Contains(target, "stepin-agent") {
			continue
		}
		dir := filepath.Dir(exe)
		if net, err := os.Readlink(dir + "/ns/net"); err != nil || net != podNet {
			continue
		}
		stat, err := os.ReadFile(dir + "/stat")
		if err != nil {
			continue
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		child, _ := strconv.Atoi(filepath.Base(dir))
		parent, _ := strconv.Atoi(fields[1])
		return []int{parent, child}
	}
	return nil
}
