package preload

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// variant is a way to build the library and the programs that it is loaded into.
type variant struct {
	libc, compiler string
	flags          []string
}

// variants are all ways; the sanitized library finds fault with itself while the families' tests run.
func variants() map[string]variant {
	return map[string]variant{
		"glibc":     {libc: "glibc", compiler: "gcc"},
		"musl":      {libc: "musl", compiler: "musl-gcc"},
		"sanitized": {libc: "glibc", compiler: "gcc", flags: []string{"-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"}},
	}
}

// workshop compiles each library and program once. One lock: two compilers at a time are no faster here.
type workshop struct {
	mu   sync.Mutex
	dir  string
	made map[string]error
}

var shop = &workshop{made: map[string]error{}}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "stepin-preload")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Chmod(dir, 0o755) // programs of other users load from it
	shop.dir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func (w *workshop) make(t *testing.T, name string, argv ...string) string {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	path := filepath.Join(w.dir, name)
	if err, done := w.made[path]; done {
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	for i, a := range argv {
		if a == "OUT" {
			argv[i] = path
		}
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = "../.."
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%v: %w\n%s", argv, err, out)
	}
	w.made[path] = err
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// library builds libstepin.so as .ci/build does.
func library(t *testing.T, name string) string {
	t.Helper()
	v := variants()[name]
	argv := append([]string{"bash", "-c", `. .ci/lib.sh && preload_library "$@"`, "-", v.libc, v.compiler, "OUT"}, v.flags...)
	return shop.make(t, "libstepin-"+name+".so", argv...)
}

// program builds one of preload/test.
func program(t *testing.T, name, source string) string {
	t.Helper()
	compiler := variants()[name].compiler
	return shop.make(t, source+"-"+compiler, compiler, "-std=gnu11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Werror",
		"-o", "OUT", "preload/test/"+source+".c", "-lresolv")
}

// inside prepares a command with the library in it.
func (p *pod) inside(t *testing.T, name string, argv ...string) *exec.Cmd {
	t.Helper()
	load := library(t, name)
	if name == "sanitized" {
		asan, err := exec.Command("gcc", "-print-file-name=libasan.so").Output()
		if err != nil {
			t.Fatal(err)
		}
		load = strings.TrimSpace(string(asan)) + " " + load
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	// The search for leaks needs /proc and descriptors, which some programs take away from themselves.
	leaks := "ASAN_OPTIONS=detect_leaks=" + map[bool]string{true: "1", false: "0"}[p.leaks]
	cmd.Env = append(os.Environ(), leaks, "LD_PRELOAD="+load, p.variable)
	return cmd
}

// run returns what a program of preload/test prints.
func (p *pod) run(t *testing.T, name, source string, args ...string) string {
	t.Helper()
	cmd := p.inside(t, name, append([]string{program(t, name, source)}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil || errs.Len() > 0 {
		t.Errorf("%s %v: %v\n%s%s", source, args, err, out.String(), errs.String())
	}
	return out.String()
}

func same(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// each runs a test for every variant.
func each(t *testing.T, f func(t *testing.T, name string)) {
	for _, name := range []string{"glibc", "musl", "sanitized"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, name)
		})
	}
}

// TestConnect: what the pod side says within the time that the caller waits is the call's own result.
func TestConnect(t *testing.T) {
	each(t, func(t *testing.T, name string) {
		p := newPod(t)
		for _, how := range []string{"block", "epoll"} {
			out := p.run(t, name, "late", how, "10.96.0.1", "80")
			if !regexp.MustCompile(`^connect: (done|Operation (now )?in progress)\npod 10.96.0.1:80\npeer 10.96.0.1 80\n$`).MatchString(out) {
				t.Errorf("%s: %s", how, out)
			}
			same(t, p.run(t, name, "late", how, "10.96.0.1", "81"), "connect: Connection refused\nConnection refused\n")
			unreachable := map[string]string{"musl": "Host is unreachable"}[name]
			if unreachable == "" {
				unreachable = "No route to host"
			}
			same(t, p.run(t, name, "late", how, "10.96.0.1", "82"), "connect: "+unreachable+"\n"+unreachable+"\n")
		}
		same(t, p.run(t, name, "late", "block", "10.96.0.1", "2080"), "connect: done\npod 10.96.0.1:2080\npeer 10.96.0.1 2080\n")
		same(t, p.run(t, name, "late", "block", "fd00::1", "2081"), "connect: Connection refused\nConnection refused\n")
		same(t, p.run(t, name, "late", "block", "fd00::1", "80"), "connect: done\npod [fd00::1]:80\npeer fd00::1 80\n")
	})
}

// TestLateConnect: answered by the pod side after 200 ms, in all ways that a program can wait.
func TestLateConnect(t *testing.T) {
	each(t, func(t *testing.T, name string) {
		p := newPod(t)
		for _, how := range []string{"epoll", "poll", "select", "again", "interrupt", "limit", "uring"} {
			if name != "glibc" && how != "epoll" && how != "interrupt" {
				continue // the ways of waiting are the kernel's; the library sees two
			}
			if how == "uring" && !rings(t) {
				continue
			}
			connect, unreachable := "Operation now in progress", "No route to host\n"
			if name == "musl" {
				unreachable = "Host is unreachable\n"
			}
			switch {
			case how == "interrupt":
				connect = "Interrupted system call"
			case name == "musl":
				connect = "Operation in progress"
			}
			for port, want := range map[string]string{
				"2080": "pod 10.96.0.1:2080\npeer 10.96.0.1 2080\n", "2081": "Connection refused\n",
				"2082": unreachable, "2083": "waiting\n",
			} {
				t.Run(how+port, func(t *testing.T) {
					t.Parallel()
					same(t, p.run(t, name, "late", how, "10.96.0.1", port), "connect: "+connect+"\n"+want)
				})
			}
		}
		t.Run("v6", func(t *testing.T) {
			same(t, p.run(t, name, "late", "block", "fd00::1", "2080"), "connect: done\npod [fd00::1]:2080\npeer fd00::1 2080\n")
		})
	})
}

// rings says whether this machine lets programs have io_uring; containers' default is that it does not.
func rings(t *testing.T) bool {
	t.Helper()
	cmd := exec.Command(program(t, "glibc", "late"), "uring", "127.0.0.1", "1")
	out, err := cmd.Output()
	const without = 77 // the program's status
	if err != nil && cmd.ProcessState.ExitCode() == without {
		t.Logf("not tried with io_uring: %s", out)
		return false
	}
	return true
}

// TestLateConnectOfRuntimes: what Python, Node and curl make of a connect that ends late.
func TestLateConnectOfRuntimes(t *testing.T) {
	const python = `
import asyncio, sys
async def main():
    for port in (80, 2080, 81, 2081):
        try:
            r, w = await asyncio.open_connection(sys.argv[1], port)
            print((await r.readline()).decode().strip(), w.get_extra_info("peername")[:2])
        except OSError as e:
            print(type(e).__name__)
    try:
        await asyncio.wait_for(asyncio.open_connection(sys.argv[1], 2083), 0.5)
    except asyncio.TimeoutError:
        print("TimeoutError")
asyncio.run(main())`
	const node = `
const net = require('net');
const [to] = process.argv.slice(1);
const one = port => new Promise(done => {
  const s = net.connect(port, to);
  s.on('data', d => { const a = s._getpeername(); console.log(String(d).trim(), a.address, a.port); s.destroy(); });
  s.on('error', e => console.log(e.code));
  s.on('close', done);
  if (port == 2083) s.setTimeout(500, () => { console.log('timeout'); s.destroy(); });
});
(async () => { for (const p of [80, 2080, 81, 2081, 2083]) await one(p); })();`
	p := newPod(t)
	for _, c := range []struct{ argv, want []string }{
		{[]string{"python3", "-c", python, "10.96.0.1"}, []string{"pod 10.96.0.1:80 ('10.96.0.1', 80)", "pod 10.96.0.1:2080 ('10.96.0.1', 2080)",
			"ConnectionRefusedError", "ConnectionRefusedError", "TimeoutError"}},
		{[]string{"python3", "-c", python, "fd00::1"}, []string{"pod [fd00::1]:80 ('fd00::1', 80)", "pod [fd00::1]:2080 ('fd00::1', 2080)",
			"ConnectionRefusedError", "ConnectionRefusedError", "TimeoutError"}},
		{[]string{"node", "-e", node, "10.96.0.1"}, []string{"pod 10.96.0.1:80 10.96.0.1 80", "pod 10.96.0.1:2080 10.96.0.1 2080",
			"ECONNREFUSED", "ECONNREFUSED", "timeout"}},
		// Two at once, by curl's multi interface; telnet:// is the plainest of its protocols. The first lasts until its time is up.
		{[]string{"curl", "-sS", "--parallel", "--max-time", "3", "-w", "%{remote_ip} %{exitcode}\n", "telnet://payments:2080", "telnet://10.96.0.1:2081"},
			[]string{"pod 10.96.7.8:2080", "10.96.7.8 28", " 7"}},
	} {
		t.Run(c.argv[0], func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath(c.argv[0]); err != nil {
				t.Skipf("%v", err)
			}
			out, err := p.inside(t, "glibc", c.argv...).CombinedOutput()
			if c.argv[0] != "curl" && err != nil {
				t.Error(err)
			}
			for _, want := range c.want {
				if !strings.Contains(string(out), want+"\n") {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
		})
	}
}

// TestResolverLibrary: one that asks a name server itself, by datagrams (Node's, which is c-ares).
func TestResolverLibrary(t *testing.T) {
	if _, err := exec.LookPath("node"); err != nil {
		t.Skipf("%v", err)
	}
	const node = `const r = new (require('dns').Resolver)(); r.setServers(['10.96.0.10']);
r.resolve4('payments.shop.svc.cluster.local', (e, a) => console.log(e ? e.code : a.join()));
r.resolve4('nowhere.example.', (e, a) => console.log(e ? e.code : a.join()));`
	out, err := newPod(t).inside(t, "glibc", "node", "-e", node).CombinedOutput()
	if got := string(out); err != nil || got != "10.96.7.8\nENOTFOUND\n" && got != "ENOTFOUND\n10.96.7.8\n" {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestDatagrams covers sendto, sendmsg, sendmmsg, recvmmsg and connect with two destinations.
func TestDatagrams(t *testing.T) {
	each(t, func(t *testing.T, name string) {
		for address, size := range map[string]int{"10.96.0.9": 16, "fd00::9": 28} {
			p := newPod(t)
			at := func(port string) string { return net.JoinHostPort(address, port) }
			from := func(port string) string { return fmt.Sprintf("from %s %s (%d)\n", address, port, size) }
			want := strings.Repeat("sendto: "+at("7000")+" one "+from("7000")+"sendto: "+at("7001")+" one "+from("7001"), 2) +
				"without a name: " + at("7000") + " two from nobody  (0)\n" +
				"sendmsg: " + at("7001") + " three " + from("7001") +
				"sendmmsg: lengths 2 3\n" +
				"recvmmsg: " + at("7000") + " m0 " + from("7000") +
				"recvmmsg: " + at("7001") + " m1 " + from("7001") +
				"recvmmsg: " + at("7001") + " m39 " + from("7001") +
				"connected: " + at("7000") + " four " + from("7000") +
				"getpeername:  " + from("7000") +
				"connected again: " + at("7001") + " five from nobody  (0)\n"
			same(t, p.run(t, name, "datagrams", address), want)
			// Two, one and two destinations of three sockets, and two connects: 48 datagrams, and each destination is asked
			// about once, or again where the table's few places for it went to others.
			if asked, _ := p.seen(); len(asked) < 7 || len(asked) > 12 {
				t.Errorf("%d questions about destinations: %q", len(asked), asked)
			}
		}
	})
}

func TestNames(t *testing.T) {
	each(t, func(t *testing.T, name string) {
		p := newPod(t)
		p.leaks = true
		got := p.run(t, name, "named", "payments", "nowhere", "slow")
		for _, want := range []string{
			"any payments: 10.96.7.8 0 1/6 10.96.7.8 0 2/17",
			"stream payments: 10.96.7.8 443 1/6 (payments.shop.svc.cluster.local) fd00::7:8 443 1/6\n",
			"v6 payments: fd00::7:8 80 1/6 (payments.shop.svc.cluster.local)\n",
			"gethostbyname payments: payments.shop.svc.cluster.local 10.96.7.8\n",
			"gethostbyname2 payments: payments.shop.svc.cluster.local fd00::7:8\n",
			"gethostbyname_r in 8 bytes: too few\ngethostbyname_r payments: payments.shop.svc.cluster.local 10.96.7.8\n",
			"res_search payments: 1 answers, last byte 8\n",
			"host orders-7d9f orders-7d9f\n",
			"number 127.0.0.1: 127.0.0.1 80 1/6",
			"getnameinfo: payments.shop.svc.cluster.local\n",
			"gethostbyaddr 10.96.7.8: payments.shop.svc.cluster.local 10.96.7.8\n",
			"getnameinfo of one without a name: 10.96.7.9\n",
		} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in\n%s", want, got)
			}
		}
		if name == "musl" { // its words, and its res_query, are others
			return
		}
		for _, want := range []string{
			"any nowhere: Name or service not known\n", "any slow: Temporary failure in name resolution\n",
			strings.Repeat("getaddrinfo_a payments: 0 0 10.96.7.8; nowhere: Name or service not known\n", 3) +
				"told 7 by a thread, 8 by a signal from itself: 1\n",
			"gethostbyname nowhere: Unknown host\n", "gethostbyname slow: Host name lookup failure\n",
			"res_query payments: Unknown host\n", "res_search txt payments: No address associated with name\n",
			"and with NI_NAMEREQD: Name or service not known\n",
		} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in\n%s", want, got)
			}
		}
	})
}

// TestServed: bind (also where the port is taken, and to the pod's address), listen, accept in three ways, and the names
// of both ends.
func TestServed(t *testing.T) {
	each(t, func(t *testing.T, name string) {
		free, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(free.Addr().String())
		free.Close()
		for _, c := range []struct{ address, taken string }{{"0.0.0.0", ""}, {podIP, ""}, {"0.0.0.0", "taken"}} {
			p := newPod(t)
			if c.taken != "" {
				other, err := net.Listen("tcp", "0.0.0.0:"+port)
				if err != nil {
					t.Fatal(err)
				}
				defer other.Close()
			}
			cmd := p.inside(t, name, program(t, name, "served"), c.address, port)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			cmd.Stderr = os.Stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			line := func(want string) {
				t.Helper()
				if lines.Scan(); lines.Text() != want {
					t.Errorf("%v: %q, want %q", c, lines.Text(), want)
				}
			}
			line(fmt.Sprintf("listening at %s %s (16)", c.address, port))
			all, err := p.Listeners()
			if err != nil || len(all) != 1 || fmt.Sprint(all[0].Addr) != net.JoinHostPort(c.address, port) {
				t.Errorf("%v: listeners %v (%v)", c, all, err)
			}
			for i := range 3 {
				from := netip.AddrPortFrom(netip.MustParseAddr(clientIP), uint16(40000+i))
				p.call(t, from, netip.MustParseAddrPort(podIP+":"+port))
				accepted := fmt.Sprintf("accepted %s %d (16)", clientIP, from.Port())
				if i == 1 {
					accepted = fmt.Sprintf("accepted 0.0.0.0 %d (16)", from.Port())
				}
				line(accepted)
				line(fmt.Sprintf("peer %s %d (16)", clientIP, from.Port()))
				line(fmt.Sprintf("own %s %s (16)", podIP, port))
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("%v: %v", c, err)
			}
			if _, ports := p.seen(); fmt.Sprint(ports) != map[bool]string{true: "[tcp 0.0.0.0:" + port + "]", false: "[]"}[c.taken != ""] {
				t.Errorf("%v: moved %s", c, ports)
			}
		}
	})
}

// call is a client of the pod's that says a byte and hears it again.
func (p *pod) call(t *testing.T, client, dst netip.AddrPort) {
	t.Helper()
	conn, err := p.Deliver(t.Context(), client, dst)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Errorf("the echo: %v", err)
	}
}
