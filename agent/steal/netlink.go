package steal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// netlink is one socket of a netlink family (netlink(7)). It stays in the network namespace in which it was opened. It
// is not safe for concurrent use.
type netlink struct {
	fd  int
	seq uint32
	buf []byte
}

const (
	// netlinkTimeout bounds the wait for the kernel's answer, which comes at once or never.
	netlinkTimeout = 2 // seconds
	// netlinkBuffer takes the largest packet the kernel makes for a dump (NLMSG_GOODSIZE times two and more).
	netlinkBuffer = 64 << 10
	nlHeaderLen   = 16
	nlAttrLen     = 4
	nlaTypeMask   = 0x3fff // without the flags for nested and byte order
)

// openNetlink must be called by a thread that is in the namespace meant.
func openNetlink(family int) (*netlink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, family)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	timeout := unix.Timeval{Sec: netlinkTimeout}
	if err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)
	}
	if err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return &netlink{fd: fd, buf: make([]byte, netlinkBuffer)}, nil
}

func (n *netlink) close() { unix.Close(n.fd) }

// message appends one message with the next sequence number to b and returns that number.
func (n *netlink) message(b []byte, kind uint16, flags uint16, body []byte) ([]byte, uint32) {
	n.seq++
	b = binary.NativeEndian.AppendUint32(b, uint32(nlHeaderLen+len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags|unix.NLM_F_REQUEST)
	b = binary.NativeEndian.AppendUint32(b, n.seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	return pad(append(b, body...)), n.seq
}

func (n *netlink) send(b []byte) error {
	return os.NewSyscallError("sendto", unix.Sendto(n.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
}

// receive hands each message of the answer to each until that says it has seen the last one.
func (n *netlink) receive(each func(m nlMessage) (last bool, err error)) error {
	return n.recv(0, each)
}

// recv is receive with flags for recvfrom(2).
func (n *netlink) recv(flags int, each func(m nlMessage) (last bool, err error)) error {
	for {
		got, _, err := unix.Recvfrom(n.fd, n.buf, flags)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		messages, err := parseMessages(n.buf[:got])
		if err != nil {
			return err
		}
		for _, m := range messages {
			if last, err := each(m); last || err != nil {
				return err
			}
		}
	}
}

// acked waits for the kernel's word on every message up to last. The first error counts, but all answers are read, so
// that none is taken for the answer to a later question. A refused batch has fewer answers than messages; but netlink
// answers within sendto(2), so after an error what is there is all there will be.
func (n *netlink) acked(last uint32) error {
	var first error
	each := func(m nlMessage) (bool, error) {
		if m.kind == unix.NLMSG_ERROR && first == nil {
			if no := m.errno(); no != 0 {
				first = no
			}
		}
		return false, nil
	}
	err := n.receive(func(m nlMessage) (bool, error) {
		_, _ = each(m)
		return m.kind == unix.NLMSG_ERROR && m.seq == last || first != nil, nil
	})
	if err != nil {
		return err
	}
	if first == nil {
		return nil
	}
	if err := n.recv(unix.MSG_DONTWAIT, each); !errors.Is(err, unix.EAGAIN) {
		return err
	}
	return first
}

// nlMessage is one received message.
type nlMessage struct {
	kind uint16
	seq  uint32
	body []byte
}

// errno of an NLMSG_ERROR; 0 is an acknowledgement.
func (m nlMessage) errno() syscall.Errno {
	if len(m.body) < 4 {
		return syscall.EBADMSG
	}
	code := int32(binary.NativeEndian.Uint32(m.body))
	if code > 0 || code < -4095 {
		return syscall.EBADMSG
	}
	return syscall.Errno(-code)
}

// parseMessages divides what one recvfrom returned.
func parseMessages(b []byte) ([]nlMessage, error) {
	var all []nlMessage
	for len(b) >= nlHeaderLen {
		n := int(binary.NativeEndian.Uint32(b))
		if n < nlHeaderLen || n > len(b) {
			return nil, fmt.Errorf("steal: netlink message of %d bytes in %d", n, len(b))
		}
		all = append(all, nlMessage{binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint32(b[8:]), b[nlHeaderLen:n]})
		b = b[min(len(b), (n+3)&^3):]
	}
	return all, nil
}

// attr appends one attribute.
func attr(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(nlAttrLen+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	return pad(append(b, value...))
}

// nest appends an attribute made of attributes.
func nest(b []byte, kind uint16, inner ...[]byte) []byte {
	var all []byte
	for _, i := range inner {
		all = append(all, i...)
	}
	return attr(b, kind|unix.NLA_F_NESTED, all)
}

func text(kind uint16, s string) []byte { return attr(nil, kind, append([]byte(s), 0)) }

func number(kind uint16, n uint32) []byte {
	return attr(nil, kind, binary.BigEndian.AppendUint32(nil, n))
}

func pad(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// findAttr returns the value of the first attribute of a kind; nil if there is none.
func findAttr(b []byte, kind uint16) []byte {
	for len(b) >= nlAttrLen {
		n := int(binary.NativeEndian.Uint16(b))
		if n < nlAttrLen || n > len(b) {
			return nil
		}
		if binary.NativeEndian.Uint16(b[2:])&nlaTypeMask == kind {
			return b[nlAttrLen:n]
		}
		b = b[min(len(b), (n+3)&^3):]
	}
	return nil
}
