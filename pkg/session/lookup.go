package session

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"sync"

	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/names"
	"github.com/stepin-dev/stepin/pkg/policy"
	"github.com/stepin-dev/stepin/pkg/resolv"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// lookup carries questions to the pod's resolver: one stream, one round trip. Without an agent, onLost decides.
func (s *Session) lookup(ctx context.Context, queries [][]byte, own []bool) ([]names.Answer, error) {
	var answers []names.Answer
	for len(queries) > 0 {
		n := min(len(queries), wire.MaxQueries)
		part, err := s.lookupSome(ctx, queries[:n], own[:n])
		if errors.Is(err, mux.ErrLost) && policy.Lost(s.config.OnLost).Where == policy.Host {
			part, err = hostLookup(ctx, queries[:n], own[:n])
		}
		if err != nil {
			return nil, err
		}
		answers = append(answers, part...)
		queries, own = queries[n:], own[n:]
	}
	return answers, nil
}

func (s *Session) lookupSome(ctx context.Context, queries [][]byte, own []bool) ([]names.Answer, error) {
	stream, err := s.link.open(ctx, wire.KindLookup, wire.Lookup{Queries: queries, Own: own}, nil)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	stop := context.AfterFunc(ctx, func() { stream.Close() })
	defer stop()
	chunks := wire.NewChunkReader(stream)
	answers := make([]names.Answer, len(queries))
	for i := range answers {
		ch, err := chunks.Read()
		if err != nil {
			return nil, err
		}
		if ch.Type == wire.ChunkErrno {
			answers[i].Err = ch.Errno
			continue
		}
		answers[i].Message = append([]byte(nil), ch.Data...)
	}
	return answers, nil
}

// hostConf is the developer's own resolv.conf as it is now.
func hostConf() resolv.Conf {
	raw, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		raw = nil // without one libc asks this machine's own server, and so does resolv
	}
	return resolv.ParseConf(raw)
}

// hostLookup asks the developer's own name servers.
func hostLookup(ctx context.Context, queries [][]byte, _ []bool) ([]names.Answer, error) {
	conf := hostConf()
	answers := make([]names.Answer, len(queries))
	var wg sync.WaitGroup
	for i, q := range queries {
		wg.Go(func() { answers[i].Message, answers[i].Err = conf.Ask(ctx, q) })
	}
	wg.Wait()
	return answers, nil
}

// decodeAll reads one JSON value of at most limit bytes.
func decodeAll(r io.Reader, limit int64, v any) error {
	return json.NewDecoder(io.LimitReader(r, limit)).Decode(v)
}
