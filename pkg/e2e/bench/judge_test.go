package bench

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/stepin-dev/stepin/pkg/e2e/bench/drive"
)

var (
	ratio   = Row{Name: "ratio", Unit: "requests/s", Floor: 0.8, Goal: 0.9}
	less    = Row{Name: "less", Unit: "µs", Less: true, Floor: 1.4, Goal: 1.1}
	exact   = Row{Name: "exact", Unit: "of 1", Exact: true, Floor: 1, Goal: 1}
	seconds = Row{Name: "seconds", Unit: "s", Seconds: true, Floor: 0.6, Goal: 0.2}
)

// TestJudge: every way a row can stand, a broken one and one that nobody measured among them.
func TestJudge(t *testing.T) {
	for name, test := range map[string]struct {
		row   Row
		pairs []Pair
		err   error
		want  Standing
	}{
		"at the goal":                     {ratio, []Pair{{90, 100}}, nil, Good},
		"better than what it is held to":  {ratio, []Pair{{200, 100}}, nil, Good},
		"between floor and goal":          {ratio, []Pair{{89, 100}}, nil, BelowGoal},
		"at the floor":                    {ratio, []Pair{{80, 100}}, nil, BelowGoal},
		"below the floor":                 {ratio, []Pair{{79, 100}}, nil, BelowFloor},
		"the median counts, not the mean": {ratio, []Pair{{90, 100}, {1, 100}, {95, 100}, {91, 100}, {1, 100}}, nil, Good},
		"each round's own ratio counts":   {ratio, []Pair{{10, 10}, {1000, 1000}, {100, 100}}, nil, Good},
		"not much later":                  {seconds, []Pair{{1.2, 1}}, nil, Good},
		"later than the goal":             {seconds, []Pair{{1.5, 1}}, nil, BelowGoal},
		"too late":                        {seconds, []Pair{{1.7, 1}}, nil, BelowFloor},
		"sooner":                          {seconds, []Pair{{0.5, 1}}, nil, Good},
		"as little as it has to be":       {less, []Pair{{110, 100}}, nil, Good},
		"more than the goal":              {less, []Pair{{140, 100}}, nil, BelowGoal},
		"too much":                        {less, []Pair{{141, 100}}, nil, BelowFloor},
		"all, and all again":              {exact, []Pair{{1, 1}, {1, 1}}, nil, Good},
		"not all, once":                   {exact, []Pair{{1, 1}, {0.99, 1}, {1, 1}}, nil, BelowFloor},
		"more than all":                   {exact, []Pair{{1.01, 1}}, nil, BelowFloor},
		"nothing measured":                {ratio, nil, nil, NotMeasured},
		"a round that failed":             {ratio, []Pair{{90, 100}}, errors.New("refused"), NotMeasured},
		"nothing to compare with":         {ratio, []Pair{{90, 0}}, nil, NotMeasured},
		"nothing done":                    {seconds, []Pair{{0, 1}}, nil, NotMeasured},
		"no number":                       {ratio, []Pair{{math.NaN(), 1}}, nil, NotMeasured},
	} {
		result := judge(test.row, test.pairs, test.err)
		if result.Standing != test.want {
			t.Errorf("%s: %v, not %v (median %v)", name, result.Standing, test.want, result.Median)
		}
		if fails := len(failed([]Result{result})) > 0; fails != (test.want >= BelowFloor) {
			t.Errorf("%s: fails: %v", name, fails)
		}
		if (result.Err != nil) != (test.want == NotMeasured) {
			t.Errorf("%s: %v", name, result.Err)
		}
	}
}

