// Package bench measures what stepin costs beside what people use otherwise, on a real cluster. It must never judge a
// row by an absolute number: every value is stepin against the plain way, measured one right after the other in the same
// run on the same machine, and the order changes with each round. Nor must a row pass that was not measured.
//
// # The pairs
//
// All requests are made by one program (package drive) and answered by one program (pkg/e2e/workload), in pods of one
// node, over connections that are kept alive, with the same bodies.
//
//   - f5-cold, f5-build, f5-warm: seconds from starting the adapter to the `stopped` event at the first line of main,
//     `stepin dap` on standard input and output against `dlv dap --client-addr` on a unix socket, with the same requests.
//     Cold: no agent of ours is in the cluster. cold and warm start a program that is built already (mode exec); build
//     changes a file before, and both build with CGO_ENABLED=0 from the same build cache.
//   - stolen: a client pod asks the target's pod and the debuggee on the machine answers, against a client on the machine
//     that asks the same pod, another port, through client-go's own port-forward (WebSocket). Either way there is one
//     client, one server, and the API server, the kubelet and containerd once between them; only the ends are exchanged,
//     which is what stealing is.
//   - out: the debuggee on the machine asks a Service by its name, against the same client on the machine that asks the
//     Service's one pod through client-go's port-forward. down and up are transfers one after the other.
//   - mirror-N-p50, mirror-N-p99: a client pod asks a pod whose requests are copied to a debuggee on the machine, against
//     the same client and another pod, at a pace that leaves the processors time for the copies: machine and node share them.
//     It is the callers' own times that are compared, in many short rounds, and less is better. The debuggee must have got
//     every copy before the other pod is asked. All that copies, the debuggee too, is on the machine of the callers.
//   - mirror-N-all: the same with a connection a request, and more and more of them: of those sent the share that the
//     debuggee got or that stepin has counted as lost, against the share that another pod has got of its own. Both are 1 in
//     every round; at the lowest load nothing may be lost.
//   - host-path: what open and stat of a file cost that stays the machine's, in a program under preload, against the same
//     program by itself.
//   - @50ms, @200ms: the same with that round trip added between machine and API server, with fewer rounds. A start may
//     then take the round trips more that the tests' row "far" allows it: 14 cold, 9 warm; and beside a cold one stands, with
//     the debugger, what a plain client takes to upload as many bytes over that road.
//
// # The parts
//
// Beside each row stands what stepin's rooms add to one request, as mean time at that concurrency: differences between
// the same requests over parts of the way, in the same run, each once a round for the first rounds.
//
//   - front end: a connection through the front end that no agent sees (from the debuggee to this machine's loopback; to
//     the debuggee by the port on this machine's loopback where its users' browsers reach it), less the same without stepin.
//   - agent: a session with a pod by `local/PID`, where the channel is a unix socket, less client pod to pod, less the
//     front end.
//   - channel: the row itself less the session by `local/PID`: the port-forward, and what it costs that machine and
//     node share two cores.
//
// Of a start, the session by `local/PID` less the debugger alone is front end and agent together, and the row less that
// is the agent's way into the cluster and the channel.
package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/stepin-dev/stepin/pkg/e2e"
)

// Options are what the command line says.
type Options struct {
	Rows   []string      // names or patterns of path.Match, none for all; see Row.named
	Break  string        // the row whose side of stepin is slowed on purpose
	Rounds int           // 0 is five, and three with a round trip added
	Slice  time.Duration // how long each side of a round is asked; twice that with a round trip added
	Raw    string        // folder of the raw rows
	Out    io.Writer     // the table
	Log    io.Writer     // how far it is
}

const (
	rounds    = 5
	farRounds = 3

	// often is how many times as many rounds a row has that compares callers' times, and twice that for a median: what they
	// differ by is less than what the scheduler, or the machine beside them, does to a round, which a short one has to itself.
	often = 4

	// partRounds are the rounds that look at the parts, too: they take longer than the pair itself.
	partRounds = 2
)

// Measure is one raw row: one side, or one part of the way, in one round.
type Measure struct {
	At    time.Time
	Row   string
	Round int
	Way   string // stepin, plain, or a part: direct, local, front, bare
	Value float64
	Unit  string
	P50   time.Duration `json:",omitempty"` // nanoseconds of one request
	P99   time.Duration `json:",omitempty"`
	Slow  bool          `json:",omitempty"` // on purpose
	Err   string        `json:",omitempty"`
}

// errFailed is a run that has been measured and does not pass; the table says why.
var errFailed = errors.New("bench: there are rows below their floor or not measured")

// run is one run's state.
type run struct {
	Options
	ctx     context.Context
	raw     *json.Encoder
	results []Result
}

