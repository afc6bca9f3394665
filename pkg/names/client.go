package names

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Client carries queries to name servers over UDP, and over TCP where an answer was truncated.
type Client struct {
	Servers func() []netip.Addr // asked before each round trip: resolv.conf may have changed
	Port    uint16              // 0 means 53
}

const (
	tryTimeout = 3 * time.Second // one server, one try; resolv.conf's own default is 5 s
	tries      = 2               // resolv.conf's "attempts"
)

// Exchange is an Exchange: all queries at once, each to the first server that answers. An error is one query's own;
// without any server each fails with ECONNREFUSED.
func (c *Client) Exchange(ctx context.Context, queries [][]byte, _ []bool) ([]Answer, error) {
	servers := c.Servers()
	answers := make([]Answer, len(queries))
	var wg sync.WaitGroup
	for i, q := range queries {
		wg.Go(func() { answers[i].Message, answers[i].Err = c.ask(ctx, servers, q) })
	}
	wg.Wait()
	return answers, nil
}

func (c *Client) ask(ctx context.Context, servers []netip.Addr, query []byte) (answer []byte, err error) {
	err = error(syscall.ECONNREFUSED)
	for range tries {
		for _, s := range servers {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			to := netip.AddrPortFrom(s, c.Port)
			if c.Port == 0 {
				to = netip.AddrPortFrom(s, 53)
			}
			var one []byte
			if one, err = askUDP(ctx, to, query); err == nil && one[2]&0x02 != 0 {
				one, err = askTCP(ctx, to, query)
			}
			if err != nil {
				continue
			}
			// A server that failed or refuses may be one of several that differ (resolv.conf(5) tries on, too).
			if code := dnsmessage.RCode(one[3] & 0x0f); code == dnsmessage.RCodeServerFailure || code == dnsmessage.RCodeRefused {
				answer = one
				continue
			}
			return one, nil
		}
	}
	if answer != nil {
		return answer, nil
	}
	return nil, err
}

// askUDP asks once. The id is our own and random, so that nobody off the path can answer (RFC 5452); the asker's is
// put back.
func askUDP(ctx context.Context, to netip.AddrPort, query []byte) ([]byte, error) {
	conn, err := dial(ctx, "udp", to)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	mine, id, err := renumber(query)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(mine); err != nil {
		return nil, err
	}
	buf := make([]byte, largestMessage)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		if n >= headerLen && buf[2]&0x80 != 0 && [2]byte(buf[:2]) == [2]byte(mine[:2]) {
			binary.BigEndian.PutUint16(buf, id)
			return buf[:n:n], nil
		}
	}
}

func askTCP(ctx context.Context, to netip.AddrPort, query []byte) ([]byte, error) {
	conn, err := dial(ctx, "tcp", to)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	out := binary.BigEndian.AppendUint16(nil, uint16(len(query)))
	if _, err := conn.Write(append(out, query...)); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, err
	}
	answer := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return nil, err
	}
	if len(answer) < headerLen {
		return nil, errors.New("names: an answer without a header")
	}
	return answer, nil
}

func dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{Timeout: tryTimeout}
	conn, err := d.DialContext(ctx, network, to.String())
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(tryTimeout))
	return conn, nil
}

func renumber(query []byte) (mine []byte, id uint16, err error) {
	if len(query) < headerLen || len(query) > largestMessage {
		return nil, 0, errNotAQuery
	}
	mine = append([]byte(nil), query...)
	if _, err := rand.Read(mine[:2]); err != nil {
		return nil, 0, err
	}
	return mine, binary.BigEndian.Uint16(query), nil
}
