package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
)

// maxOutput bounds what a command in a container may print on either stream. Ours print one line; what runs away is
// cut off by an error.
const maxOutput = 1 << 20

// ExitError is a command that ran in a container and failed.
type ExitError struct {
	Status int
	Stderr string // its last words
}

// Error says how the command ended.
func (e *ExitError) Error() string {
	if e.Stderr == "" {
		return fmt.Sprintf("exit status %d", e.Status)
	}
	return fmt.Sprintf("exit status %d: %s", e.Status, e.Stderr)
}

// Exec runs a command in a container, without input, and returns what it printed. Errors: *ExitError where it ran and
// failed, ErrPodGone, ErrNotYet (the container does not run), and fail.Error for the rest. The context bounds it.
func (c *Cluster) Exec(ctx context.Context, namespace, pod, container string, command []string) ([]byte, error) {
	where := c.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: container, Command: command, Stdout: true, Stderr: true}, scheme.ParameterCodec).URL()
	first, err := remotecommand.NewWebSocketExecutor(c.config, "GET", where.String())
	if err != nil {
		return nil, c.explain(err, "running a command in pod %s", pod)
	}
	second, err := remotecommand.NewSPDYExecutor(c.config, "POST", where)
	if err != nil {
		return nil, c.explain(err, "running a command in pod %s", pod)
	}
	run := func(e remotecommand.Executor) ([]byte, error) {
		out, said := &limited{}, &limited{}
		stream := func() error {
			_, err := await(ctx, func() (struct{}, error) {
				return struct{}{}, e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: out, Stderr: said})
			}, func(struct{}) {})
			return err
		}
		err := stream()
		if c.plugin != nil && apierrors.IsUnauthorized(upgradeError(err)) {
			c.renew(ctx)
			err = stream()
		}
		var exit utilexec.ExitError
		if errors.As(err, &exit) && exit.Exited() {
			err = &ExitError{Status: exit.ExitStatus(), Stderr: strings.TrimSpace(said.kept.String())}
		}
		if err != nil && exit == nil {
			return nil, err // and whatever still writes to out is welcome to it
		}
		if out.over {
			err = fmt.Errorf("kube: the command printed more than %d bytes: %w", maxOutput, io.ErrShortWrite)
		}
		return out.kept.Bytes(), err
	}
	var out []byte
	another := c.spdyOnly.Load()
	if !another {
		out, err = run(first)
		another = refusedUpgrade(err)
	}
	if another {
		out, err = run(second)
	}
	var exit *ExitError
	var status apierrors.APIStatus
	switch {
	case err == nil:
		return out, nil
	case errors.As(err, &exit), errors.Is(err, io.ErrShortWrite):
		return out, err
	case errors.As(upgradeError(err), &status) && status.Status().Code == 404:
		return nil, fmt.Errorf("kube: pod %s/%s: %w", namespace, pod, ErrPodGone)
	case errors.As(upgradeError(err), &status) && overloaded(status.Status().Code):
		return nil, overload{c.explain(upgradeError(err), "running a command in pod %s", pod)}
	case errors.As(upgradeError(err), &status) && status.Status().Code >= 500:
		return nil, fmt.Errorf("kube: pod %s/%s: %w: %s", namespace, pod, ErrNotYet, status.Status().Message)
	}
	return nil, c.explain(upgradeError(err), "running a command in pod %s", pod)
}

// limited is a buffer that refuses to grow without end. client-go drops the error, so it remembers. The buffer is not
// embedded: its ReadFrom would take everything.
type limited struct {
	kept bytes.Buffer
	over bool
}

func (l *limited) Write(p []byte) (int, error) {
	if l.over = l.over || l.kept.Len()+len(p) > maxOutput; l.over {
		return 0, io.ErrShortWrite
	}
	return l.kept.Write(p)
}
