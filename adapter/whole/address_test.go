package whole

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/podlet"
)

// running is a `stepin exec` that goes on.
type running struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Scanner
	stderr *lines
}

// lines is what a program has written so far.
type lines struct {
	text chan string // holds the text
}

func (l *lines) Write(p []byte) (int, error) {
	l.text <- <-l.text + string(p)
	return len(p), nil
}

func (l *lines) String() string {
	s := <-l.text
	l.text <- s
	return s
}

// begin starts a command in the pod's place and waits until stepin has said each of said on standard error. The end of
// the test ends it, as a user's ^C does.
func begin(t *testing.T, p *podlet.Pod, configuration map[string]any, said []string, argv ...string) *running {
	t.Helper()
	r := &running{t: t, cmd: command(t, p, configuration, argv...), stderr: &lines{make(chan string, 1)}}
	r.stderr.text <- ""
	r.cmd.Stderr = r.stderr
	out, err := r.cmd.StdoutPipe()
	if err == nil {
		r.stdin, err = r.cmd.StdinPipe()
	}
	if err == nil {
		err = r.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	r.stdout = bufio.NewScanner(out)
	t.Cleanup(func() {
		r.end()
		if t.Failed() {
			t.Logf("stepin exec on stderr:\n%s", r.stderr)
		}
	})
	for _, s := range said {
		eventually(t, patience, fmt.Sprintf("stepin says %q", s), func() bool {
			stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.cmd.Process.Pid))
			if strings.Contains(string(stat), ") Z ") {
				t.Fatal("stepin exec has ended already")
			}
			return strings.Contains(r.stderr.String(), s)
		})
	}
	return r
}

// end interrupts it and waits for its end; it may be called again.
func (r *running) end() {
	if r.cmd.ProcessState == nil {
		_ = r.cmd.Process.Signal(syscall.SIGINT)
		_ = r.cmd.Wait()
	}
}

// line is the next line of its standard output.
func (r *running) line() string {
	r.t.Helper()
	if !r.stdout.Scan() {
		r.t.Fatalf("no more output: %v\n%s", r.stdout.Err(), r.stderr)
	}
	return r.stdout.Text()
}

// ask sends a line on a connection, unless it is empty, and returns the answer's.
func ask(t *testing.T, c net.Conn, question string) string {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if question != "" {
		if _, err := fmt.Fprintln(c, question); err != nil {
			t.Fatal(err)
		}
	}
	answer, err := bufio.NewReader(c).ReadString('\n') // one line at a time: nothing is left in the reader
	if err != nil {
		t.Fatalf("%q: %v", question, err)
	}
	return strings.TrimSuffix(answer, "\n")
}

// tells is programs/address outside of the pod: it tells TCP and UDP callers from where they come.
func tells(t *testing.T, e podlet.End, at netip.AddrPort) {
	t.Helper()
	l, err := e.Listen(limit(t), "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	go acceptAll(l, func(c net.Conn) {
		defer c.Close()
		fmt.Fprintf(c, "you are %s\n", c.RemoteAddr())
		_, _ = c.Read(make([]byte, 1))
	})
	u, err := e.ListenPacket(limit(t), "udp", at)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		b := make([]byte, 500)
		for {
			_, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = u.WriteTo([]byte("you are "+from.String()), from)
		}
	}()
}

