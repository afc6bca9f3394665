package whole

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/pkg/podlet"
)

// The pod of TestFiles.
const (
	manyFiles  = 1000
	largeFile  = 200 << 20 // bytes
	hangFile   = 8 << 20
	fsGroup    = 2000
	podUser    = 1000
	secretText = "a secret that only the group may read"
)

// TestFiles holds that the debuggee reads the pod's files as the pod does: with its rights, as they are now, at a
// bounded cost, and never any other's.
func TestFiles(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "canary") // a file of this machine's that no path of the pod's may lead to
	if err := os.WriteFile(outside, []byte("this machine's"), 0o644); err != nil {
		t.Fatal(err)
	}
	p := pod(t, filesPod(outside))
	t.Run("fsGroup", func(t *testing.T) { testGroup(t, p) })
	t.Run("switch", func(t *testing.T) { testSwitch(t, p) })
	t.Run("many", func(t *testing.T) { testMany(t, p) })
	t.Run("large", func(t *testing.T) { testLarge(t, p) })
	t.Run("hang", func(t *testing.T) { testHang(t, p) })
	t.Run("escape", func(t *testing.T) { testEscape(t, p, outside) })
	t.Run("read-only", func(t *testing.T) { testReadOnly(t, p) })
}

func filesPod(outside string) podlet.Spec {
	many := map[string]string{}
	for i := range manyFiles {
		many[fmt.Sprintf("key-%04d", i)] = fmt.Sprintf("value %d", i)
	}
	up := strings.Repeat("../", 12)
	links := map[string]string{
		"absolute": outside, "relative": up + strings.TrimPrefix(outside, "/"), "root": "/", "above": up,
		"passwd": "/etc/passwd", "passwd-relative": "../etc/passwd", "loop": "loop", "inner": "plain",
		"process": "/proc/self/root" + outside, "first": "/proc/1/root" + outside,
	}
	s := podlet.Spec{
		Files: []podlet.File{{Path: "/etc/passwd", Data: "the pod's"}, {Path: "/app/up", Link: up + strings.TrimPrefix(outside, "/")}},
		Volumes: []podlet.Volume{
			{Path: "/etc/config", Files: map[string]string{"greeting": "v1", "former": "gone soon"}},
			{Path: "/many", Files: many},
			{Path: "/data", Plain: true, Patterns: map[string]int64{"large": largeFile, "hang": hangFile}},
			{Path: "/links", Plain: true, Files: map[string]string{"plain": "a plain file"}, Links: links},
		},
	}
	if os.Getuid() == 0 { // an ordinary user's namespace has one user and one group, so there is nothing to be told apart
		s.Main = podlet.Main{UID: podUser, GID: podUser, Groups: []int{fsGroup}}
		s.Volumes = append(s.Volumes,
			podlet.Volume{Path: "/secret/small", Files: map[string]string{"password": secretText}, Mode: 0o440, GID: fsGroup},
			podlet.Volume{Path: "/secret/plain", Plain: true, Files: map[string]string{"password": secretText}, Mode: 0o440, GID: fsGroup},
			podlet.Volume{Path: "/secret/others", Files: map[string]string{"password": secretText}, Mode: 0o400},
			podlet.Volume{Path: "/secret/foreign", Plain: true, Files: map[string]string{"password": secretText}, Mode: 0o440, GID: fsGroup + 1})
	}
	return s
}

// testGroup: a Secret with fsGroup is read by a child that has that group and no capability.
func testGroup(t *testing.T, p *podlet.Pod) {
	s := steps(t, p, nil, nil)
	s.expect("cat=/etc/config/greeting", "v1") // the agent is there
	status := statusOf(t, agentChild(t, p))
	if eff := status["CapEff"]; os.Getuid() == 0 && strings.Trim(eff, "0") != "" {
		t.Errorf("the agent's child has capabilities: %s", eff)
	}
	if status["NoNewPrivs"] != "1" {
		t.Errorf("the agent's child may gain privileges: %q", status["NoNewPrivs"])
	}
	if os.Getuid() != 0 {
		return
	}
	if want := fmt.Sprint(fsGroup); !strings.Contains(" "+status["Groups"]+" ", " "+want+" ") || !strings.HasPrefix(status["Uid"], fmt.Sprint(podUser)+"\t") {
		t.Errorf("the agent's child has uid %q and groups %q", status["Uid"], status["Groups"])
	}
	s.expect("cat=/secret/small/password", secretText)
	s.expect("cat=/secret/plain/password", secretText)
	s.expect("cat=/secret/others/password", "errno: permission denied")
	s.expect("cat=/secret/foreign/password", "errno: permission denied")
}

