package cli

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/adapter/debugpy"
	"github.com/stepin-dev/stepin/adapter/delve"
	"github.com/stepin-dev/stepin/adapter/jsdebug"
	"github.com/stepin-dev/stepin/pkg/embedded"
	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/kube"
	"github.com/stepin-dev/stepin/pkg/namespaces"
	"github.com/stepin-dev/stepin/pkg/preload"
)

// check is one line of the doctor's report.
type check struct {
	Name  string `json:"name"`
	OK    bool   `json:"ok"`
	Call  string `json:"call,omitempty"`  // the call that failed
	Errno string `json:"errno,omitempty"` // by its name
	Error string `json:"error,omitempty"` // in words
	Cure  string `json:"cure,omitempty"`
	// Optional says that others do where this fails.
	Optional bool `json:"optional,omitempty"`
}

func doctorCommand(version string) *cobra.Command {
	var output, target string
	var f clusterFlags
	cmd := &cobra.Command{
		Use:     "doctor [-t TARGET] [-o json]",
		Short:   "Say what works on this machine, and with a target, and how to mend the rest",
		Example: "  stepin doctor\n  stepin doctor -t deployment/orders -n shop",
		Args:    exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return fail.New(fail.ConfigValue, "-o table or -o json", "-o %q does not exist", output)
			}
			all, err := examine(cmd)
			if err != nil {
				return err
			}
			var cluster *kube.Report
			if target != "" {
				if cluster, err = examineTarget(cmd, f, version, target); err != nil {
					return err
				}
			}
			switch {
			case output == "json" && cluster != nil:
				err = printJSON(cmd, map[string]any{"machine": all, "cluster": cluster})
			case output == "json":
				err = printJSON(cmd, all)
			default:
				err = printTable(cmd, all)
			}
			if err == nil && output != "json" && cluster != nil {
				err = printReport(cmd, cluster)
			}
			if err != nil {
				return err
			}
			ill := func(c check) bool { return !c.OK && !c.Optional }
			if slices.ContainsFunc(all, ill) || cluster != nil && cluster.Problem != "" {
				return exitStatus(1) // the report has said it all
			}
			return nil
		},
	}
	f.add(cmd)
	cmd.Flags().StringVarP(&target, "target", "t", "", "look at a cluster, too, for this target")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

// examine tries what a session needs: the kernel's side in a child, as a session does it, and the debuggers.
func examine(cmd *cobra.Command) ([]check, error) {
	stub, err := embedded.Stub()
	if err != nil {
		return nil, err
	}
	keeper, err := embedded.Keeper()
	if err != nil {
		return nil, err
	}
	plan := namespaces.Plan{TunPath: os.Getenv(tunEnv), FusePath: os.Getenv(fuseEnv)}
	o := namespaces.Options{Stub: stub, Keeper: keeper, Log: logger(cmd.ErrOrStderr())}
	var all []check
	for _, s := range namespaces.Probe(cmd.Context(), plan, o) {
		c := check{Name: s.Name, OK: s.Err == nil, Call: s.Call, Cure: s.Cure, Optional: s.Optional}
		var errno syscall.Errno
		switch {
		case errors.Is(s.Err, namespaces.ErrNotTried):
			c.Error = "not tried"
		case errors.As(s.Err, &errno) && errno != 0:
			c.Errno, c.Error = unix.ErrnoName(errno), errno.Error()
		case s.Err != nil:
			c.Error = s.Err.Error()
		}
		all = append(all, c)
	}
	library, err := examinePreload(cmd)
	if err != nil {
		return nil, err
	}
	debuggers, err := examineDebuggers()
	return append(append(all, library...), debuggers...), err
}

// examinePreload tries the front end preload. Its files are optional: without a mount they are fetched.
func examinePreload(cmd *cobra.Command) ([]check, error) {
	image, err := embedded.Preload("glibc")
	if err != nil {
		return nil, err
	}
	p, err := preload.Probe(cmd.Context(), image, os.Getenv(fuseEnv))
	if err != nil {
		return nil, err
	}
	loads := check{Name: "preload", OK: p.Loads == nil, Optional: true}
	if p.Loads != nil {
		loads.Error, loads.Cure = p.Loads.Error(), "let TMPDIR name a directory on a file system without noexec; programs of another libc than glibc have a library of their own"
	}
	files := check{Name: "preload: FUSE", OK: p.Mount == nil, Optional: true}
	if p.Mount != nil {
		files.Error, files.Cure = p.Mount.Error(), "install fusermount3 (the package fuse3) and let this user open /dev/fuse; without it the pod's files are fetched as they are opened"
	}
	return []check{loads, files}, nil
}

// examineDebuggers looks for each real debugger as a launch without keys would. Nobody needs all of them: one that is
// missing is no fault as long as there is another.
func examineDebuggers() ([]check, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, fail.Wrap(fail.Internal, err, "start it in an existing directory", "the working directory is gone")
	}
	var all []check
	found := false
	for _, d := range []struct {
		name string
		find func() (string, error)
	}{
		{"Go debugger", func() (string, error) { return delve.Find(os.Environ()) }},
		{"Python debugger", func() (string, error) { return debugpy.Find(dir, os.Environ()) }},
		{"Node debugger", func() (string, error) { return jsdebug.Find(dir, os.Environ()) }},
	} {
		c := check{Name: d.name, OK: true}
		if _, err := d.find(); err != nil {
			c.OK, c.Error, c.Cure = false, err.Error(), fail.Hint(err)
		}
		found = found || c.OK
		all = append(all, c)
	}
	for i := range all {
		all[i].Optional = found
	}
	return all, nil
}

func printTable(cmd *cobra.Command, all []check) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, c := range all {
		word := "ok"
		if !c.OK {
			word = c.Error
		}
		if c.Errno != "" {
			word = fmt.Sprintf("%s: %s (%s)", c.Call, c.Errno, c.Error)
		}
		fmt.Fprintf(w, "%s\t%s\n", c.Name, word)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("cli: printing: %w", err)
	}
	said := map[string]bool{}
	for _, c := range all {
		if c.Cure != "" && !said[c.Cure] {
			said[c.Cure] = true
			fmt.Fprintf(cmd.OutOrStdout(), "hint: %s: %s\n", c.Name, c.Cure)
		}
	}
	return nil
}
