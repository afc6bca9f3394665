package whole

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/adapter/dap/client"
	"github.com/stepin-dev/stepin/adapter/dap/talk"
	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// strangerEnv makes the test's binary a stranger: it dials "NETWORK ADDRESS", asks as an editor does, and prints what
// comes back.
const strangerEnv = "STEPIN_TEST_STRANGER"

// editorsRequest is an editor's first.
const editorsRequest = `{"seq":1,"type":"request","command":"initialize","arguments":{"adapterID":"stepin"}}`

func strangerMain(where string) int {
	network, address, _ := strings.Cut(where, " ")
	conn, err := net.Dial(network, address)
	if err != nil {
		fmt.Println(err)
		return 0
	}
	fmt.Printf("read %q\n", askRaw(conn, fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(editorsRequest), editorsRequest)))
	return 0
}

// askRaw sends a text and returns what comes until the peer closes, or that it does not.
func askRaw(conn net.Conn, text string) string {
	defer conn.Close()
	_, _ = io.WriteString(conn, text) // a peer that has closed already is what is hoped for
	_ = conn.SetReadDeadline(time.Now().Add(wordTime))
	b, err := io.ReadAll(conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return string(b) + " (and is left open)"
	}
	return string(b)
}

// asOther runs the stranger as an ordinary user. Only root can become another user, so only root's run calls it.
func asOther(t *testing.T, where string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "stranger")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	self := filepath.Join(dir, "stranger")
	for _, err := range []error{os.Chmod(dir, 0o755), exec.Command("cp", "-L", fmt.Sprintf("/proc/%d/exe", os.Getpid()), self).Run()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(self)
	cmd.Dir, cmd.Env = "/", []string{strangerEnv + "=" + where, quickEnd}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: otherUser, Gid: otherUser}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// TestStrangers has everybody refused who has no business with a session, which all the while goes on.
func TestStrangers(t *testing.T) {
	s := &scene{t: t}
	s.furnish()
	t.Cleanup(func() { os.RemoveAll(s.dir) })
	t.Cleanup(func() { _ = s.pod.Close() })
	s.a = dapIn(t, "", s.environ("STEPIN_LOG=debug"))
	s.run()
	unharmed := func(name string, test func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			test(t)
			if got := <-askPod(t, s.pod); got != "debuggee" {
				t.Errorf("the session is harmed: answered by %q", got)
			}
		})
	}
	unharmed("TCP adapter", listeningAdapter)
	unharmed("the agent's listener", s.stealListener)
	unharmed("the agent's socket", s.agentSocket)
	unharmed("a second agent", s.secondAgent)
	unharmed("another's port", s.anothersPort)
	s.a.disconnect()
	answers(t, s.pod, "pod", time.Second)
}

// listeningAdapter is asked by an editor, by a web page and by another user.
func listeningAdapter(t *testing.T) {
	cmd := exec.Command(stepin(t), "dap", "--listen", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), "STEPIN_LOG=debug")
	var log talk.Buffer
	cmd.Stderr = &log
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	_, address, ok := strings.Cut(strings.TrimSpace(line), "listening at ")
	if err != nil || !ok {
		t.Fatalf("%q: %v\n%s", line, err, log.String())
	}
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	served := func() {
		c := client.New(dial())
		defer c.Close()
		talk.Must(t, c, "initialize", talk.Initialize)
	}
	served()
	post := fmt.Sprintf("POST / HTTP/1.1\r\nHost: %s\r\nOrigin: http://example.com\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", address, len(editorsRequest), editorsRequest)
	if got := askRaw(dial(), post); got != "" {
		t.Errorf("a web page is answered with %q", got)
	}
	logSays(t, &log, "closed a connection")
	if os.Getuid() == 0 {
		if got := asOther(t, "tcp "+address); got != "read \"\"\n" {
			t.Errorf("another user: %s", got)
		}
		logSays(t, &log, fmt.Sprintf("the caller is user %d", otherUser))
	}
	served()
}

// logSays waits for words in a log.
func logSays(t *testing.T, log fmt.Stringer, words string) {
	t.Helper()
	eventually(t, wordTime, fmt.Sprintf("the log says %q", words), func() bool { return strings.Contains(log.String(), words) })
}

// stealListener dials what the agent listens on in the pod: on loopback, so only the pod's own programs reach it.
func (s *scene) stealListener(t *testing.T) {
	taken := 0
	for _, l := range take(t, s.pod, s.dir).Network {
		kind, address, _ := strings.Cut(l, " ")
		_, hex, _ := strings.Cut(address, ":")
		port, err := strconv.ParseUint(hex, 16, 16)
		if !strings.HasPrefix(kind, "tcp") || slices.Contains(s.before.Network, l) || err != nil {
			continue
		}
		for _, host := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback(), s.pod.Addr(false), s.pod.Addr(true)} {
			dst := netip.AddrPortFrom(host, uint16(port))
			conn, err := s.pod.Inside.Dial(limit(t), "tcp", netip.AddrPort{}, dst)
			if errors.Is(err, syscall.ECONNREFUSED) {
				continue // it listens on another address
			}
			if err != nil {
				t.Errorf("%v: %v", dst, err)
				continue
			}
			taken++
			if got := askRaw(conn, "GET / HTTP/1.0\r\n\r\n"); got != "" {
				t.Errorf("%v is answered with %q", dst, got)
			}
		}
	}
	if taken < 2 { // a listener of each family
		t.Errorf("%d connections to the agent's listeners were taken", taken)
	}
	logSays(t, &s.a.stderr, "closed a connection to the steal's own listener")
}

