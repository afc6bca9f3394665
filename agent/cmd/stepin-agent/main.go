// Command stepin-agent is the part of stepin that is with the pod: see package parent (what runs first) and package
// child (what that starts, in the pod). It must never hold a policy: it does what a session asks.
package main

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/agent/child"
	"github.com/stepin-dev/stepin/agent/parent"
	"github.com/stepin-dev/stepin/agent/quiet"
)

func main() {
	// Whoever started this may go before it and take the reading end of its stderr along.
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := run(ctx, os.Stdout, os.Stderr, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "stepin-agent: %s\n", strings.Join(strings.Fields(err.Error()), " "))
		os.Exit(1)
	}
}

func run(ctx context.Context, stdout, stderr io.Writer, args []string) error {
	if len(args) > 0 && args[0] == "join" {
		return join(ctx, stdout, args[1:])
	}
	log := slog.New(quiet.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level(os.Getenv("STEPIN_LOG"))})))
	const control = 3
	if len(args) == 1 && args[0] == parent.ChildArg {
		unix.CloseOnExec(control)
		return child.Run(ctx, os.NewFile(control, "control"), log.With("part", "child"))
	}
	o := parent.Options{Log: log.With("part", "parent")}
	var token string
	flags := flag.NewFlagSet("stepin-agent", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.Pod, "pod", "", "local/PID or kube/UID/CONTAINERID")
	flags.StringVar(&o.Listen, "listen", "", "unix:PATH or tcp:127.0.0.1:PORT")
	flags.BoolVar(&o.Inside, "inside", false, "this is an ephemeral container of the pod and shares the target's processes")
	flags.BoolVar(&o.HostNetwork, "host-network", false, "a pod in its node's network is meant")
	flags.StringVar(&token, "token-sha256", "", "SHA-256 of the first session's token, in hex")
	flags.DurationVar(&o.TTL, "ttl", 0, "how long to stay without a session")
	flags.StringVar(&o.Who, "who", "", "who starts this, as user@host")
	flags.StringVar(&o.Trace, "trace", "", "file for what is done in the pod, as JSON lines")
	flags.BoolVar(&o.Sweep, "sweep", false, "remove the listener's directory at the end, if it is empty and not locked")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || o.TTL < 0 {
		return fmt.Errorf("unexpected argument %q", flags.Args())
	}
	const hashLen = 32
	hash, err := hex.DecodeString(token)
	if err != nil || len(hash) != hashLen {
		return errors.New("--token-sha256 must be 64 hex digits")
	}
	o.TokenHash = hash
	keepInherited()
	return parent.Run(ctx, o)
}

// join prints a fresh token of the agent that runs in this container.
func join(ctx context.Context, stdout io.Writer, args []string) error {
	flags := flag.NewFlagSet("stepin-agent join", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	who := flags.String("who", "", "who joins, as user@host")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Args())
	}
	token, err := parent.Join(ctx, *who)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, token)
	return err
}

// keepInherited keeps descriptors that were inherited (this program's own file, a trace) from the child.
func keepInherited() { _ = unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC) }

// level reads STEPIN_LOG; errors and warnings are always told.
func level(s string) slog.Level {
	var l slog.Level
	if l.UnmarshalText([]byte(s)) != nil {
		return slog.LevelWarn
	}
	return l
}
