//go:build !race

package netstack

import (
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// budget is what a thousand flows that stand still may add to RssAnon, in bytes, in each direction. The session has
// 64 MiB for all of its parts.
const budget = 24 << 20

// A thousand flows stand still: filled by the debuggee and read by nobody here, or filled from here and not read by the
// debuggee; in large pieces and byte by byte. Another flow is unharmed meanwhile. The race detector's shadow memory is
// not what is measured here, hence the build tag; the same path under the detector is TestTrickle's and TestLateReader's.
func TestBudget(t *testing.T) {
	for _, x := range []struct {
		name          string
		n, pieces     int
		write, answer bool
		budget        int
	}{
		{name: "idle", n: 1000, budget: budget},
		{name: "up", n: 1000, write: true, pieces: 64 << 10, budget: budget},
		{name: "down", n: 1000, answer: true, pieces: 8 << 10, budget: budget},
		// A byte costs a kilobyte in gVisor; "down by bytes" is TestLateReader's.
		{name: "up by bytes", n: 4, write: true, pieces: 1, budget: 4 << 20},
	} {
		t.Run(x.name, func(t *testing.T) {
			n := x.n
			piece := make([]byte, max(1, x.pieces))
			gate, wrote := make(chan struct{}), atomic.Int64{}
			args := map[string]any{"To": web4, "N": n, "Write": x.write, "Pieces": x.pieces}
			debug.FreeOSMemory()
			before, goroutines := rssAnon(t), runtime.NumGoroutine()
			r := start(t, "flows", args, serving(func(c *Conn) {
				if c.LocalAddr() == netip.AddrPortFrom(web4.Addr(), 7) {
					echo(c)
					return
				}
				<-gate
				for x.answer {
					if _, err := c.Write(piece); err != nil {
						return
					}
					wrote.Add(1)
				}
				<-c.stack.ctx.Done()
			}))
			r.hear(new(int))
			for r.Flows() < n {
				time.Sleep(time.Millisecond)
			}
			connected := rssAnon(t)
			close(gate)
			r.proceed()
			var filled int
			r.hear(&filled)
			for still, last := 0, int64(-1); x.answer && still < 20; time.Sleep(20 * time.Millisecond) {
				if still++; last != wrote.Load() {
					still, last = 0, wrote.Load()
				}
			}
			grown := rssAnon(t) - before
			t.Logf("RssAnon +%.1f MiB (connected +%.1f), %d goroutines; %d bytes per flow taken from the debuggee",
				float64(grown)/(1<<20), float64(connected-before)/(1<<20), runtime.NumGoroutine()-goroutines, filled/n)
			if grown > x.budget {
				t.Errorf("RssAnon has grown by %.1f MiB", float64(grown)/(1<<20))
			}
			if got := r.Flows(); got != n {
				t.Errorf("%d flows", got)
			}
			r.proceed()
			var other string
			if r.hear(&other); other != "unharmed" {
				t.Errorf("another flow: %q", other)
			}
		})
	}
}

// rssAnon returns this process's anonymous memory in bytes.
func rssAnon(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	must(t, err)
	_, rest, _ := strings.Cut(string(b), "RssAnon:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	must(t, err)
	return kb << 10
}
