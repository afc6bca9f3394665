package kube

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/wire"
)

const (
	tokenBytes = 16 // 128 bits: nobody guesses it in the minutes an agent lives
	// maxTicket bounds a ticket's file in bytes. oldTicket is when one that no session uses is thrown away: no agent stays that
	// long without one. maxTickets bounds how many of those are kept: twice what a session with all its pods leaves.
	maxTicket  = 16 << 10
	oldTicket  = 24 * time.Hour
	maxTickets = 128
	suffix     = ".agent"
)

// newToken makes a session's secret and what an agent is told of it.
func newToken() (token, hash string) {
	raw := make([]byte, tokenBytes)
	_, _ = rand.Read(raw) // never fails (crypto/rand)
	token = hex.EncodeToString(raw)
	return token, tokenHash(token)
}

func tokenHash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// ticket is what lets this user back to an agent he has been let in to, without asking the cluster about it first.
type ticket struct {
	Token     string `json:"token"`
	Namespace string `json:"namespace"` // of the pod that the agent runs in
	Pod       string `json:"pod"`
	Container string `json:"container"` // that it runs in
	Target    string `json:"target"`    // container whose place it takes
	Port      uint16 `json:"port"`
	Rung      string `json:"rung"`
}

// tickets is a private directory with one file per agent. A file goes when its agent is found to be gone. Who uses one holds a
// shared lock on it (flock(2)); who writes holds the directory's.
type tickets struct{ dir string }

// ticketDir is where tickets are kept: in the runtime directory, which goes with the login, else in the state directory.
func ticketDir(env func(string) string) (string, error) {
	for _, place := range []struct{ base, below string }{
		{env("XDG_RUNTIME_DIR"), "stepin"}, {env("XDG_STATE_HOME"), "stepin"}, {env("HOME"), ".local/state/stepin"},
	} {
		if !filepath.IsAbs(place.base) { // the specification says to ignore those
			continue
		}
		if info, err := os.Stat(place.base); err == nil && info.IsDir() && writable(place.base) {
			return filepath.Join(place.base, place.below), nil
		}
	}
	return "", fail.New(fail.AgentStart, "set XDG_STATE_HOME to a directory of your own",
		"there is no place for the agent's token: neither XDG_RUNTIME_DIR nor XDG_STATE_HOME nor HOME names a directory that can be written to")
}

func writable(dir string) bool { return unix.Access(dir, unix.W_OK|unix.X_OK) == nil }

// openTickets makes the directory, or checks that the one there is nobody else's.
func openTickets(dir string) (*tickets, error) {
	if dir == "" {
		var err error
		if dir, err = ticketDir(os.Getenv); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fail.Wrap(fail.AgentStart, err, "set XDG_STATE_HOME to a directory of your own", "there is no place for the agent's token")
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return nil, fail.Wrap(fail.AgentStart, err, "set XDG_STATE_HOME to a directory of your own", "there is no place for the agent's token")
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(owner.Uid) != os.Getuid() || info.Mode().Perm()&0o077 != 0 {
		return nil, fail.New(fail.AgentStart, "remove it, or chmod 0700 it if it is yours",
			"the agent's token is not put into %s, which others could read", dir)
	}
	return &tickets{dir: dir}, nil
}

// ticketKey names the agent of one pod of one cluster.
func ticketKey(server, uid string) string {
	sum := sha256.Sum256([]byte(server + "\x00" + uid + "\x00" + strconv.Itoa(wire.Version)))
	return hex.EncodeToString(sum[:16]) + suffix
}

// read returns a ticket, or what claim has made: a token for an agent of which nothing is known yet.
func (t *tickets) read(key string) (found ticket, ok bool) {
	f, err := t.open(key)
	if err != nil {
		return ticket{}, false
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxTicket))
	if err != nil || json.Unmarshal(raw, &found) != nil || found.Token == "" {
		return ticket{}, false
	}
	return found, true
}

