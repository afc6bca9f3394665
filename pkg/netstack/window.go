package netstack

import "sync"

// Buffers. A TCP flow that stands still costs what is in its two gVisor buffers, its endpoint and its goroutine (about
// 10 KiB); a thousand of them are to cost the process some 20 MiB, and one alone is to run at full speed. So each
// flow starts at the floors, and whoever has moved `proof` bytes may grow, out of two banks that all flows share:
// a flow may hold at most as much as it leaves in the bank (the dynamic threshold of switch buffers), so one gets half
// of it, two a third each, and the bank is never empty for a newcomer.
//
// What has been lent to a receive buffer comes back when the flow ends, not when it falls idle: a window once
// advertised cannot be taken back (RFC 9293 section 3.8.6), only refused by dropping segments, and the kernel would
// answer that with its retransmission timer, up to two minutes late. A send buffer is given back after an idle second.
const (
	// floorReceive is a flow's first receive buffer, in bytes with gVisor's overhead; half of it is advertised.
	floorReceive = 16 << 10
	// floorSend is the send buffer that every flow has, in bytes of payload; firstSend what it begins with while the
	// bank has it.
	floorSend, firstSend = 4 << 10, 16 << 10
	// bankReceive and bankSend are what all flows together may hold above the floors, in bytes.
	bankReceive = 6 << 20
	bankSend    = 2 << 20
	// proof is how many bytes a flow has to carry before each growth. It is more than the kernel takes in on the
	// debuggee's side without anybody reading (tcp_rmem's default 128 KiB, 416 KiB at the usual rmem_max).
	proof = 512 << 10
	// growth is the factor of each step.
	growth = 4
)

// A bank lends buffer space above the floors.
type bank struct {
	mu    sync.Mutex
	limit int // bytes
	lent  int // bytes
}

// raise moves the loan of a buffer, have bytes above its floor, towards a buffer of want bytes in all, and returns the
// new loan. It never shrinks. Buffers are powers of two, like gVisor's chunks: what is written in odd pieces is kept in
// chunks of up to twice their size.
func (b *bank) raise(floor, have, want int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	most := floor + (b.limit-b.lent+have)/2
	size := floor
	for size*2 <= min(want, most) {
		size *= 2
	}
	loan := max(have, size-floor)
	b.lent += loan - have
	return loan
}

func (b *bank) giveBack(n int) {
	b.mu.Lock()
	b.lent -= n
	b.mu.Unlock()
}

// A window is one direction's buffer size of one flow.
type window struct {
	bank  *bank
	floor int // bytes

	mu    sync.Mutex
	loan  int  // bytes above the floor
	moved int  // bytes since the last growth
	busy  bool // has moved since the last call of quiet
	ended bool
}

func (w *window) size() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.floor + w.loan
}

// carried notes n bytes and returns the new size if there is one.
func (w *window) carried(n int) (size int, grown bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy = true
	w.moved += n
	if w.moved < proof || w.ended {
		return 0, false
	}
	w.moved = 0
	had := w.loan
	w.loan = w.bank.raise(w.floor, had, (w.floor+had)*growth)
	return w.floor + w.loan, w.loan > had
}

// begin borrows for a first size of want bytes, as far as it goes, and returns the size.
func (w *window) begin(want int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.loan = w.bank.raise(w.floor, w.loan, want)
	return w.floor + w.loan
}

// quiet says whether there is a loan and nothing has moved since the last call.
func (w *window) quiet() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	was := w.busy
	w.busy = false
	return !was && w.loan > 0
}

// release gives the loan back.
func (w *window) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bank.giveBack(w.loan)
	w.loan, w.moved = 0, 0
}

// end releases the loan and refuses further ones.
func (w *window) end() {
	w.mu.Lock()
	w.ended = true
	w.mu.Unlock()
	w.release()
}
