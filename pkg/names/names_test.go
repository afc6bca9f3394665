package names

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// zone answers A and AAAA queries for a few names and NXDOMAIN with an SOA for all others, and counts round trips.
type zone struct {
	mu    sync.Mutex
	trips int
	asked []string
	delay time.Duration
	fail  error
	addrs map[string]string
	sick  bool // every answer is SERVFAIL
}

func (z *zone) exchange(_ context.Context, queries [][]byte, own []bool) ([]Answer, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.trips++
	time.Sleep(z.delay)
	if z.fail != nil {
		return nil, z.fail
	}
	var out []Answer
	for i, q := range queries {
		var p dnsmessage.Parser
		h, _ := p.Start(q)
		question, err := p.Question()
		if err != nil {
			out = append(out, Answer{Err: err})
			continue
		}
		mark := ""
		if own[i] {
			mark = "*"
		}
		z.asked = append(z.asked, mark+question.Name.String()+question.Type.String()[len("Type"):])
		out = append(out, Answer{Message: z.answer(h.ID, question)})
	}
	return out, nil
}

func (z *zone) answer(id uint16, q dnsmessage.Question) []byte {
	addr, known := z.addrs[q.Name.String()]
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: id, Response: true, RCode: dnsmessage.RCodeNameError}, Questions: []dnsmessage.Question{q}}
	if known {
		m.RCode = dnsmessage.RCodeSuccess
	}
	if known && q.Type == dnsmessage.TypeA {
		m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 30},
			Body: &dnsmessage.AResource{A: netip.MustParseAddr(addr).As4()}}}
	} else {
		root := dnsmessage.MustNewName(".")
		m.Authorities = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: root, Class: q.Class, TTL: 60},
			Body: &dnsmessage.SOAResource{NS: root, MBox: root, MinTTL: 20}}}
	}
	if z.sick {
		m.RCode, m.Answers, m.Authorities = dnsmessage.RCodeServerFailure, nil, nil
	}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

func ask(t *testing.T, r *Resolver, name string, typ dnsmessage.Type) (dnsmessage.Message, []byte) {
	t.Helper()
	q := dnsmessage.Message{Header: dnsmessage.Header{ID: 77, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET}}}
	raw, _ := q.Pack()
	answer := r.Resolve(t.Context(), raw, true)
	var m dnsmessage.Message
	if err := m.Unpack(answer); err != nil {
		t.Fatal(err)
	}
	if m.ID != 77 || m.Questions[0].Name.String() != name {
		t.Fatalf("answer to another question: %v", m)
	}
	return m, answer
}

var search = []string{"shop.svc.cluster.local", "svc.cluster.local", "cluster.local"}

func TestSearchListCostsOneRoundTrip(t *testing.T) {
	z := &zone{addrs: map[string]string{"api.example.com.": "192.0.2.1"}}
	r := New(Config{Pod: z.exchange, Search: search})
	for range 2 { // what a libc with ndots:5 asks
		for _, suffix := range append(search, "") {
			name := strings.TrimSuffix("api.example.com."+suffix, ".") + "."
			for _, typ := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
				m, _ := ask(t, r, name, typ)
				if want := dnsmessage.RCodeNameError; suffix != "" && m.RCode != want {
					t.Errorf("%s: %v", name, m.RCode)
				}
				if suffix == "" && typ == dnsmessage.TypeA && len(m.Answers) != 1 {
					t.Errorf("%s: %v", name, m.Answers)
				}
			}
		}
	}
	if z.trips != 1 {
		t.Errorf("%d round trips: %v", z.trips, z.asked)
	}
	if z.asked[0] != "api.example.com.shop.svc.cluster.local.A" || len(z.asked) != 8 || !strings.HasPrefix(z.asked[1], "*") {
		t.Errorf("asked %v", z.asked)
	}
	if names := r.NamesOf(netip.MustParseAddr("192.0.2.1")); len(names) != 1 || names[0] != "api.example.com" {
		t.Errorf("names of the address: %v", names)
	}
}

func TestTTLs(t *testing.T) {
	var passed atomic.Int64
	start := time.Now()
	z := &zone{addrs: map[string]string{"a.test.": "192.0.2.1"}}
	r := New(Config{Pod: z.exchange, Now: func() time.Time { return start.Add(time.Duration(passed.Load())) }})
	ask(t, r, "a.test.", dnsmessage.TypeA)
	passed.Add(int64(10 * time.Second))
	m, _ := ask(t, r, "a.test.", dnsmessage.TypeA)
	if ttl := m.Answers[0].Header.TTL; ttl != 20 || z.trips != 1 {
		t.Errorf("TTL %d after 10 of 30 s, %d round trips", ttl, z.trips)
	}
	passed.Add(int64(21 * time.Second))
	ask(t, r, "a.test.", dnsmessage.TypeA)
	if z.trips != 2 {
		t.Errorf("%d round trips after the TTL", z.trips)
	}
	ask(t, r, "none.test.", dnsmessage.TypeA) // negative: the SOA's minimum, 20 s
	ask(t, r, "none.test.", dnsmessage.TypeA)
	if z.trips != 3 {
		t.Errorf("a negative answer was not kept")
	}
	passed.Add(int64(21 * time.Second))
	ask(t, r, "none.test.", dnsmessage.TypeA)
	if z.trips != 4 {
		t.Errorf("a negative answer was kept too long")
	}
}

