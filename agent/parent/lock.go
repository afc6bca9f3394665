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
	"unicode"

	"github.com/stepin-dev/stepin/pkg/peer"
)

// lock makes this the pod's only agent: an abstract unix socket in the pod's network namespace, which goes with the
// process. Two attached programs would silently starve the second (measured, design §6).
//
// Goroutine: one that tells callers who holds it; it ends with close.
type lock struct{ listener *net.UnixListener }

const (
	// lockTimeout bounds what a caller of the lock, or its holder, may take.
	lockTimeout = time.Second
	maxLockLine = 512
)

func lockName(netns uint64) string { return fmt.Sprintf("@stepin-%d", netns) }

// takeLock takes it, or says who has it and since when.
func takeLock(in *inside, netns uint64, who string, log *slog.Logger) (*lock, error) {
	var l *net.UnixListener
	name := lockName(netns)
	err := in.do(func() (err error) {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
		return err
	})
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, holder(in, name)
	}
	if err != nil {
		return nil, fmt.Errorf("taking the pod's lock: %w", err)
	}
	line := fmt.Sprintf("agent %d by %s since %s\n", os.Getpid(), printable(who), time.Now().UTC().Format(time.RFC3339))
	go serveLock(l, line, log)
	return &lock{l}, nil
}

func (l *lock) close() { l.listener.Close() }

// serveLock answers this user and root; what is in the pod learns nothing.
func serveLock(l *net.UnixListener, line string, log *slog.Logger) {
	for {
		c, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(lockTimeout)
			continue
		}
		uid, err := peer.UID(c)
		if err == nil && (uid == 0 || uid == os.Getuid()) {
			_ = c.SetDeadline(time.Now().Add(lockTimeout))
			_, _ = io.WriteString(c, line)
		} else {
			log.Info("a stranger at the lock", "uid", uid, "err", err)
		}
		c.Close()
	}
}

// holder asks who has the lock. Anybody in the pod could have taken the name, so who answers is looked at first.
func holder(in *inside, name string) error {
	var c net.Conn
	err := in.do(func() (err error) {
		ctx, cancel := context.WithTimeout(context.Background(), lockTimeout)
		defer cancel()
		c, err = (&net.Dialer{}).DialContext(ctx, "unix", name)
		return err
	})
	if err != nil {
		return fmt.Errorf("another agent holds this pod's lock, and does not answer: %w hint: try again", err)
	}
	defer c.Close()
	uid, err := peer.UID(c)
	if err != nil || uid != 0 && uid != os.Getuid() {
		return fmt.Errorf("user %d holds this pod's lock %s hint: have that user end the program that does", uid, name)
	}
	_ = c.SetDeadline(time.Now().Add(lockTimeout))
	line, err := readLock(c)
	if err != nil {
		return fmt.Errorf("another agent holds this pod's lock, and does not say whose: %w hint: try again", err)
	}
	return fmt.Errorf("this pod has an agent already: %s hint: end that user's sessions, or wait until they have ended", line)
}

// readLock reads the holder's line.
func readLock(r io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(r, maxLockLine)).ReadString('\n')
	if err != nil {
		return "", err
	}
	return printable(strings.TrimSuffix(line, "\n")), nil
}

// printable keeps foreign text harmless on a terminal.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	const longest = 200
	if len(s) > longest {
		s = strings.ToValidUTF8(s[:longest], "")
	}
	return s
}
