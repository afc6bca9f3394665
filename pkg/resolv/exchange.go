package resolv

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	maxAnswer = 65535
	maxQuery  = 4096 // a question with EDNS is under 600 bytes
)

// errMismatch is an answer to another question, which must not end the wait for the right one.
var errMismatch = errors.New("resolv: answer to another question")

// Describe returns a question's name and type for the agent's list; the error says that it is none.
func Describe(query []byte) (string, error) {
	_, q, err := question(query)
	if err != nil {
		return "", err
	}
	return q.Name.String() + " " + strings.TrimPrefix(q.Type.String(), "Type"), nil
}

func question(b []byte) (h dnsmessage.Header, q dnsmessage.Question, err error) {
	var p dnsmessage.Parser
	if h, err = p.Start(b); err != nil {
		return h, q, fmt.Errorf("resolv: %v", err)
	}
	if q, err = p.Question(); err != nil {
		return h, q, fmt.Errorf("resolv: %v", err)
	}
	return h, q, nil
}

// Ask puts one question to the servers in turn and returns the first real answer. SERVFAIL, REFUSED and NOTIMP are not:
// the next server is asked, and the last of them returned if no other knows better. Without any answer the error is the
// last one's: a time-out, or a server's errno.
func (c Conf) Ask(ctx context.Context, query []byte) ([]byte, error) {
	if len(query) > maxQuery {
		return nil, syscall.EMSGSIZE
	}
	if _, _, err := question(query); err != nil {
		return nil, fmt.Errorf("%v: %w", err, syscall.EINVAL)
	}
	var poor []byte
	var last error
	for range c.Tries {
		for _, server := range c.Servers {
			answer, err := c.askOne(ctx, netip.AddrPortFrom(server, port), query)
			switch {
			case ctx.Err() != nil:
				return nil, ctx.Err()
			case err != nil:
				last = err
			case unsure(answer):
				poor = answer
			default:
				return answer, nil
			}
		}
		if poor != nil {
			return poor, nil
		}
	}
	return nil, last
}

// unsure is an answer that another server may better.
func unsure(answer []byte) bool {
	code := dnsmessage.RCode(answer[3] & 0xf)
	return code == dnsmessage.RCodeServerFailure || code == dnsmessage.RCodeRefused || code == dnsmessage.RCodeNotImplemented
}

func (c Conf) askOne(ctx context.Context, server netip.AddrPort, query []byte) ([]byte, error) {
	if !c.TCP {
		answer, err := exchange(ctx, "udp", server, query, c.Timeout)
		const truncated = 0x02
		if err != nil || answer[2]&truncated == 0 {
			return answer, err
		}
	}
	return exchange(ctx, "tcp", server, query, c.Timeout)
}

func exchange(ctx context.Context, network string, server netip.AddrPort, query []byte, timeout time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	if network == "tcp" {
		framed := binary.BigEndian.AppendUint16(nil, uint16(len(query)))
		if _, err := conn.Write(append(framed, query...)); err != nil {
			return nil, err
		}
		var h [2]byte
		if _, err := io.ReadFull(conn, h[:]); err != nil {
			return nil, err
		}
		answer := make([]byte, binary.BigEndian.Uint16(h[:]))
		if _, err := io.ReadFull(conn, answer); err != nil {
			return nil, err
		}
		return answer, match(query, answer)
	}
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	buf := make([]byte, maxAnswer)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		if match(query, buf[:n]) == nil {
			return append([]byte(nil), buf[:n]...), nil
		}
	}
}

// match says whether answer belongs to query: a response of the same id to the same question, by name without case.
func match(query, answer []byte) error {
	qh, q, err := question(query)
	if err != nil {
		return err
	}
	ah, a, err := question(answer)
	if err == nil && ah.Response && ah.ID == qh.ID && a.Type == q.Type && a.Class == q.Class &&
		strings.EqualFold(a.Name.String(), q.Name.String()) {
		return nil
	}
	if err != nil && ah.Response && ah.ID == qh.ID && ah.RCode != dnsmessage.RCodeSuccess {
		return nil // some servers refuse without repeating the question
	}
	return errMismatch
}
