package netstack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var (
	web4 = netip.MustParseAddrPort("10.96.0.10:80")
	web6 = netip.MustParseAddrPort("[fd00:96::10]:80")
	home = netip.MustParseAddrPort("127.0.0.1:5432")
)

// serving accepts every flow.
func serving(serve func(*Conn)) Config {
	return Config{TCP: func(context.Context, netip.AddrPort, netip.AddrPort) (func(*Conn), error) { return serve, nil }}
}

func echo(c *Conn) {
	if _, err := io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}); err == nil {
		_ = c.CloseWrite()
	}
	c.WaitReadable()
}

func testAddress(t *testing.T) {
	for _, x := range []struct{ From, To netip.AddrPort }{
		{netip.AddrPortFrom(podIP4, 4711), web4},
		{netip.AddrPortFrom(podIP6, 4711), web6},
		{netip.MustParseAddrPort("127.0.0.1:4711"), home},
	} {
		t.Run(x.To.String(), func(t *testing.T) {
			type seen struct{ src, dst, local, remote netip.AddrPort }
			saw := make(chan seen, 1)
			r := start(t, "address", x, Config{TCP: func(_ context.Context, src, dst netip.AddrPort) (func(*Conn), error) {
				return func(c *Conn) { saw <- seen{src, dst, c.LocalAddr(), c.RemoteAddr()}; c.WaitReadable() }, nil
			}})
			var d dial
			r.hear(&d)
			if d.Peer != x.To || d.Own != x.From {
				t.Errorf("the debuggee sees %v to %v", d.Own, d.Peer)
			}
			if got := <-saw; got != (seen{x.From, x.To, x.To, x.From}) {
				t.Errorf("the handler sees %v", got)
			}
		})
	}
}

func TestEcho(t *testing.T) {
	for _, to := range []netip.AddrPort{web4, web6, home} {
		for _, size := range []int{0, 1, 70_000, 30_000_000} {
			t.Run(fmt.Sprint(to, " ", size), func(t *testing.T) {
				r := start(t, "echo", map[string]any{"To": to, "Size": size}, serving(echo))
				var got string
				r.hear(&got)
				h := sha256.New()
				_, _ = io.CopyN(h, pattern(), int64(size))
				if want := fmt.Sprint(size, " ", hex.EncodeToString(h.Sum(nil))); got != want {
					t.Errorf("got %s, want %s", got, want)
				}
			})
		}
	}
}

func testHalfClose(t *testing.T) {
	t.Run("debuggee", func(t *testing.T) {
		r := start(t, "half close", map[string]any{"To": web4, "First": "debuggee"}, serving(func(c *Conn) {
			b, err := io.ReadAll(c)
			_, _ = fmt.Fprintf(c, "%s, answered (%v)", b, err)
		}))
		var got string
		if r.hear(&got); got != "question, answered (<nil>)" {
			t.Error(got)
		}
	})
	t.Run("pod", func(t *testing.T) {
		after := make(chan string, 1)
		r := start(t, "half close", map[string]any{"To": web6, "First": "pod"}, serving(func(c *Conn) {
			_, _ = c.Write([]byte("greeting"))
			_ = c.CloseWrite()
			b, err := io.ReadAll(c)
			after <- fmt.Sprint(string(b), " ", err)
		}))
		var got string
		if r.hear(&got); got != "greeting" {
			t.Error(got)
		}
		if got := <-after; got != "afterthought <nil>" {
			t.Error(got)
		}
	})
}

// Abort is ECONNRESET at the debuggee; so is the end of the Stack.
func TestResetByUs(t *testing.T) {
	for _, to := range []netip.AddrPort{web4, web6} {
		var errno syscall.Errno
		r := start(t, "reset", map[string]any{"To": to}, serving(func(c *Conn) {
			_, _ = c.Read(make([]byte, 1))
			_, _ = c.Write([]byte("half a sen"))
			c.Abort()
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
				t.Error("after Abort, Read says", err)
			}
		}))
		if r.hear(&errno); errno != syscall.ECONNRESET {
			t.Errorf("%s: %v", to, errno)
		}
	}
	up := make(chan struct{})
	r := start(t, "reset", map[string]any{"To": web4}, serving(func(c *Conn) {
		_, _ = c.Read(make([]byte, 1)) // the debuggee's connect has returned
		close(up)
		c.WaitReadable()
	}))
	<-up
	r.Close()
	var errno syscall.Errno
	if r.hear(&errno); errno != syscall.ECONNRESET {
		t.Errorf("after Close: %v", errno)
	}
}

