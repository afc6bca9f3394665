package cli

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/namespaces"
	"github.com/stepin-dev/stepin/pkg/preload"
)

func versionCommand(version string) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintln(cmd.OutOrStdout(), versionLine(version))
			return nil
		},
	}
}

func versionLine(version string) string {
	return "stepin " + version + " " + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH
}

// source is the module's version, or the commit that it was built from.
func source() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	commit, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+"
		}
	}
	if commit == "" {
		return "devel"
	}
	return "devel-" + commit + dirty
}

// holderCommand is what stepin starts itself as, in new namespaces. It is nobody's to call.
func holderCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "holder",
		Hidden: true,
		Args:   exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			const control = 3 // as namespaces.Start passes it
			info, err := os.Stat(fmt.Sprintf("/proc/self/fd/%d", control))
			if err != nil || info.Mode().Type() != os.ModeSocket {
				return fail.New(fail.Internal, "stepin exec --target local/PID -- COMMAND", "stepin starts its holder itself")
			}
			return namespaces.HolderMain(cmd.Context(), os.NewFile(control, "control"))
		},
	}
}

// keepCommand is what stepin starts itself as, to tidy up after a session of the preload front end. It is nobody's to call.
func keepCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "keep DIRECTORY...",
		Hidden: true,
		Args:   cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			const control = 3 // as preload.StartKeeper passes it
			info, err := os.Stat(fmt.Sprintf("/proc/self/fd/%d", control))
			if err != nil || info.Mode().Type() != os.ModeNamedPipe {
				return fail.New(fail.Internal, "stepin exec --target local/PID -- COMMAND", "stepin starts its keeper itself")
			}
			return preload.KeeperMain(os.NewFile(control, "control"), args)
		},
	}
}
