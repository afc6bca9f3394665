//go:build cost

package conform

import (
	"context"
	"fmt"
	"slices"
	"testing"
)

// The bench row "host path, preload against native": the ratio of the medians of five runs each, one after the other.
const (
	costRuns  = 5
	costFloor = 1.3
	costGoal  = 1.1
)

// TestHostPath measures instead of comparing, and so is built on demand: `./just conform -tags cost -run TestHostPath`.
func TestHostPath(t *testing.T) {
	binary := stepin(t)
	r := &run{t: t, pod: start(t), program: Program{Name: "cost", Argv: []string{"{C}", "cost"}}, scratch: t.TempDir()}
	var native, under []float64
	for range costRuns {
		native = append(native, nanoseconds(t, r.native()))
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		said, complained, err := r.begin(ctx, binary, Preload)
		cancel()
		if err != nil {
			t.Fatal(err, complained)
		}
		under = append(under, nanoseconds(t, said))
	}
	slices.Sort(native)
	slices.Sort(under)
	ratio := under[costRuns/2] / native[costRuns/2]
	t.Logf("a call on a host path: %v ns natively, %v ns under preload: %.2f (floor %v, goal %v)", native, under, ratio, costFloor, costGoal)
	if ratio > costFloor {
		t.Errorf("below the floor: %.2f", ratio)
	}
}

// nanoseconds reads the one line of the subject.
func nanoseconds(t *testing.T, lines []string) (ns float64) {
	t.Helper()
	if len(lines) != 1 {
		t.Fatalf("%q", lines)
	}
	if _, err := fmt.Sscanf(lines[0], "cost nanoseconds: %g", &ns); err != nil {
		t.Fatalf("%q: %v", lines[0], err)
	}
	return ns
}