// A reset by the debuggee is ECONNRESET for whoever reads and whoever writes here.
func TestResetByDebuggee(t *testing.T) {
	for _, to := range []netip.AddrPort{web4, web6} {
		up, errs := make(chan struct{}), make(chan error, 2)
		r := start(t, "reset", map[string]any{"To": to, "Myself": true}, serving(func(c *Conn) {
			close(up)
			go func() {
				for {
					if _, err := c.Write(make([]byte, 1<<20)); err != nil {
						errs <- err
						return
					}
				}
			}()
			_, err := c.Read(make([]byte, 1))
			errs <- err
			<-c.stack.ctx.Done()
		}))
		<-up
		r.proceed()
		for range 2 {
			if err := <-errs; !errors.Is(err, syscall.ECONNRESET) {
				t.Error(err)
			}
		}
	}
}

// A debuggee that closes its connecting socket tells nobody: the SYN just does not come again.
func TestClientGivesUp(t *testing.T) {
	t.Parallel()
	began, ended := make(chan struct{}), make(chan error, 1)
	r := start(t, "give up", web4, Config{TCP: func(ctx context.Context, _, _ netip.AddrPort) (func(*Conn), error) {
		close(began)
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return nil, syscall.ECONNREFUSED
	}})
	<-began
	r.proceed()
	r.hear(new(string))
	if err := <-ended; !errors.Is(err, errGaveUp) {
		t.Error(err)
	}
}

// The dial succeeds for a debuggee that has gone: serve is called all the same, so that the pod side can be closed.
func TestServeAfterGivingUp(t *testing.T) {
	t.Parallel()
	closed, served := make(chan struct{}), make(chan error, 1)
	r := start(t, "give up", web6, Config{TCP: func(context.Context, netip.AddrPort, netip.AddrPort) (func(*Conn), error) {
		<-closed
		return func(c *Conn) {
			_, err := c.Read(make([]byte, 1))
			_, werr := c.Write(make([]byte, 1))
			c.WaitReadable()
			c.Abort()
			served <- errors.Join(err, werr)
		}, nil
	}})
	r.proceed()
	r.hear(new(string))
	close(closed)
	if err := <-served; !errors.Is(err, syscall.ECONNABORTED) && !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
	if n := r.Flows(); n != 0 {
		t.Errorf("%d flows left", n)
	}
}

// The same port of the debuggee's, again at once, a hundred times, either side ending first.
func TestPortReused(t *testing.T) {
	r := start(t, "reuse", map[string]any{"From": netip.AddrPortFrom(podIP4, 4712), "To": web4, "Times": 100}, serving(func(c *Conn) {
		if c.LocalAddr().Port()%2 == 0 {
			_ = c.CloseWrite()
		}
		_, _ = io.Copy(io.Discard, c)
	}))
	var errs []string
	if r.hear(&errs); len(errs) > 0 {
		t.Errorf("%d times: %s", len(errs), strings.Join(errs[:min(5, len(errs))], "; "))
	}
}

func TestManyShortConnections(t *testing.T) {
	const n = 3000 // adapter/whole makes 10,000, not under the race detector
	r := start(t, "short", map[string]any{"To": web4, "N": n, "C": 32}, serving(echo))
	began := time.Now()
	var wrong map[string]int
	if r.hear(&wrong); len(wrong) > 0 {
		t.Error(wrong)
	}
	t.Logf("%d connections in %v", n, time.Since(began))
	for deadline := time.Now().Add(10 * time.Second); r.Flows() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d flows left", r.Flows())
		}
	}
}