func (t *tickets) open(key string) (*os.File, error) {
	return os.OpenFile(filepath.Join(t.dir, key), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
}

// load returns a ticket. One that cannot be read is as good as none: the agent is asked for another.
func (t *tickets) load(key string) (ticket, bool) {
	found, ok := t.read(key)
	if !ok || found.Pod == "" || found.Port == 0 {
		return ticket{}, false
	}
	t.touch(key)
	return found, true
}

// touch keeps sweep away.
func (t *tickets) touch(key string) {
	now := time.Now()
	_ = os.Chtimes(filepath.Join(t.dir, key), now, now)
}

// hold says that a ticket is in use, until what it returns is closed or this process ends; nil where there is none.
func (t *tickets) hold(key string) *os.File {
	f, err := t.open(key)
	if err != nil {
		return nil
	}
	if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil { // sweep is about to remove it
		f.Close()
		return nil
	}
	return f
}

// lock keeps this user's other sessions from writing, for as long as a file takes.
func (t *tickets) lock() (unlock func(), err error) {
	d, err := os.Open(t.dir)
	if err != nil {
		return nil, fmt.Errorf("kube: keeping the agent's token: %w", err)
	}
	for {
		err = unix.Flock(int(d.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("kube: locking %s: %w", t.dir, err)
	}
	return func() { d.Close() }, nil
}

// claim is the token of the agent that is about to be made. Sessions of this user's that start at the same moment have it in
// common: whichever of them makes the agent, the others know it, and may stop each other.
func (t *tickets) claim(key string) (token string, err error) {
	unlock, err := t.lock()
	if err != nil {
		return "", err
	}
	defer unlock()
	if held, ok := t.read(key); ok {
		t.touch(key)
		return held.Token, nil
	}
	token, _ = newToken()
	return token, t.write(key, ticket{Token: token})
}

// unclaim removes a claim that came to nothing; another session's that is still under way keeps the token in its mind.
func (t *tickets) unclaim(key string) {
	unlock, err := t.lock()
	if err != nil {
		return
	}
	defer unlock()
	if held, ok := t.read(key); ok && held.Pod == "" {
		_ = os.Remove(filepath.Join(t.dir, key))
	}
}

// save keeps a ticket, unless another session of this user's has kept one for the same agent: then that is what to use.
func (t *tickets) save(key string, x ticket) (ticket, error) {
	unlock, err := t.lock()
	if err != nil {
		return x, err
	}
	defer unlock()
	if held, ok := t.read(key); ok && held.Namespace == x.Namespace && held.Pod == x.Pod && held.Container == x.Container && held.Target == x.Target {
		t.touch(key)
		return held, nil
	}
	return x, t.write(key, x)
}

// write makes a ticket's file whole or not at all; a second session of this user's may read at the same moment.
func (t *tickets) write(key string, x ticket) error {
	raw, err := json.Marshal(x)
	if err != nil {
		return fmt.Errorf("kube: keeping the agent's token: %w", err)
	}
	f, err := os.CreateTemp(t.dir, "*.new") // 0600
	if err != nil {
		return fmt.Errorf("kube: keeping the agent's token: %w", err)
	}
	_, err = f.Write(raw)
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(t.dir, key))
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("kube: keeping the agent's token: %w", err)
	}
	return nil
}

// drop removes a ticket if it still holds that token: another session may have got itself a new one meanwhile.
func (t *tickets) drop(key, token string) error {
	if held, ok := t.read(key); ok && held.Token != token {
		return nil
	}
	if err := os.Remove(filepath.Join(t.dir, key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("kube: forgetting the agent's token: %w", err)
	}
	return nil
}

// sweep removes the tickets of agents that ended unseen, and what killed sessions left: those that no session uses and that
// are old or too many. It asks no cluster.
func (t *tickets) sweep() {
	list, err := os.ReadDir(t.dir)
	if err != nil {
		return
	}
	var found []fs.FileInfo
	for _, e := range list {
		if !strings.HasSuffix(e.Name(), suffix) && !strings.HasSuffix(e.Name(), ".new") {
			continue
		}
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			found = append(found, info)
		}
	}
	slices.SortFunc(found, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	for i, info := range found {
		if i >= maxTickets || time.Since(info.ModTime()) > oldTicket {
			t.throwAway(info.Name())
		}
	}
}

// throwAway removes a ticket that nobody holds.
func (t *tickets) throwAway(key string) {
	f, err := t.open(key)
	if err != nil {
		return
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		_ = os.Remove(filepath.Join(t.dir, key))
	}
}
