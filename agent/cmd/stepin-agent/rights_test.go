package main

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// jobCaps are what package parent's rights.go says that a Job's agent needs.
var jobCaps = []string{"sys_ptrace", "sys_admin", "dac_override", "sys_chroot", "setuid", "setgid", "kill", "net_admin", "net_raw"}

// newLimitedAgent starts an agent with those capabilities but one.
func newLimitedAgent(t *testing.T, p *testPod, without string) (*testAgent, string) {
	t.Helper()
	have := "-all"
	for _, c := range jobCaps {
		if c != without {
			have += ",+" + c
		}
	}
	a := agentOf(t)
	return a, a.start(exec.Command("setpriv", "--bounding-set", have, "--inh-caps", "-all", "--nnp", agentBinary, "--pod", "local/"+strconv.Itoa(p.pid)))
}

// symptoms are what an agent cannot do: nothing, where it has all that it needs. hang includes ending a child that hangs.
func symptoms(t *testing.T, p *testPod, a *testAgent, hang bool) (all []string) {
	t.Helper()
	s := a.join("one", "")
	d := s.describe()
	for _, r := range []string{"steal", "files", "env", "names", "outgoing", "hostname", "mirror"} {
		if !slices.Contains(d.Rights, r) {
			all = append(all, "no "+r)
		}
	}
	if slices.Contains(d.Rights, "redirect") {
		all = append(all, "redirect")
	}
	if _, err := s.open(wire.KindOpen, wire.Path{Path: "/secret/key"}, nil); err != nil {
		all = append(all, "the group's Secret")
	}
	if _, err := s.open(wire.KindOpen, wire.Path{Path: "/secret/root"}, nil); !errors.Is(err, syscall.EACCES) {
		all = append(all, "not the pod's user")
	}
	child := a.childPid()
	if root, err := os.ReadDir("/proc/" + strconv.Itoa(child) + "/root"); err == nil && len(root) > 0 {
		all = append(all, "a root of its own")
	}
	if len(strings.Fields(statusOf(t, child)["NSpid"])) < 2 {
		all = append(all, "no process namespace")
	}
	p.do(command{Do: "connect", ID: "open", Network: "tcp", Addr: podIP + ":8080", Client: true})
	p.do(command{Do: "ask", ID: "open", Text: "hi"})
	if _, err := s.steal(tcp(8080)); err != nil {
		all = append(all, "no TCP")
	} else if p.try(command{Do: "ask", ID: "open", Text: "hi"}).Err == "" {
		all = append(all, "open connections")
	}
	if _, err := s.steal(udp(8080)); err != nil {
		all = append(all, "no UDP")
	} else if got := p.ask("udp", podIP+":8080", true); !strings.HasPrefix(got, "session ") {
		all = append(all, "UDP unanswered")
	}
	if !hang {
		return all
	}
	if err := syscall.Kill(child, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	select {
	case <-a.done:
	case <-time.After(8 * time.Second): // it ends a child that hangs after some 5
		all = append(all, "a child that hangs")
		_ = syscall.Kill(child, syscall.SIGKILL)
	}
	return all
}

// TestCapabilities: with exactly those that are written down everything works, and without each of them something fails.
func TestCapabilities(t *testing.T) {
	if !asRoot(t) {
		return
	}
	missing := map[string]string{
		"":             "",
		"sys_ptrace":   "is not ours to enter",
		"sys_admin":    "entering the pod's network",
		"dac_override": "is not ours to enter",
		"setuid":       "taking the pod's user",
		"sys_chroot":   "a root of its own",
		"setgid":       "the group's Secret",
		"kill":         "a child that hangs",
		"net_admin":    "open connections",
		"net_raw":      "no mirror, no UDP",
	}
	if ownRoot() { // the agent is the pod's user, and steals by nftables
		missing = map[string]string{
			"":           "redirect, not the pod's user",
			"sys_ptrace": "is not ours to enter",
			"sys_admin":  "entering the pod's network",
			"sys_chroot": "redirect, not the pod's user, a root of its own",
			"net_admin":  "no steal, not the pod's user, no TCP, no UDP",
		}
	}
	for without, want := range missing {
		t.Run("without "+without, func(t *testing.T) {
			t.Parallel()
			p := servePod(t)
			a, refusal := newLimitedAgent(t, p, without)
			if without == "setuid" { // the child finds that out when it is listened to already
				<-a.done
				refusal = a.err.String()
			}
			if refusal == "" {
				if got := strings.Join(symptoms(t, p, a, without == "" || without == "kill"), ", "); got != want {
					t.Errorf("%q, want %q", got, want)
				}
			} else if !strings.Contains(a.err.String(), want) || want == "" {
				t.Errorf("%s, want %q", a.err, want)
			}
		})
	}
}
