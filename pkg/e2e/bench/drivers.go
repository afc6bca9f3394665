package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/stepin-dev/stepin/adapter/dap/talk"
	"github.com/stepin-dev/stepin/pkg/e2e"
	"github.com/stepin-dev/stepin/pkg/e2e/bench/drive"
)

// build compiles a program of this module as the cluster's images have theirs.
func build(s *scope, dir, pkg string) string {
	root, err := e2e.Root()
	if err != nil {
		s.Fatal(err)
	}
	file := filepath.Join(dir, filepath.Base(pkg))
	cmd := exec.CommandContext(e2e.Limit(s), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", file, pkg)
	cmd.Dir = filepath.Join(root, "pkg", "e2e")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		s.Fatalf("building %s: %v: %s", pkg, err, text)
	}
	return file
}

// driver is one that runs somewhere: package drive behind a pair of pipes.
type driver struct {
	orders  *json.Encoder
	reports *json.Decoder
	errs    *talk.Buffer
}

// do has an order carried out. A driver that has ended says so by its pipe.
func (d *driver) do(s *scope, o drive.Order) drive.Report {
	var r drive.Report
	if err := d.orders.Encode(o); err != nil {
		s.Fatalf("%s: ordering: %v: %s", o.URL, err, d.errs.String())
	}
	if err := d.reports.Decode(&r); err != nil {
		s.Fatalf("%s: waiting for the report: %v: %s", o.URL, err, d.errs.String())
	}
	return r
}

// until repeats a short order until it succeeds: who is to answer may still be starting.
func (d *driver) until(s *scope, url, expect string) {
	var r drive.Report
	for end := time.Now().Add(e2e.Patience); time.Now().Before(end); time.Sleep(pace) {
		if r = d.do(s, drive.Order{URL: url, At: 1, For: pace, Expect: expect}); r.Err == "" {
			return
		}
	}
	s.Fatalf("%s: %s: %s", url, r.Err, d.errs.String())
}

// pace is how often a state is asked for while it is waited for.
const pace = 50 * time.Millisecond

// command is a driver that is a process on this machine, under stepin or not. It ends with the scope.
func command(s *scope, cmd *exec.Cmd) *driver {
	d := &driver{errs: &talk.Buffer{}}
	in, err := cmd.StdinPipe()
	if err != nil {
		s.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.Fatal(err)
	}
	cmd.Stderr = d.errs
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		in.Close()
		end(cmd)
	})
	d.orders, d.reports = json.NewEncoder(in), json.NewDecoder(out)
	return d
}

// ending bounds how long a process has for its own end.
const ending = 10 * time.Second

// end waits for a process that has been asked to end.
func end(cmd *exec.Cmd) {
	late := time.AfterFunc(ending, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait()
	late.Stop()
}

// inPod is a driver in the client's pod, which has a shell and a folder to write to.
//
// Goroutines: one that carries the command's streams, ended by the end of its input.
func inPod(s *scope, c *e2e.Cluster, namespace, pod, program string) *driver {
	file, err := os.Open(program)
	if err != nil {
		s.Fatal(err)
	}
	defer file.Close()
	const there = "/bench/driver"
	if _, errs, err := c.Run(e2e.Limit(s), namespace, pod, "", file, "/bin/sh", "-c", "cat >"+there+" && chmod +x "+there); err != nil {
		s.Fatalf("taking the driver to pod %s: %v: %s", pod, err, errs)
	}
	request := c.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: []string{there}, Stdin: true, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(c.Config, http.MethodGet, request.URL().String())
	if err != nil {
		s.Fatal(err)
	}
	orders, in := io.Pipe()
	reports, out := io.Pipe()
	d := &driver{orders: json.NewEncoder(in), reports: json.NewDecoder(reports), errs: &talk.Buffer{}}
	ctx, cancel := context.WithCancel(s.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: orders, Stdout: out, Stderr: d.errs})
		out.CloseWithError(fmt.Errorf("the command in pod %s has ended: %w", pod, err))
		orders.CloseWithError(io.ErrClosedPipe)
	}()
	s.Cleanup(func() {
		in.Close()
		cancel()
		<-ended
	})
	return d
}

// process starts a program on this machine that ends with the scope by SIGINT.
func process(s *scope, cmd *exec.Cmd) *talk.Buffer {
	var said talk.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		end(cmd)
	})
	return &said
}
