package parent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/agent/pair"
)

// childProcess is one child. It owns its end of the pair.
//
// Goroutines: wait (ends with the process), receive (ends with the pair).
type childProcess struct {
	cmd      *exec.Cmd
	conn     *pair.Conn
	messages chan message  // what it asks; closed when it has gone
	done     chan struct{} // closed when it has ended
}

type message struct {
	from *childProcess
	pair.Message
}

// ChildArg is the agent's only argument when it is the child, which finds its end of the pair as descriptor 3.
const ChildArg = "child"

// startChild starts a child in the pod's namespaces; it waits for its start message.
func startChild(in *inside) (*childProcess, []string, error) {
	var limits []string
	if in.uts != nil {
		limits = append(limits, fmt.Sprintf("the host name is this machine's, not the pod's: setns: %v", in.uts))
	}
	p, err := runChild(in, unix.CLONE_NEWPID)
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) {
		limits = append(limits, fmt.Sprintf("the agent shares this machine's process numbers: CLONE_NEWPID: %v", err))
		p, err = runChild(in, 0)
	}
	return p, limits, err
}

func runChild(in *inside, flags uintptr) (*childProcess, error) {
	conn, theirs, err := pair.New()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	// This program itself, whatever has happened to its file since.
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{"stepin-agent", ChildArg}, Dir: "/",
		Env: []string{"STEPIN_LOG=" + os.Getenv("STEPIN_LOG")}, Stderr: os.Stderr, ExtraFiles: []*os.File{theirs},
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL, Setsid: true}}
	if err := in.do(cmd.Start); err != nil {
		conn.Close()
		return nil, fmt.Errorf("starting the child: %w", err)
	}
	p := &childProcess{cmd: cmd, conn: conn, messages: make(chan message), done: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// begin tells the child what it is. From then on its questions arrive in messages.
func (p *childProcess) begin(s pair.Start, files []*os.File) error {
	raw, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := p.conn.Send(pair.Message{Op: pair.OpStart, Body: raw}, files...); err != nil {
		return err
	}
	go p.receive()
	return nil
}

func (p *childProcess) receive() {
	defer close(p.messages)
	for {
		m, files, err := p.conn.Recv()
		if err != nil {
			return
		}
		pair.CloseAll(files)
		select {
		case p.messages <- message{p, m}:
		case <-p.done:
			return
		}
	}
}

// end kills the child and waits until it is gone.
func (p *childProcess) end() {
	_ = p.cmd.Process.Kill()
	<-p.done
	p.conn.Close()
}

// retire has it say goodbye to its sessions and end by itself.
func (p *childProcess) retire(r pair.Retire) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return p.conn.Send(pair.Message{Op: pair.OpRetire, Body: raw})
}
