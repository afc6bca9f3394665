package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepin-dev/stepin/adapter/dap/talk"
)

// idleTTL is how long the agent of TestJoin outlives its last session: long enough for a second F5, short enough to wait for.
const idleTTL = 6 * time.Second

// developer is one user at a machine of his own: with a runtime directory and a host name that are nobody else's.
type developer struct {
	Stepin
	c        *Cluster
	t        *testing.T
	ns, name string
	program  string
}

// who is what others are shown of him.
func (d developer) who() string { return "root@" + d.name + "s-desk" }

// at has a command run on the developer's machine.
func (d developer) at(cmd *exec.Cmd) *exec.Cmd {
	wrapped := exec.Command("unshare", append([]string{"--uts", "sh", "-c", `echo "$1" >/proc/sys/kernel/hostname; shift; exec "$@"`, "sh", d.name + "s-desk"}, cmd.Args...)...)
	wrapped.Env, wrapped.Dir, wrapped.SysProcAttr = cmd.Env, cmd.Dir, cmd.SysProcAttr
	return wrapped
}

// seat is one session: the workload's own program in the pod's place.
type seat struct {
	developer
	cmd    *exec.Cmd
	stderr talk.Buffer
	ended  chan struct{}
}

// sit starts a session; flags say where its program serves.
func (d developer) sit(target string, flags ...string) *seat {
	d.t.Helper()
	s := &seat{developer: d, ended: make(chan struct{})}
	s.cmd = d.at(d.Exec(context.Background(), d.t, map[string]any{"target": target, "namespace": d.ns, "agent": map[string]any{"ttl": idleTTL.String()},
		"incoming": map[string]any{"mode": "steal"}},
		append([]string{d.program, "serve", "-name=" + d.name}, flags...)...))
	s.cmd.Stderr = &s.stderr
	if err := s.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	go func() {
		_ = s.cmd.Wait()
		close(s.ended)
	}()
	d.t.Cleanup(func() {
		s.leave()
		if d.t.Failed() {
			d.t.Logf("%s said:\n%s", d.name, s.stderr.String())
		}
	})
	return s
}

// says waits for a line of the session's.
func (s *seat) says(pattern string) {
	s.t.Helper()
	line := regexp.MustCompile(pattern)
	Eventually(s.t, Patience, pattern, func() bool {
		select {
		case <-s.ended:
			if !line.MatchString(s.stderr.String()) {
				s.t.Fatalf("%s's session has ended without saying %q:\n%s", s.name, pattern, s.stderr.String())
			}
		default:
		}
		return line.MatchString(s.stderr.String())
	})
}

// leave ends the program, and with it the session.
func (s *seat) leave() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.ended:
	case <-time.After(ending):
		s.t.Errorf("%s's session did not end with its program", s.name)
		_ = s.cmd.Process.Kill()
	}
}

// wasStopped checks how the session has ended.
func (s *seat) wasStopped() {
	s.t.Helper()
	select {
	case <-s.ended:
	case <-time.After(ending):
		s.t.Fatal("the stopped session goes on")
	}
	if status := s.cmd.ProcessState.ExitCode(); status != 125 ||
		!strings.HasSuffix(s.stderr.String(), "\nstepin: this session was stopped by its owner, with stepin sessions stop\n") {
		s.t.Errorf("status %d:\n%s", status, s.stderr.String())
	}
}

// used is a line of stepin sessions.
type used struct {
	ID, Target, Pod, Who, Note string
	Since                      time.Time
	Ports                      []struct {
		Network string
		Port    int
	}
	Mine, Lost, Paused bool
}