// TestTable: a reader sees what failed and why.
func TestTable(t *testing.T) {
	results := []Result{
		judge(ratio, []Pair{{95, 100}, {92, 100}, {99, 100}}, nil),
		judge(seconds, []Pair{{1.7, 1}}, nil),
		judge(Row{Name: "unreachable"}, nil, errors.New("no such pod")),
	}
	var out bytes.Buffer
	if err := table(&out, results); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"95 requests/s", "0.92-0.99", "+0.70s", "BELOW THE FLOOR", "unreachable was not measured: no such pod", "failed: seconds, unreachable\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

// TestBreak: a side that is made slow on purpose comes out below the floor, even if it was twice as fast as the
// other.
func TestBreak(t *testing.T) {
	for _, row := range Rows() {
		pair := Pair{200, 100}
		if row.Seconds || row.Less || row.Exact {
			pair = Pair{1, 1}
		}
		if got := judge(row, []Pair{pair}, nil).Standing; got != Good {
			t.Errorf("%s, not broken: %v", row.Name, got)
		}
		switch {
		case row.Seconds:
			pair.Stepin += row.brake().Seconds()
		case row.Less:
			pair.Stepin *= 1 + drive.Brake
		case row.Exact:
			pair.Stepin /= 2
		default:
			pair.Stepin /= 1 + drive.Brake
		}
		if got := judge(row, []Pair{pair}, nil).Standing; got != BelowFloor {
			t.Errorf("%s, broken: %v", row.Name, got)
		}
	}
}

// TestRows: the rows that the project has promised, each once, and no floor above its goal.
func TestRows(t *testing.T) {
	var names []string
	for _, r := range Rows() {
		names = append(names, r.Name)
		if less := r.Seconds || r.Less; !r.Exact && (less && r.Floor <= r.Goal || !less && r.Floor >= r.Goal) {
			t.Errorf("%s: floor %v, goal %v", r.Name, r.Floor, r.Goal)
		}
	}
	var want []string
	for _, far := range []string{"", "@50ms", "@200ms"} {
		for _, name := range []string{"f5-cold", "f5-build", "f5-warm", "stolen-1", "stolen-10", "stolen-64", "out-1", "out-10", "out-64", "out-down", "out-up"} {
			want = append(want, name+far)
		}
	}
	want = append(want, "mirror-1-p50", "mirror-1-p99", "mirror-10-p50", "mirror-10-p99", "mirror-1-all", "mirror-10-all", "mirror-64-all", "host-path")
	if !slices.Equal(names, want) {
		t.Errorf("%q", names)
	}
}

// TestNamed: which rows a word on the command line means.
func TestNamed(t *testing.T) {
	for pattern, want := range map[string]int{
		"f5-warm": 1, "f5-*": 3, "*": 19, "*@50ms": 11, "*@*": 41, "stolen-1@*": 3, "nothing": 0, "[": 0, "out": 0,
	} {
		var got []string
		for _, r := range Rows() {
			if r.named(pattern) {
				got = append(got, r.Name)
			}
		}
		if len(got) != want {
			t.Errorf("%s: %q", pattern, got)
		}
	}
}

// TestScope: what a test's hands do when something goes wrong becomes the row's error, and their leavings go.
func TestScope(t *testing.T) {
	var order []string
	err := within(t.Context(), "row", &bytes.Buffer{}, func(s *scope) {
		s.Cleanup(func() { order = append(order, "first") })
		s.Cleanup(func() { order = append(order, "second") })
		s.Fatalf("no %s", "luck")
		order = append(order, "not reached")
	})
	if err == nil || err.Error() != "no luck" || !slices.Equal(order, []string{"second", "first"}) {
		t.Errorf("%v, %q", err, order)
	}
	err = within(t.Context(), "row", &bytes.Buffer{}, func(s *scope) { s.Skip("no node") })
	if err == nil || err.Error() != "no node" {
		t.Errorf("skipped: %v", err)
	}
	var dir string
	err = within(t.Context(), "row", &bytes.Buffer{}, func(s *scope) {
		dir = s.TempDir()
		s.Cleanup(func() { s.Error("too late") })
	})
	if err == nil || err.Error() != "too late" || dir == "" {
		t.Errorf("a clean-up that failed: %v, %q", err, dir)
	}
}
