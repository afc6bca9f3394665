package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

func tcp(port uint16) wire.Port { return wire.Port{Network: "tcp", Port: port} }
func udp(port uint16) wire.Port { return wire.Port{Network: "udp", Port: port} }

// servePod has the pod serve TCP and UDP port 8080 on both families.
func servePod(t *testing.T, env ...string) *testPod {
	t.Helper()
	p := newPod(t, env...)
	for _, n := range []struct{ network, addr string }{{"tcp4", "0.0.0.0:8080"}, {"tcp6", "[::]:8080"}, {"udp4", "0.0.0.0:8080"}, {"udp6", "[::]:8080"}} {
		p.do(command{Do: "serve", Network: n.network, Addr: n.addr, Text: "pod"})
	}
	return p
}

func TestSteal(t *testing.T) {
	p := servePod(t)
	a := startAgent(t, p.pid)
	s := a.join("one", "")
	ways := []struct {
		network, addr, from string
		client              bool
	}{
		{"tcp", podIP + ":8080", clientIP, true}, {"tcp", "[" + podIP6 + "]:8080", clientIP6, true},
		{"tcp", "127.0.0.1:8080", "127.0.0.1", false}, {"tcp", "127.0.0.6:8080", "127.0.0.1", false},
		{"tcp", "[::1]:8080", "::1", false}, {"tcp", podIP + ":8080", podIP, false},
		{"udp", podIP + ":8080", clientIP, true}, {"udp", "[" + podIP6 + "]:8080", clientIP6, true},
		{"udp", "127.0.0.1:8080", "127.0.0.1", false}, {"udp", "[::1]:8080", "::1", false},
	}
	redirected := slices.Contains(s.describe().Rights, "redirect")
	check := func(stolen bool) {
		t.Helper()
		for _, w := range ways {
			want := "pod hi"
			if stolen {
				want = "session " + w.from + " " + w.addr + " hi"
			}
			got := p.ask(w.network, w.addr, w.client)
			if redirected && stolen && w.network == "udp" {
				// conntrack of an earlier flow may still lead to the pod, and NAT changes a local caller's view
				if !strings.HasPrefix(got, "session "+w.from) {
					t.Errorf("%s %s: %q, want %q", w.network, w.addr, got, want)
				}
				continue
			}
			if got != want {
				t.Errorf("%s %s: %q, want %q", w.network, w.addr, got, want)
			}
		}
	}
	check(false)
	steal := s.mustSteal(tcp(8080), udp(8080))
	check(true)
	// What the session refuses, and what it has no listener for, is the pod's.
	s.setIncoming(func(r *mux.Request, _ wire.Incoming) { r.Refuse(syscall.ECONNREFUSED) })
	check(false)
	s.setIncoming(nil)
	check(true)
	steal.Close()
	until(t, time.Second, "the pod serves again", func() bool { return p.ask("tcp", podIP+":8080", true) == "pod hi" })
	check(false)
}

func TestStealLoopbackOnly(t *testing.T) {
	p := servePod(t)
	s := startAgent(t, p.pid).join("one", "")
	s.mustSteal(wire.Port{Network: "tcp", Port: 8080, Loopback: true})
	for addr, want := range map[string]string{podIP + ":8080": "pod hi", "[" + podIP6 + "]:8080": "pod hi"} {
		if got := p.ask("tcp", addr, true); got != want {
			t.Errorf("%s from outside: %q, want %q", addr, got, want)
		}
	}
	for _, addr := range []string{"127.0.0.1:8080", "[::1]:8080"} {
		if got := p.ask("tcp", addr, false); !strings.HasPrefix(got, "session ") {
			t.Errorf("%s from inside: %q", addr, got)
		}
	}
}

