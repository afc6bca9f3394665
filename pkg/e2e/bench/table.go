package bench

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// table writes what a person reads.
func table(out io.Writer, results []Result) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "row\t\tstepin\tplain\tmedian\tspread\tfloor\tgoal\t\tfront end + agent + channel add")
	for _, r := range results {
		if r.Standing == NotMeasured {
			fmt.Fprintf(w, "%s\t%s\t\t\t\t\t%s\t%s\t%s\t\n", r.Name, r.What, r.mark(r.Floor), r.mark(r.Goal), r.Standing)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s-%s\t%s\t%s\t%s\t%s\n", r.Name, r.What, r.side(r.Stepin), r.side(r.Plain),
			r.mark(r.Median), r.mark(r.Least), r.mark(r.Most), r.mark(r.Floor), r.mark(r.Goal), r.Standing, r.Parts)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("bench: writing the table: %w", err)
	}
	for _, r := range results {
		if r.Err != nil {
			fmt.Fprintf(out, "\n%s was not measured: %s\n", r.Name, strings.TrimSpace(r.Err.Error()))
		}
	}
	if names := failed(results); len(names) > 0 {
		fmt.Fprintf(out, "\nfailed: %s\n", strings.Join(names, ", "))
	}
	return nil
}

// mark is a value of the row's.
func (r Row) mark(v float64) string {
	if r.Seconds {
		return fmt.Sprintf("%+.2fs", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// side is what one side reached.
func (r Row) side(v float64) string {
	if r.Seconds || v < 10 {
		return fmt.Sprintf("%.2f %s", v, r.Unit)
	}
	return fmt.Sprintf("%.0f %s", v, r.Unit)
}

// Parts are the times that stepin's rooms add to one request, or to one MiB, or to one start. They are differences of
// medians, so a small one may come out below zero.
type Parts struct {
	Known                 bool
	Per                   string        // request, MiB, start
	Front, Agent, Channel time.Duration // with Together, Agent is 0 and Front is both
	Together              bool
}

// String is what the table says.
func (p Parts) String() string {
	switch {
	case !p.Known:
		return "not known"
	case p.Together:
		return fmt.Sprintf("(together %s) + %s a %s", micro(p.Front), micro(p.Channel), p.Per)
	}
	return fmt.Sprintf("%s + %s + %s a %s", micro(p.Front), micro(p.Agent), micro(p.Channel), p.Per)
}

func micro(d time.Duration) string { return fmt.Sprintf("%d µs", d.Microseconds()) }