// TestAddress compares the addresses that a program sees in the pod with those that it sees in its place, and with those
// that the other sides see.
func TestAddress(t *testing.T) {
	exe := program(t, "address")
	client := [2]netip.Addr{netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2001:db8:7::7")}
	const own = 8080
	p := pod(t, podlet.Spec{Outside: client[:], Files: []podlet.File{{Path: "/address", Host: exe, Mode: 0o755}},
		Main: podlet.Main{Argv: []string{"/address", fmt.Sprintf("tcp/:%d", own), fmt.Sprintf("udp/:%d", own)}}})
	for _, a := range client {
		tells(t, p.Outside, netip.AddrPortFrom(a, 7000))
	}
	if err := p.WaitListening(limit(t), netip.AddrPortFrom(p.Addr(false), own)); err != nil {
		t.Fatal(err)
	}
	addresses := func(t *testing.T, at uint16) {
		for family, from := range client {
			to := netip.AddrPortFrom(p.Addr(family == 1), at)
			t.Run(to.String(), func(t *testing.T) { addressesOfCaller(t, p, from, to) })
		}
	}
	t.Run("the pod itself", func(t *testing.T) { addresses(t, own) })
	if t.Failed() {
		t.FailNow() // the comparison would be of nothing
	}
	args := []string{exe, fmt.Sprintf("tcp/:%d", own), fmt.Sprintf("udp/:%d", own)}
	said := []string{fmt.Sprintf("tcp port %d", own), fmt.Sprintf("udp port %d", own), "tcp port 80 ", "udp port 80 "}
	for _, six := range []bool{false, true} {
		for _, network := range []string{"tcp", "udp"} {
			args = append(args, network+"/"+netip.AddrPortFrom(p.Addr(six), 80).String())
		}
	}
	r := begin(t, p, nil, said, args...)
	t.Run("in its place", func(t *testing.T) { addresses(t, own) })
	t.Run("bound to the pod's address and port 80", func(t *testing.T) { addresses(t, 80) })
	t.Run("a client's port again at once", func(t *testing.T) {
		for family, from := range client {
			to := netip.AddrPortFrom(p.Addr(family == 1), own)
			portAgain(t, p, netip.AddrPortFrom(from, 41234), to)
		}
	})
	r.end()
	t.Run("the pod again", func(t *testing.T) { addresses(t, own) })
}

// addressesOfCaller asks programs/address at to, over TCP and UDP, what it sees of a caller and of whom it calls.
func addressesOfCaller(t *testing.T, p *podlet.Pod, from netip.Addr, to netip.AddrPort) {
	for _, network := range []string{"tcp", "udp"} {
		c, err := p.Outside.Dial(limit(t), network, netip.AddrPortFrom(from, 0), to)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if c.RemoteAddr().String() != to.String() {
			t.Errorf("%s: the client sees %s", network, c.RemoteAddr())
		}
		var got, want string
		if network == "tcp" {
			got, want = ask(t, c, ""), fmt.Sprintf("accept %s peer %[1]s name %s", c.LocalAddr(), to)
		} else {
			got, want = datagram(t, c, "?"), fmt.Sprintf("from %s name ", c.LocalAddr())
		}
		if got != want && (network == "tcp" || !strings.HasPrefix(got, want)) {
			t.Errorf("%s: the server sees %q, want %q", network, got, want)
		}
		// Outwards: from the address that it has, without and with being asked for it.
		server := netip.AddrPortFrom(from, 7000)
		for _, source := range []string{"", " " + netip.AddrPortFrom(to.Addr(), 0).String()} {
			for _, inner := range []string{"tcp", "udp"} {
				q := fmt.Sprintf("dial %s %s%s", inner, server, source)
				var got string
				if network == "tcp" {
					got = ask(t, c, q)
				} else {
					got = datagram(t, c, q)
				}
				var peer, name, told string
				if n, err := fmt.Sscanf(got, "peer %s name %s told: you are %s", &peer, &name, &told); n != 3 {
					t.Errorf("%s: %s: %q (%v)", network, q, got, err)
					continue
				}
				if peer != server.String() || !of(name, to.Addr()) || !of(told, to.Addr()) {
					t.Errorf("%s: %s: %q", network, q, got)
				}
			}
		}
	}
}

// of says whether an address with a port is of that host, and the port one.
func of(addr string, host netip.Addr) bool {
	a, err := netip.ParseAddrPort(strings.TrimSuffix(addr, ","))
	return err == nil && a.Addr() == host && a.Port() != 0
}

// datagram sends one and returns the answer; a lost one is sent again.
func datagram(t *testing.T, c net.Conn, question string) string {
	t.Helper()
	b := make([]byte, 500)
	for range 10 {
		if _, err := c.Write([]byte(question)); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
		if n, err := c.Read(b); err == nil {
			return string(b[:n])
		}
	}
	t.Fatalf("%q: no answer", question)
	return ""
}

// portAgain calls from the same address and port again and again, at once, whoever ended the connection before. The
// debuggee, and not the pod, has to answer each.
func portAgain(t *testing.T, p *podlet.Pod, from, to netip.AddrPort) {
	t.Helper()
	want := fmt.Sprintf("accept %s peer %[1]s name %s", from, to)
	for _, end := range []string{"the server closes", "the server resets", "the client resets", "the client closes"} {
		for range 3 {
			var c net.Conn
			eventually(t, 2*time.Second, "the client's own kernel gives the port again", func() (ok bool) {
				var err error
				if c, err = p.Outside.Dial(limit(t), "tcp", from, to); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
					t.Fatalf("%s: %v", end, err)
				}
				return err == nil
			})
			tcp := c.(*net.TCPConn)
			if got := ask(t, c, ""); got != want {
				t.Errorf("%s: %q, want %q", end, got, want)
			}
			switch end {
			case "the server closes", "the server resets":
				word := strings.TrimSuffix(strings.Fields(end)[2], "s")
				fmt.Fprintln(c, word)
				if _, err := io.Copy(io.Discard, c); (err == nil) != (word == "close") {
					t.Errorf("%s: %v", end, err)
				}
			case "the client resets":
				_ = tcp.SetLinger(0)
			case "the client closes":
				_ = tcp.CloseWrite()
				if _, err := io.Copy(io.Discard, c); err != nil {
					t.Errorf("%s: %v", end, err)
				}
			}
			_ = c.Close()
		}
	}
}