// A debuggee that stands at a breakpoint: what is written meanwhile, in pieces of any size, arrives afterwards, whole and
// at once.
func TestLateReader(t *testing.T) {
	t.Parallel()
	for _, piece := range []int{1, 100, 1100, 2000, 5000, 60000, 300000} {
		t.Run(fmt.Sprint(piece), func(t *testing.T) {
			t.Parallel()
			total := min(4<<20, piece*2000)
			var wrote atomic.Int64
			failed := make(chan error, 1)
			r := start(t, "late reader", web4, serving(func(c *Conn) {
				b, src := make([]byte, piece), pattern()
				for wrote.Load() < int64(total) {
					n, _ := src.Read(b[:min(piece, total-int(wrote.Load()))])
					if _, err := c.Write(b[:n]); err != nil {
						failed <- fmt.Errorf("after %d bytes: %w", wrote.Load(), err)
						return
					}
					wrote.Add(int64(n))
				}
				_ = c.CloseWrite()
				c.WaitReadable()
			}))
			select {
			case <-time.After(stallFor):
			case err := <-failed:
				t.Fatal(err)
			}
			t.Logf("%d bytes went ahead", wrote.Load())
			r.proceed()
			began := time.Now()
			var got string
			r.hear(&got)
			h := sha256.New()
			_, _ = io.CopyN(h, pattern(), int64(total))
			if want := fmt.Sprint(total, " ", hex.EncodeToString(h.Sum(nil))); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			if took := time.Since(began); took > late {
				t.Errorf("went on only after %v", took)
			}
		})
	}
}

// Single bytes into a flow that nobody reads for a while: none is lost, and it goes on at once afterwards.
func TestTrickle(t *testing.T) {
	t.Parallel()
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
	if took := time.Since(began); took > late {
		t.Errorf("went on only after %v", took)
	}
}

// stallFor is how long debuggees or handlers stand still in the tests: a sender that has begun to back off tries again
// after 0.2, 0.6, 1.4, 3, 6.2 s, and so is seen to be late.
const stallFor = 3300 * time.Millisecond

// late is less than such a sender still waits then.
const late = 2500 * time.Millisecond

// BenchmarkRate is throughput, up being from the debuggee.
func BenchmarkRate(b *testing.B) {
	const size = 1 << 30
	for _, up := range []bool{false, true} {
		b.Run(map[bool]string{false: "down", true: "up"}[up], func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				r := start(b, "rate", map[string]any{"To": web4, "Size": size, "Up": up}, serving(func(c *Conn) {
					buf := make([]byte, 256<<10)
					if up {
						_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, buf)
						return
					}
					for sent := 0; sent < size; sent += len(buf) {
						if _, err := c.Write(buf); err != nil {
							b.Error(err)
							return
						}
					}
				}))
				r.hear(new(time.Duration))
			}
		})
	}
}

// Close leaves no goroutine, whatever state the flows are in.
func TestCloseLeavesNothing(t *testing.T) {
	before := runtime.NumGoroutine()
	for _, to := range []netip.AddrPort{web4, web6} {
		up := make(chan struct{})
		r := start(t, "hold", to, serving(func(c *Conn) { close(up); _, _ = io.Copy(c, c) }))
		<-up
		r.hear(new(string))
		if n := r.Flows(); n != 1 {
			t.Errorf("%d flows", n)
		}
		must(t, r.Close())
		must(t, r.Close())
		if n := r.Flows(); n != 0 {
			t.Errorf("%d flows after Close", n)
		}
		select {
		case <-r.Done():
		default:
			t.Error("Done is open after Close")
		}
		r.proceed()
		var errno syscall.Errno
		if r.hear(&errno); errno != syscall.ECONNRESET {
			t.Error("the debuggee reads", errno)
		}
	}
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<16)
			t.Fatalf("%d goroutines before, now\n%s", before, buf[:runtime.Stack(buf, true)])
		}
	}
}

// Somebody deletes the device: the flows end too.
func TestDeviceGone(t *testing.T) {
	ended := make(chan error, 1)
	r := start(t, "unplug", web4, serving(func(c *Conn) { _, err := c.Read(make([]byte, 1)); ended <- err }))
	<-r.Done()
	if r.Err() == nil {
		t.Error("no reason")
	}
	if err := <-ended; err == nil || err == io.EOF {
		t.Error("the flow ended in order")
	}
}