// agentSocket comes to the sessions' socket as another user, without the token, and under another's name.
func (s *scene) agentSocket(t *testing.T) {
	found, err := filepath.Glob(filepath.Join(s.dir, "run", "stepin", "*.*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%v %v", found, err)
	}
	socket := found[0]
	if os.Getuid() == 0 {
		if got := asOther(t, "unix "+socket); !strings.Contains(got, "permission denied") {
			t.Errorf("another user in the directory: %s", got)
		}
		// Should the modes be no obstacle, the agent looks who is there.
		open := []string{s.dir, filepath.Join(s.dir, "run"), filepath.Dir(socket), socket}
		for _, path := range open {
			if err := os.Chmod(path, 0o777); err != nil {
				t.Fatal(err)
			}
		}
		if got := asOther(t, "unix "+socket); got != "read \"\"\n" {
			t.Errorf("another user at the socket: %s", got)
		}
		for _, path := range open {
			if err := os.Chmod(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	token := strings.TrimPrefix(filepath.Ext(socket), ".")
	for _, c := range []struct {
		name, words string
		hello       wire.Hello
	}{
		{"without the token", "does not know the session's token", wire.Hello{Token: strings.Repeat("0", len(token)), Session: "stranger", Who: "a stranger"}},
		{"as somebody else", "belongs to ", wire.Hello{Token: token, Session: s.sessionID(t), Resume: "guessed", Who: "a stranger"}},
	} {
		raw, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		conn, _, err := mux.Dial(limit(t), raw, c.hello, mux.Config{})
		if err == nil {
			conn.Close("")
		}
		var refusal *wire.Refusal
		if !errors.As(err, &refusal) || !strings.Contains(refusal.Message, c.words) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// sessionID is the session's name at the agent, which says it in its log.
func (s *scene) sessionID(t *testing.T) string {
	t.Helper()
	found := regexp.MustCompile(`session joined.*session=([0-9a-f]+)`).FindStringSubmatch(s.a.stderr.String())
	if found == nil {
		t.Fatal("the agent does not say who joined")
	}
	return found[1]
}

// heldBy are the words of whoever is refused: who was first, and since when.
var heldBy = regexp.MustCompile(`this pod has an agent already: agent (\d+) by (\S+@\S+) since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`)

// secondAgent starts a second agent on the pod, by hand and by a session that cannot know of the first.
func (s *scene) secondAgent(t *testing.T) {
	first, ok := find(family(s.a.cmd.Process.Pid), "agent")
	if !ok {
		t.Fatal("there is no agent")
	}
	check := func(how, got string) {
		t.Helper()
		m := heldBy.FindStringSubmatch(got)
		if m == nil || m[1] != strconv.Itoa(first.pid) {
			t.Errorf("%s says %q, want agent %d and since when", how, got, first.pid)
		}
		if !strings.Contains(got, "hint: ") {
			t.Errorf("%s gives no hint: %q", how, got)
		}
	}
	hash := sha256.Sum256([]byte("mine"))
	argv := []string{fmt.Sprintf("/proc/%d/exe", first.pid), "--pod", fmt.Sprintf("local/%d", s.pod.MainPID()), "--listen", "unix:" + filepath.Join(s.dir, "second"),
		"--token-sha256", hex.EncodeToString(hash[:]), "--ttl", "0s", "--who", "a stranger"}
	if os.Getuid() != 0 { // whose pods are in user namespaces
		argv = append([]string{"nsenter", "-t", strconv.Itoa(s.pod.MainPID()), "-U", "--preserve-credentials", "--"}, argv...)
	}
	out, err := exec.CommandContext(limit(t), argv[0], argv[1:]...).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("a second agent ends with %v", err)
	}
	check("the second agent", string(out))

	elsewhere := t.TempDir()
	cmd := command(t, s.pod, nil, program(t, "service"))
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+elsewhere)
	out, err = cmd.CombinedOutput()
	if !errors.As(err, &exit) || exit.ExitCode() != 125 {
		t.Errorf("a session of its own ends with %v", err)
	}
	check("the second session", string(out))
}

// anothersPort runs a second session on the same agent, whose program listens on the port that the first has.
func (s *scene) anothersPort(t *testing.T) {
	cmd := command(t, s.pod, map[string]any{"env": map[string]any{"override": map[string]any{"WHO": "second"}}}, program(t, "service"))
	var stderr talk.Buffer
	cmd.Env, cmd.Stderr = s.environ(), &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	logSays(t, &stderr, "tcp port 8080 is not taken from the pod: port 8080 is held by ")
	if !regexp.MustCompile(`held by \S+@\S+ since \d\d:\d\d:\d\d UTC`).MatchString(stderr.String()) {
		t.Errorf("it is not said who and since when: %s", stderr.String())
	}
}
