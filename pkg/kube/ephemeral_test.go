package kube

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	authv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// TestArrival: what comes through standard input is executed in the script's own process, with nothing beside it; where
// nothing comes the script ends by itself.
func TestArrival(t *testing.T) {
	const agent = "#!/bin/sh\necho \"$@\"; ps -o args= --ppid $$ | grep -v '^ps \\|^grep '; exit 3\n"
	for name, test := range map[string]struct {
		stdin  func(w *os.File)
		status int
		out    string
		words  string
	}{
		"arrives": {func(w *os.File) { _, _ = w.WriteString(agent); _ = w.Close() }, 3, "--pod x\n", ""},
		"half":    {func(w *os.File) { _, _ = w.WriteString(agent) }, 1, "", neverArrived},
		"nothing": {func(*os.File) {}, 1, "", neverArrived},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			script := strings.Replace(arriveScript, "/tmp /var/tmp /dev/shm /run", "'"+t.TempDir()+"'", 1)
			if name != "arrives" {
				script = strings.Replace(script, "n=2400", "n=10", 1)
			}
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			var out, words strings.Builder
			cmd := exec.CommandContext(limited15(t), "sh", "-c", script, "stepin-agent", "--pod", "x")
			cmd.Stdin, cmd.Stdout, cmd.Stderr = r, &out, &words
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			_ = r.Close()
			test.stdin(w)
			_ = cmd.Wait()
			if cmd.ProcessState.ExitCode() != test.status || out.String() != test.out || lastLine(words.String()) != test.words {
				t.Errorf("%v, said %q and %q", cmd.ProcessState, out.String(), words.String())
			}
		})
	}
	if !strings.Contains(arriveScript, "n=2400;") || arrivalWait != 2400*50*time.Millisecond {
		t.Error("the script waits otherwise")
	}
	if d, err := time.ParseDuration(arrivalSeconds + "s"); err != nil || d != arrivalWait || arrivalWait <= agentWait {
		t.Errorf("%v, %v", d, err)
	}
}

// TestMayAttach: nothing is added to a pod that nothing could be sent to.
func TestMayAttach(t *testing.T) {
	const reviews = "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
	may := func(allowed bool) http.HandlerFunc {
		return answer(&authv1.SelfSubjectAccessReview{TypeMeta: metav1.TypeMeta{Kind: "SelfSubjectAccessReview", APIVersion: "authorization.k8s.io/v1"},
			Status: authv1.SubjectAccessReviewStatus{Allowed: allowed}})
	}
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		image  string
		asked  int
		err    bool
	}{
		"allowed":         {may(true), "", 1, false},
		"not allowed":     {may(false), "", 1, true},
		"no answer":       {forbid("create", "selfsubjectaccessreviews"), "", 1, false},
		"nothing to send": {may(false), "example/agent:1", 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := agentServer(t, map[string]http.HandlerFunc{reviews: test.answer})
			o := agentOptions(t)
			o.Config.Mode, o.Config.Image = "ephemeral", test.image
			a, err := open(t, s).Agent(limited15(t), o)
			if err == nil {
				_ = a.Discard(limited15(t))
			}
			if (err != nil) != test.err || test.err && (fail.CodeOf(err) != fail.ClusterForbidden || !strings.Contains(err.Error(), "create pods/attach in namespace shop is missing")) {
				t.Error(err)
			}
			patches := 4 // three dry runs and one
			if test.err {
				patches = 3
			}
			if s.count(reviews) != test.asked || s.count("PATCH "+shopAdd) != patches {
				t.Errorf("asked %d times, added %d times", s.count(reviews), s.count("PATCH "+shopAdd))
			}
		})
	}
}

// TestOverdue: a container whose agent has not come for longer than anybody would send it is given up; a younger one is
// waited for.
func TestOverdue(t *testing.T) {
	for name, age := range map[string]time.Duration{"old": arrivalWait + time.Minute, "young": time.Second} {
		t.Run(name, func(t *testing.T) {
			o := agentOptions(t)
			e, err := agentEphemeral(jobOptions{pod: o.Pod, who: "bob@desk", port: firstInside}, rungNet, 0)
			if err != nil {
				t.Fatal(err)
			}
			o.Pod.Spec.Spec.EphemeralContainers = []corev1.EphemeralContainer{*e}
			o.Pod.Spec.Status.EphemeralContainerStatuses = []corev1.ContainerStatus{{Name: e.Name,
				State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(time.Now().Add(-age))}}}}
			o.Config.Mode = "ephemeral"
			at := shopPods + "/" + o.Pod.Name + "/exec"
			s := agentServer(t, map[string]http.HandlerFunc{"GET " + at: speaking(t, "", "the agent's file is not there\n", execBad)})
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			defer cancel()
			if age < arrivalWait {
				ctx, cancel = context.WithTimeout(ctx, 500*time.Millisecond)
				defer cancel()
			}
			a, err := open(t, s).Agent(ctx, o)
			asked := s.count("GET " + at)
			if age > arrivalWait {
				if err != nil || asked != 1 || a.t.Container != ephemeralName(1) {
					t.Fatalf("%v, asked %d times", err, asked)
				}
				_ = a.Discard(limited15(t))
			} else if err == nil || asked < 2 || asked > 6 { // 25, 50, 100, 200 ms
				t.Errorf("%v, asked %d times", err, asked)
			}
		})
	}
}
