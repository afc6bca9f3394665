package podlet

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Resolver is the pod's name server, and its resolv.conf. It knows the names of its zone and no other: all others do not
// exist, which may be remembered (RFC 2308).
type Resolver struct {
	Addr   netip.Addr // where it listens, port 53, UDP and TCP: a loopback or pod address, else one of the outside's, made for it
	Zone   map[string][]netip.Addr
	Alias  map[string]string // CNAME
	Origin string            // the zone of negative answers' SOA, for names below it; else the root
	TTL    time.Duration     // of positive and negative answers, 0 = 30 s
	Delay  time.Duration     // before each answer
	Search []string
	Ndots  int    // 0 = 5, as in Kubernetes
	Conf   string // the whole resolv.conf; "" = made of the above
}

func (r Resolver) conf() string {
	if r.Conf != "" {
		return r.Conf
	}
	ndots := r.Ndots
	if ndots == 0 {
		ndots = 5
	}
	conf := "nameserver " + r.Addr.String() + "\n"
	if len(r.Search) > 0 {
		conf = "search " + strings.Join(r.Search, " ") + "\n" + conf
	}
	return conf + "options ndots:" + strconv.Itoa(ndots) + "\n"
}

// inside says whether its address is in the pod.
func (r Resolver) inside(s Spec) bool {
	if r.Addr.IsLoopback() {
		return true
	}
	for _, a := range s.Addrs {
		if a.Addr() == r.Addr {
			return true
		}
	}
	return false
}

// maxQuestions bounds what is remembered of the questions; they are counted beyond.
const maxQuestions = 1 << 16

// resolver answers. Goroutines: one for UDP, one for TCP's listener, one a TCP connection, one an answer that is delayed; all end with
// the pod.
type resolver struct {
	spec Resolver
	pod  *Pod

	mu    sync.Mutex
	asked []string
	count int
}

func (p *Pod) serveNames(ctx context.Context, spec Resolver) (*resolver, error) {
	r := &resolver{pod: p, spec: spec}
	if r.spec.TTL == 0 {
		r.spec.TTL = 30 * time.Second
	}
	end := p.Outside
	if spec.inside(p.spec) {
		end = p.Inside
	}
	const port = 53
	at := netip.AddrPortFrom(spec.Addr, port)
	packets, err := end.ListenPacket(ctx, "udp", at)
	if err != nil {
		return nil, err
	}
	l, err := end.Listen(ctx, "tcp", at)
	if err != nil {
		return nil, err
	}
	p.wg.Go(func() { r.packets(packets) })
	p.wg.Go(func() { p.serve(l, r.stream) })
	return r, nil
}

// Questions are those that the resolver was asked so far, as "name. TYPE", in order.
func (p *Pod) Questions() []string {
	if p.resolver == nil {
		return nil
	}
	p.resolver.mu.Lock()
	defer p.resolver.mu.Unlock()
	return append([]string(nil), p.resolver.asked...)
}

// QuestionCount is how many the resolver was asked so far.
func (p *Pod) QuestionCount() int {
	if p.resolver == nil {
		return 0
	}
	p.resolver.mu.Lock()
	defer p.resolver.mu.Unlock()
	return p.resolver.count
}

func (r *resolver) packets(c net.PacketConn) {
	b := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		answer := r.answer(b[:n], true)
		if answer == nil {
			continue
		}
		r.pod.wg.Go(func() {
			time.Sleep(r.spec.Delay)
			_, _ = c.WriteTo(answer, from)
		})
	}
}

// stream answers one TCP connection's questions (RFC 1035 §4.2.2).
func (r *resolver) stream(c net.Conn) {
	for {
		var head [2]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return
		}
		question := make([]byte, binary.BigEndian.Uint16(head[:]))
		if _, err := io.ReadFull(c, question); err != nil {
			return
		}
		answer := r.answer(question, false)
		if answer == nil {
			return
		}
		time.Sleep(r.spec.Delay)
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}

