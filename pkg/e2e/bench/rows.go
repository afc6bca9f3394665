package bench

import (
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/stepin-dev/stepin/pkg/e2e/bench/drive"
)

// Round trips in sequence that a start over a long road may take at most; the row "far" of the tests lists them.
const (
	coldTrips = 14
	warmTrips = 9
)

// kind is what a row does.
type kind string

const (
	f5Cold  kind = "f5-cold"
	f5Build kind = "f5-build"
	f5Warm  kind = "f5-warm"
	stolen  kind = "stolen"
	out     kind = "out"
	outDown kind = "out-down"
	outUp   kind = "out-up"
	copied  kind = "mirror"
	counted kind = "mirror, counted"
	host    kind = "host-path"
)

// Rows are all that can be measured, in the table's order.
func Rows() []Row {
	var rows []Row
	for _, far := range []time.Duration{0, 50 * time.Millisecond, 200 * time.Millisecond} {
		starts := func(k kind, what string, trips int, floor, goal float64) Row {
			travel := (time.Duration(trips) * far).Seconds()
			return Row{Name: string(k), kind: k, What: what, Unit: "s", Seconds: true, Floor: floor + travel, Goal: goal + travel}
		}
		rates := func(k kind, at int, what, unit string, floor, goal float64) Row {
			return Row{Name: string(k), kind: k, at: at, What: what, Unit: unit, Floor: floor, Goal: goal}
		}
		these := []Row{
			starts(f5Cold, "F5, cold, nothing to build", coldTrips, 1.5, 1.0),
			starts(f5Build, "F5, cold, one file changed", coldTrips, 0.6, 0.2),
			starts(f5Warm, "F5, warm", warmTrips, 0.4, 0.2),
		}
		for _, at := range []int{1, 10, 64} {
			these = append(these, rates(stolen, at, fmt.Sprintf("stolen, %d at a time", at), "requests/s", 0.8, 0.9))
		}
		for _, at := range []int{1, 10, 64} {
			these = append(these, rates(out, at, fmt.Sprintf("outgoing, %d at a time", at), "requests/s", 0.7, 0.85))
		}
		these = append(these,
			rates(outDown, 1, "outgoing, download", "MB/s", 0.7, 0.85), rates(outUp, 1, "outgoing, upload", "MB/s", 0.7, 0.85))
		for _, r := range these {
			if r.at > 0 && r.Unit == "requests/s" {
				r.Name = fmt.Sprintf("%s-%d", r.Name, r.at)
			}
			if r.Far = far; far > 0 {
				r.Name = fmt.Sprintf("%s@%v", r.Name, far)
			}
			rows = append(rows, r)
		}
	}
	return append(rows, apart()...)
}

// apart are the rows that know no road: what they measure is on one side of it.
func apart() (rows []Row) {
	for _, at := range []int{1, 10} {
		rows = append(rows,
			Row{Name: fmt.Sprintf("mirror-%d-p50", at), kind: copied, at: at, What: fmt.Sprintf("callers of a mirrored pod, %d at a time, median", at),
				Unit: "µs", Less: true, Floor: 1.1, Goal: 1.03},
			Row{Name: fmt.Sprintf("mirror-%d-p99", at), kind: copied, at: at, What: fmt.Sprintf("callers of a mirrored pod, %d at a time, 99th percentile", at),
				Unit: "µs", Less: true, Floor: 1.4, Goal: 1.1, tail: true})
	}
	for _, at := range []int{1, 10, 64} {
		r := Row{Name: fmt.Sprintf("mirror-%d-all", at), kind: counted, at: at, What: fmt.Sprintf("of the requests, %d at a time: copied or counted as lost", at),
			Unit: "of 1", Exact: true, Floor: 1, Goal: 1}
		if at == 1 {
			r.What = "of the requests, 1 at a time: copied"
		}
		rows = append(rows, r)
	}
	return append(rows, Row{Name: string(host), kind: host, What: "a file of the machine's, under preload", Unit: "ns", Less: true, Floor: 1.3, Goal: 1.1})
}

// named tells whether a name or a pattern means the row. One without @ means none with a round trip added.
func (r Row) named(pattern string) bool {
	pattern, far, _ := strings.Cut(pattern, "@")
	name, is, _ := strings.Cut(r.Name, "@")
	matches := func(pattern, name string) bool {
		ok, err := path.Match(pattern, name)
		return ok && err == nil // a broken pattern means nothing, which Run refuses
	}
	return matches(pattern, name) && matches(far, is)
}

// bulk is what one transfer of a row carries, less over a long road, where it would take all of the time there is. 0 is
// a small request.
func (r Row) bulk() int64 {
	if r.kind != outDown && r.kind != outUp {
		return 0
	}
	switch {
	case r.Far == 0:
		return 32 << 20
	case r.Far < 100*time.Millisecond:
		return 8 << 20
	}
	return 4 << 20
}

// order is the row's measurement but for where it goes.
func (r Row) order(slice time.Duration) drive.Order {
	o := drive.Order{At: r.at, For: slice}
	switch r.kind {
	case outDown:
		o.Bytes = r.bulk()
	case outUp:
		o.Upload, o.Expect = r.bulk(), fmt.Sprint(r.bulk())
	}
	return o
}

// path is what the row asks a server for.
func (r Row) path() string {
	switch r.kind {
	case outDown:
		return fmt.Sprintf("/bytes?n=%d", r.bulk())
	case outUp:
		return "/count"
	}
	return "/"
}

// rate is a report in the row's unit.
func (r Row) rate(report drive.Report) float64 {
	if n := r.bulk(); n > 0 {
		return float64(n) * float64(report.Requests) / 1e6 / report.Took.Seconds()
	}
	return float64(report.Requests) / report.Took.Seconds()
}

// each is the time one request takes, or one MiB, at a rate in the row's unit.
func (r Row) each(rate float64) float64 {
	if r.bulk() > 0 {
		return (1 << 20) / 1e6 / rate
	}
	return float64(r.at) / rate
}

// brake is the time that a start broken on purpose takes longer: beyond the floor, however fast it is.
func (r Row) brake() time.Duration {
	return time.Duration((2*r.Floor + 1) * float64(time.Second))
}

// sends tells whether the agent's way to a cluster far away is part of the row: what a plain client takes to send as much is
// then part of the plain side.
func (r Row) sends() bool { return r.Far > 0 && (r.kind == f5Cold || r.kind == f5Build) }

// took is what a report says of the row's callers, in its unit.
func (r Row) took(report drive.Report) float64 {
	if r.tail {
		return float64(report.P99.Microseconds())
	}
	return float64(report.P50.Microseconds())
}

// bed is the name of what the row is measured on.
func (r Row) bed() string {
	switch r.kind {
	case f5Cold, f5Build, f5Warm:
		return "start"
	case copied, counted:
		return "mirror"
	case host:
		return "host"
	}
	return "requests"
}
