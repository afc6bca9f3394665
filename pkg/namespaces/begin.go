package namespaces

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// ExecError says why a program did not run inside.
type ExecError struct {
	Status int           // of the stub: 127 there is no such program, 126 it cannot be run, 125 the namespaces are gone
	Errno  syscall.Errno // 0 where there was none
	Text   string        // the stub's line
}

// Error is the stub's line.
func (e *ExecError) Error() string { return "namespaces: " + e.Text }

// Unwrap returns the errno.
func (e *ExecError) Unwrap() error { return e.Errno }

// maxStubLine bounds the stub's line; it has 512 bytes itself.
const maxStubLine = 4 << 10

// Begin starts cmd inside, its path and arguments being as seen there, and returns when the program runs: so a program's own
// status 127 is not taken for a missing one. Where it cannot be run the error is an ExecError and the process has been reaped.
// Cmd must have no ExtraFiles.
func (n *Namespaces) Begin(cmd *exec.Cmd) error {
	said, tell, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("namespaces: making the stub's pipe: %w", err)
	}
	defer said.Close()
	cmd.Args = append([]string{n.stub, "-r", strconv.Itoa(n.HolderPid()), cmd.Path}, cmd.Args[1:]...)
	cmd.Path, cmd.ExtraFiles = n.stub, []*os.File{tell}
	err = cmd.Start()
	tell.Close()
	if err != nil {
		return fmt.Errorf("namespaces: starting the stub: %w", err)
	}
	line, err := io.ReadAll(io.LimitReader(said, maxStubLine)) // ends with the program's start: the kernel closes it then
	if err != nil {
		return fmt.Errorf("namespaces: reading what the stub says: %w", err)
	}
	if len(line) == 0 {
		return nil // it runs; or somebody has killed the stub, which the status will tell
	}
	_ = cmd.Wait() // its status is read below
	e := &ExecError{Status: cmd.ProcessState.ExitCode(), Text: strings.TrimPrefix(strings.TrimSpace(string(line)), "stepin stub: ")}
	e.Errno = errnoAtEnd(e.Text)
	return e
}

// errnoAtEnd reads the number in parentheses that ends the stub's line; 0 where there is none.
func errnoAtEnd(line string) syscall.Errno {
	at := strings.LastIndex(line, "(")
	if at < 0 {
		return 0
	}
	number, err := strconv.ParseUint(strings.TrimSuffix(line[at+1:], ")"), 10, 12) // errnos end at 4095 (linux/err.h)
	if err != nil {
		return 0
	}
	return syscall.Errno(number)
}