func TestFailuresAreNotKept(t *testing.T) {
	z := &zone{fail: errors.New("lost"), addrs: map[string]string{"a.test.": "192.0.2.1"}}
	r := New(Config{Pod: z.exchange})
	if m, _ := ask(t, r, "a.test.", dnsmessage.TypeA); m.RCode != dnsmessage.RCodeServerFailure {
		t.Error(m.RCode)
	}
	z.fail = nil
	if m, _ := ask(t, r, "a.test.", dnsmessage.TypeA); len(m.Answers) != 1 {
		t.Error(m)
	}
}

// TestSickServersAreAskedAgain: nor are the failures of questions that nobody had asked yet.
func TestSickServersAreAskedAgain(t *testing.T) {
	z := &zone{sick: true, addrs: map[string]string{"a.test.": "192.0.2.1"}}
	r := New(Config{Pod: z.exchange})
	if m, _ := ask(t, r, "a.test.", dnsmessage.TypeAAAA); m.RCode != dnsmessage.RCodeServerFailure {
		t.Error(m.RCode)
	}
	z.mu.Lock() // the A question goes along: its trip may not have settled yet
	z.sick = false
	z.mu.Unlock()
	r.cache.mu.Lock()
	e := r.cache.entries[question{name: "a.test.", typ: dnsmessage.TypeA, class: dnsmessage.ClassINET}]
	r.cache.mu.Unlock()
	if e != nil {
		<-e.ready
	}
	if m, _ := ask(t, r, "a.test.", dnsmessage.TypeA); len(m.Answers) != 1 {
		t.Error(m)
	}
}

func TestConcurrentAskersShareATrip(t *testing.T) {
	z := &zone{delay: 50 * time.Millisecond, addrs: map[string]string{"a.test.": "192.0.2.1"}}
	r := New(Config{Pod: z.exchange})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() { ask(t, r, "A.test.", []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA}[i%2]) })
	}
	wg.Wait()
	if z.trips != 1 {
		t.Errorf("%d round trips", z.trips)
	}
}

func TestSides(t *testing.T) {
	pod, host := &zone{addrs: map[string]string{"db.pod.": "192.0.2.1"}}, &zone{addrs: map[string]string{"git.corp.": "192.0.2.2"}}
	r := New(Config{Pod: pod.exchange, Host: host.exchange, Side: func(name string) bool { return name != "git.corp" }})
	ask(t, r, "db.pod.", dnsmessage.TypeA)
	if m, _ := ask(t, r, "git.corp.", dnsmessage.TypeA); len(m.Answers) != 1 {
		t.Error("not resolved on the host")
	}
	for _, q := range pod.asked {
		if strings.Contains(q, "git.corp") {
			t.Error("the pod's resolver was asked for a name of the host")
		}
	}
}

func TestTruncation(t *testing.T) {
	big := func(_ context.Context, queries [][]byte, _ []bool) ([]Answer, error) {
		var out []Answer
		for _, q := range queries {
			var m dnsmessage.Message
			_ = m.Unpack(q)
			m.Response = true
			for i := range 100 {
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: 1, TTL: 5},
					Body: &dnsmessage.TXTResource{TXT: []string{strings.Repeat("x", 50+i)}}})
			}
			b, _ := m.Pack()
			out = append(out, Answer{Message: b})
		}
		return out, nil
	}
	r := New(Config{Pod: big})
	m, raw := ask(t, r, "t.test.", dnsmessage.TypeTXT)
	if !m.Truncated || len(raw) > plainUDPSize || len(m.Answers) != 0 {
		t.Errorf("%d bytes, truncated %v", len(raw), m.Truncated)
	}
	a, b := net.Pipe()
	go r.ServeTCP(t.Context(), b)
	q := dnsmessage.Message{Questions: m.Questions}
	packed, _ := q.Pack()
	a.Write(append([]byte{0, byte(len(packed))}, packed...))
	var length [2]byte
	io.ReadFull(a, length[:])
	whole := make([]byte, int(length[0])<<8|int(length[1]))
	io.ReadFull(a, whole)
	if err := m.Unpack(whole); err != nil || len(m.Answers) != 100 {
		t.Errorf("over TCP: %d answers, %v", len(m.Answers), err)
	}
	a.Close()
}

func FuzzResolve(f *testing.F) {
	q := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("a.test."), Type: dnsmessage.TypeA, Class: 1}}}
	raw, _ := q.Pack()
	f.Add(raw, raw)
	z := &zone{addrs: map[string]string{"a.test.": "192.0.2.1"}}
	f.Add(raw, z.answer(1, q.Questions[0]))
	f.Fuzz(func(t *testing.T, query, answer []byte) {
		r := New(Config{Search: []string{"test"}, Pod: func(_ context.Context, queries [][]byte, _ []bool) ([]Answer, error) {
			return []Answer{{Message: answer}}, nil
		}})
		for _, udp := range []bool{true, false} {
			out := r.Resolve(t.Context(), query, udp)
			if out != nil && (len(out) < headerLen || out[2]&0x80 == 0 || out[0] != query[0] || out[1] != query[1]) {
				t.Fatalf("not an answer to its query: %x", out)
			}
		}
	})
}
