package preload

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// This file is the Go half of preload/protocol.h, which says what each message and field means. A test compares the
// bytes of both. Every struct here has the C one's fields in its order, without padding.

// Limits and names of the protocol, as in the C header.
const (
	Version      = 1
	Variable     = "STEPIN_PRELOAD"
	TokenLen     = 32    // characters, hexadecimal
	MessageMax   = 16384 // bytes of any message
	PathMax      = 4096  // bytes of a path with its NUL
	NameMax      = 255   // bytes of a host name
	AddressesMax = 256   // in one answer to a lookup
	GreetingMS   = 2000  // how long the library waits for the greeting
	LateMS       = 20    // how long a non-blocking connect waits
)

// Kind tells a message's structure.
type Kind uint16

// The kinds. An answer has the question's with KindAnswer set.
const (
	KindHello Kind = iota + 1
	KindConnect
	KindBind
	KindBound
	KindListen
	KindWho
	KindDatagram
	KindLookup
	KindReverse
	KindResolve
	KindFetch
	KindStat
	KindLink
	KindList
	KindExec
	KindNotice
	KindLater
	KindWhy
	KindClosing
	KindAnswer Kind = 0x8000
)

// Networks of a socket.
const (
	TCP uint32 = 1
	UDP uint32 = 2
)

// Verdicts on a call.
const (
	VerdictHost  uint32 = iota // do it as asked, or to the address in the answer
	VerdictPod                 // do it with the address in the answer
	VerdictLater               // connect without blocking to that listener, whose queue is full
)

// Flags of ConnectQuestion and DatagramQuestion; of BindQuestion; of HelloQuestion.
const (
	ConnectNonblock uint32 = 1
	ConnectV6Only   uint32 = 2

	BindTaken     uint32 = 1
	BindV6Only    uint32 = 2
	BindReusePort uint32 = 4

	HelloMusl  uint32 = 1
	HelloBrief uint32 = 2
)

// What a session wants to be asked about.
const (
	ServeTCP uint32 = 1 << iota
	ServeUDP
	ServeNames
	ServeHostname
	ServeFiles
	ServeExec
)

// What the library does when the session is gone.
const (
	LostFail uint32 = 0
	LostHost uint32 = 1
)

// Actions of a rule in the path table, and the table's first four bytes.
const (
	PathHost uint16 = iota
	PathTranslate
	PathFetch
	PathHidden

	TableMagic uint32 = 0x31547053
)

// Flags and results of lookups.
const (
	LookupCanonical  uint32 = 1
	LookupConfigured uint32 = 2
	ResolveSearch    uint32 = 1

	LookupFound      uint32 = 0
	LookupNoName     uint32 = 1
	LookupNoData     uint32 = 2
	LookupTryAgain   uint32 = 3
	LookupNoRecovery uint32 = 4
	LookupAskHost    uint32 = 5
)

// Flags of PathQuestion.
const (
	PathNoFollow uint32 = 1 << iota // about a symbolic link itself
	PathReal                        // of KindLink: the path without links and dots
)

// FetchWatch asks for what inotify can be pointed at, FetchOpen for a file.
const (
	FetchOpen uint32 = iota
	FetchWatch
)

// memoryName begins the name of a fetched file in memory: its inode's number and its path follow.
const memoryName = "stepin:"

// What becomes of a program.
const (
	ExecSame uint32 = iota
	ExecWrap
	ExecHost
)

// Kinds of notices.
const (
	NoticeText uint32 = iota
	NoticeError
)