func TestOpenConnections(t *testing.T) {
	p := servePod(t)
	s := startAgent(t, p.pid).join("one", "")
	p.do(command{Do: "connect", ID: "old", Network: "tcp", Addr: podIP + ":8080", Client: true})
	if r := p.do(command{Do: "ask", ID: "old", Text: "hi"}); r.Text != "pod hi" {
		t.Fatal(r.Text)
	}
	steal := s.mustSteal(tcp(8080))
	if r := p.try(command{Do: "ask", ID: "old", Text: "hi"}); r.Err == "" {
		t.Errorf("a connection older than the steal lives: %q", r.Text)
	}
	p.do(command{Do: "connect", ID: "new", Network: "tcp", Addr: podIP + ":8080", Client: true})
	if r := p.do(command{Do: "ask", ID: "new", Text: "hi"}); !strings.HasPrefix(r.Text, "session ") {
		t.Fatal(r.Text)
	}
	// Its relay goes on when the steal has ended, until the session closes it.
	steal.Close()
	until(t, time.Second, "the pod serves again", func() bool { return p.ask("tcp", podIP+":8080", true) == "pod hi" })
	for range 4 { // for longer than the kernel needs to end what tracks a translated connection
		if r := p.do(command{Do: "ask", ID: "new", Text: "more"}); !strings.HasPrefix(r.Text, "session ") {
			t.Error(r.Text)
		}
		time.Sleep(100 * time.Millisecond)
	}
	// Ours to the original are not ended by the next steal.
	s.mustSteal(tcp(8080))
	s.setIncoming(func(r *mux.Request, _ wire.Incoming) { r.Refuse(syscall.ECONNREFUSED) })
	p.do(command{Do: "connect", ID: "original", Network: "tcp", Addr: podIP + ":8080", Client: true})
	if r := p.do(command{Do: "ask", ID: "original", Text: "hi"}); r.Text != "pod hi" {
		t.Fatal(r.Text)
	}
}

func TestKill(t *testing.T) {
	for _, who := range []string{"parent", "child", "hung child", "session"} {
		t.Run(who, func(t *testing.T) {
			p := servePod(t)
			a := startAgent(t, p.pid)
			s := a.join("one", "")
			s.mustSteal(tcp(8080), udp(8080))
			if got := p.ask("tcp", podIP+":8080", true); !strings.HasPrefix(got, "session ") {
				t.Fatal(got)
			}
			child := a.childPid()
			switch who {
			case "parent":
				_ = a.cmd.Process.Kill()
			case "child":
				_ = syscall.Kill(child, syscall.SIGKILL)
			case "hung child":
				_ = syscall.Kill(child, syscall.SIGSTOP)
				<-a.done // it is given some seconds
			default:
				s.Close("over")
			}
			for _, network := range []string{"tcp", "udp"} {
				until(t, time.Second, "the pod serves "+network, func() bool {
					p.try(command{Do: "connect", ID: network, Network: network, Addr: podIP + ":8080", Client: true})
					return p.try(command{Do: "ask", ID: network, Text: "hi", Milliseconds: 100}).Text == "pod hi"
				})
			}
			until(t, 2*time.Second, "the agent's end", func() bool {
				select {
				case <-a.done:
					return dead(child)
				default:
					return false
				}
			})
			if code := a.cmd.ProcessState.ExitCode(); (code == 0) != (who == "session") {
				t.Errorf("exit status %d", code)
			}
			if who == "child" && !strings.Contains(a.err.String(), "stepin-agent: the agent's child ended (signal: killed)") {
				t.Errorf("no word of the child's end")
			}
		})
	}
}

func TestConflictAndResume(t *testing.T) {
	p := servePod(t)
	a := startAgent(t, p.pid)
	one, two := a.join("one", ""), a.join("two", "")
	one.mustSteal(tcp(8080), tcp(8081))
	_, err := two.steal(tcp(8082), tcp(8081))
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "port 8081 is held by one@laptop since ") {
		t.Fatalf("conflict: %v", err)
	}
	two.mustSteal(tcp(8082)).Close() // nothing of the refused one is left
	if _, err := a.hello("one", "wrong"); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("somebody else's session: %v", err)
	}
	// A lost channel keeps its ports reserved, but gives them back to the pod.
	lost(one)
	until(t, time.Second, "the pod serves again", func() bool { return p.ask("tcp", podIP+":8080", true) == "pod hi" })
	if _, err = two.steal(tcp(8080)); !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("a reserved port: %v", err)
	}
	again := a.join("one", one.welcome.Resume)
	if !again.welcome.Resumed || !again.welcome.Since.Equal(one.welcome.Since) {
		t.Errorf("not resumed: %+v", again.welcome)
	}
	again.mustSteal(tcp(8080))
	if got := p.ask("tcp", podIP+":8080", true); !strings.HasPrefix(got, "session ") {
		t.Error(got)
	}
	// Who says goodbye keeps nothing.
	again.Close("done")
	until(t, 2*time.Second, "the port is free", func() bool { _, err := two.steal(tcp(8080)); return err == nil })
}

