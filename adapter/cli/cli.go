// Package cli is stepin's command line: it reads flags, puts the parts together and turns errors into a sentence and
// a hint. Results go to standard output, everything else to standard error. It must never hold policy of its own.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/stepin-dev/stepin/adapter/demo"
	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
)

// exitOurs is the exit status when stepin itself fails; a command's own status is passed on.
const exitOurs = 125

// exitStatus is the status of a command that stepin has run: nothing is to be said about it.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

const (
	// heapPercent lets the garbage collector run early, and heapLimit more so when much is held: what a thousand stalled
	// flows hold must not be doubled by garbage, on a machine that also runs an editor and a compiler. It is a wish, not
	// a bound: where more is live it only costs time.
	heapPercent = 50
	heapLimit   = 64 << 20
)

// Main runs the command line and returns the exit status. An empty version is looked up in the binary.
func Main(version string, args []string) int {
	debug.SetGCPercent(heapPercent)
	debug.SetMemoryLimit(heapLimit)
	root := New(version, os.Stdout, os.Stderr)
	root.SetArgs(args)
	return Status(root.ExecuteContext(context.Background()), os.Stderr)
}

// Status says what went wrong, if anything, and returns the exit status.
func Status(err error, stderr io.Writer) int {
	var status exitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	}
	for _, e := range each(err) {
		fmt.Fprintf(stderr, "stepin: %s\n", printable(e.Error()))
		if hint := fail.Hint(e); hint != "" {
			fmt.Fprintf(stderr, "hint: %s\n", printable(hint))
		}
	}
	return exitOurs
}

// printable makes text fit for a terminal: names and messages of the pod's may bear escape sequences, which would write
// to the developer's screen or clipboard.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || r == '\n' || r == '\t' {
			return r
		}
		return '?'
	}, text)
}

// each returns the problems of configurations one by one, and any other error as it is.
func each(err error) []error {
	var several wrong
	if errors.As(err, &several) {
		return several
	}
	var p config.Problems
	if errors.As(err, &p) {
		return p.Unwrap()
	}
	return []error{err}
}

// New is the command tree. An empty version is looked up in the binary.
func New(version string, stdout, stderr io.Writer) *cobra.Command {
	if version == "" {
		version = source()
	}
	root := &cobra.Command{
		Use:           "stepin",
		Short:         "Run a program under the debugger as if inside a pod",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          onlyCommands,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.Version = versionLine(version)
	root.SetVersionTemplate("{{ .Version }}\n")
	root.SuggestionsMinimumDistance = 2
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fail.New(fail.ConfigValue, cmd.CommandPath()+" --help", "%v", err)
	})
	root.AddCommand(dapCommand(version), execCommand(version), doctorCommand(version), versionCommand(version), configCommand(), agentCommand(version), targetsCommand(version), sessionsCommand(version), holderCommand(), keepCommand(), terminalCommand())
	root.AddCommand(demo.Commands(os.Getenv(tunEnv), os.Getenv(fuseEnv))...)
	return root
}

// onlyCommands refuses a command that does not exist, with the name of one that is meant perhaps.
func onlyCommands(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := cmd.CommandPath() + " --help"
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = cmd.CommandPath() + " " + near[0]
	}
	return fail.New(fail.ConfigValue, hint, "there is no command %q", strings.TrimPrefix(cmd.CommandPath()+" "+args[0], "stepin "))
}

// exactly is cobra.ExactArgs as an error with a hint.
func exactly(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return fail.New(fail.ConfigValue, cmd.CommandPath()+" --help", "%s takes %s, not %d", cmd.CommandPath(), arguments(n), len(args))
		}
		return nil
	}
}

func arguments(n int) string {
	switch n {
	case 0:
		return "no arguments"
	case 1:
		return "one argument"
	}
	return fmt.Sprintf("%d arguments", n)
}

// logger writes to standard error what STEPIN_LOG=debug asks for, and nothing otherwise: editors show an adapter's
// standard error to the user.
func logger(stderr io.Writer) *slog.Logger {
	if os.Getenv("STEPIN_LOG") != "debug" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// untilSignal ends with SIGINT, SIGTERM or SIGHUP. A second one ends the process as usual.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}