// run runs a command of stepin's on the developer's machine.
func (d developer) run(args ...string) Result {
	d.t.Helper()
	var out, errs strings.Builder
	cmd := d.at(d.Command(context.Background(), d.t, args...))
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if cmd.ProcessState == nil {
		d.t.Fatal(err)
	}
	return Result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

func (d developer) sessions(args ...string) (all []used) {
	d.t.Helper()
	r := d.run(append([]string{"sessions", "-n", d.ns, "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(r.Stdout), &all); err != nil || r.Status != 0 {
		d.t.Fatalf("%v: %+v", err, r)
	}
	return all
}

// sessionsOf are those of a user.
func sessionsOf(all []used, who string) []used {
	return slices.DeleteFunc(slices.Clone(all), func(u used) bool { return u.ID == "" || u.Who != who })
}

// jobs are the UIDs of the agents' Jobs.
func (d developer) jobs() (uids []string) {
	d.t.Helper()
	list, err := d.c.Client.BatchV1().Jobs(d.ns).List(Limit(d.t), metav1.ListOptions{})
	if err != nil {
		d.t.Fatal(err)
	}
	for _, j := range list.Items {
		uids = append(uids, string(j.UID))
	}
	return uids
}

// newDeveloper is a user who has these rights and whatever every session needs.
func newDeveloper(t *testing.T, c *Cluster, ns, name, program string, rules ...rbacv1.PolicyRule) developer {
	t.Helper()
	dir, err := os.MkdirTemp("", "join") // t.TempDir's path is longer than one of sockets may be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	rules = append(rules, Allow([]string{"get", "list", "watch"}, "", "pods"), Allow([]string{"get", "create"}, "", "pods/portforward"))
	s := Stepin{Kubeconfig: c.User(t, ns, name, rules...), Dir: dir, Env: []string{"XDG_RUNTIME_DIR=" + dir}}
	return developer{Stepin: s, c: c, t: t, ns: ns, name: name, program: program}
}

// TestJoin: an agent is its creator's and theirs who may run commands in its pod; they share the target, and each session
// is its owner's to end.
func TestJoin(t *testing.T) {
	c := Up(t)
	node := c.Node(t)
	ns := c.Namespace(t, "")
	c.Apply(t, ns, Web("web", 1)+"---"+Client("client"))
	program := filepath.Join(t.TempDir(), "workload")
	build := exec.CommandContext(Limit(t), "go", "build", "-trimpath", "-o", program, "./workload")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ada := newDeveloper(t, c, ns, "ada", program, Allow([]string{"get"}, "apps", "deployments"), Allow([]string{"get", "create", "delete"}, "batch", "jobs"),
		Allow([]string{"get", "list", "create", "patch", "delete"}, "", "configmaps"))
	bob := newDeveloper(t, c, ns, "bob", program, Allow([]string{"get"}, "", "configmaps"))
	c.Ready(t, ns, "deployment/web", "pod/client")
	pod := c.Pods(t, ns, "app=web")[0]
	at := func(port int) string { return fmt.Sprintf("http://%s:%d/", pod.Status.PodIP, port) }
	serves := func(port int, who string) {
		t.Helper()
		if a := c.Ask(t, ns, "client", at(port)); a.Who != who {
			t.Errorf("port %d is served by %s, not by %s", port, a.Who, who)
		}
	}
	taken := func(port int) string {
		return fmt.Sprintf("tcp port %d of pod %s now sends its new connections", port, pod.Name)
	}

	begun := time.Now()
	first := ada.sit("deployment/web", "-http=:8080")
	first.says(taken(8080))
	t.Logf("the first session takes its port after %.1f s", time.Since(begun).Seconds())
	serves(8080, "ada")
	job := ada.jobs()
	if len(job) != 1 {
		t.Fatalf("%d Jobs", len(job))
	}
	mine := sessionsOf(ada.sessions(), ada.who())
	if len(mine) != 1 || !mine[0].Mine || mine[0].Target != "deployment/web" || mine[0].Pod != pod.Name || len(mine[0].Ports) != 1 || mine[0].Ports[0].Port != 8080 ||
		mine[0].Since.IsZero() || mine[0].Lost || mine[0].Paused {
		t.Fatalf("%+v", mine)
	}
	id := mine[0].ID

	t.Run("without pods/exec", func(t *testing.T) {
		bob := bob
		bob.t = t
		r := bob.run("exec", "-n", ns, "-t", "pod/"+pod.Name, "--", "true")
		want := "stepin: the pod's agent is somebody else's, and to join it the right to create pods/exec is missing\nhint: "
		if r.Status != 125 || !strings.HasPrefix(r.Stderr, want) || strings.Count(r.Stderr, "\n") != 2 {
			t.Errorf("%+v", r)
		}
		all := bob.sessions()
		if len(all) != 1 || all[0].ID != "" || all[0].Who != ada.who() || all[0].Since.IsZero() || all[0].Pod != pod.Name || !strings.Contains(all[0].Note, "--join") {
			t.Errorf("%+v", all)
		}
		if all := bob.sessions("--join"); len(all) != 1 || all[0].ID != "" || !strings.Contains(all[0].Note, "the right to create pods/exec is missing") {
			t.Errorf("%+v", all)
		}
		if r := bob.run("sessions", "stop", id, "-n", ns); r.Status != 125 || !strings.HasPrefix(r.Stderr, `stepin: there is no session "`+id) || !strings.Contains(r.Stderr, "--join") {
			t.Errorf("%+v", r)
		}
		if now := bob.jobs(); !slices.Equal(now, job) {
			t.Errorf("Jobs %q, before %q", now, job)
		}
		serves(8080, "ada")
	})

	c.Allow(t, ns, "bob", Allow([]string{"get", "create"}, "", "pods/exec"))
	Eventually(t, Patience, "the right takes effect", func() bool { return len(sessionsOf(bob.sessions("--join"), ada.who())) == 1 })
	second := bob.sit("pod/"+pod.Name, "-http=:9000", "-tcp=:8080")
	second.says(taken(9000))
	t.Run("shared", func(t *testing.T) {
		second.t = t
		// His other port is hers. He is told, and what he can have he has.
		second.says(`tcp port 8080 is not taken from pod ` + pod.Name + `: port 8080 is held by ` + ada.who() + ` since \d\d:\d\d:\d\d UTC`)
		serves(9000, "bob")
		serves(8080, "ada")
		if now := bob.jobs(); !slices.Equal(now, job) {
			t.Errorf("Jobs %q, before %q", now, job)
		}
		if n := strings.Count(second.stderr.String(), "is held by"); n != 1 {
			t.Errorf("he is told %d times", n)
		}
	})
	t.Run("stop", func(t *testing.T) {
		ada, bob := ada, bob
		ada.t, bob.t, second.t = t, t, t
		r := bob.run("sessions", "stop", id, "-n", ns)
		if r.Status != 125 || !regexp.MustCompile(`^stepin: it is not stopped: session "`+id+`" is `+ada.who()+`'s, since \d\d:\d\d:\d\d UTC; only they can stop it\nhint: `).MatchString(r.Stderr) {
			t.Errorf("a foreign session: %+v", r)
		}
		all := ada.sessions()
		his := sessionsOf(all, bob.who())
		if len(all) != 2 || len(his) != 1 || his[0].Mine || !sessionsOf(all, ada.who())[0].Mine || len(his[0].Ports) != 1 || his[0].Ports[0].Port != 9000 {
			t.Fatalf("%+v", all)
		}
		if r := bob.run("sessions", "-n", ns); r.Status != 0 || !regexp.MustCompile(`(?m)^`+his[0].ID[:8]+`  deployment/web  `+pod.Name+`  `+bob.who()+`  .*  9000   yours$`).MatchString(r.Stdout) {
			t.Errorf("%+v", r)
		}
		if r := bob.run("sessions", "stop", his[0].ID[:8], "-n", ns); r.Status != 0 || !strings.Contains(r.Stderr, "is stopped") {
			t.Fatalf("his own: %+v", r)
		}
		answered := time.Now()
		if who := greeting(t, c.Forward(t, ns, pod.Name, 9000)); who != "web" {
			t.Errorf("port 9000 is %s's right after", who)
		}
		second.wasStopped()
		t.Logf("the stopped session has ended after %.2f s", time.Since(answered).Seconds())
		serves(8080, "ada")
	})
	t.Run("warm", func(t *testing.T) {
		first.t = t
		first.leave()
		begun := time.Now()
		again := ada
		again.t = t
		third := again.sit("deployment/web", "-http=:8080")
		third.says(taken(8080))
		t.Logf("the second F5 takes its port after %.2f s", time.Since(begun).Seconds())
		serves(8080, "ada")
		if now := ada.jobs(); !slices.Equal(now, job) {
			t.Errorf("Jobs %q, before %q", now, job)
		}
		var asked []string
		Eventually(t, Patience, "the audit log has it", func() bool {
			asked = nil
			for _, r := range node.Requests(t, "system:serviceaccount:"+ns+":ada", begun) {
				if r.Stage == "ResponseStarted" || r.Verb != "watch" && r.ObjectRef.Subresource == "" { // streams, when they begin
					asked = append(asked, strings.TrimSuffix(r.Verb+" "+r.ObjectRef.Resource+"/"+r.ObjectRef.Subresource, "/"))
				}
			}
			return slices.Contains(asked, "get pods/portforward") && slices.Contains(asked, "watch pods")
		})
		// She may not note herself on the Job. She is not told: it is nothing of hers that is missing.
		asked = slices.DeleteFunc(asked, func(what string) bool { return what == "patch jobs" })
		slices.Sort(asked)
		t.Logf("asked of the API server: %q", asked)
		if got := slices.Compact(slices.Clone(asked)); !slices.Equal(got, []string{"get deployments", "get pods/portforward", "list pods", "watch pods"}) {
			t.Errorf("a warm start asks %q", got)
		}
		// A session that cannot hear it is stopped all the same: it learns it when it is back.
		if err := third.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		var lost []used
		Eventually(t, Patience, "the agent has lost the session", func() bool {
			lost = sessionsOf(ada.sessions(), ada.who())
			return len(lost) == 1 && lost[0].Lost
		})
		serves(8080, "web")
		if r := ada.run("sessions", "stop", lost[0].ID, "-n", ns); r.Status != 0 {
			t.Errorf("%+v", r)
		}
		if err := third.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		third.wasStopped()
	})
	c.LeavesNothing(t, ns, idleTTL+ending)
}

// greeting is who says to be on a TCP port of the workload's.
func greeting(t *testing.T, address string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	who, _, _ := strings.Cut(line, " ")
	return who
}
