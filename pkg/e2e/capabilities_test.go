package e2e

import (
	"bufio"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// hangs is how long an agent may need to end a half of its own that hangs: it takes some 5 s.
const hangs = 9 * time.Second

// lack is a capability, and what is missing without it.
type lack struct {
	capability corev1.Capability
	refused    string            // no session starts, with these words
	table      map[string]string // what the program gets otherwise
	says       string            // what stepin says
	symptom    string
}

var lacks = []lack{
	{},
	{capability: "SYS_PTRACE", refused: "is not ours to enter"},
	{capability: "DAC_OVERRIDE", refused: "is not ours to enter"},
	{capability: "SYS_ADMIN", refused: "entering the pod's network: setns: operation not permitted"},
	{capability: "SETUID", refused: "taking the pod's user 1000: operation not permitted"},
	{capability: "SETGID", table: map[string]string{"Secret": "permission denied"}, says: "files that only a supplementary group may read are out of reach"},
	{capability: "NET_RAW", says: "UDP ports cannot be stolen"},
	{capability: "NET_ADMIN", symptom: "the open connection goes on"},
	{capability: "SYS_CHROOT", symptom: "the child sees a root directory"},
	{capability: "KILL", symptom: "a child that hangs is not ended"},
}

// TestCapabilities: the Job asks for no capability but those without which something stops, each of which is taken away
// here on its way to the API server.
func TestCapabilities(t *testing.T) {
	c := Up(t)
	c.Node(t)
	shops := map[string]string{}
	for _, l := range lacks {
		shops[l.pod()] = scratch
	}
	m := newMarket(t, c, "", shops)
	var seen []corev1.Capability
	jobs := make(chan []corev1.Capability, len(lacks))
	t.Run("each", func(t *testing.T) {
		for _, l := range lacks {
			t.Run(l.pod(), func(t *testing.T) {
				t.Parallel()
				m.lacking(t, l, jobs)
			})
		}
	})
	for range lacks {
		if seen = <-jobs; seen == nil {
			t.Fatal("a session has made no Job")
		}
		for _, have := range seen {
			if !slices.ContainsFunc(lacks, func(l lack) bool { return l.capability == have }) {
				t.Errorf("nothing shows that the Job needs %s", have)
			}
		}
		if len(seen) != len(lacks)-1 {
			t.Errorf("the Job asks for %v", seen)
		}
	}
}

func (l lack) pod() string {
	if l.capability == "" {
		return "all"
	}
	return "without-" + strings.ToLower(strings.ReplaceAll(string(l.capability), "_", "-"))
}

// lacking has one session without the capability, and looks at all that could be wrong.
func (m *market) lacking(t *testing.T, l lack, jobs chan<- []corev1.Capability) {
	pod := l.pod()
	var asked []corev1.Capability
	defer func() { jobs <- asked }()
	kubeconfig := m.c.Meddler(t, func(job *batchv1.Job) {
		s := job.Spec.Template.Spec.Containers[0].SecurityContext
		if asked = slices.Clone(s.Capabilities.Add); s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			t.Error("the Job wants seccomp ", s.SeccompProfile.Type)
		}
		s.Capabilities.Add = slices.DeleteFunc(s.Capabilities.Add, func(c corev1.Capability) bool { return c == l.capability })
	})
	open := m.connection(t, pod)
	begun := time.Now()
	v, serving := m.visit(t, kubeconfig, "pod/"+pod, map[string]any{"mode": "pod"}, map[string]any{"mode": "steal"})
	if l.refused != "" {
		if serving || v.status() != 125 || !strings.Contains(v.Stderr.String(), l.refused) {
			t.Errorf("status %d, want the refusal %q", v.status(), l.refused)
		}
		t.Logf("after %.1f s: %s", time.Since(begun).Seconds(), strings.TrimSpace(v.Stderr.String()))
		return
	}
	if !serving {
		t.Fatal("no session")
	}
	m.got(t, v, pod, l.table)
	v.said(t, "tcp port 9000 of pod "+pod+" now sends")
	if l.says == "" {
		v.said(t, "udp port 9001 of pod "+pod+" now sends")
	} else {
		v.said(t, l.says)
	}
	var symptoms []string
	if open() {
		symptoms = append(symptoms, "the open connection goes on")
	}
	parent, child := m.agents(t, pod)
	// The directory of a thread that has ended cannot be read any more, not even by us.
	if entries, err := os.ReadDir("/proc/" + strconv.Itoa(child) + "/root/"); err == nil && len(entries) > 0 {
		symptoms = append(symptoms, "the child sees a root directory")
	}
	if l.symptom == "" && l.says == "" || l.capability == "KILL" {
		if err := syscall.Kill(child, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(hangs); syscall.Kill(parent, 0) == nil; time.Sleep(pace) {
			if time.Now().After(end) {
				symptoms = append(symptoms, "a child that hangs is not ended")
				_ = syscall.Kill(child, syscall.SIGKILL)
				break
			}
		}
	}
	if got := strings.Join(symptoms, ", "); got != l.symptom {
		t.Errorf("%q, want %q", got, l.symptom)
	}
}

// connection opens one to the pod's own program, and returns what says later whether it is still that program's.
func (m *market) connection(t *testing.T, pod string) func() bool {
	t.Helper()
	conn, err := net.Dial("tcp", m.c.Forward(t, m.ns, pod, 9000))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	lines := bufio.NewReader(conn)
	if line, err := lines.ReadString('\n'); err != nil || !strings.HasPrefix(line, "pod ") {
		t.Fatalf("%q, %v", line, err)
	}
	return func() bool {
		_ = conn.SetDeadline(time.Now().Add(Patience))
		if _, err := conn.Write([]byte("hello\n")); err != nil {
			return false
		}
		line, err := lines.ReadString('\n')
		return err == nil && line == "hello\n"
	}
}

// agents are the numbers of the two processes of the agent that serves a pod.
func (m *market) agents(t *testing.T, pod string) (parent, child int) {
	t.Helper()
	id := string(m.c.Pods(t, m.ns, "app="+pod)[0].UID)
	var agents []corev1.Pod
	Eventually(t, Patience, "the agent's pod is ready", func() bool {
		agents = m.c.Pods(t, m.ns, "stepin.dev/pod="+id)
		return len(agents) == 1
	})
	for _, p := range m.c.Node(t).In(t, agents[0].Status.ContainerStatuses[0].ContainerID) {
		switch {
		case strings.HasSuffix(p.Command, " child"):
			child = p.Pid
		case strings.Contains(p.Command, id):
			parent = p.Pid
		}
	}
	if parent == 0 || child == 0 {
		t.Fatal("the agent's processes are not to be seen")
	}
	return parent, child
}
