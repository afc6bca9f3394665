package dap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/peer"
)

// maxConversations bounds the sessions of one listening adapter: each has a debugger and a pod.
const maxConversations = 64

// acceptPause is the wait after an accept that failed for want of descriptors.
const acceptPause = 100 * time.Millisecond

// Listen opens where editors connect: "host:port" with a loopback address, or "unix:PATH". A listening adapter runs
// programs for whoever reaches it, so the socket's directory must be the user's alone, and TCP peers are checked one
// by one (Listener.ServeAll).
func Listen(address string) (*Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return listenUnix(path)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fail.New(fail.ConfigValue, "--listen 127.0.0.1:PORT or --listen unix:PATH", "%q is no address to listen on", address)
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || !ip.IsLoopback() {
		return nil, fail.New(fail.ConfigValue, "--listen 127.0.0.1:"+port,
			"%q is not a loopback address: anyone who reaches the adapter can run programs as you", host)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, fail.Wrap(fail.ConfigValue, err, "choose another port, 0 takes a free one", "cannot listen")
	}
	return &Listener{Listener: l}, nil
}

func listenUnix(path string) (*Listener, error) {
	const hint = "--listen unix:$XDG_RUNTIME_DIR/stepin/dap.sock"
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fail.Wrap(fail.ConfigValue, err, hint, "cannot listen")
	}
	if len(path) > maxSocketPath {
		return nil, fail.New(fail.ConfigValue, "choose a shorter path", "a socket's path has at most %d bytes: %s", maxSocketPath, path)
	}
	dir := filepath.Dir(path)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fail.Wrap(fail.ConfigValue, err, hint, "cannot listen")
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return nil, fail.Wrap(fail.ConfigValue, err, hint, "cannot listen")
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || info.Mode().Perm() != 0o700 || int(st.Uid) != os.Getuid() {
		return nil, fail.New(fail.ConfigValue, "chmod 700 "+dir+", or name another directory: stepin makes it",
			"%s is not a directory that is yours alone (0700): anyone who reaches the socket can run programs as you", dir)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if errors.Is(err, syscall.EADDRINUSE) {
		if conn, derr := net.Dial("unix", path); derr == nil {
			conn.Close()
			return nil, fail.New(fail.ConfigValue, "choose another path", "somebody listens on %s already", path)
		}
		if info, serr := os.Lstat(path); serr == nil && info.Mode().Type() == os.ModeSocket {
			os.Remove(path) // of an adapter that was killed
			l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		}
	}
	if err != nil {
		return nil, fail.Wrap(fail.ConfigValue, err, hint, "cannot listen")
	}
	return &Listener{Listener: l}, nil
}

// Listener is a place where editors connect.
type Listener struct{ net.Listener }

// ServeAll serves conversations side by side until ctx ends or the listener is closed, and returns when all have ended. Peers of another user
// are closed without a word.
func (l *Listener) ServeAll(ctx context.Context, o Options) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var all sync.WaitGroup
	defer all.Wait()
	slots := make(chan struct{}, maxConversations)
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return nil
		}
		if errors.Is(err, syscall.ECONNABORTED) || errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			o.Log.Warn("accepting an editor", "error", err)
			select { // descriptors come back when a session ends
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("dap: accepting an editor: %w", err)
		}
		if err := peer.SameUser(conn); err != nil {
			o.Log.Warn("refused a connection", "reason", err)
			conn.Close()
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			o.Log.Warn("refused a connection", "reason", "too many sessions")
			conn.Close()
			continue
		}
		all.Go(func() {
			defer func() { <-slots }()
			if err := Serve(ctx, conn, o); err != nil {
				o.Log.Warn("closed a connection", "reason", err)
			}
		})
	}
}

// Stdio is the conversation's stream when the editor started the adapter.
func Stdio() io.ReadWriteCloser { return stdio{} }

type stdio struct{}

func (stdio) Read(p []byte) (int, error)  { return os.Stdin.Read(p) }
func (stdio) Write(p []byte) (int, error) { return os.Stdout.Write(p) }

// Close closes both ends; a read under way may stay where it is until the process ends.
func (stdio) Close() error { return errors.Join(os.Stdin.Close(), os.Stdout.Close()) }
