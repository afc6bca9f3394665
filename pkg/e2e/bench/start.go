package bench

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepin-dev/stepin/adapter/dap/client"
	"github.com/stepin-dev/stepin/adapter/dap/talk"
	"github.com/stepin-dev/stepin/pkg/e2e"
)

// startBed is the program that is started, built and as source, and the pod in whose place it is.
type startBed struct {
	c         *e2e.Cluster
	namespace string
	local     int    // the pod's own process
	source    string // the folder of the program's own module
	built     string
	dlv       string
	changes   int
	kinds     map[kind]bool // those that have been prepared
}

func (b *run) startBed(s *scope, c *e2e.Cluster) bed {
	bed := &startBed{c: c, source: s.TempDir(), dlv: talk.FindDlv(s), kinds: map[kind]bool{}}
	bed.copySource(s)
	bed.built = filepath.Join(s.TempDir(), "program")
	cmd := exec.CommandContext(e2e.Limit(s), "go", "build", "-gcflags=all=-N -l", "-o", bed.built, ".")
	cmd.Dir, cmd.Env = bed.source, bed.environ()
	if text, err := cmd.CombinedOutput(); err != nil {
		s.Fatalf("building the program: %v: %s", err, text)
	}
	bed.namespace = c.Namespace(s, "")
	c.Apply(s, bed.namespace, e2e.Web("web", 1)+"---"+e2e.Web("local", 1)) // a pod takes one agent
	c.Ready(s, bed.namespace, "deployment/web", "deployment/local")
	bed.local = mainPid(s, c, bed.namespace, c.Pods(s, bed.namespace, "app=local")[0].Name)
	return bed
}

// copySource makes the workload a module of its own, which a user's program is; in this one the debugger would also
// look at what the tests need.
func (b *startBed) copySource(s *scope) {
	root, err := e2e.Root()
	if err != nil {
		s.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(root, "pkg", "e2e", "workload", "*.go"))
	if err != nil || len(files) == 0 {
		s.Fatal("the workload's source: ", err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			s.Fatal(err)
		}
		b.write(s, filepath.Base(file), string(text))
	}
	b.write(s, "go.mod", "module workload\n\ngo 1.26\n")
}

func (b *startBed) write(s *scope, name, text string) {
	if err := os.WriteFile(filepath.Join(b.source, name), []byte(text), 0o600); err != nil {
		s.Fatal(err)
	}
}

// environ is both sides': the same compiler flags, so that the standard library is compiled once for both.
func (b *startBed) environ() []string {
	return append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "PATH="+filepath.Dir(b.dlv)+":"+os.Getenv("PATH"))
}

func (b *startBed) ways() []string { return []string{"local", "bare"} }

func (b *startBed) sum(_ Row, medians map[string]float64) Parts {
	took := func(name string) time.Duration { return time.Duration(medians[name] * float64(time.Second)) }
	return Parts{Known: true, Per: "start", Together: true, Front: took("local") - took("bare"), Channel: took("stepin") - took("local")}
}

func (b *startBed) measure(s *scope, r Row, way string, _ time.Duration, slow bool) Measure {
	keys := map[string]any{"mode": "exec", "program": b.built, "cwd": b.source, "args": []string{"serve", "-http=:8080"}}
	if r.kind == f5Build {
		b.changes++
		b.write(s, "changed.go", fmt.Sprintf("package main\n\nconst changed = %d\n", b.changes))
		keys["mode"], keys["program"] = "debug", b.source
	}
	var took time.Duration
	switch {
	case way == "plain", way == "bare":
		took = b.bare(s, r, keys)
		if way == "plain" && r.sends() {
			took += b.c.Upload(s, b.c.Kubeconfig, b.namespace)
		}
	case way == "local":
		took = b.stepin(s, map[string]any{"target": fmt.Sprintf("local/%d", b.local)}, keys, 0)
	default:
		configuration := map[string]any{"target": "deployment/web", "namespace": b.namespace}
		if r.kind == f5Warm {
			if !b.kinds[f5Warm] { // its agent stays
				b.kinds[f5Warm] = true
				b.stepin(s, configuration, keys, 0)
			}
		} else {
			b.cold(s)
		}
		brake := time.Duration(0)
		if slow {
			brake = r.brake()
		}
		took = b.stepin(s, configuration, keys, brake)
	}
	return Measure{Value: took.Seconds()}
}

