package names

import (
	"container/list"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	maxEntries = 4096            // answers kept; the oldest go first
	maxTTL     = time.Hour       // a pod's service may move sooner than its record says, never later than this
	searchHold = 5 * time.Second // how long the rest of a search list is kept where its TTL says less: a search's length
	maxAddrs   = 8192            // addresses whose names are remembered for rules by name
)

// cache keeps answers by question until their TTL ends, negative ones too (RFC 2308), and the names that led to an
// address. An entry whose answer is still under way lets others wait for it.
type cache struct {
	now func() time.Time

	mu      sync.Mutex
	entries map[question]*entry
	order   list.List // of question, oldest first
	addrs   map[netip.Addr][]string
	aged    []netip.Addr // addrs' keys, oldest first
}

type entry struct {
	ready   chan struct{} // closed when the fields below are set
	answer  []byte        // nil where the look-up failed
	err     error
	stored  time.Time
	expires time.Time
	where   *list.Element
}

func newCache(now func() time.Time) *cache {
	return &cache{now: now, entries: map[question]*entry{}, addrs: map[netip.Addr][]string{}}
}

// claim returns the entry for q. mine is true where there was none: the caller must then call settle.
func (c *cache) claim(q question) (e *entry, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.entries[q]; ok {
		select {
		case <-e.ready:
			if c.now().Before(e.expires) {
				return e, false
			}
			c.drop(q, e)
		default:
			return e, false
		}
	}
	e = &entry{ready: make(chan struct{})}
	e.where = c.order.PushBack(q)
	c.entries[q] = e
	for len(c.entries) > maxEntries {
		oldest := c.order.Front().Value.(question)
		c.drop(oldest, c.entries[oldest])
	}
	return e, true
}

func (c *cache) drop(q question, e *entry) {
	c.order.Remove(e.where)
	delete(c.entries, q)
}

// settle gives a claimed entry its answer, or its error, which is not kept; hold is how long the answer is kept where it
// says less itself. A server's failure and a truncated answer are not held: who asks next may get a better one.
func (c *cache) settle(q question, e *entry, answer []byte, err error, hold time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.stored = c.now()
	e.answer, e.err = answer, err
	ttl := time.Duration(0)
	if err == nil {
		if ttl = lifetime(answer); conclusive(answer) {
			ttl = max(ttl, hold)
		}
		c.remember(q, answer)
	}
	e.expires = e.stored.Add(ttl)
	close(e.ready)
	if ttl == 0 && c.entries[q] == e {
		c.drop(q, e)
	}
}

// answer returns e's answer with its TTLs less the time it was kept.
func (c *cache) answer(e *entry) []byte {
	out := slices.Clone(e.answer)
	age := uint32(max(0, c.now().Sub(e.stored)) / time.Second)
	rr, _ := records(out)
	for _, r := range rr {
		if r.typ != dnsmessage.TypeOPT {
			ttl := binary.BigEndian.Uint32(out[r.ttlAt:])
			binary.BigEndian.PutUint32(out[r.ttlAt:], ttl-min(ttl, age))
		}
	}
	return out
}

// lifetime is how long an answer may be kept: its shortest TTL; for a negative one the SOA's (RFC 2308 §5), none
// without an SOA, and none for a server's failure.
func lifetime(msg []byte) time.Duration {
	rr, ok := records(msg)
	if !ok || !conclusive(msg) {
		return 0
	}
	ttl, known := maxTTL, false
	for _, r := range rr {
		switch {
		case r.section == 0:
			ttl, known = min(ttl, seconds(msg, r.ttlAt)), true
		case r.section == 1 && r.typ == dnsmessage.TypeSOA && len(r.data) >= 4:
			ttl, known = min(ttl, seconds(msg, r.ttlAt), seconds(r.data, len(r.data)-4)), true // MINIMUM is its last field
		}
	}
	if !known {
		return 0
	}
	return ttl
}

// conclusive says whether an answer says all that there is, or that there is nothing.
func conclusive(msg []byte) bool {
	const truncated = 0x02
	if len(msg) < 4 || msg[2]&truncated != 0 {
		return false
	}
	code := dnsmessage.RCode(msg[3] & 0x0f)
	return code == dnsmessage.RCodeSuccess || code == dnsmessage.RCodeNameError
}

func seconds(b []byte, at int) time.Duration {
	return min(maxTTL, time.Duration(binary.BigEndian.Uint32(b[at:]))*time.Second)
}

// remember notes that q's name leads to the addresses of its answer.
func (c *cache) remember(q question, msg []byte) {
	rr, _ := records(msg)
	name := strings.TrimSuffix(q.name, ".")
	for _, r := range rr {
		if r.section != 0 || r.typ != dnsmessage.TypeA && r.typ != dnsmessage.TypeAAAA {
			continue
		}
		addr, ok := netip.AddrFromSlice(r.data)
		if !ok || slices.Contains(c.addrs[addr], name) {
			continue
		}
		if c.addrs[addr] == nil {
			c.aged = append(c.aged, addr)
		}
		const namesPerAddr = 16 // a load balancer's address may have thousands
		if len(c.addrs[addr]) < namesPerAddr {
			c.addrs[addr] = append(c.addrs[addr], name)
		}
	}
	for len(c.aged) > maxAddrs {
		delete(c.addrs, c.aged[0])
		c.aged = c.aged[1:]
	}
}

// namesOf returns the names that were asked for and led to addr.
func (c *cache) namesOf(addr netip.Addr) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.addrs[addr])
}
