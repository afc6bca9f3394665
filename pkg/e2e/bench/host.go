package bench

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/stepin-dev/stepin/pkg/e2e"
)

// hostBed is a program that opens and looks at files of the machine's, and a pod in whose place it does so.
type hostBed struct {
	c         *e2e.Cluster
	namespace string
	program   string
}

func (b *run) hostBed(s *scope, c *e2e.Cluster) bed {
	bed := &hostBed{c: c, namespace: c.Namespace(s, ""), program: filepath.Join(s.TempDir(), "program")}
	root, err := e2e.Root()
	if err != nil {
		s.Fatal(err)
	}
	sources, err := filepath.Glob(filepath.Join(root, "pkg", "conform", "programs", "c", "*.c"))
	if err != nil || len(sources) == 0 {
		s.Fatal("the program's source: ", err)
	}
	cmd := exec.CommandContext(e2e.Limit(s), "gcc", append([]string{"-std=gnu11", "-O1", "-pthread", "-o", bed.program}, sources...)...)
	if text, err := cmd.CombinedOutput(); err != nil {
		s.Fatalf("compiling: %v: %s", err, text)
	}
	c.Apply(s, bed.namespace, e2e.Web("web", 1))
	c.Ready(s, bed.namespace, "deployment/web")
	return bed
}

// ways are none: the agent and the channel have no part in it.
func (*hostBed) ways() []string                        { return nil }
func (*hostBed) sum(Row, map[string]float64) (p Parts) { return p }

// measure is the nanoseconds of a call. Broken on purpose is that one of its files is the pod's.
func (b *hostBed) measure(s *scope, _ Row, way string, _ time.Duration, slow bool) Measure {
	cmd := exec.CommandContext(e2e.Limit(s), b.program, "cost")
	if way == "stepin" {
		configuration := map[string]any{"target": "deployment/web", "namespace": b.namespace, "frontEnd": "preload", "incoming": map[string]any{"mode": "off"}}
		if slow {
			configuration["files"] = map[string]any{"map": map[string]string{"/etc/passwd": "/etc/hosts"}}
		}
		cmd = e2e.Stepin{Kubeconfig: b.c.Kubeconfig}.Exec(e2e.Limit(s), s, configuration, b.program, "cost")
	}
	text, err := cmd.Output()
	var m Measure
	if err == nil {
		_, err = fmt.Sscanf(string(text), "cost nanoseconds: %g", &m.Value)
	}
	if err != nil {
		s.Fatalf("%v: %q", err, text)
	}
	return m
}
