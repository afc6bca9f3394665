package names

import (
	"encoding/binary"
	"errors"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// question is what a query asks, as the cache's key.
type question struct {
	name  string // lower case, fully qualified, with the final dot
	typ   dnsmessage.Type
	class dnsmessage.Class
	edns  bool // RFC 6891: who did not ask with EDNS must not be answered with it
	do    bool // DNSSEC OK (RFC 3225)
}

var errNotAQuery = errors.New("names: not a query with one question")

// query is a parsed DNS question (RFC 1035 §4.1).
type query struct {
	question
	raw  []byte
	id   uint16
	asks []byte // the question section's bytes as the asker spelled them
	size int    // the largest UDP answer it takes
}

const (
	headerLen      = 12
	plainUDPSize   = 512   // RFC 1035 §4.2.1, without EDNS
	largestMessage = 65535 // over TCP
)

func parseQuery(raw []byte) (query, error) {
	var p dnsmessage.Parser
	h, err := p.Start(raw)
	if err != nil || h.Response || h.OpCode != 0 || len(raw) < headerLen {
		return query{}, errNotAQuery
	}
	q, err := p.Question()
	if err != nil || binary.BigEndian.Uint16(raw[4:]) != 1 {
		return query{}, errNotAQuery
	}
	if err := p.SkipAllQuestions(); err != nil {
		return query{}, errNotAQuery
	}
	end, ok := skipName(raw, headerLen)
	if !ok || end+4 > len(raw) {
		return query{}, errNotAQuery
	}
	out := query{raw: raw, id: h.ID, asks: raw[headerLen : end+4], size: plainUDPSize}
	out.name, out.typ, out.class = strings.ToLower(q.Name.String()), q.Type, q.Class
	if p.SkipAllAnswers() == nil && p.SkipAllAuthorities() == nil {
		for {
			rh, err := p.AdditionalHeader()
			if err != nil {
				break
			}
			if rh.Type == dnsmessage.TypeOPT {
				out.edns = true
				out.size = max(plainUDPSize, int(rh.Class))
				out.do = rh.DNSSECAllowed()
			}
			if p.SkipAdditional() != nil {
				break
			}
		}
	}
	return out, nil
}

// ask builds a query like q for another name and type. It keeps EDNS as q has it, so that the answers are alike.
func (q query) ask(name string, typ dnsmessage.Type) ([]byte, error) {
	n, err := dnsmessage.NewName(name)
	if err != nil {
		return nil, err
	}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: q.id, RecursionDesired: true})
	b.EnableCompression()
	if err := b.StartQuestions(); err != nil {
		return nil, err
	}
	if err := b.Question(dnsmessage.Question{Name: n, Type: typ, Class: q.class}); err != nil {
		return nil, err
	}
	if q.edns {
		if err := b.StartAdditionals(); err != nil {
			return nil, err
		}
		var rh dnsmessage.ResourceHeader
		if err := rh.SetEDNS0(q.size, dnsmessage.RCodeSuccess, q.do); err != nil {
			return nil, err
		}
		if err := b.OPTResource(rh, dnsmessage.OPTResource{}); err != nil {
			return nil, err
		}
	}
	return b.Finish()
}

// fail answers q with an error code and nothing else.
func (q query) fail(code dnsmessage.RCode) []byte {
	out := make([]byte, headerLen, headerLen+len(q.asks))
	binary.BigEndian.PutUint16(out, q.id)
	out[2] = 0x80 | q.raw[2]&0x01 // a response, recursion desired as asked
	out[3] = 0x80 | byte(code)    // recursion available
	out[5] = 1
	return append(out, q.asks...)
}

// fit makes the answer one for q: its id, its spelling of the name, and within limit bytes (0: no limit), else
// truncated so that the asker comes again over TCP.
func (q query) fit(answer []byte, limit int) []byte {
	end := headerLen + len(q.asks)
	if len(answer) < end || binary.BigEndian.Uint16(answer[4:]) != 1 {
		return q.fail(dnsmessage.RCodeServerFailure)
	}
	out := append([]byte(nil), answer...)
	binary.BigEndian.PutUint16(out, q.id)
	copy(out[headerLen:], q.asks)
	if limit > 0 && len(out) > limit {
		out = out[:end]
		out[2] |= 0x02 // TC
		clear(out[6:headerLen])
	}
	return out
}

// record is where a resource record's TTL stands in a message, and what is needed of the rest.
type record struct {
	typ     dnsmessage.Type
	ttlAt   int
	data    []byte
	section int // 0 answer, 1 authority, 2 additional
}

// maxRecords bounds what is looked at in one answer; 64 KiB cannot hold more of any use.
const maxRecords = 4096

// records walks an answer's resource records (RFC 1035 §4.1.3); ok is false where it is malformed.
func records(msg []byte) (list []record, ok bool) {
	if len(msg) < headerLen {
		return nil, false
	}
	at := headerLen
	for range binary.BigEndian.Uint16(msg[4:]) {
		if at, ok = skipName(msg, at); !ok || at+4 > len(msg) {
			return nil, false
		}
		at += 4
	}
	for section := range 3 {
		for range binary.BigEndian.Uint16(msg[6+2*section:]) {
			if at, ok = skipName(msg, at); !ok || at+10 > len(msg) || len(list) == maxRecords {
				return nil, false
			}
			n := int(binary.BigEndian.Uint16(msg[at+8:]))
			if at+10+n > len(msg) {
				return nil, false
			}
			list = append(list, record{typ: dnsmessage.Type(binary.BigEndian.Uint16(msg[at:])), ttlAt: at + 4,
				data: msg[at+10 : at+10+n], section: section})
			at += 10 + n
		}
	}
	return list, true
}

// skipName returns the offset behind the name at off; a compression pointer ends it.
func skipName(msg []byte, off int) (int, bool) {
	for off < len(msg) {
		n := int(msg[off])
		switch {
		case n == 0:
			return off + 1, true
		case n&0xc0 == 0xc0:
			return off + 2, off+2 <= len(msg)
		case n&0xc0 != 0:
			return 0, false
		}
		off += n + 1
	}
	return 0, false
}