// testSwitch: what kubelet changes at once is seen at once, as a whole.
func testSwitch(t *testing.T, p *podlet.Pod) {
	s := steps(t, p, nil, nil)
	s.expect("cat=/etc/config/greeting", "v1")
	s.expect("cat=/etc/config/former", "gone soon")
	if err := p.Update(limit(t), "/etc/config", map[string]string{"greeting": "v2", "added": "new"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "the new version is seen", func() bool { return s.do("cat=/etc/config/greeting") == "v2" })
	s.expect("cat=/etc/config/added", "new")
	s.expect("cat=/etc/config/former", "errno: no such file or directory")
	if err := p.Update(limit(t), "/etc/config", map[string]string{"greeting": "v1", "former": "gone soon"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "the old version is seen again", func() bool { return s.do("cat=/etc/config/former") == "gone soon" })
}

// testMany: a small volume has come whole, so that reading it asks the pod for nothing.
func testMany(t *testing.T, p *podlet.Pod) {
	s := steps(t, p, nil, debugLog)
	h := sha256.New()
	for i := range manyFiles {
		fmt.Fprintf(h, "value %d", i)
	}
	for range 2 {
		s.expect("all=/many", fmt.Sprintf("%d files %x", manyFiles, h.Sum(nil)))
	}
	s.end()
	if list := asked(acts(t, s.trace, 0)); len(list) > 0 {
		t.Errorf("the agent was asked for %q", list)
	}
	streams, files := roundTrips(t, s.said())
	const most = 50 // those of the start
	if streams+files > most {
		t.Errorf("%d streams and %d calls for files, at most %d are the start's own", streams, files, most)
	}
}

// testLarge: a large file costs one round trip a part, of 1 MiB, and is right in whatever way it is read.
func testLarge(t *testing.T, p *podlet.Pod) {
	h := sha256.New()
	part := make([]byte, 1<<20)
	for off := int64(0); off < largeFile; off += int64(len(part)) {
		podlet.Pattern(part, off)
		h.Write(part)
	}
	want := fmt.Sprintf("%x", h.Sum(nil))
	for _, way := range []string{"sum", "shared", "private"} {
		t.Run(way, func(t *testing.T) {
			s := steps(t, p, nil, debugLog)
			s.expect(way+"=/data/large", want)
			s.end()
			const most = largeFile>>20 + 50
			if _, files := roundTrips(t, s.said()); files > most {
				t.Errorf("%d round trips for %d MiB, at most %d", files, largeFile>>20, most)
			} else {
				t.Logf("%d round trips for %d MiB", files, largeFile>>20)
			}
		})
	}
}

// testHang: while a read waits for the pod, Delve stops the program as always; the read then completes.
func testHang(t *testing.T, p *podlet.Pod) {
	file := filepath.Join(source(t, "steps"), "main.go")
	a := dap(t)
	a.launch(debugging(t, p, "steps", map[string]any{"debugger": map[string]any{"args": []string{"sum=/data/hang"}}}),
		file, lineOf(t, file, "the breakpoint of the tests"))
	thread, _, _ := a.stopped()
	child := agentChild(t, p)
	if err := syscall.Kill(child, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	resumed := false
	resume := func() {
		if !resumed {
			resumed = true
			_ = syscall.Kill(child, syscall.SIGCONT)
		}
	}
	defer resume()
	a.goOn(thread)
	time.Sleep(300 * time.Millisecond) // the read is under way; were it not, the pause would prove nothing
	began := time.Now()
	a.must("pause", map[string]any{"threadId": thread}, nil)
	stopped, _, _ := a.stopped()
	// The channel is given up after three heartbeats of a second: the pause must come well before.
	if took := time.Since(began); took > 1500*time.Millisecond {
		t.Errorf("Delve's pause took %v while a read was waiting", took)
	}
	if strings.Contains(a.Output("stdout"), "sum=") {
		t.Fatal("the read did not wait for the pod")
	}
	resume()
	a.goOn(stopped)
	h := sha256.New()
	b := make([]byte, hangFile)
	podlet.Pattern(b, 0)
	h.Write(b)
	if err := a.WaitOutput(limit(t), "stdout", fmt.Sprintf("sum=/data/hang: %x", h.Sum(nil))); err != nil {
		t.Errorf("%v: %s", err, a.Output("stdout"))
	}
	a.disconnect()
}

// testEscape: a symlink in the pod leads to the pod's files or nowhere, wherever it points.
func testEscape(t *testing.T, p *podlet.Pod, outside string) {
	const nowhere = "errno: no such file or directory"
	s := steps(t, p, nil, nil)
	s.expect("cat="+outside, "this machine's") // it is there for the debuggee, but by no way through the pod
	for _, c := range []struct{ path, want string }{
		{"/links/plain", "a plain file"}, {"/links/inner", "a plain file"}, {"/links/loop", "errno: too many levels of symbolic links"},
		{"/links/absolute", nowhere}, {"/links/relative", nowhere}, {"/app/up", nowhere},
		{"/links/passwd", "the pod's"}, {"/links/passwd-relative", "the pod's"},
		{"/links/root/etc/passwd", "the pod's"}, {"/links/above/etc/passwd", "the pod's"},
		{"/links/root" + outside, nowhere}, {"/links/above" + outside, nowhere},
		{"/links/root/links/above" + outside, "errno: too many levels of symbolic links"}, // a tree without end is cut
		{"/links/process", nowhere}, {"/links/first", nowhere}, {"/links/root/proc/1/root" + outside, nowhere},
	} {
		got := s.do("cat=" + c.path)
		if strings.Contains(got, "this machine's") {
			t.Errorf("%s leads out of the pod", c.path)
		}
		// What /proc says of a process in another PID namespace is not to be had: any errno does there.
		if got != c.want && (!strings.Contains(c.path, "proc") && path.Base(c.path) != "first" || !strings.HasPrefix(got, "errno: ")) {
			t.Errorf("%s: got %q, want %q", c.path, got, c.want)
		}
	}
}

// testReadOnly: writes are refused with the errno of a read-only file system, and said once for each path.
func testReadOnly(t *testing.T, p *podlet.Pod) {
	s := steps(t, p, nil, nil)
	for _, path := range []string{"/data/new", "/data/new", "/data/large", "/etc/config/greeting"} {
		s.expect("create="+path, "errno: read-only file system")
	}
	for _, path := range []string{"/data/new", "/data/large", "/greeting"} { // the last one behind a link, ..data
		if n := strings.Count(s.said(), path+`" was refused`); n != 1 {
			t.Errorf("%s: the refused write was said %d times:\n%s", path, n, s.said())
		}
	}
	s.expect("stat=/data/new", "errno: no such file or directory")
}

// debugLog makes stepin log what it does, and count round trips.
var debugLog = []string{"STEPIN_LOG=debug"}

var roundTripsLine = regexp.MustCompile(`msg="round trips" streams=(\d+) files="\[\{([^}]*)\}\]"`)

// roundTrips reads the session's own count: all streams it opened, and what the debuggee's files have cost after the start.
func roundTrips(t *testing.T, log string) (streams, files int) {
	t.Helper()
	m := roundTripsLine.FindStringSubmatch(log)
	if m == nil {
		t.Fatalf("the session did not count its round trips:\n%s", log)
	}
	streams, _ = strconv.Atoi(m[1])
	for _, f := range strings.Fields(m[2]) {
		_, n, _ := strings.Cut(f, ":")
		v, err := strconv.Atoi(n)
		if err != nil {
			t.Fatal(err)
		}
		files += v
	}
	return streams, files
}

// agentChild is the process of the agent that is in the pod.
func agentChild(t *testing.T, p *podlet.Pod) int {
	t.Helper()
	parent := agentParent(t, p)
	for _, pid := range processes(t) {
		if raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil && parent != 0 &&
			strings.Contains(string(raw), fmt.Sprintf("\nPPid:\t%d\n", parent)) {
			return pid
		}
	}
	t.Fatalf("no agent's child (parent %d)", parent)
	return 0
}

// agentParent is the agent's first process, 0 while there is none.
func agentParent(t *testing.T, p *podlet.Pod) int {
	t.Helper()
	for _, pid := range processes(t) {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && bytes.Contains(raw, []byte(fmt.Sprintf("\x00--pod\x00local/%d\x00", p.MainPID()))) {
			return pid
		}
	}
	return 0
}

// processes lists all process ids.
func processes(t *testing.T) (pids []int) {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if pid, err := strconv.Atoi(filepath.Base(n)); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// statusOf reads /proc/PID/status.
func statusOf(t *testing.T, pid int) map[string]string {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), ":")
		out[k] = strings.TrimSpace(v)
	}
	return out
}
