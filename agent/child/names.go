package child

import (
	"bytes"
	"sync"
	"syscall"

	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/resolv"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// resolver is the pod's resolv.conf, read again for each look-up: it may change, and it is a page in the cache.
type resolver struct {
	mu   sync.Mutex
	raw  []byte
	conf resolv.Conf
}

func (r *resolver) current() resolv.Conf {
	raw, _ := readConf() // without one the library asks this machine's, and so do we
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.raw == nil || !bytes.Equal(raw, r.raw) {
		r.raw, r.conf = append([]byte{}, raw...), resolv.ParseConf(raw)
	}
	return r.conf
}

// lookup asks all questions at once and answers in their order.
func (c *Child) lookup(r *mux.Request) {
	var l wire.Lookup
	if !decode(r, &l) {
		return
	}
	if len(l.Queries) > wire.MaxQueries {
		r.Refuse(syscall.E2BIG)
		return
	}
	stream, err := r.Accept(nil)
	if err != nil {
		return
	}
	defer stream.Close()
	conf := c.resolver.current()
	answers := make([]chan []byte, len(l.Queries))
	for i, q := range l.Queries {
		answers[i] = make(chan []byte, 1)
		what, err := resolv.Describe(q)
		if err != nil {
			answers[i] <- wire.AppendErrno(nil, syscall.EINVAL)
			continue
		}
		c.trace.note("lookup", what, i < len(l.Own) && l.Own[i])
		go func() {
			answer, err := conf.Ask(stream.Context(), q)
			if err != nil || len(answer) > wire.MaxChunk {
				c.log.Debug("lookup failed", "what", what, "err", err)
				answers[i] <- wire.AppendErrno(nil, wire.ErrnoOf(err, syscall.EIO))
				return
			}
			answers[i] <- wire.AppendData(nil, answer)
		}()
	}
	for _, a := range answers {
		if _, err := stream.Write(<-a); err != nil {
			return
		}
	}
}