// Run measures, writes the raw rows and the table, and returns an error if any row is below its floor or was not
// measured.
func Run(ctx context.Context, o Options) error {
	var rows []Row
	broken := o.Break == ""
	known := make([]bool, len(o.Rows))
	for _, r := range Rows() {
		wanted := len(o.Rows) == 0
		for i, pattern := range o.Rows {
			if r.named(pattern) {
				wanted, known[i] = true, true
			}
		}
		if wanted {
			rows = append(rows, r)
			broken = broken || r.Name == o.Break
		}
	}
	if slices.Contains(known, false) || !broken {
		return errors.New("bench: there is no such row among those to be measured; -list prints all")
	}
	if err := os.MkdirAll(o.Raw, 0o755); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	file, err := os.Create(filepath.Join(o.Raw, time.Now().UTC().Format("20060102-150405")+".jsonl"))
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer file.Close()
	b := &run{Options: o, ctx: ctx, raw: json.NewEncoder(file)}
	b.all(rows)
	if err := table(o.Out, b.results); err != nil {
		return err
	}
	fmt.Fprintf(o.Out, "raw rows: %s\n", file.Name())
	if len(failed(b.results)) > 0 {
		return errFailed
	}
	return nil
}

// all measures the rows in their order, those of one length of the road and one kind of bed together. A bed that cannot
// be made leaves each of its rows not measured.
func (b *run) all(rows []Row) {
	beds := map[string]func(*scope, *e2e.Cluster) bed{"start": b.startBed, "requests": b.requestBed, "mirror": b.mirrorBed, "host": b.hostBed}
	for len(rows) > 0 {
		n := 1
		for n < len(rows) && rows[n].bed() == rows[0].bed() && rows[n].Far == rows[0].Far {
			n++
		}
		these := rows[:n]
		rows = rows[n:]
		done := len(b.results)
		err := within(b.ctx, "bench", b.Log, func(s *scope) {
			c := e2e.Up(s)
			bed := beds[these[0].bed()](s, c)
			if these[0].Far > 0 {
				c.Road(s, e2e.Road{RoundTrip: these[0].Far})
			}
			for _, r := range these {
				b.row(r, bed)
			}
		})
		if err == nil {
			continue
		}
		for _, r := range these[len(b.results)-done:] {
			b.results = append(b.results, judge(r, nil, err))
		}
		fmt.Fprintf(b.Log, "bench: %v\n", err)
	}
}

// bed is what a row is measured on.
type bed interface {
	// measure measures one way of a row; a part that does not exist here is errNoPart.
	measure(s *scope, r Row, way string, slice time.Duration, slow bool) Measure
	// ways are the parts that sum knows.
	ways() []string
	// sum makes the parts from each way's median.
	sum(r Row, medians map[string]float64) Parts
}

// row measures one row. The parts are worth a row of their own only in so far: that they could not be measured does not
// fail it, but is said.
func (b *run) row(r Row, on bed) {
	n, slice := b.Rounds, b.Slice
	if n == 0 {
		n = rounds
		if r.Far > 0 {
			n = farRounds
		}
	}
	if r.Far > 0 {
		slice *= 2
	}
	switch {
	case r.kind != copied:
	case r.tail: // of the slowest hundredth there must be some in each round
		n *= often
	default:
		n, slice = 2*often*n, slice/2
	}
	var pairs []Pair
	values := map[string][]float64{}
	take := func(s *scope, round int, way string) float64 {
		m := b.one(s, r, on, round, way, slice)
		values[way] = append(values[way], m.Value)
		return m.Value
	}
	err := within(b.ctx, r.Name, b.Log, func(s *scope) {
		for round := range n {
			if b.ctx.Err() != nil {
				s.Fatal("interrupted")
			}
			var p Pair
			if round%2 == 0 {
				p.Stepin = take(s, round, "stepin")
				p.Plain = take(s, round, "plain")
			} else {
				p.Plain = take(s, round, "plain")
				p.Stepin = take(s, round, "stepin")
			}
			pairs = append(pairs, p)
		}
	})
	result := judge(r, pairs, err)
	if err == nil {
		err := within(b.ctx, r.Name, b.Log, func(s *scope) {
			for round := range min(n, partRounds) {
				for _, way := range on.ways() {
					take(s, round, way)
				}
			}
		})
		if err == nil {
			medians := map[string]float64{}
			for way, all := range values {
				medians[way] = median(all)
			}
			result.Parts = on.sum(r, medians)
		} else {
			fmt.Fprintf(b.Log, "bench: the parts of %s: %v\n", r.Name, err)
		}
	}
	fmt.Fprintf(b.Log, "bench: %-16s %s  %s\n", r.Name, r.mark(result.Median), result.Standing)
	b.results = append(b.results, result)
}

// one is one measurement, which is noted whatever comes of it.
func (b *run) one(s *scope, r Row, on bed, round int, way string, slice time.Duration) Measure {
	var m Measure
	slow := way == "stepin" && r.Name == b.Break
	err := within(b.ctx, r.Name, b.Log, func(s *scope) { m = on.measure(s, r, way, slice, slow) })
	m.At, m.Row, m.Round, m.Way, m.Unit, m.Slow = time.Now(), r.Name, round, way, r.Unit, slow
	if err != nil {
		m.Err = err.Error()
	}
	if noted := b.raw.Encode(m); noted != nil {
		s.Fatal(noted)
	}
	if err != nil {
		s.Fatalf("%s: %v", way, err)
	}
	return m
}