// lost breaks a channel without a goodbye.
func lost(s *testSession) { s.raw.Close() }

func TestLock(t *testing.T) {
	p := newPod(t)
	a := startAgent(t, p.pid)
	_, refusal := newAgent(t, p.pid)
	if !strings.Contains(refusal, "this pod has an agent already") || !strings.Contains(refusal, "tester@here since 2") {
		t.Errorf("second agent: %q", refusal)
	}
	_ = a.cmd.Process.Kill()
	<-a.done
	until(t, time.Second, "a new agent", func() bool { _, refusal := newAgent(t, p.pid); return refusal == "" })
}

func TestRefusals(t *testing.T) {
	p := newPod(t)
	own := startAgent(t, p.pid)
	if _, err := own.withToken("guess").hello("x", ""); !errors.Is(err, syscall.EACCES) {
		t.Errorf("a wrong token: %v", err)
	}
	s := own.join("one", "")
	for kind, want := range map[wire.Kind]syscall.Errno{wire.KindMirror: syscall.EINVAL, wire.KindAttach: syscall.EOPNOTSUPP, 200: syscall.EOPNOTSUPP,
		wire.KindIncoming: syscall.EPROTO, wire.KindDial: syscall.EINVAL, wire.KindSteal: syscall.EINVAL} {
		if _, err := s.open(kind, nil, nil); !errors.Is(err, want) {
			t.Errorf("kind %d: %v, want %v", kind, err, want)
		}
	}
	for _, kind := range []wire.Kind{wire.KindSteal, wire.KindMirror} {
		if _, err := s.open(kind, wire.Steal{Ports: []wire.Port{tcp(1)}, Filter: &wire.Filter{Path: []string{"/"}}}, nil); !errors.Is(err, syscall.EOPNOTSUPP) {
			t.Errorf("a filter: %v", err)
		}
	}
	if _, err := s.open(wire.KindMirror, wire.Steal{Ports: []wire.Port{udp(1)}}, nil); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("a mirror of UDP: %v", err)
	}
	self, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	hostProcess := exec.Command(self, "60")
	if err := hostProcess.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = hostProcess.Process.Kill(); _ = hostProcess.Wait() }()
	if ordinary() {
		return // nsenter would refuse first
	}
	if _, refusal := newAgent(t, hostProcess.Process.Pid); !strings.Contains(refusal, "so it is no pod hint: ") {
		t.Errorf("a process of the machine: %q", refusal)
	}
	if _, refusal := newAgent(t, 1<<22-1); !strings.Contains(refusal, "there is no process") {
		t.Errorf("no process: %q", refusal)
	}
}

// TestStrangers: another user's process at the agent's socket, and anybody's at the steal's listener.
func TestStrangers(t *testing.T) {
	p := servePod(t)
	a := startAgent(t, p.pid)
	s := a.join("one", "")
	s.mustSteal(tcp(8080))
	if !ordinary() {
		if err := os.Chmod(a.socket, 0o666); err != nil {
			t.Fatal(err)
		}
		stranger := exec.Command("/proc/self/exe")
		stranger.Env = []string{strangerEnv + "=" + a.socket, "STEPIN_TEST_AGENT=" + agentBinary}
		stranger.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		if out, err := stranger.CombinedOutput(); err != nil || !strings.Contains(string(out), "closed at once") {
			t.Logf("%v\n%s", err, out)
			t.Error("another user was let in")
		}
	}
	// The listener's port: the only TCP listeners of the pod that the pod did not open.
	for _, port := range listeners(t, p.pid) {
		if port == 8080 {
			continue
		}
		addr := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port).String()
		if r := p.try(command{Do: "connect", ID: "direct", Network: "tcp", Addr: addr}); r.Err != "" {
			continue // it is the other family's
		}
		if r := p.try(command{Do: "ask", ID: "direct", Text: "hi"}); r.Err == "" {
			t.Errorf("a direct dial of %s was answered %q", addr, r.Text)
		}
	}
}

