package cli

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/kube"
)

// examineTarget asks the cluster what a session on the target would find there.
func examineTarget(cmd *cobra.Command, f clusterFlags, version, written string) (*kube.Report, error) {
	target, err := config.ParseTarget(written)
	if err != nil {
		return nil, err
	}
	if target.Local() {
		return nil, fail.New(fail.ConfigValue, "stepin doctor, without a target, is all there is to ask", "%s is in no cluster", written)
	}
	c, err := f.open(cmd, version)
	if err != nil {
		return nil, err
	}
	ctx, cancel := untilSignal(cmd.Context())
	defer cancel()
	return c.Examine(ctx, target, config.Default().Agent, "")
}

// printReport prints what works with the target, what does not, and what to ask the cluster's owner for.
func printReport(cmd *cobra.Command, r *kube.Report) error {
	out := cmd.OutOrStdout()
	more := ""
	if r.Pods > 1 {
		more = fmt.Sprintf(" and %d more, whose requests come, too", r.Pods-1)
	}
	fmt.Fprintf(out, "\n%s: pod %s, container %s%s\n\n", r.Target, printable(r.Home), printable(r.Container), more)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, s := range r.Steps {
		word := "admitted"
		if s.Taken {
			word = "taken"
		}
		if !s.Admitted {
			word = "refused: " + s.Why
		}
		fmt.Fprintf(w, "the agent as %s\t%s\n", s.Name, cell(printable(word)))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("cli: printing: %w", err)
	}
	for _, s := range r.Steps {
		if s.Taken {
			for _, l := range s.Lacks {
				fmt.Fprintf(out, "  %s\n", l)
			}
		}
	}
	missing := map[string][]string{}
	var order []string
	for _, right := range r.Rights {
		if right.Allowed {
			continue
		}
		if missing[right.For] == nil {
			order = append(order, right.For)
		}
		missing[right.For] = append(missing[right.For], right.Verb+" "+right.Resource)
	}
	for _, use := range order {
		fmt.Fprintf(out, "rights missing for %s: %s\n", use, strings.Join(missing[use], ", "))
	}
	if r.Problem != "" {
		fmt.Fprintf(out, "%s\n", printable(r.Problem))
	}
	if r.Hint != "" {
		fmt.Fprintf(out, "hint: %s\n", r.Hint)
	}
	if r.Role != "" {
		fmt.Fprintf(out, "\n# What to ask the cluster's owner for, to be bound to you:\n%s", r.Role)
	}
	return nil
}
