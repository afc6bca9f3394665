package bench

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Row is one line of the table.
type Row struct {
	Name    string // as on the command line
	What    string // for the reader
	Unit    string // of both sides
	Seconds bool   // the value is what stepin takes longer, in seconds, and less is better; else it is a ratio, and more is
	Less    bool   // the value is a ratio, and less is better
	Exact   bool   // the value is a ratio, and has to be 1 in every round
	Floor   float64
	Goal    float64
	Far     time.Duration // round trip added between machine and API server

	kind kind
	at   int  // requests at a time
	tail bool // the time within which 99 of 100 were answered counts, not the median
}

// Pair is one round of a row: both sides, one right after the other.
type Pair struct{ Stepin, Plain float64 }

// value is what the row is judged by.
func (r Row) value(p Pair) float64 {
	if r.Seconds {
		return p.Stepin - p.Plain
	}
	return p.Stepin / p.Plain
}

// Standing is how a row stands to its floor and goal.
type Standing int

// The standings, the best first. The last two fail the run.
const (
	Good Standing = iota
	BelowGoal
	BelowFloor
	NotMeasured
)

// String is what the table says.
func (s Standing) String() string {
	return [...]string{"good", "below goal", "BELOW THE FLOOR", "NOT MEASURED"}[s]
}

// Result is a row with all that is known of it.
type Result struct {
	Row
	Standing
	Median, Least, Most float64 // of the rounds' values
	Stepin, Plain       float64 // each side's median
	Parts               Parts
	Err                 error // why it was not measured
}

// errNothing is a row without rounds: nothing must pass because nothing was looked at.
var errNothing = errors.New("no rounds")

// judge sums a row up. An error, and a round that cannot be right, make it NotMeasured.
func judge(r Row, pairs []Pair, err error) Result {
	result := Result{Row: r, Standing: NotMeasured, Err: err}
	if err == nil && len(pairs) == 0 {
		result.Err = errNothing
	}
	var values, stepin, plain []float64
	for _, p := range pairs {
		if !(p.Stepin > 0) || !(p.Plain > 0) { // NaN is neither
			result.Err = errors.Join(result.Err, fmt.Errorf("a round of %v against %v %s", p.Stepin, p.Plain, r.Unit))
			continue
		}
		values = append(values, r.value(p))
		stepin, plain = append(stepin, p.Stepin), append(plain, p.Plain)
	}
	if result.Err != nil {
		return result
	}
	result.Median, result.Stepin, result.Plain = median(values), median(stepin), median(plain)
	result.Least, result.Most = slices.Min(values), slices.Max(values)
	result.Standing = r.stand(result.Median)
	if r.Exact && result.Least != result.Most {
		result.Standing = BelowFloor
	}
	return result
}

func (r Row) stand(value float64) Standing {
	reaches := func(mark float64) bool { return value >= mark }
	if r.Seconds || r.Less {
		reaches = func(mark float64) bool { return value <= mark }
	}
	if r.Exact {
		reaches = func(mark float64) bool { return value == mark }
	}
	switch {
	case reaches(r.Goal):
		return Good
	case reaches(r.Floor):
		return BelowGoal
	}
	return BelowFloor
}

// failed are the rows that make the run fail.
func failed(results []Result) []string {
	var names []string
	for _, r := range results {
		if r.Standing >= BelowFloor {
			names = append(names, r.Name)
		}
	}
	return names
}

// median is that of a non-empty list: of an even number of values the mean of the two in the middle.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