// dialAsStranger is the other user's part of TestStrangers: it fails unless the agent closes the connection.
func dialAsStranger(socket string) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	hello := wire.Hello{Token: "open sesame", Session: "stranger"}
	c, _, err := mux.Dial(context.Background(), conn, hello, mux.Config{})
	if err == nil {
		c.Close("")
	}
	if err == nil || errors.Is(err, syscall.EACCES) {
		return fmt.Errorf("not closed: %v", err)
	}
	fmt.Println("closed at once")
	return nil
}

func TestDescribe(t *testing.T) {
	p := newPod(t, "CANARY=in the environment")
	a := startAgent(t, p.pid)
	s := a.join("one", "")
	d := s.describe()
	if d.Hostname != podName {
		t.Errorf("hostname %q", d.Hostname)
	}
	addrs := []string{}
	for _, x := range d.Addrs {
		addrs = append(addrs, x.String())
	}
	if strings.Join(addrs, " ") != podIP+" "+podIP6 {
		t.Errorf("addresses %q", addrs)
	}
	if !slices.Contains(d.Env, "CANARY=in the environment") || !slices.Contains(d.Env, "GREETING=hello from the pod") {
		t.Error("the environment is not the pod's")
	}
	want := []wire.Volume{{Path: "/config", Small: true}, {Path: "/secret"}, {Path: "/data"}, {Path: "/app/server", File: true}}
	for _, v := range want {
		if !slices.Contains(d.Volumes, v) {
			t.Errorf("volumes %+v lack %+v", d.Volumes, v)
		}
	}
	if len(d.Volumes) != len(want) {
		t.Errorf("volumes %+v", d.Volumes)
	}
	if !slices.Contains(d.Top, "config") || !slices.Contains(d.Trust, "/etc/ssl") || !strings.Contains(d.Resolver, "nameserver 127.0.0.1") {
		t.Errorf("top %q trust %q resolver %q", d.Top, d.Trust, d.Resolver)
	}
	stated := map[wire.Name]uint64{}
	for _, at := range d.Stated {
		stated[at.Path] = at.Attr.Size
	}
	if _, none := stated["/app/none"]; none || stated["/app/file"] != 5 || stated["/config"] == 0 {
		t.Errorf("stated %v", stated)
	}
	for _, r := range []string{"steal", "files", "env", "names", "outgoing", "hostname"} {
		if !slices.Contains(d.Rights, r) {
			t.Errorf("rights %q lack %s", d.Rights, r)
		}
	}
	if ordinary() != slices.Contains(d.Rights, "redirect") {
		t.Errorf("rights %q", d.Rights)
	}
	t.Logf("limits %q, target %q", d.Limits, d.Target)
	if strings.Contains(a.err.String(), "in the environment") {
		t.Error("a value is in the log")
	}
}

// TestChild: it is the pod's user with nothing more than that, and holds nothing that steals.
func TestChild(t *testing.T) {
	p := servePod(t)
	a := startAgent(t, p.pid)
	s := a.join("one", "")
	s.mustSteal(tcp(8080), udp(8080))
	child := a.childPid()
	got := statusOf(t, child)
	want := map[string]string{"NoNewPrivs": "1", "CapInh": "0000000000000000", "CapAmb": "0000000000000000"}
	if ordinary() {
		want["CapEff"], want["CapPrm"] = "0000000000000006", "0000000000000006" // of the target, root of its user namespace, what reads files (child.Kept)
	} else {
		want["Uid"], want["Gid"], want["Groups"] = "1000 1000 1000 1000", "1000 1000 1000 1000", "2000"
		want["CapEff"], want["CapPrm"] = "0000000000000000", "0000000000000000"
	}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s is %q, want %q", k, got[k], v)
		}
	}
	if pids := strings.Fields(got["NSpid"]); len(pids) < 2 || pids[len(pids)-1] != "1" {
		t.Errorf("process numbers %q: not in a namespace of its own", pids)
	}
	if ordinary() {
		return // the files of another namespace's processes are not shown
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", child))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", child, fd.Name()))
		if strings.Contains(to, "bpf") || strings.Contains(to, "ns") && strings.Contains(to, "net:") {
			t.Errorf("the child holds %s", to)
		}
	}
}

