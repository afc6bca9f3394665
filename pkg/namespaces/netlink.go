package namespaces

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// kernelSocket is a netlink socket made inside the namespaces. It speaks of them wherever it is used, so the session needs no
// thread of its own inside. vishvananda/netlink cannot be given a socket, hence these few messages by hand (netlink(7),
// rtnetlink(7), sock_diag(7)).
type kernelSocket struct {
	mu  sync.Mutex // one exchange at a time
	fd  int        // owned; -1 after close
	seq uint32
	buf []byte
}

// The kernel answers within the call that asks; the time-out is for a kernel that does not answer at all.
var netlinkTimeout = unix.Timeval{Sec: 2}

// netlinkBuffer holds any part of a dump: the kernel fills at most 32 KiB at once (netlink_dump).
const netlinkBuffer = 64 << 10

// openKernelSocket makes one in the namespaces of the calling process.
func openKernelSocket(protocol int) (int, error) {
	return unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
}

// newKernelSocket takes over fd, unless it returns an error.
func newKernelSocket(fd int) (*kernelSocket, error) {
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &netlinkTimeout); err != nil {
		return nil, fmt.Errorf("namespaces: preparing a netlink socket: %w", err)
	}
	return &kernelSocket{fd: fd, buf: make([]byte, netlinkBuffer)}, nil
}

func (s *kernelSocket) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd >= 0 {
		unix.Close(s.fd)
	}
	s.fd = -1
}

// request is one netlink message without its header.
type request struct {
	kind  uint16
	flags uint16
	body  []byte
}

// do sends the requests in one piece and returns an error, or nil, for each. It needs NLM_F_ACK in their flags, which it adds.
func (s *kernelSocket) do(reqs ...request) ([]error, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return nil, errClosed
	}
	var out []byte
	first := s.seq + 1
	for _, r := range reqs {
		r.flags |= unix.NLM_F_ACK
		out = append(out, s.encode(r)...)
	}
	if err := unix.Sendto(s.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("namespaces: asking the kernel: %w", err)
	}
	errs := make([]error, len(reqs))
	for answered := 0; answered < len(reqs); {
		msgs, err := s.receive()
		if err != nil {
			return nil, err
		}
		for _, m := range msgs {
			i := m.seq - first
			if m.kind != unix.NLMSG_ERROR || i >= uint32(len(reqs)) {
				continue // left over from an exchange that timed out
			}
			errs[i] = m.errno()
			answered++
		}
	}
	return errs, nil
}

// dump sends one request and calls each with every answer's body until the kernel says that it was the last. The bodies are
// valid during the call only. A request without NLM_F_DUMP has one answer.
func (s *kernelSocket) dump(r request, each func(body []byte)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return errClosed
	}
	out := s.encode(r)
	if err := unix.Sendto(s.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("namespaces: asking the kernel: %w", err)
	}
	for {
		msgs, err := s.receive()
		if err != nil {
			return err
		}
		for _, m := range msgs {
			switch {
			case m.seq != s.seq:
			case m.kind == unix.NLMSG_DONE:
				return nil
			case m.kind == unix.NLMSG_ERROR:
				return m.errno()
			default:
				each(m.body)
				if r.flags&unix.NLM_F_DUMP != unix.NLM_F_DUMP {
					return nil
				}
			}
		}
	}
}

func (s *kernelSocket) encode(r request) []byte {
	s.seq++
	b := make([]byte, 0, unix.SizeofNlMsghdr+len(r.body))
	b = binary.NativeEndian.AppendUint32(b, uint32(unix.SizeofNlMsghdr+len(r.body)))
	b = binary.NativeEndian.AppendUint16(b, r.kind)
	b = binary.NativeEndian.AppendUint16(b, r.flags|unix.NLM_F_REQUEST)
	b = binary.NativeEndian.AppendUint32(b, s.seq)
	b = binary.NativeEndian.AppendUint32(b, 0) // the kernel knows the port
	return append(b, r.body...)                // every body here is a multiple of 4 bytes, so the next message is aligned
}

func (s *kernelSocket) receive() ([]netlinkMessage, error) {
	for {
		n, _, err := unix.Recvfrom(s.fd, s.buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("namespaces: reading the kernel's answer: %w", err)
		}
		return parseMessages(s.buf[:n])
	}
}

// netlinkMessage is one message that the kernel sent.
type netlinkMessage struct {
	kind uint16
	seq  uint32
	body []byte
}

// errno reads the body of NLMSG_ERROR: minus the errno, or 0 for done.
func (m netlinkMessage) errno() error {
	if len(m.body) < 4 {
		return fmt.Errorf("namespaces: reading the kernel's answer: error message of %d bytes", len(m.body))
	}
	if e := int32(binary.NativeEndian.Uint32(m.body)); e != 0 {
		return syscall.Errno(-e)
	}
	return nil
}

