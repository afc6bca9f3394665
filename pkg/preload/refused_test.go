package preload

import (
	"bufio"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestRefusedDatagrams: a connected socket reads, polls and meets the pod's refusal, goes on afterwards, and leaves its port
// to others as soon as the program has closed it, in whatever way.
func TestRefusedDatagrams(t *testing.T) {
	each(t, func(t *testing.T, name string) {
		for _, address := range []string{"10.96.0.9", "fd00::9", "::ffff:10.96.0.9"} {
			p := newPod(t)
			cmd := p.inside(t, name, program(t, name, "refused"), address)
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			cmd.Stderr = os.Stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var got []string
			tries := 0
			lines := bufio.NewScanner(out)
			for lines.Scan() {
				how, port, closed := strings.Cut(lines.Text(), " ")
				if !closed || strings.Contains(lines.Text(), ":") {
					got = append(got, lines.Text())
					continue
				}
				word := "on"
				c, err := net.ListenPacket("udp", "0.0.0.0:"+port)
				switch tries++; {
				case err == nil:
					c.Close()
				case tries < 5:
					word = "again" // somebody else on this machine may have been given it
				default:
					t.Errorf("%s: after %s: %v", address, how, err)
				}
				if word == "on" {
					tries, got = 0, append(got, how)
				}
				if _, err := io.WriteString(in, word[:1]); err != nil {
					t.Error(err)
				}
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("%s: %v", address, err)
			}
			same(t, strings.Join(got, "\n")+"\n", strings.Repeat("recv: Connection refused\n", 4)+"poll: 1 1\n"+
				"SO_ERROR: Connection refused\nsend: Connection refused\n"+strings.Repeat("first: Connection refused\nlater: ok\n", 2)+
				"child: Connection refused\nparent: Connection refused\nafter vfork: Connection refused\ndup: ok\n"+
				strings.Repeat("bind after exit: ok\nbind after exec: ok\n", 5)+"close\nsyscall\ndup2\ndup3\nclose_range\n")
			if p.mu.Lock(); p.unread < 1 || p.unread > 2 {
				t.Errorf("%s: two datagrams that nobody has read began %d associations", address, p.unread)
			}
			p.mu.Unlock()
			if _, moved := p.seen(); len(moved) >= 5 { // likewise
				t.Errorf("%s: moved %v", address, moved)
			}
		}
	})
}

// TestLateProbe: where the kernel delivers the probe only after the relay hears again, it is sent once more; and a copy goes
// with SP_CLOSING, with another program in its process, and with a bind to its port.
func TestLateProbe(t *testing.T) {
	s, l := greeted(t, &decider{})
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := socket{t, fd}
	defer unix.Close(fd)
	join := func() {
		t.Helper()
		var a ConnectAnswer
		l.ask(KindConnect, ConnectQuestion{Network: UDP, Inode: c.inode(), To: AddressOf(netip.MustParseAddrPort("203.0.113.7:7000"))}, nil, fd).must(&a)
		if err := unix.Connect(fd, sockaddr(a.To.AddrPort())); err != nil {
			t.Fatal(err)
		}
		if !s.copies.has(c.inode()) {
			t.Fatal("no copy")
		}
	}
	join()
	if _, err := unix.Write(fd, s.relays.probe[:]); err != nil { // as one that has come late
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(patience.Seconds())}); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Read(fd, make([]byte, 64)); err != syscall.ECONNREFUSED {
		t.Errorf("%d, %v", n, err)
	}
	for { // the relay is deaf a little longer
		if _, err := unix.Write(fd, []byte("hi")); err == nil {
			if _, _, err = unix.Recvfrom(fd, make([]byte, 1), unix.MSG_PEEK); err != syscall.ECONNREFUSED {
				break
			}
		}
		time.Sleep(time.Millisecond)
	}
	if got := c.read(); got != "hi from 10.244.1.9 to 203.0.113.7:7000" {
		t.Error(got)
	}
	local, err := nameOf(fd)
	if err != nil {
		t.Fatal(err)
	}
	for what, say := range map[string]func(){
		"closing": func() { l.ask(KindClosing, ClosingQuestion{c.inode()}, nil).must(nil) },
		"hello":   func() { l.greet(s) },
		"bind": func() {
			l.ask(KindBind, BindQuestion{Network: UDP, Asked: AddressOf(netip.AddrPortFrom(podAddr, local.Port()))}, nil).must(&BindAnswer{})
		},
	} {
		join()
		if say(); s.copies.has(c.inode()) {
			t.Errorf("%s leaves it", what)
		}
	}
}
