package node

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// pause is how long a component stays down before it is started again: long enough not to fill the disk with logs.
const pause = time.Second

// environment is all that components get of the machine's.
var environment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"}

// service is one component: a name for its log, and its command line.
type service struct {
	name string
	argv []string
}

// supervisor starts components and starts them again when they end. As PID 1 it also is the parent of every orphan
// (containerd's own children detach themselves), hence wait4(2) for any child instead of os/exec.
//
// Goroutines: none but the timers of restarts, which end when they have started a process.
type supervisor struct {
	logs string
	log  *slog.Logger

	mu      sync.Mutex // held from before a fork until its PID is noted, so that reap knows every child of ours
	running map[int]service
}

func newSupervisor(logs string, log *slog.Logger) *supervisor {
	return &supervisor{logs: logs, log: log, running: map[int]service{}}
}

// start starts a component, or tries again later.
func (s *supervisor) start(svc service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pid, err := s.fork(svc)
	if err != nil {
		s.log.Error("cannot start", "component", svc.name, "err", err)
		time.AfterFunc(pause, func() { s.start(svc) })
		return
	}
	s.running[pid] = svc
	s.log.Info("started", "component", svc.name, "pid", pid)
}

func (s *supervisor) fork(svc service) (int, error) {
	path, err := exec.LookPath(svc.argv[0])
	if err != nil {
		return 0, fmt.Errorf("node: %w", err)
	}
	out, err := os.OpenFile(filepath.Join(s.logs, svc.name+".log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return 0, fmt.Errorf("node: %w", err)
	}
	defer out.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, fmt.Errorf("node: %w", err)
	}
	defer null.Close()
	pid, err := syscall.ForkExec(path, svc.argv, &syscall.ProcAttr{
		Dir: "/", Env: environment, Files: []uintptr{null.Fd(), out.Fd(), out.Fd()}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, fmt.Errorf("node: %s: %w", path, err)
	}
	return pid, nil
}

// reap collects children as long as the channel tells of some: for good.
func (s *supervisor) reap(children <-chan os.Signal) {
	for range children {
		for {
			var status syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
			if errors.Is(err, syscall.EINTR) {
				continue
			}
			if err != nil || pid <= 0 {
				break
			}
			s.ended(pid, status)
		}
	}
}

func (s *supervisor) ended(pid int, status syscall.WaitStatus) {
	s.mu.Lock()
	svc, ours := s.running[pid]
	delete(s.running, pid)
	s.mu.Unlock()
	if !ours {
		return
	}
	s.log.Warn("ended", "component", svc.name, "pid", pid, "status", status.ExitStatus(), "signal", int(status.Signal()))
	time.AfterFunc(pause, func() { s.start(svc) })
}
