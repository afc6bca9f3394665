package whole

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stepin-dev/stepin/pkg/podlet"
)

// manyAddrs is more than any UDP answer that a resolver here asks for can hold.
const manyAddrs = 120

// namesPod has a resolver like a cluster's: three searches, ndots:5.
func namesPod() podlet.Spec {
	addr := netip.MustParseAddr
	var many []netip.Addr
	for i := range manyAddrs {
		many = append(many, netip.AddrFrom4([4]byte{10, 9, 8, byte(i)}))
	}
	return podlet.Spec{Hostname: "orders-7d9f", Resolver: &podlet.Resolver{Addr: addr("10.96.0.10"),
		Search: []string{"shop.svc.cluster.local", "svc.cluster.local", "cluster.local"}, Origin: "cluster.local",
		Zone: map[string][]netip.Addr{
			"api.example.com":               {addr("10.1.2.3"), addr("fd00::1")},
			"four.example.com":              {addr("10.1.2.4")},
			"six.example.com":               {addr("fd00::6")},
			"orders.shop.svc.cluster.local": {addr("10.96.7.7")},
			"stock.other.svc.cluster.local": {addr("10.96.7.8")},
			"target.example.com":            {addr("10.1.2.5")},
			"large.example.com":             many,
			"db.host.example":               {addr("10.1.2.6")}, // and another one on the developer's machine
			"only.pod.example":              {addr("10.1.2.9")},
		},
		Alias: map[string]string{"alias.example.com": "target.example.com"}}}
}

// TestNames holds that names are the pod's, by every resolver, and that a search list costs what one name costs.
func TestNames(t *testing.T) {
	p := pod(t, namesPod())
	t.Run("go", func(t *testing.T) { testResolver(t, p, true, program(t, "steps")) })
	t.Run("musl", func(t *testing.T) {
		testResolver(t, p, false, compiled(t, "lookup", "musl-gcc", "-static")) // musl asks by TCP since 1.2.4 only
	})
	t.Run("glibc", func(t *testing.T) { testResolver(t, p, true, compiled(t, "lookup", "gcc")) })
	t.Run("hosts", func(t *testing.T) { testHosts(t, p) })
	t.Run("dns false", func(t *testing.T) {
		s := steps(t, p, map[string]any{"dns": false}, nil)
		want, err := os.ReadFile("/etc/resolv.conf")
		if err != nil {
			t.Fatal(err)
		}
		s.expect("cat=/etc/resolv.conf", strings.ReplaceAll(strings.TrimRight(string(want), "\n"), "\n", "|"))
	})
	if os.Getuid() == 0 { // an ordinary user cannot give this machine another name server; pkg/names has the choice of sides
		t.Run("on the host", func(t *testing.T) { testHostNames(t, p) })
	}
}

// testResolver asks by one resolver: the first time for at most two round trips, then for none.
func testResolver(t *testing.T, p *podlet.Pod, tcp bool, argv ...string) {
	s := steps(t, p, nil, nil, argv...)
	for _, c := range []struct{ name, want string }{
		{"api.example.com", "10.1.2.3 fd00::1"}, // four names before it are asked for in vain
		{"four.example.com", "10.1.2.4"},
		{"six.example.com", "fd00::6"},
		{"orders", "10.96.7.7"}, // only the pod knows it, and only by its search list
		{"stock.other", "10.96.7.8"},
		{"alias.example.com", "10.1.2.5"},
		{"large.example.com", fmt.Sprintf("%d addresses", manyAddrs)}, // cut off by UDP, whole by TCP
		{"nowhere.example.com", "not found"},
		{"API.Example.com", "10.1.2.3 fd00::1"}, // names have no case
	} {
		if c.name == "large.example.com" && !tcp {
			continue
		}
		known := c.name == "API.Example.com"
		before, questions := nameTrips(t, s), p.QuestionCount()
		s.expect("lookup="+c.name, c.want)
		first := nameTrips(t, s) - before
		if first > 2 || first == 0 && !known || first > 0 && known {
			t.Errorf("%s: %d round trips the first time", c.name, first)
		}
		if asked := p.QuestionCount() - questions; asked == 0 && !known {
			t.Errorf("%s: the pod's resolver was not asked", c.name)
		}
		before, questions = nameTrips(t, s), p.QuestionCount()
		s.expect("lookup="+c.name, c.want)
		if again, asked := nameTrips(t, s)-before, p.QuestionCount()-questions; again != 0 || asked != 0 {
			t.Errorf("%s: %d round trips and %d questions the second time", c.name, again, asked)
		}
	}
	if t.Failed() {
		t.Log(asked(only(acts(t, s.trace, 0), "lookup")))
	}
}

