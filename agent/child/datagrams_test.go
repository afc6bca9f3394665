package child

import (
	"context"
	"net/netip"
	"testing"
	"time"
)

// TestQueuedDatagrams: however many clients send however much before a flow moves, what is queued is bounded, and counts no
// longer when the flows have ended.
func TestQueuedDatagrams(t *testing.T) {
	st := &steal{ready: make(chan struct{})}
	st.ctx, st.cancel = context.WithCancel(t.Context())
	r := &receiver{steal: st, flows: map[flowKey]*flow{}}
	data := make([]byte, 60<<10)
	for i := range 1000 {
		client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 53)
		for range 4 {
			r.deliver(data, flowKey{client: client}, "")
		}
	}
	held := 0
	r.mu.Lock()
	for _, f := range r.flows {
		held += len(f.queue) * len(data)
	}
	r.mu.Unlock()
	if held > maxQueuedBytes || held < maxQueuedBytes/2 || int64(held) != r.queued.Load() {
		t.Errorf("%d bytes are queued, %d counted", held, r.queued.Load())
	}
	st.cancel()
	for end := time.Now().Add(10 * time.Second); r.queued.Load() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d bytes count after the end", r.queued.Load())
		}
	}
}
