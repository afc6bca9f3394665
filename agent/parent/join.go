package parent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/peer"
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
		if err := admit(c, joins); err != nil {
			log.Warn("somebody wants to join", "err", err)
		}
		c.Close()
	}
}

// admit reads who it is and writes the token.
func admit(c *net.UnixConn, joins chan<- join) error {
	_ = c.SetDeadline(time.Now().Add(joinTimeout))
	who, err := see(c)
	if err != nil {
		return err
	}
	j := join{printable(strings.TrimSuffix(who, "\n")), make(chan string, 1)}
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
	return show(c, answer+"\n")
}

// show sends the peer this process's mount namespace, with the first words. Only who is in a namespace, or could look
// into a process that is, has such a descriptor to send: whoever can look into the agent (ptrace(2)) has all its rights
// already.
func show(c *net.UnixConn, words string) error {
	ns, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	defer ns.Close()
	_, _, err = c.WriteMsgUnix([]byte(words), unix.UnixRights(int(ns.Fd())), nil)
	return err
}

// see reads what the peer shows, and the words that came along; an error says that the peer is no process of this
// user in this container. A look at /proc/PID of the peer would do, but without CAP_SYS_PTRACE that is refused.
func see(c *net.UnixConn) (words string, err error) {
	uid, err := peer.UID(c)
	if err != nil {
		return "", err
	}
	if uid != os.Getuid() {
		return "", fmt.Errorf("it is user %d's", uid)
	}
	b, oob := make([]byte, maxLockLine), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return "", err
	}
	shown, err := received(oob[:oobn])
	if err != nil {
		return "", err
	}
	defer unix.Close(shown)
	var theirs unix.Stat_t
	if err := unix.Fstat(shown, &theirs); err != nil {
		return "", err
	}
	ours, err := idOf("/proc/self/ns/mnt")
	if err != nil {
		return "", err
	}
	if (fileID{theirs.Dev, theirs.Ino}) != ours {
		return "", errors.New("it is in another container")
	}
	return string(b[:n]), nil
}

// received is the first descriptor of a message.
func received(oob []byte) (int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) == 0 {
		return -1, errors.New("it shows nothing")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) == 0 {
		return -1, errors.New("it shows nothing")
	}
	for _, fd := range fds[1:] {
		unix.Close(fd)
	}
	return fds[0], nil
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
	c := conn.(*net.UnixConn)
	_ = c.SetDeadline(time.Now().Add(joinTimeout))
	if err := show(c, printable(who)+"\n"); err != nil {
		return "", fmt.Errorf("asking the agent: %w", err)
	}
	line, err := see(c)
	if err != nil {
		return "", fmt.Errorf("what answers is not the agent of this container: %w", err)
	}
	line = strings.TrimSuffix(line, "\n")
	token, ok := strings.CutPrefix(line, joinPrefix)
	if !ok {
		return "", errors.New(printable(line))
	}
	return token, nil
}
