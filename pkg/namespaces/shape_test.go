package namespaces

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestShape(t *testing.T) {
	tree := pod(t, map[string]string{
		"etc/resolv.conf": "nameserver 10.96.0.10\n", "etc/hosts": "10.244.0.7 web-7d9f\n", "data/a/b": "pod data",
		"run/secrets/kubernetes.io/serviceaccount/token": "T", "etc/config/k": "v",
		"etc/config/secret": "S", "usr/share/common-licenses/GPL-3": "the pod's", "usr/share/common-licenses/MIT": "the pod's",
		"var/run/secrets/kubernetes.io/serviceaccount/token": "T",
	})
	p := plan(t)
	p.Cover = []string{"/etc/resolv.conf", "/etc/hosts", "/etc/hostname", "/data", "/data/a", "/etc/config", "/var/run/secrets/kubernetes.io/serviceaccount"}
	p.Hide = []string{"/etc/passwd-", "/no/such/socket", "/etc/group"}
	tool, link := filepath.Join(t.TempDir(), "tool"), filepath.Join(t.TempDir(), "link")
	if err := os.WriteFile(tool, []byte("#!/bin/sh\necho ran\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(tool, link); err != nil {
		t.Fatal(err)
	}
	// Holes: the host's own, and nothing, inside what is covered; /etc/passwd is no hole, since nothing covers it.
	p.Cover = append(p.Cover, "/usr/share/common-licenses")
	p.Host = []string{"/usr/share/common-licenses/GPL-3", "/data/no-such", "/etc/passwd"}
	p.Hide = append(p.Hide, "/etc/config/secret")
	p.Blank = []string{link, "/no/such/program", "/etc/resolv.conf"}
	// A link in place of a covered path, and the way through a link (/var/run), are not the host's any more.
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil {
		t.Fatal(err)
	}
	n := start(t, p, tree)

	for _, c := range []struct{ name, script, want string }{
		{"hostname", "hostname || cat /proc/sys/kernel/hostname", "web-7d9f"},
		{"covered file", "cat /etc/resolv.conf", "nameserver 10.96.0.10"},
		{"covered over a host's", "cat /etc/hosts", "10.244.0.7 web-7d9f"},
		{"a path that the host lacks", "cat /data/a/b", "pod data"},
		{"a directory made in the host's", "cat /etc/config/k", "v"},
		{"through a link", "cat /run/secrets/kubernetes.io/serviceaccount/token", "T"},
		{"what the pod lacks", "test -e /etc/hostname || echo none", "none"},
		{"hidden", "test -e /etc/group || echo none", "none"},
		{"blank", link + " 2>/dev/null || cat " + tool + " && echo empty", "empty"},
		{"a host's file in a covered directory", "grep -c -m1 'GNU GENERAL PUBLIC' /usr/share/common-licenses/GPL-3", "1"},
		{"beside it", "cat /usr/share/common-licenses/MIT", "the pod's"},
		{"a hidden file in a covered directory", "cat /etc/config/secret; cat /etc/config/k", "v"},
		{"a host's file", "test -s /etc/passwd && echo host", "host"},
		{"own uid", "id -u", fmt.Sprint(os.Getuid())},
		{"own file", "stat -c %u /data/a/b", fmt.Sprint(os.Getuid())},
		{"root is read-only", "(echo x >/x) 2>&1 | grep -o 'Read-only file system'", "Read-only file system"},
		{"no trace of the building", "ls -A / | grep -c -e '^.old$' -e '^.stepin$' -e '^.empty'", "0"},
		{"tmp is the host's", "test -d " + p.Dir + " && echo host", "host"},
	} {
		out, _ := in(t, n, "/bin/sh", "-c", c.script)
		if out != c.want {
			t.Errorf("%s: %q, want %q", c.name, out, c.want)
		}
	}
	if now, err := os.ReadFile("/etc/hosts"); err != nil || string(now) != string(hosts) {
		t.Error("the host's /etc/hosts has changed")
	}
	if _, err := os.Stat("/data/a"); err == nil {
		t.Error("the host has /data/a")
	}
	if host, _ := os.Hostname(); host == "web-7d9f" {
		t.Error("the host's name has changed")
	}
}

// A covered path in a directory that belongs to the user, or in /tmp, leaves that directory the host's.
func TestSharedDirectory(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "stepin-shared-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.WriteFile(dir+"/there", []byte("host"), 0o644); err != nil {
		t.Fatal(err)
	}
	tree := pod(t, map[string]string{dir + "/there": "pod", dir + "/made/below/file": "made", dir + "/missing": "file"})
	p := plan(t)
	p.Cover = []string{dir + "/there", dir + "/made/below", dir + "/missing"}
	n := start(t, p, tree)
	if got := must(t, n, "cat", dir+"/there", dir+"/made/below/file"); got != "podmade" {
		t.Errorf("inside: %q", got)
	}
	must(t, n, "/bin/sh", "-c", "echo new >"+dir+"/new")
	if b, err := os.ReadFile(dir + "/new"); err != nil || string(b) != "new\n" {
		t.Errorf("a file made inside, on the host: %q %v", b, err)
	}
	if b, err := os.ReadFile(dir + "/there"); err != nil || string(b) != "host" {
		t.Errorf("the host's own file: %q %v", b, err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir + "/made"); err == nil {
		t.Error("the mount point is left")
	}
}

// What one user alone can see or do is a subtest of his, and no part of the other's run. Root's run has the ordinary user's
// after it (TestMain), so that it comes to all of them.
func TestByUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Run("no capabilities", testNoCapabilities)
		return
	}
	t.Run("root's rights", testRoot)
	// Only root may make a directory that is not the user's own, and such a one is taken apart, not bound whole.
	t.Run("rename over covered", testRenameOverCovered)
	t.Run("crowded directory", testCrowdedDirectory)
}

