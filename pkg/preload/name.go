package preload

import (
	"encoding/binary"
	"net/netip"
	"syscall"
)

// name answers what a libc asks about names and addresses.
func (s *Server) name(q *question) {
	ctx, stop := q.untilGone(s.ctx)
	defer stop()
	switch q.head.Kind {
	case KindLookup:
		var body LookupQuestion
		tail, err := DecodeBody(q.body, &body)
		if err != nil || len(tail) > NameMax {
			break
		}
		s.found(q, s.cfg.Handler.Lookup(ctx, string(tail), body.Family))
		return
	case KindReverse:
		var body ReverseQuestion
		if _, err := DecodeBody(q.body, &body); err != nil || body.Address.Family == 0 {
			break
		}
		s.found(q, s.cfg.Handler.Reverse(ctx, unmap(body.Address.AddrPort()).Addr()))
		return
	case KindResolve:
		var body ResolveQuestion
		tail, err := DecodeBody(q.body, &body)
		if err != nil {
			break
		}
		answer, result := s.cfg.Handler.Resolve(ctx, tail, body.Flags&ResolveSearch != 0)
		if max := MessageMax - HeadLen - binary.Size(ResolveAnswer{}); len(answer) > max {
			answer, result = nil, LookupTryAgain // no resolver sends such
		}
		q.answer(ResolveAnswer{Result: result}, answer)
		return
	}
	q.fail(syscall.EPROTO)
}

func (s *Server) found(q *question, f Found) {
	f.Addrs = f.Addrs[:min(len(f.Addrs), AddressesMax)]
	f.Canonical = f.Canonical[:min(len(f.Canonical), NameMax)]
	var tail []byte
	var err error
	for _, a := range f.Addrs {
		if tail, err = binary.Append(tail, binary.LittleEndian, AddressOf(netip.AddrPortFrom(a, 0))); err != nil {
			q.fail(syscall.EPROTO)
			return
		}
	}
	q.answer(LookupAnswer{Result: f.Result, Count: uint32(len(f.Addrs)), Canonical: uint32(len(f.Canonical))}, append(tail, f.Canonical...))
}