// answer returns the complete answer; nil where the question is none. One too long for UDP is cut off.
func (r *resolver) answer(question []byte, udp bool) []byte {
	var p dnsmessage.Parser
	head, err := p.Start(question)
	if err != nil || head.Response {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	r.note(q)
	limit := 64 << 10
	if udp {
		limit = size(&p)
	}
	m := r.resolve(head, q)
	b, err := m.Pack()
	if err == nil && len(b) > limit {
		m.Truncated, m.Answers, m.Authorities = true, nil, nil
		b, err = m.Pack()
	}
	if err != nil {
		return nil
	}
	return b
}

// size is the longest UDP answer that the asker takes: 512 bytes, or what its OPT record says (RFC 6891).
func size(p *dnsmessage.Parser) int {
	const usual, most = 512, 4096
	if p.SkipAllQuestions() != nil || p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return usual
	}
	for {
		h, err := p.AdditionalHeader()
		if err != nil {
			return usual
		}
		if h.Type == dnsmessage.TypeOPT {
			return min(most, max(usual, int(h.Class)))
		}
		if p.SkipAdditional() != nil {
			return usual
		}
	}
}

func (r *resolver) note(q dnsmessage.Question) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count++
	if len(r.asked) < maxQuestions {
		r.asked = append(r.asked, q.Name.String()+" "+strings.TrimPrefix(q.Type.String(), "Type"))
	}
}

// resolve makes the answer, following aliases.
func (r *resolver) resolve(head dnsmessage.Header, q dnsmessage.Question) dnsmessage.Message {
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: head.ID, Response: true, Authoritative: true,
		RecursionDesired: head.RecursionDesired, RecursionAvailable: true}, Questions: []dnsmessage.Question{q}}
	ttl := uint32(r.spec.TTL / time.Second)
	name := q.Name
	exists := false
	const maxAliases = 8
	for range maxAliases {
		to, ok := lookup(r.spec.Alias, name.String())
		if !ok {
			break
		}
		target, err := dnsmessage.NewName(strings.TrimSuffix(to, ".") + ".")
		if err != nil {
			break
		}
		exists = true
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: header(name, ttl), Body: &dnsmessage.CNAMEResource{CNAME: target}})
		name = target
	}
	addrs, ok := lookup(r.spec.Zone, name.String())
	for _, a := range addrs {
		switch {
		case q.Type == dnsmessage.TypeA && a.Is4():
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header(name, ttl), Body: &dnsmessage.AResource{A: a.As4()}})
		case q.Type == dnsmessage.TypeAAAA && a.Is6():
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header(name, ttl), Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	if exists = exists || ok; !exists {
		m.RCode = dnsmessage.RCodeNameError
	}
	if len(m.Answers) == 0 {
		m.Authorities = []dnsmessage.Resource{r.soa(q.Name, ttl)}
	}
	return m
}

func header(name dnsmessage.Name, ttl uint32) dnsmessage.ResourceHeader {
	return dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: ttl}
}

// soa is the record that says how long "no" holds.
func (r *resolver) soa(name dnsmessage.Name, ttl uint32) dnsmessage.Resource {
	zone := dnsmessage.MustNewName(".")
	origin := strings.ToLower(strings.Trim(r.spec.Origin, ".")) + "."
	if n, err := dnsmessage.NewName(origin); err == nil && strings.HasSuffix("."+strings.ToLower(name.String()), "."+origin) && origin != "." {
		zone = n
	}
	return dnsmessage.Resource{Header: header(zone, ttl), Body: &dnsmessage.SOAResource{NS: zone, MBox: zone, Serial: 1,
		Refresh: 7200, Retry: 1800, Expire: 86400, MinTTL: ttl}}
}

// lookup finds a name whatever its case and its last dot.
func lookup[T any](m map[string]T, name string) (v T, ok bool) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	for k, v := range m {
		if strings.ToLower(strings.TrimSuffix(k, ".")) == name {
			return v, true
		}
	}
	return v, false
}