// nameTrips counts the round trips for names: each carries one question of the debuggee's, and perhaps others.
func nameTrips(t *testing.T, s *stepper) int {
	return len(asked(only(acts(t, s.trace, 0), "lookup")))
}

// testHosts: the pod's hosts file is the debuggee's.
func testHosts(t *testing.T, p *podlet.Pod) {
	s := steps(t, p, nil, nil)
	before := p.QuestionCount()
	if hosts := s.do("cat=/etc/hosts"); !strings.Contains(hosts, p.Addr(false).String()+"\torders-7d9f") {
		t.Errorf("/etc/hosts: %s", hosts)
	}
	s.expect("lookup=orders-7d9f", p.Addr(false).String()+" "+p.Addr(true).String())
	if n := p.QuestionCount() - before; n != 0 {
		t.Errorf("the resolver was asked %d times for what is in /etc/hosts", n)
	}
}

// testHostNames: on a machine with a name server of its own, names under outgoing.host are its business, and with dns:
// false all are.
func testHostNames(t *testing.T, p *podlet.Pod) {
	const host = "192.0.2.77" // what programs/otherhost answers
	t.Run("rule", func(t *testing.T) {
		s := stepsElsewhere(t, p, map[string]any{"outgoing": map[string]any{"host": []string{"host.example", "*.host.example"}}})
		before := len(p.Questions())
		s.expect("lookup=only.pod.example", "10.1.2.9")
		s.expect("lookup=db.host.example", host)
		s.expect("lookup=host.example", host)
		s.expect("lookup=six.example.com", "fd00::6")
		for _, q := range p.Questions()[before:] {
			if name, _, _ := strings.Cut(q, " "); name == "db.host.example." || name == "host.example." {
				t.Errorf("the pod was asked for %s", q)
			}
		}
	})
	t.Run("dns false", func(t *testing.T) {
		s := stepsElsewhere(t, p, map[string]any{"dns": false})
		before := p.QuestionCount()
		s.expect("lookup=only.pod.example", host)
		s.expect("lookup=anything.at.all", host)
		if n := p.QuestionCount() - before; n != 0 {
			t.Errorf("the pod's resolver was asked %d times", n)
		}
	})
}

// stepsElsewhere is steps on a machine with a name server of its own; root's only.
func stepsElsewhere(t *testing.T, p *podlet.Pod, configuration map[string]any) *stepper {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 127.0.0.53\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	cmd := command(t, p, configuration, program(t, "steps"))
	cmd.Path = program(t, "otherhost")
	cmd.Args = append([]string{cmd.Path, own, conf, stepin(t)}, cmd.Args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
	return started(t, cmd)
}

// compiled compiles one of programs/c, once.
func compiled(t *testing.T, name, compiler string, flags ...string) string {
	t.Helper()
	once, _ := built.LoadOrStore(compiler+" "+name, sync.OnceValues(func() (string, error) {
		dir, err := os.MkdirTemp("", "stepin-whole-")
		if err != nil {
			return "", err
		}
		out := filepath.Join(dir, name)
		args := append(flags, "-Wall", "-Wextra", "-Werror", "-O1", "-o", out, filepath.Join("programs", "c", name+".c"))
		if text, err := exec.Command(compiler, args...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w\n%s", compiler, err, text)
		}
		return out, os.Chmod(dir, 0o755)
	}))
	path, err := once.(func() (string, error))()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
