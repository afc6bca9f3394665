package child

import (
	"bytes"
	"syscall"

	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/resolv"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// resolver is the pod's resolv.conf, read again for each look-up: it may change, and it is a page in the cache. While the
// container restarts it is as it was.
func (v *view) resolver() resolv.Conf {
	root := v.now()
	var raw []byte
	if root != nil {
		raw, _ = root.ReadFile(resolvConf, maxConf) // without one the library asks this machine's, and so do we
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.raw == nil || root != nil && !bytes.Equal(raw, v.raw) {
		v.raw, v.conf = append([]byte{}, raw...), resolv.ParseConf(raw)
	}
	return v.conf
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
	conf := c.view.resolver()
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
