package netstack

import (
	"io"
	"net/netip"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"
)

// budget is what a thousand flows that stand still may add to RssAnon, in bytes, in each direction. The session has
// 64 MiB for all of its parts.
const budget = 24 << 20

// A thousand flows stand still: filled by the debuggee and read by nobody here, or filled from here and not read by the
// debuggee; in large pieces and byte by byte. Another flow is unharmed meanwhile.
func TestBudget(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector's shadow memory is not what is measured here")
	}
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

// Single bytes into a flow that nobody reads for a while: none is lost, and it goes on at once afterwards.
func TestTrickle(t *testing.T) {
	gate, got := make(chan struct{}), make(chan int, 1)
	const n = 20000
	r := start(t, "trickle", map[string]any{"To": web4, "N": n}, serving(func(c *Conn) {
		<-gate
		total := 0
		buf := make([]byte, 1000)
		for {
			k, err := c.Read(buf)
			for i, b := range buf[:k] {
				if b != byte(total+i) {
					t.Errorf("byte %d is %d", total+i, b)
				}
			}
			total += k
			if err != nil {
				if err != io.EOF {
					t.Error(err)
				}
				got <- total
				return
			}
		}
	}))
	time.Sleep(stallFor)
	st := r.st.Stats()
	t.Logf("dropped %d segments", st.DroppedPackets.Value())
	close(gate)
	began := time.Now()
	if total := <-got; total != n {
		t.Errorf("%d bytes of %d", total, n)
	}
	if took := time.Since(began); took > stallFor/2 {
		t.Errorf("went on only after %v", took)
	}
}
