package demo

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/podlet"
)

// Commands are `stepin demo` and the hidden one that the pod's own processes are. The arguments name the device nodes; ""
// the usual ones.
func Commands(tun, fuse string) []*cobra.Command {
	var stay bool
	cmd := &cobra.Command{
		Use:   "demo [--stay]",
		Short: "Show the whole thing on this machine, with a small pod made of namespaces",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fail.New(fail.ConfigValue, cmd.CommandPath()+" --help", "%s takes no arguments", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			environ := os.Environ()
			return Run(ctx, Options{Out: cmd.OutOrStdout(), Colors: terminal(cmd.OutOrStdout(), environ), Environ: environ,
				Tun: tun, Fuse: fuse, Stay: stay})
		},
	}
	cmd.Flags().BoolVar(&stay, "stay", false, "keep the pod until Ctrl-C, for your own editor")
	part := &cobra.Command{
		Use:                podlet.Word,
		Short:              "Be a process of the demo's pod",
		Hidden:             true,
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			os.Exit(podlet.Run(args))
			return nil
		},
	}
	return []*cobra.Command{cmd, part}
}
