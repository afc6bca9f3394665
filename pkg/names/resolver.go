// Package names answers the debuggee's DNS questions in the place of the pod's name servers: it carries them to the
// pod's resolver, a whole search list in one round trip, and keeps the answers for as long as they say. It never
// decides by itself where a name is resolved, and never answers with anything that no resolver said.
package names

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Answer is what came back for one query: a message, or an error.
type Answer struct {
	Message []byte
	Err     error
}

// Exchange carries complete queries to a resolver and returns as many answers, in order. own marks those that nobody
// asked for yet.
type Exchange func(ctx context.Context, queries [][]byte, own []bool) ([]Answer, error)

// Config says how a Resolver resolves. It may be changed until New.
type Config struct {
	Pod  Exchange                     // the pod's resolver
	Host Exchange                     // the developer's
	Side func(name string) (pod bool) // who resolves name (without final dot); nil: always the pod
	// Search is the search list of the pod's resolv.conf.
	Search []string
	Now    func() time.Time // nil: time.Now
}

// timeout bounds one question. A resolver's own default gives up after 5 s and asks again (resolv.conf(5)): the
// answer to the first is then served to the second.
const timeout = 15 * time.Second

// maxSearch bounds the search list that is asked at once: resolv.conf(5) allows what fits, Kubernetes 32.
const maxSearch = 32

// Resolver answers questions. It starts one goroutine a round trip, which ends with its exchange.
type Resolver struct {
	cfg    Config
	search []string // lower case, fully qualified
	cache  *cache
}

// New makes a Resolver.
func New(cfg Config) *Resolver {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	r := &Resolver{cfg: cfg, cache: newCache(cfg.Now)}
	for _, s := range cfg.Search {
		s = strings.ToLower(strings.Trim(s, "."))
		if s != "" && len(r.search) < maxSearch {
			r.search = append(r.search, s+".")
		}
	}
	return r
}

// NamesOf returns the names that were asked for and led to addr, without final dots.
func (r *Resolver) NamesOf(addr netip.Addr) []string { return r.cache.namesOf(addr) }

// Resolve answers one message. A UDP answer fits what the asker takes. It returns nil for what is no query: that
// deserves no answer (RFC 1035 has none, and an answer to an answer may run in circles).
func (r *Resolver) Resolve(ctx context.Context, msg []byte, udp bool) []byte {
	q, err := parseQuery(msg)
	if err != nil {
		return nil
	}
	limit := 0
	if udp {
		limit = q.size
	}
	entry, mine := r.cache.claim(q.question)
	if mine {
		r.fetch(q, entry)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	select {
	case <-entry.ready:
	case <-ctx.Done():
		return q.fail(dnsmessage.RCodeServerFailure)
	}
	if entry.err != nil {
		return q.fail(dnsmessage.RCodeServerFailure)
	}
	return q.fit(r.cache.answer(entry), limit)
}

// want is one question of a round trip.
type want struct {
	question
	raw   []byte
	entry *entry
	own   bool
}

// fetch gets the answer to q and to what will be asked next: the other address family, and, where q is the first of
// a search, the rest of it.
func (r *Resolver) fetch(q query, e *entry) {
	wants := []want{{question: q.question, raw: q.raw, entry: e}}
	if q.typ == dnsmessage.TypeA || q.typ == dnsmessage.TypeAAAA {
		for _, name := range r.expand(q.name) {
			for _, typ := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
				next := question{name: name, typ: typ, class: q.class, edns: q.edns, do: q.do}
				if next == q.question {
					continue
				}
				raw, err := q.ask(name, typ)
				if err != nil {
					continue
				}
				if e, mine := r.cache.claim(next); mine {
					wants = append(wants, want{question: next, raw: raw, entry: e, own: true})
				}
			}
		}
	}
	var pod, host []want
	for _, w := range wants {
		if r.cfg.Side == nil || r.cfg.Side(strings.TrimSuffix(w.name, ".")) {
			pod = append(pod, w)
		} else {
			host = append(host, w)
		}
	}
	go r.exchange(r.cfg.Pod, pod)
	go r.exchange(r.cfg.Host, host)
}

// expand lists the names that a resolver asks for when its first question was name: name itself and, where it ends
// with the first entry of the search list, the same with the other entries and without any.
func (r *Resolver) expand(name string) []string {
	out := []string{name}
	if len(r.search) == 0 {
		return out
	}
	base, ok := strings.CutSuffix(name, "."+r.search[0])
	if !ok || base == "" {
		return out
	}
	for _, s := range r.search[1:] {
		out = append(out, base+"."+s)
	}
	return append(out, base+".")
}

func (r *Resolver) exchange(do Exchange, wants []want) {
	if len(wants) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	queries, own := make([][]byte, len(wants)), make([]bool, len(wants))
	for i, w := range wants {
		queries[i], own[i] = w.raw, w.own
	}
	answers, err := do(ctx, queries, own)
	for i, w := range wants {
		var a Answer
		switch {
		case err != nil:
			a.Err = err
		case i >= len(answers):
			a.Err = errors.New("names: no answer came back")
		default:
			a = answers[i]
		}
		if a.Err == nil {
			a.Err = check(w.question, a.Message)
		}
		hold := time.Duration(0)
		if w.own {
			hold = searchHold
		}
		r.cache.settle(w.question, w.entry, a.Message, a.Err, hold)
	}
}

// check sees to it that msg answers q and is well-formed enough to be kept.
func check(q question, msg []byte) error {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || !h.Response {
		return errors.New("names: not an answer")
	}
	got, err := p.Question()
	if err != nil || strings.ToLower(got.Name.String()) != q.name || got.Type != q.typ || got.Class != q.class {
		return errors.New("names: an answer to another question")
	}
	if _, ok := records(msg); !ok {
		return errors.New("names: malformed answer")
	}
	return nil
}

// ServeTCP answers the questions of one TCP connection (RFC 1035 §4.2.2, one after another) until it ends.
func (r *Resolver) ServeTCP(ctx context.Context, c io.ReadWriter) error {
	var length [2]byte
	buf := make([]byte, largestMessage)
	for {
		if _, err := io.ReadFull(c, length[:]); err != nil {
			return err
		}
		msg := buf[:binary.BigEndian.Uint16(length[:])]
		if _, err := io.ReadFull(c, msg); err != nil {
			return err
		}
		answer := r.Resolve(ctx, msg, false)
		if answer == nil {
			return errNotAQuery
		}
		out := binary.BigEndian.AppendUint16(nil, uint16(len(answer)))
		if _, err := c.Write(append(out, answer...)); err != nil {
			return err
		}
	}
}
