package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stepin-dev/stepin/adapter/dap"
	"github.com/stepin-dev/stepin/adapter/debugpy"
	"github.com/stepin-dev/stepin/adapter/delve"
	"github.com/stepin-dev/stepin/adapter/jsdebug"
	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
)

func dapCommand(version string) *cobra.Command {
	var address string
	var untilEOF bool
	var carried []string
	cmd := &cobra.Command{
		Use:   "dap [--listen 127.0.0.1:PORT|unix:PATH]",
		Short: "Be the debug adapter that an editor talks to",
		Long: "Be the debug adapter that an editor talks to: on standard input and output, or with --listen for many sessions.\n" +
			"Only processes of your own user are served.",
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			dir, err := os.Getwd()
			if err != nil {
				return fail.Wrap(fail.Internal, err, "start it in an existing directory", "the working directory is gone")
			}
			self, err := os.Executable()
			if err != nil {
				return fail.Wrap(fail.Internal, err, "start it again", "this program does not find itself")
			}
			place := dap.Place{Dir: dir, Environ: os.Environ()}
			if place.Carried, err = carriedDebuggers(dir, carried); err != nil {
				return err
			}
			log := logger(cmd.ErrOrStderr())
			o := dap.Options{
				Parse:     func(raw json.RawMessage) (*config.Launch, error) { return launchConfig(raw, dir) },
				Debuggers: map[string]dap.NewDebugger{"go": delve.New, "python": debugpy.New, "node": jsdebug.New},
				Start:     starter(version, place, log),
				Place:     place,
				Terminal:  []string{self, "terminal"},
				Log:       log,
			}
			if address == "" {
				return dap.Serve(ctx, dap.Stdio(), o)
			}
			l, err := dap.Listen(address)
			if err != nil {
				return err
			}
			if untilEOF {
				var cancel context.CancelFunc
				ctx, cancel = context.WithCancel(ctx)
				defer cancel()
				go func() { // until standard input or this process ends
					_, _ = io.Copy(io.Discard, cmd.InOrStdin())
					cancel()
				}()
			}
			name := l.Addr().String()
			if l.Addr().Network() == "unix" {
				name = "unix:" + name
			}
			fmt.Fprintf(cmd.OutOrStdout(), "stepin: listening at %s\n", name)
			return l.ServeAll(ctx, o)
		},
	}
	cmd.Flags().StringVar(&address, "listen", "", "loopback address, or unix:PATH in a directory that is yours alone")
	cmd.Flags().BoolVar(&untilEOF, "until-eof", false, "with --listen: end when standard input does, as with an editor that was killed")
	cmd.Flags().StringArrayVar(&carried, "debugger", nil, "NAME=PATH of a real debugger that the editor brings, for who has none of his own: debugpy or js-debug")
	return cmd
}

// carriedDebuggers reads what --debugger says.
func carriedDebuggers(dir string, given []string) (map[string]string, error) {
	carried := map[string]string{}
	for _, one := range given {
		name, path, _ := strings.Cut(one, "=")
		if path == "" || name != debugpy.Name && name != jsdebug.Name {
			return nil, fail.New(fail.ConfigValue, "--debugger debugpy=FOLDER or --debugger js-debug=FILE", "--debugger %q is no debugger and its path", one)
		}
		carried[name] = within(dir, path)
	}
	return carried, nil
}

// terminalCommand is what the adapter asks the editor to start in a terminal where the program's variables are not for the
// editor's eyes.
func terminalCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "terminal SOCKET",
		Hidden: true,
		Args:   exactly(1),
		RunE:   func(cmd *cobra.Command, args []string) error { return dap.Enter(cmd.Context(), args[0]) },
	}
}

// launchConfig reads launch arguments with the stepin.yaml found upwards from the program underneath.
func launchConfig(raw json.RawMessage, dir string) (*config.Launch, error) {
	var args struct {
		Debugger struct {
			Program string `json:"program"`
			DlvCwd  string `json:"dlvCwd"`
		} `json:"debugger"`
	}
	start := dir
	if json.Unmarshal(raw, &args) == nil { // what is wrong with it, Merge says better
		start = within(within(dir, args.Debugger.DlvCwd), args.Debugger.Program)
	}
	file, err := config.Load(start)
	if err != nil {
		return nil, err
	}
	if len(raw) == 0 {
		raw = json.RawMessage("{}")
	}
	l, err := config.Merge(file, raw)
	if err != nil {
		return nil, err
	}
	return l, l.NeedDebugger()
}

// within is path as seen from dir.
func within(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}