func TestLookup(t *testing.T) {
	p := newPod(t)
	p.do(command{Do: "dns", Addr: "127.0.0.1:53"})
	a := startAgent(t, p.pid)
	s := a.join("one", "")
	names := []string{"silent.pod.", "known.pod.", "large.pod.", "nothing.pod.", "broken.pod."}
	l := wire.Lookup{Own: []bool{true, false, false, true}}
	for i, n := range names {
		m := dnsmessage.Message{Header: dnsmessage.Header{ID: uint16(i + 7), RecursionDesired: true},
			Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(n), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
		q, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		l.Queries = append(l.Queries, q)
	}
	l.Queries = append(l.Queries, []byte("nonsense"))
	chunks := wire.NewChunkReader(s.mustOpen(wire.KindLookup, l, nil))
	for i, want := range []struct {
		errno   syscall.Errno
		code    dnsmessage.RCode
		answers int
	}{{errno: syscall.ETIMEDOUT}, {answers: 1}, {answers: 100}, {code: dnsmessage.RCodeNameError}, {code: dnsmessage.RCodeServerFailure}, {errno: syscall.EINVAL}} {
		ch, err := chunks.Read()
		if err != nil {
			t.Fatal(err)
		}
		if want.errno != 0 {
			if ch.Errno != want.errno {
				t.Errorf("%d: %v, want %v", i, ch.Errno, want.errno)
			}
			continue
		}
		var m dnsmessage.Message
		if err := m.Unpack(ch.Data); err != nil || m.ID != uint16(i+7) || m.RCode != want.code || len(m.Answers) != want.answers {
			t.Errorf("%s: %v %+v", names[i], err, m.Header)
		}
	}
	raw, err := os.ReadFile(a.trace)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`{"op":"lookup","what":"known.pod. A","own":false}`, `{"op":"lookup","what":"nothing.pod. A","own":true}`} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("the trace lacks %s:\n%s", want, raw)
		}
	}
}

func TestDial(t *testing.T) {
	p := servePod(t)
	a := startAgent(t, p.pid)
	s := a.join("one", "")
	p.do(command{Do: "serve", Network: "tcp", Addr: "127.0.0.1:9000", Text: "sidecar"})
	p.do(command{Do: "serve", Network: "udp", Addr: "127.0.0.1:9000", Text: "sidecar"})
	dial := func(kind wire.Kind, network, addr string) (*mux.Stream, wire.Dialed, error) {
		var d wire.Dialed
		stream, err := s.open(kind, wire.Dial{Network: network, Addr: netip.MustParseAddrPort(addr)}, &d)
		return stream, d, err
	}
	stream, d, err := dial(wire.KindDial, "tcp", "127.0.0.1:9000")
	if err != nil {
		t.Fatal(err)
	}
	if got := line(t, stream, "hi"); got != "sidecar hi" || d.Remote.String() != "127.0.0.1:9000" || d.Local.Port() == 0 {
		t.Errorf("%q %+v", got, d)
	}
	for addr, want := range map[string]syscall.Errno{"127.0.0.1:1": syscall.ECONNREFUSED, "[::1]:1": syscall.ECONNREFUSED, "192.0.2.1:80": syscall.ENETUNREACH,
		"10.77.0.99:80": syscall.EHOSTUNREACH, "[2001:db8::1]:80": syscall.ENETUNREACH} {
		if _, _, err := dial(wire.KindDial, "tcp", addr); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", addr, err, want)
		}
	}
	stream, _, err = dial(wire.KindAssociate, "udp", "127.0.0.1:9000")
	if err != nil {
		t.Fatal(err)
	}
	ask := func(stream *mux.Stream) wire.Chunk {
		t.Helper()
		if _, err := stream.Write(wire.AppendData(nil, []byte("hi"))); err != nil {
			t.Fatal(err)
		}
		ch, err := wire.NewChunkReader(stream).Read()
		if err != nil {
			t.Fatal(err)
		}
		return ch
	}
	if ch := ask(stream); string(ch.Data) != "sidecar hi" {
		t.Errorf("%+v", ch)
	}
	refused, _, err := dial(wire.KindAssociate, "udp", "127.0.0.1:2")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // an errno is not the end
		if ch := ask(refused); ch.Errno != syscall.ECONNREFUSED {
			t.Errorf("%+v", ch)
		}
	}
	raw, _ := os.ReadFile(a.trace)
	if !strings.Contains(string(raw), `{"op":"dial","what":"tcp 127.0.0.1:9000","own":false}`) {
		t.Errorf("the trace: %s", raw)
	}
}