// parseMessages splits what one read returned. The bodies are parts of b.
func parseMessages(b []byte) ([]netlinkMessage, error) {
	var msgs []netlinkMessage
	for len(b) > 0 {
		if len(b) < unix.SizeofNlMsghdr {
			return nil, fmt.Errorf("namespaces: reading the kernel's answer: %d bytes are no message", len(b))
		}
		n := binary.NativeEndian.Uint32(b)
		if n < unix.SizeofNlMsghdr || uint64(n) > uint64(len(b)) {
			return nil, fmt.Errorf("namespaces: reading the kernel's answer: message of %d bytes in %d", n, len(b))
		}
		msgs = append(msgs, netlinkMessage{
			kind: binary.NativeEndian.Uint16(b[4:]),
			seq:  binary.NativeEndian.Uint32(b[8:]),
			body: b[unix.SizeofNlMsghdr:n],
		})
		b = b[min(align4(int(n)), len(b)):]
	}
	return msgs, nil
}

// attribute finds the attribute of that type in attrs (netlink(7): length, type, payload, padded to 4); nil when it is not
// there or cannot be read.
func attribute(attrs []byte, kind uint16) []byte {
	for len(attrs) >= unix.SizeofRtAttr {
		n := int(binary.NativeEndian.Uint16(attrs))
		if n < unix.SizeofRtAttr || n > len(attrs) {
			return nil
		}
		if binary.NativeEndian.Uint16(attrs[2:])&^unix.NLA_F_NESTED == kind {
			return attrs[unix.SizeofRtAttr:n]
		}
		attrs = attrs[min(align4(n), len(attrs)):]
	}
	return nil
}

// appendAttribute adds one, padded.
func appendAttribute(b []byte, kind uint16, payload ...byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(payload)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, payload...)
	return append(b, make([]byte, align4(len(payload))-len(payload))...)
}

func align4(n int) int { return (n + 3) &^ 3 }

// rule is one routing policy rule (ip-rule(8)). Zero values match everything.
type rule struct {
	v6       bool
	priority uint32
	table    uint32
	to       netip.Prefix
	fromHere bool // "iif lo": packets that this machine sends, not those that come in
	mark     uint32
	protocol uint8 // IPPROTO_TCP or IPPROTO_UDP
	sport    uint16
	dport    uint16
}

// request encodes the rule for RTM_NEWRULE or RTM_DELRULE (linux/fib_rules.h).
func (r rule) request(kind, flags uint16) request {
	family, toLen := byte(unix.AF_INET), byte(0)
	if r.v6 {
		family = unix.AF_INET6
	}
	if r.to.IsValid() {
		toLen = byte(r.to.Bits())
	}
	// struct fib_rule_hdr: family, dst_len, src_len, tos, table, two reserved, action, flags
	b := []byte{family, toLen, 0, 0, unix.RT_TABLE_UNSPEC, 0, 0, unix.FR_ACT_TO_TBL, 0, 0, 0, 0}
	word := binary.NativeEndian.AppendUint32
	b = appendAttribute(b, unix.FRA_TABLE, word(nil, r.table)...)
	b = appendAttribute(b, unix.FRA_PRIORITY, word(nil, r.priority)...)
	if r.to.IsValid() {
		b = appendAttribute(b, unix.FRA_DST, r.to.Addr().AsSlice()...)
	}
	if r.fromHere {
		b = appendAttribute(b, unix.FRA_IIFNAME, []byte("lo\x00")...)
	}
	if r.mark != 0 {
		b = appendAttribute(b, unix.FRA_FWMARK, word(nil, r.mark)...)
	}
	if r.protocol != 0 {
		b = appendAttribute(b, unix.FRA_IP_PROTO, r.protocol)
	}
	for attr, port := range map[uint16]uint16{unix.FRA_SPORT_RANGE: r.sport, unix.FRA_DPORT_RANGE: r.dport} {
		if port != 0 {
			half := binary.NativeEndian.AppendUint16
			b = appendAttribute(b, attr, half(half(nil, port), port)...)
		}
	}
	return request{kind, flags, b}
}

// addRules adds the rules; one that is there already is no error.
func (s *kernelSocket) addRules(rules ...rule) error {
	return s.change(rules, unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, unix.EEXIST)
}

// delRules removes them; one that is not there is no error.
func (s *kernelSocket) delRules(rules ...rule) error {
	return s.change(rules, unix.RTM_DELRULE, 0, unix.ENOENT)
}

func (s *kernelSocket) change(rules []rule, kind, flags uint16, fine syscall.Errno) error {
	reqs := make([]request, len(rules))
	for i, r := range rules {
		reqs[i] = r.request(kind, flags)
	}
	errs, err := s.do(reqs...)
	if err != nil {
		return err
	}
	for i, err := range errs {
		if err != nil && !errors.Is(err, fine) {
			return fmt.Errorf("namespaces: changing routing rule %+v: %w", rules[i], err)
		}
	}
	return nil
}
