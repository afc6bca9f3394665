package cli

import (
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/kube"
)

// clusterFlags say which cluster; what they leave open a stepin.yaml says.
type clusterFlags struct {
	namespace, context, kubeconfig string
}

func (f *clusterFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVarP(&f.namespace, "namespace", "n", "", "the namespace; by default that of stepin.yaml, of the context, or default")
	flags.StringVar(&f.context, "context", "", "the kubeconfig's context; by default its current one")
	flags.StringVar(&f.kubeconfig, "kubeconfig", "", "the kubeconfig; by default what KUBECONFIG lists, else ~/.kube/config")
}

// open opens the cluster that the flags mean, over the stepin.yaml upwards from the working directory.
func (f *clusterFlags) open(cmd *cobra.Command, version string) (*kube.Cluster, error) {
	o := kube.Options{
		Namespace: f.namespace, Context: f.context, Kubeconfig: f.kubeconfig, Version: version, Log: logger(cmd.ErrOrStderr()),
		Said: func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), "stepin: "+printable(line)) },
	}
	dir, err := os.Getwd()
	if err != nil {
		return nil, fail.Wrap(fail.Internal, err, "start it in an existing directory", "the working directory is gone")
	}
	file, err := config.Load(dir)
	if err != nil {
		return nil, err
	}
	if file != nil {
		l, err := config.Merge(file, []byte(`{"target": "label/any="}`)) // a target is not needed here, and every other check is
		if err != nil {
			return nil, err
		}
		o.Namespace, o.Context, o.Kubeconfig = or(o.Namespace, l.Namespace), or(o.Context, l.Context), or(o.Kubeconfig, l.Kubeconfig)
	}
	return kube.Open(o)
}

func or(first, second string) string {
	if first != "" {
		return first
	}
	return second
}

func targetsCommand(version string) *cobra.Command {
	var f clusterFlags
	var all, contexts bool
	var output string
	cmd := &cobra.Command{
		Use:     "targets [-n NAMESPACE | -A | --contexts] [-o json]",
		Short:   "List what can be a target",
		Example: "  stepin targets -n shop\n  stepin targets -A -o json",
		Args:    exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return fail.New(fail.ConfigValue, "-o table or -o json", "-o %q does not exist", output)
			}
			if all && f.namespace != "" {
				return fail.New(fail.ConfigValue, "leave out one of the two", "-A is all namespaces, -n %s is one", f.namespace)
			}
			if contexts {
				return listContexts(cmd, f.kubeconfig, output)
			}
			c, err := f.open(cmd, version)
			if err != nil {
				return err
			}
			ctx, cancel := untilSignal(cmd.Context())
			defer cancel()
			found, err := c.Targets(ctx, all)
			if err != nil {
				return err
			}
			if output == "json" {
				return printJSON(cmd, found)
			}
			return printTargets(cmd, c.Namespace(), all, found)
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVarP(&all, "all-namespaces", "A", false, "all namespaces")
	cmd.Flags().BoolVar(&contexts, "contexts", false, "the kubeconfig's contexts instead; no cluster is asked")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

// listContexts prints what --context may be.
func listContexts(cmd *cobra.Command, kubeconfig, output string) error {
	all, err := kube.Contexts(kubeconfig)
	if err != nil {
		return err
	}
	if output == "json" {
		return printJSON(cmd, all)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CONTEXT\tCLUSTER\tNAMESPACE\tCURRENT")
	for _, c := range all {
		current := ""
		if c.Current {
			current = "*"
		}
		fmt.Fprintln(w, cell(strings.Join([]string{c.Name, c.Cluster, or(c.Namespace, "default"), current}, "\t")))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("cli: printing: %w", err)
	}
	return nil
}

// printTargets prints a table. What may not be listed goes to standard error.
func printTargets(cmd *cobra.Command, namespace string, all bool, found *kube.Listing) error {
	for _, line := range found.Missing {
		fmt.Fprintln(cmd.ErrOrStderr(), "stepin: "+printable(line))
	}
	if len(found.Items) == 0 {
		where, elsewhere := "namespace "+namespace, "; -A lists all namespaces"
		if all {
			where, elsewhere = "any namespace", ""
		}
		fmt.Fprintln(cmd.ErrOrStderr(), "stepin: there is nothing in "+where+" that can be a target"+elsewhere)
		return nil
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	head := "TARGET\tREADY\tCONTAINERS\tSESSIONS\tNOTE"
	if all {
		head = "NAMESPACE\t" + head
	}
	fmt.Fprintln(w, head)
	for _, i := range found.Items {
		row := fmt.Sprintf("%s\t%d/%d\t%s\t%s\t%s", i.Target, i.Ready, i.Of, names(i), users(i), i.Note)
		if all {
			row = i.Namespace + "\t" + row
		}
		fmt.Fprintln(w, cell(row))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("cli: printing: %w", err)
	}
	return nil
}

// names are a target's containers, the one that is meant by default first.
func names(i kube.Item) string {
	out := []string{}
	if i.Default != "" {
		out = append(out, i.Default)
	}
	for _, c := range i.Containers {
		if c != i.Default {
			out = append(out, c)
		}
	}
	return strings.Join(out, ",")
}

// users are who says to be on a target's pods, and what for.
func users(i kube.Item) string {
	var out []string
	for _, n := range i.Sessions {
		out = append(out, strings.Join(strings.Fields(n.Who+" "+n.Mode+" "+portList(n.Ports)), " "))
	}
	return strings.Join(out, "; ")
}

// cell keeps a cluster's own words on one line.
func cell(row string) string { return strings.ReplaceAll(printable(row), "\n", " ") }
