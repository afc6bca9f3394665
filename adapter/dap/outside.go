package dap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// dialPause is the wait between two attempts to reach a real debugger that is starting.
const dialPause = 20 * time.Millisecond

// startStreams starts a real debugger that talks on its standard input and output.
func (r *run) startStreams(command Command, d Debugger) (io.ReadWriteCloser, error) {
	stdin, ours, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("dap: making a pipe for %s: %w", r.name, err)
	}
	theirs, stdout, err := os.Pipe()
	if err == nil {
		err = r.startProcess(command.Argv, command, d, stdin, stdout)
		stdout.Close()
	}
	stdin.Close()
	if err != nil {
		ours.Close()
		theirs.Close()
		return nil, err
	}
	return streams{theirs, ours}, nil
}

// streams are two pipes as one connection.
type streams struct{ from, to *os.File }

func (s streams) Read(p []byte) (int, error)  { return s.from.Read(p) }
func (s streams) Write(p []byte) (int, error) { return s.to.Write(p) }
func (s streams) Close() error                { return errors.Join(s.to.Close(), s.from.Close()) }

// startServer starts a real debugger that listens, and connects to it.
func (r *run) startServer(ctx context.Context, command Command, d Debugger) (io.ReadWriteCloser, error) {
	if err := r.startProcess(command.Argv, command, d, nil, nil); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	for {
		conn, err := net.Dial("unix", r.socket)
		if err == nil {
			return conn, nil
		}
		select {
		case <-r.exited:
			return nil, r.death()
		case <-ctx.Done():
			if ctx.Err() == context.DeadlineExceeded {
				return nil, fail.New(fail.DebuggerFailed, "stepin doctor", "%s did not listen within %s", r.name, connectTime)
			}
			return nil, ctx.Err()
		case <-time.After(dialPause):
		}
	}
}

// killTree ends a process and all that it has started. While it is stopped it starts no more, and reaps nobody whose
// number could then be a stranger's.
func killTree(p *os.Process) {
	p.Signal(syscall.SIGSTOP) // it may have ended: nothing to do then, here and below
	for _, pid := range childrenOf(p.Pid) {
		if child, err := os.FindProcess(pid); err == nil {
			killTree(child)
		}
	}
	p.Kill()
}

// childrenOf lists the processes that a process has started and that still run (proc_pid_task_tid_children(5),
// CONFIG_PROC_CHILDREN).
func childrenOf(pid int) (children []int) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it went meanwhile
		}
		for word := range strings.FieldsSeq(string(text)) {
			if child, err := strconv.Atoi(word); err == nil {
				children = append(children, child)
			}
		}
	}
	return children
}
