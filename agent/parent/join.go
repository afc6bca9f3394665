package parent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// joinTimeout bounds one conversation.
const joinTimeout = 5 * time.Second

// joinPrefix begins the line that carries a token; any other is a refusal in words.
const joinPrefix = "token "

// joinName is the abstract unix socket (unix(7)) on which a container's agent hands tokens out: one a container, which
// is one a mount namespace, and known to whatever runs there.
func joinName() (string, error) {
	id, err := idOf("/proc/self/ns/mnt")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("@stepin-join-%d", id.ino), nil
}

// join asks the loop for a token.
type join struct {
	who    string
	answer chan string // one, "" for none
}

// joining hands tokens to whoever runs in the agent's own container: the right to do so (pods/exec) is as good as the
// agent itself.
//
// Goroutine: serve's; it ends with close.
type joining struct{ listener *net.UnixListener }

// openJoining listens in this process's own network namespace.
func openJoining(joins chan<- join, log *slog.Logger) (*joining, error) {
	name, err := joinName()
	if err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listening for who joins: %w", err)
	}
	j := &joining{l}
	go j.serve(joins, log)
	return j, nil
}

func (j *joining) close() { j.listener.Close() }

// serve answers one after the other: a second is soon enough for a person.
func (j *joining) serve(joins chan<- join, log *slog.Logger) {
	for {
		c, err := j.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(lockTimeout)
			continue
		}
		if err := sameContainer(c); err != nil {
			log.Warn("a stranger wants to join", "err", err)
		} else if err := admit(c, joins); err != nil {
			log.Info("joining", "err", err)
		}
		c.Close()
	}
}

// admit reads who it is and writes the token.
func admit(c net.Conn, joins chan<- join) error {
	_ = c.SetDeadline(time.Now().Add(joinTimeout))
	who, err := readLock(c)
	if err != nil {
		return err
	}
	j := join{who, make(chan string, 1)}
	timeout := time.After(joinTimeout)
	select {
	case joins <- j:
	case <-timeout:
		return errors.New("the agent is busy")
	}
	answer := "too many tokens of this agent are in use"
	if token := <-j.answer; token != "" {
		answer = joinPrefix + token
	}
	_, err = io.WriteString(c, answer+"\n")
	return err
}

// sameContainer says whether the peer has this process's user and mount namespace. A process of the pod has another one,
// even where it shares the network.
func sameContainer(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var gerr error
	if err := raw.Control(func(fd uintptr) { cred, gerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if gerr != nil {
		return gerr
	}
	if int(cred.Uid) != os.Getuid() {
		return fmt.Errorf("process %d is user %d's", cred.Pid, cred.Uid)
	}
	theirs, err := idOf(fmt.Sprintf("/proc/%d/ns/mnt", cred.Pid))
	if err != nil {
		return err
	}
	ours, err := idOf("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	if theirs != ours {
		return fmt.Errorf("process %d is in another container", cred.Pid)
	}
	return nil
}

// Join asks the agent that runs in this container for a token. Its error is for the user.
func Join(ctx context.Context, who string) (token string, err error) {
	name, err := joinName()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", name)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return "", errors.New("no agent runs in this container hint: it has ended just now, start again")
	}
	if err != nil {
		return "", fmt.Errorf("asking the agent: %w", err)
	}
	defer conn.Close()
	if err := sameContainer(conn.(*net.UnixConn)); err != nil {
		return "", fmt.Errorf("what answers is not the agent: %w", err)
	}
	_ = conn.SetDeadline(time.Now().Add(joinTimeout))
	if _, err := io.WriteString(conn, printable(who)+"\n"); err != nil {
		return "", fmt.Errorf("asking the agent: %w", err)
	}
	line, err := bufio.NewReader(io.LimitReader(conn, maxLockLine)).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("asking the agent: %w", err)
	}
	token, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), joinPrefix)
	if !ok {
		return "", errors.New(printable(line))
	}
	return token, nil
}
