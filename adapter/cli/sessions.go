package cli

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/session"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// sessionsFlags say where sessions are looked for and how they are shown.
type sessionsFlags struct {
	cluster   clusterFlags
	all, join bool
	output    string
}

func sessionsCommand(version string) *cobra.Command {
	var f sessionsFlags
	list := func(cmd *cobra.Command, _ []string) error { return listSessions(cmd, version, &f) }
	cmd := &cobra.Command{
		Use:   "sessions [list | stop ID] [-n NAMESPACE | -A] [-o json]",
		Short: "List who is with which pod, or stop a session of yours",
		Long: "List who is with which pod, or stop a session of yours. Agents tell it to those who have a token of theirs, which\n" +
			"a session of yours on that pod has got; --join asks for one where you may run commands in the agent's pod.",
		Example: "  stepin sessions -n shop\n  stepin sessions -A -o json\n  stepin sessions stop 4f3a90c2",
		Args:    onlyCommands,
		RunE:    list,
	}
	cmd.SuggestionsMinimumDistance = 2
	f.add(cmd)
	under := &cobra.Command{Use: "list", Short: "List who is with which pod", Args: exactly(0), RunE: list}
	f.add(under)
	stop := &cobra.Command{
		Use:   "stop ID",
		Short: "End a session of yours, on every pod that it is with; the pods serve themselves again",
		Args:  exactly(1),
		RunE:  func(cmd *cobra.Command, args []string) error { return stopSession(cmd, version, &f, args[0]) },
	}
	f.cluster.add(stop)
	stop.Flags().BoolVarP(&f.all, "all-namespaces", "A", false, "look for it in all namespaces")
	cmd.AddCommand(under, stop)
	return cmd
}

func (f *sessionsFlags) add(cmd *cobra.Command) {
	f.cluster.add(cmd)
	cmd.Flags().BoolVarP(&f.all, "all-namespaces", "A", false, "all namespaces")
	cmd.Flags().BoolVar(&f.join, "join", false, "ask agents for a token that you have none of (it takes the right to create pods/exec)")
	cmd.Flags().StringVarP(&f.output, "output", "o", "table", "table or json")
}

// survey opens the cluster. Where there is none and none was named, this machine is left.
func (f *sessionsFlags) survey(cmd *cobra.Command, version string) (session.Survey, error) {
	o := session.Survey{All: f.all, Join: f.join}
	if f.all && f.cluster.namespace != "" {
		return o, fail.New(fail.ConfigValue, "leave out one of the two", "-A is all namespaces, -n %s is one", f.cluster.namespace)
	}
	c, err := f.cluster.open(cmd, version)
	if fail.CodeOf(err) == fail.ClusterConfig && f.cluster == (clusterFlags{}) && !f.all {
		fmt.Fprintln(cmd.ErrOrStderr(), "stepin: only this machine's agents are asked: "+printable(err.Error()))
		return o, nil
	}
	o.Cluster = c
	return o, err
}

func listSessions(cmd *cobra.Command, version string, f *sessionsFlags) error {
	if f.output != "table" && f.output != "json" {
		return fail.New(fail.ConfigValue, "-o table or -o json", "-o %q does not exist", f.output)
	}
	o, err := f.survey(cmd, version)
	if err != nil {
		return err
	}
	ctx, cancel := untilSignal(cmd.Context())
	defer cancel()
	list, missing, err := session.Sessions(ctx, o)
	if err != nil {
		return err
	}
	for _, line := range missing {
		fmt.Fprintln(cmd.ErrOrStderr(), "stepin: "+printable(line))
	}
	if f.output == "json" {
		return printJSON(cmd, list)
	}
	if len(list) == 0 && o.Cluster != nil && !f.all {
		fmt.Fprintln(cmd.ErrOrStderr(), "stepin: there are no sessions in namespace "+o.Cluster.Namespace()+"; -A asks for all namespaces")
		return nil
	}
	return printSessions(cmd, f.all, list)
}

func stopSession(cmd *cobra.Command, version string, f *sessionsFlags, id string) error {
	o, err := f.survey(cmd, version)
	if err != nil {
		return err
	}
	ctx, cancel := untilSignal(cmd.Context())
	defer cancel()
	stopped, err := session.Stop(ctx, o, id)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "stepin: session %s on %s is stopped: its pods serve themselves again\n", printable(stopped.Short()), printable(stopped.Target))
	return nil
}

// printSessions prints a table: a line for each session on each pod, and one for each agent of which no more is known.
func printSessions(cmd *cobra.Command, all bool, list []session.Used) error {
	if len(list) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "stepin: there are no sessions")
		return nil
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	head := "ID\tTARGET\tPOD\tWHO\tSINCE\tMODE\tPORTS\tNOTE"
	if all {
		head = "NAMESPACE\t" + head
	}
	fmt.Fprintln(w, head)
	for _, u := range list {
		since := ""
		if !u.Since.IsZero() {
			since = u.Since.Local().Format(time.DateTime)
		}
		row := strings.Join([]string{dash(u.Short()), dash(u.Target), dash(u.Pod), dash(u.Who), dash(since), dash(u.Mode), dash(portList(u.Ports)), note(u)}, "\t")
		if all {
			row = dash(u.Namespace) + "\t" + row
		}
		fmt.Fprintln(w, cell(row))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("cli: printing: %w", err)
	}
	return nil
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// portList is what a session takes; TCP goes without saying.
func portList(ports []wire.Port) string {
	var out []string
	for _, p := range ports {
		text := fmt.Sprint(p.Port)
		if p.Network != "tcp" {
			text += "/" + p.Network
		}
		out = append(out, text)
	}
	return strings.Join(out, ",")
}

func note(u session.Used) string {
	var out []string
	for _, is := range []struct {
		so   bool
		text string
	}{{u.Mine, "yours"}, {u.Paused, "at a breakpoint"}, {u.Lost, "reconnecting"}, {u.ID == "" && u.Note != "", u.Note}} {
		if is.so {
			out = append(out, is.text)
		}
	}
	return strings.Join(out, ", ")
}