// cold deletes what the last start has left and waits until it is gone.
func (b *startBed) cold(s *scope) {
	jobs, pods := b.c.Client.BatchV1().Jobs(b.namespace), b.c.Client.CoreV1().Pods(b.namespace)
	foreground := metav1.DeletePropagationForeground
	err := jobs.DeleteCollection(e2e.Limit(s), metav1.DeleteOptions{PropagationPolicy: &foreground}, metav1.ListOptions{})
	if err != nil {
		s.Fatal(err)
	}
	e2e.Eventually(s, e2e.Patience, "the last start's agent has gone", func() bool {
		left, err := jobs.List(e2e.Limit(s), metav1.ListOptions{})
		if err != nil {
			s.Fatal(err)
		}
		all, err := pods.List(e2e.Limit(s), metav1.ListOptions{})
		if err != nil {
			s.Fatal(err)
		}
		return len(left.Items) == 0 && !slices.ContainsFunc(all.Items, func(p corev1.Pod) bool { return strings.HasPrefix(p.Name, "stepin-") })
	})
}

// stepin starts `stepin dap` as an editor does, and returns how long it took from there to the first line of main.
func (b *startBed) stepin(s *scope, configuration, keys map[string]any, brake time.Duration) (took time.Duration) {
	debugger := map[string]any{"type": "go"}
	for key, value := range keys {
		debugger[key] = value
	}
	configuration["debugger"] = debugger
	err := within(s.ctx, s.name, s.log, func(s *scope) {
		begun := time.Now()
		time.Sleep(brake)
		a := e2e.Stepin{Kubeconfig: b.c.Kubeconfig, Dir: b.source, Env: b.environ()}.DAP(s)
		took = toMain(s, a.Client, "stepin", configuration, begun)
	})
	if err != nil {
		s.Fatal(err)
	}
	return took
}

// bare does the same with the debugger alone. It is told to connect back, which takes no waiting for a port.
func (b *startBed) bare(s *scope, r Row, keys map[string]any) (took time.Duration) {
	arguments := map[string]any{"request": "launch"}
	for key, value := range keys {
		arguments[key] = value
	}
	err := within(s.ctx, s.name, s.log, func(s *scope) {
		dir := s.TempDir()
		if r.kind == f5Build {
			arguments["output"] = filepath.Join(dir, "built")
		}
		l, err := net.Listen("unix", filepath.Join(dir, "s"))
		if err != nil {
			s.Fatal(err)
		}
		defer l.Close()
		said := &talk.Buffer{}
		cmd := exec.CommandContext(e2e.Limit(s), b.dlv, "dap", "--client-addr=unix:"+l.Addr().String())
		cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = b.source, b.environ(), said, said
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		begun := time.Now()
		if err := cmd.Start(); err != nil {
			s.Fatal(err)
		}
		s.Cleanup(func() { end(cmd) })
		if err := l.(*net.UnixListener).SetDeadline(time.Now().Add(e2e.Patience)); err != nil {
			s.Fatal(err)
		}
		conn, err := l.Accept()
		if err != nil {
			s.Fatalf("dlv: %v: %s", err, said.String())
		}
		c := client.New(conn)
		s.Cleanup(func() { _ = c.Close() })
		took = toMain(s, c, "go", arguments, begun)
	})
	if err != nil {
		s.Fatal(err)
	}
	return took
}

// toMain is what an editor says until the program stops at main's first line, and its end.
func toMain(s *scope, c *client.Client, adapter string, launch map[string]any, begun time.Time) time.Duration {
	ctx, cancel := context.WithTimeout(s.Context(), e2e.Patience)
	defer cancel()
	must := func(err error) {
		if err != nil {
			s.Fatalf("%v\n%s%s", err, c.Output("console"), c.Output("stderr"))
		}
	}
	do := func(command string, arguments any) {
		m, err := c.Do(ctx, command, arguments)
		if err == nil {
			err = m.Err()
		}
		must(err)
	}
	wait := func(event string) *client.Message {
		m, err := c.Event(ctx, event, "terminated")
		must(err)
		if m.Event != event {
			s.Fatalf("it ended before it had %s\n%s%s", event, c.Output("console"), c.Output("stderr"))
		}
		return m
	}
	do("initialize", map[string]any{"clientID": "bench", "adapterID": adapter, "pathFormat": "path", "linesStartAt1": true, "columnsStartAt1": true})
	_, launched, err := c.Send("launch", launch)
	must(err)
	failed := make(chan struct{})
	go func() { // a launch that fails has no event
		defer close(failed)
		if m, ok := <-launched; ok && m.Err() != nil {
			s.Error(m.Err())
			cancel()
		}
	}()
	wait("initialized")
	do("setFunctionBreakpoints", map[string]any{"breakpoints": []any{map[string]any{"name": "main.main"}}})
	do("configurationDone", nil)
	wait("stopped")
	took := time.Since(begun)
	<-failed
	do("disconnect", map[string]any{"terminateDebuggee": true})
	return took
}