// The messages. Comments name what follows the structure.
type (
	// Head begins each.
	Head struct {
		Version uint16
		Kind    Kind
		Size    uint32
		PID     uint32
		Error   int32
	}
	// Address is an IP address and port; see AddressOf.
	Address struct {
		Family uint16
		Port   uint16
		Scope  uint32
		IP     [16]byte
	}
	// HelloQuestion is followed by the program's path.
	HelloQuestion struct {
		Token  [TokenLen]byte
		Flags  uint32
		Parent uint32
	}
	// HelloAnswer comes with the path table's descriptor, unless HelloBrief.
	HelloAnswer struct {
		Serve    uint32
		Lost     uint32
		Table    uint32
		Reserved uint32
		Hostname [72]byte
	}
	// TableHead begins the path table; then Count TableRule, then the strings, each with its NUL.
	TableHead struct {
		Magic    uint32
		Count    uint32
		Size     uint32
		Reserved uint32
	}
	// TableRule points to its strings by offset in the table.
	TableRule struct {
		Prefix     uint32
		Length     uint32
		To         uint32
		ToLength   uint32
		Action     uint16
		Reserved   uint16
		WriteError int32
	}
	// ConnectQuestion precedes a connect.
	ConnectQuestion struct {
		Network  uint32
		Wait     uint32
		Flags    uint32
		Reserved uint32
		Inode    uint64
		To       Address
		Local    Address
	}
	// ConnectAnswer answers ConnectQuestion and DatagramQuestion.
	ConnectAnswer struct {
		Verdict uint32
		TTL     uint32
		To      Address
	}
	// WhyQuestion asks why a late connect was refused.
	WhyQuestion struct {
		Inode uint64
	}
	// WhyAnswer says it; 0: as the kernel says.
	WhyAnswer struct {
		Reason   int32
		Reserved uint32
	}
	// ClosingQuestion precedes the closing of a socket that came along with a ConnectQuestion.
	ClosingQuestion struct {
		Inode uint64
	}
	// BindQuestion precedes a bind.
	BindQuestion struct {
		Network  uint32
		Flags    uint32
		Reason   int32
		Reserved uint32
		Inode    uint64
		Asked    Address
	}
	// BindAnswer says where.
	BindAnswer struct {
		Verdict  uint32
		Reserved uint32
		At       Address
	}
	// BoundQuestion tells what came of a bind; answered by a head.
	BoundQuestion struct {
		Network uint32
		Flags   uint32
		Inode   uint64
		Asked   Address
		Got     Address
	}
	// ListenQuestion tells that a socket listens; answered by a head.
	ListenQuestion struct {
		Network uint32
		Backlog uint32
		Inode   uint64
		At      Address
	}
	// WhoQuestion asks what the pod would call both ends.
	WhoQuestion struct {
		Network  uint32
		Reserved uint32
		Local    Address
		Peer     Address
	}
	// WhoAnswer says it; no address: as the kernel says.
	WhoAnswer struct {
		TTL      uint32
		Reserved uint32
		Local    Address
		Peer     Address
	}
	// DatagramQuestion asks for the relay of a destination.
	DatagramQuestion struct {
		Flags    uint32
		Reserved uint32
		Inode    uint64
		To       Address
		Local    Address
	}
	// LookupQuestion is followed by the name.
	LookupQuestion struct {
		Family uint32
		Flags  uint32
	}
	// LookupAnswer is followed by Count Address and the canonical name. It answers ReverseQuestion, too.
	LookupAnswer struct {
		Result    uint32
		Count     uint32
		Canonical uint32
		Reserved  uint32
	}
	// ReverseQuestion asks for an address's name.
	ReverseQuestion struct {
		Address Address
	}
	// ResolveQuestion is followed by a DNS message.
	ResolveQuestion struct {
		Flags    uint32
		Reserved uint32
	}
	// ResolveAnswer is followed by a DNS message.
	ResolveAnswer struct {
		Result   uint32
		Reserved uint32
	}
	// FetchQuestion is followed by the path; its answer is a head with a descriptor.
	FetchQuestion struct {
		Flags uint32
		What  uint32
	}
	// PathQuestion is the structure of KindStat, KindLink and KindList; the path follows.
	PathQuestion struct {
		Flags    uint32
		Reserved uint32
	}
	// StatAnswer answers KindStat.
	StatAnswer struct {
		Inode     uint64
		Size      uint64
		Blocks    uint64
		Device    uint64
		ATime     int64
		MTime     int64
		CTime     int64
		ATimeNsec uint32
		MTimeNsec uint32
		CTimeNsec uint32
		Mode      uint32
		Links     uint32
		UID       uint32
		GID       uint32
		Reserved  uint32
	}
	// ListAnswer comes with a memfd of Count entries, each Entry and its name.
	ListAnswer struct {
		Count    uint32
		Reserved uint32
	}
	// Entry is one directory entry.
	Entry struct {
		Inode    uint64
		Length   uint16
		Type     uint8
		Reserved [5]byte
	}
	// ExecQuestion is followed by the program's path.
	ExecQuestion struct {
		Flags    uint32
		Reserved uint32
	}
	// ExecAnswer is followed by Count words, each with its NUL.
	ExecAnswer struct {
		Verdict uint32
		Count   uint32
	}
	// Notice is followed by its text.
	Notice struct {
		What     uint32
		Reserved uint32
	}
)