// rootsDirectory makes one for all to read that no ordinary user could have made.
func rootsDirectory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/", "stepin-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A rename over a covered host file must not bring the host's file into view.
func testRenameOverCovered(t *testing.T) {
	dir := rootsDirectory(t)
	os.WriteFile(dir+"/f", []byte("host"), 0o644)
	p := plan(t)
	p.Cover = []string{dir + "/f"}
	n := start(t, p, pod(t, map[string]string{dir + "/f": "pod"}))
	os.WriteFile(dir+"/g", []byte("new host"), 0o644)
	if err := os.Rename(dir+"/g", dir+"/f"); err != nil {
		t.Fatal(err)
	}
	if got := must(t, n, "cat", dir+"/f"); got != "pod" {
		t.Errorf("after the rename: %q", got)
	}
}

// A directory with very many entries is not bound entry by entry.
func testCrowdedDirectory(t *testing.T) {
	dir := rootsDirectory(t)
	for i := range maxEntries + 1 {
		if err := os.WriteFile(fmt.Sprintf("%s/%d", dir, i), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p := plan(t)
	p.Cover = []string{dir + "/7"}
	n := start(t, p, pod(t, map[string]string{dir + "/7": "pod"}))
	if got := must(t, n, "/bin/sh", "-c", "cat "+dir+"/7; grep -c "+dir+" /proc/self/mountinfo"); got != "pod2" {
		t.Errorf("%q, want the pod's file and two mounts", got)
	}
}

// Real root keeps root's access to other users' files, and has no right that reaches out of the namespaces.
func testRoot(t *testing.T) {
	dir := t.TempDir()
	os.Chown(dir, otherUser, otherUser)
	os.Chmod(dir, 0o755)
	n := start(t, plan(t), pod(t, nil))
	must(t, n, "/bin/sh", "-c", "echo x >"+dir+"/f && chown 1000:1000 "+dir+"/f && mkdir "+dir+"/d")
	for _, script := range []string{"hostname x && test $(hostname) = x", "ip link set lo down || ifconfig lo down || true"} {
		in(t, n, "/bin/sh", "-c", script) // all its own
	}
	if out, err := in(t, n, "/bin/sh", "-c", "echo 1 >/proc/sys/kernel/sysrq"); err == nil {
		t.Errorf("root inside could write a setting of the machine: %s", out)
	}
}

// The debuggee of an ordinary user has none of the capabilities by which its namespaces were made.
func testNoCapabilities(t *testing.T) {
	n := start(t, plan(t), pod(t, nil))
	for _, line := range strings.Split(must(t, n, "grep", "-E", "^Cap(Inh|Prm|Eff|Amb)", "/proc/self/status"), "\n") {
		if !strings.HasSuffix(line, "\t0000000000000000") {
			t.Errorf("the debuggee has %s", line)
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.HolderPid()))
	if err != nil {
		t.Fatal(err)
	}
	t.Log(grep(string(status), "Cap"))
}

func grep(text, prefix string) (out []string) {
	for _, l := range strings.Split(text, "\n") {
		if strings.HasPrefix(l, prefix) {
			out = append(out, l)
		}
	}
	return out
}

func TestStub(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(dir+"/plain", []byte("x"), 0o644)
	os.WriteFile(dir+"/tool", []byte("#!/bin/sh\necho tool\n"), 0o755)
	n := start(t, plan(t), pod(t, nil))
	for _, c := range []struct {
		name string
		argv []string
		code int
		say  string
	}{
		{"status of the program", n.Wrap([]string{"/bin/sh", "-c", "exit 7"}), 7, ""},
		{"from PATH", n.Wrap([]string{"tool"}), 0, "tool"},
		{"no such name", n.Wrap([]string{"no-such-program"}), 127, "stepin stub: exec no-such-program: ENOENT (2)"},
		{"no such path", n.Wrap([]string{"/no/such"}), 127, "stepin stub: exec /no/such: ENOENT (2)"},
		{"not executable", n.Wrap([]string{dir + "/plain"}), 126, "stepin stub: exec " + dir + "/plain: EACCES (13)"},
		{"empty name", n.Wrap([]string{""}), 127, "stepin stub: exec : ENOENT (2)"},
		{"no such process", []string{n.stub, "999999999", "true"}, 125, "stepin stub: pidfd_open of the holder 999999999: "},
		{"no number", []string{n.stub, "x", "true"}, 125, "stepin stub: not a process id: x"},
		{"usage", []string{n.stub, "1"}, 125, "stepin stub: usage: "},
		{"help", []string{n.stub, "-h"}, 0, "stepin stub: usage: "},
		{"nothing to report to", append([]string{"/bin/sh", "-c", `exec "$@" 3>&-`, "sh", n.stub, "-r"}, n.Wrap([]string{"/no/such"})[1:]...), 127, "stepin stub: exec /no/such: ENOENT (2)"},
		{"same directory", n.Wrap([]string{"/bin/pwd"}), 0, dir},
	} {
		cmd := exec.Command(c.argv[0], c.argv[1:]...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH=/nowhere::"+dir+":/usr/bin:/bin")
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != c.code || !strings.HasPrefix(string(out), c.say) {
			t.Errorf("%s: %d %q, want %d %q", c.name, code, out, c.code, c.say)
		}
	}
	// With -u it enters the user namespace alone and keeps the capabilities.
	argv := append([]string{n.stub, "-u"}, n.Wrap([]string{"/bin/sh", "-c", "hostname; readlink /proc/self/ns/mnt; grep CapEff /proc/self/status"})[1:]...)
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	host, _ := os.Hostname()
	mnt, _ := os.Readlink("/proc/self/ns/mnt")
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if err != nil || len(lines) != 3 || lines[0] != host || lines[1] != mnt || strings.HasSuffix(lines[2], "\t0000000000000000") {
		t.Errorf("-u: %v %q", err, lines)
	}
}

// Begin tells a program that does not run from one that ends with the stub's own status.
func TestBegin(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(dir+"/plain", []byte("x"), 0o644)
	n := start(t, plan(t), pod(t, nil))
	for _, c := range []struct {
		name, dir string
		argv      []string
		status    int
		errno     syscall.Errno // 0: it runs
	}{
		{"runs", dir, []string{"/bin/sh", "-c", "exit 127"}, 127, 0},
		{"has no descriptor more", dir, []string{"/bin/sh", "-c", "test ! -e /proc/self/fd/3"}, 0, 0},
		{"killed", dir, []string{"/bin/sh", "-c", "kill -9 $$"}, -1, 0},
		{"missing", dir, []string{"/no/such"}, 127, unix.ENOENT},
		{"not executable", dir, []string{dir + "/plain"}, 126, unix.EACCES},
	} {
		cmd := exec.Command(c.argv[0], c.argv[1:]...)
		cmd.Dir = c.dir
		err := n.Begin(cmd)
		var refused *ExecError
		switch {
		case c.errno != 0:
			if !errors.As(err, &refused) || refused.Status != c.status || !errors.Is(err, c.errno) {
				t.Errorf("%s: %v", c.name, err)
			}
		case err != nil:
			t.Errorf("%s: %v", c.name, err)
		default:
			_ = cmd.Wait() // looked at below
			if code := cmd.ProcessState.ExitCode(); code != c.status {
				t.Errorf("%s: status %d, not %d", c.name, code, c.status)
			}
		}
	}
}

// Who lists the processes while they come and go by the thousand gets neither an error nor a process that was not inside.
func TestManyProcesses(t *testing.T) {
	n := start(t, plan(t), pod(t, nil))
	argv := n.Wrap([]string{"/bin/sh", "-c", "i=0; while [ $i -lt 3000 ]; do (:) ; i=$((i+1)); done"})
	cmd := exec.Command(argv[0], argv[1:]...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for lists := 0; ; lists++ {
		pids, err := n.Processes()
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(pids, os.Getpid()) || slices.Contains(pids, n.HolderPid()) || len(pids) > maxListed {
			t.Fatalf("%v are inside", pids)
		}
		select {
		case err := <-ended:
			if err != nil || lists == 0 {
				t.Errorf("%v after %d lists", err, lists)
			}
			return
		default:
		}
	}
}

// maxListed is how many of the shell and its children, one at a time, a list can show that takes its time.
const maxListed = 100

func TestPlanChecked(t *testing.T) {
	good := Plan{Dir: "/tmp/x", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}, Cover: []string{"/etc/hosts"}}
	if p, err := good.checked(); err != nil || p.TunPath != "/dev/net/tun" || p.FusePath != "/dev/fuse" {
		t.Errorf("%+v %v", p, err)
	}
	for name, change := range map[string]func(*Plan){
		"no directory":   func(p *Plan) { p.Dir = "" },
		"relative":       func(p *Plan) { p.Cover = []string{"etc"} },
		"root":           func(p *Plan) { p.Cover = []string{"/"} },
		"not clean":      func(p *Plan) { p.Hide = []string{"/a/../b"} },
		"zero byte":      func(p *Plan) { p.Cover = []string{"/a\x00b"} },
		"loopback":       func(p *Plan) { p.Addrs = []netip.Addr{netip.MustParseAddr("127.0.0.1")} },
		"no address":     func(p *Plan) { p.Addrs = []netip.Addr{{}} },
		"many paths":     func(p *Plan) { p.Cover = make([]string, maxPaths+1) },
		"many addresses": func(p *Plan) { p.Addrs = make([]netip.Addr, maxAddrs+1) },
	} {
		p := good
		change(&p)
		if _, err := p.checked(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestCanonical(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	os.MkdirAll(dir+"/real/d", 0o755)
	os.Symlink("real", dir+"/link")
	os.Symlink("real/d", dir+"/last")
	for p, want := range map[string]string{
		"/link/d":         "/real/d",
		"/link/no/such/x": "/real/no/such/x",
		"/last":           "/last", // the link itself is what is replaced
		"/last/x":         "/real/d/x",
		"/no/link":        "/no/link",
	} {
		if got := Canonical(dir + p); got != dir+want {
			t.Errorf("%s: %s, want %s", p, got, dir+want)
		}
	}
}