// HeadLen is the length of a Head in bytes.
const HeadLen = 16

// Families in an Address: Linux's AF_INET and AF_INET6.
const (
	familyV4 = 2
	familyV6 = 10
)

// AddressOf makes an Address; the zero AddrPort becomes the zero Address. A zone is dropped: it is the host's.
func AddressOf(a netip.AddrPort) Address {
	out := Address{Port: a.Port()}
	switch ip := a.Addr(); {
	case ip.Is4():
		out.Family = familyV4
		four := ip.As4()
		copy(out.IP[:], four[:])
	case ip.Is6():
		out.Family = familyV6
		out.IP = ip.As16()
	}
	return out
}

// AddrPort is the inverse of AddressOf; IPv4-mapped addresses stay as they are. What has no known family is the zero
// AddrPort.
func (a Address) AddrPort() netip.AddrPort {
	switch a.Family {
	case familyV4:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(a.IP[:4])), a.Port)
	case familyV6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.IP), a.Port)
	}
	return netip.AddrPort{}
}

// Encode makes one message: head, body (a struct of this file, or nil), tail.
func Encode(h Head, body any, tail []byte) ([]byte, error) {
	size := HeadLen + len(tail)
	if body != nil {
		size += binary.Size(body)
	}
	if size > MessageMax {
		return nil, fmt.Errorf("preload: a message of kind %d and %d bytes is longer than %d", h.Kind, size, MessageMax)
	}
	h.Version, h.Size = Version, uint32(size)
	out, err := binary.Append(make([]byte, 0, size), binary.LittleEndian, h)
	if err == nil && body != nil {
		out, err = binary.Append(out, binary.LittleEndian, body)
	}
	if err != nil {
		return nil, fmt.Errorf("preload: encoding a message of kind %d: %w", h.Kind, err)
	}
	return append(out, tail...), nil
}

// DecodeHead reads a message's head and returns what follows it. The version is not looked at: who greets does.
func DecodeHead(message []byte) (Head, []byte, error) {
	var h Head
	n, err := binary.Decode(message, binary.LittleEndian, &h)
	if err != nil {
		return h, nil, fmt.Errorf("preload: a message of %d bytes has no head", len(message))
	}
	if int(h.Size) != len(message) {
		return h, nil, fmt.Errorf("preload: a message of kind %d says it has %d bytes and has %d", h.Kind, h.Size, len(message))
	}
	return h, message[n:], nil
}

// DecodeBody reads a body (a pointer to a struct of this file) and returns the tail.
func DecodeBody(rest []byte, body any) ([]byte, error) {
	n, err := binary.Decode(rest, binary.LittleEndian, body)
	if err != nil {
		return nil, fmt.Errorf("preload: %d bytes are too few for a %T", len(rest), body)
	}
	return rest[n:], nil
}
