package wire

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"time"
)

// Hello opens the control stream, the first stream of a channel. It is refused with EACCES for a token that the agent does
// not know, with ECANCELED for a session that was stopped (Stop).
type Hello struct {
	Features []string `json:"features,omitempty"` // what the sender can do beyond Version, by name
	Release  string   `json:"release,omitempty"`  // the sender's release, for messages only
	Token    string   `json:"token"`              // proves the right to use this agent
	Session  string   `json:"session"`            // id, chosen by the session, stable over reconnects
	Resume   string   `json:"resume,omitempty"`   // the token that Welcome gave this session before
	Who      string   `json:"who,omitempty"`      // user@host, shown to others who want the same port
}

// Welcome answers Hello.
type Welcome struct {
	Features []string  `json:"features,omitempty"`
	Release  string    `json:"release,omitempty"`
	Resume   string    `json:"resume"`            // shown again, it gives the session its reservations back
	Resumed  bool      `json:"resumed,omitempty"` // the agent still had them
	Since    time.Time `json:"since"`             // when this session's lease began, the agent's clock
}

// Dial asks for an outgoing flow. Network is "tcp" or "udp".
type Dial struct {
	Network string         `json:"network"`
	Addr    netip.AddrPort `json:"addr"`
	Source  netip.AddrPort `json:"source,omitzero"` // the debuggee's own address, for the agent's list of dials
}

// Dialed answers Dial with the addresses that the pod's kernel sees.
type Dialed struct {
	Local  netip.AddrPort `json:"local"`
	Remote netip.AddrPort `json:"remote"`
}

// Lookup carries DNS questions as complete messages (RFC 1035 §4.1). Each is answered by one chunk, in order:
// ChunkData with the resolver's answer, or ChunkErrno. Own marks those that the session adds of itself: the rest of
// a search list.
type Lookup struct {
	Queries [][]byte `json:"queries"`
	Own     []bool   `json:"own,omitempty"`
}

// MaxQueries bounds one Lookup: a search list has at most 32 entries in Kubernetes, each for A and AAAA.
const MaxQueries = 66

// Steal asks for the incoming flows of ports, all or nothing.
type Steal struct {
	Ports    []Port  `json:"ports"`
	Filter   *Filter `json:"filter,omitempty"`
	Existing string  `json:"existing,omitempty"` // "close" (default) or "keep": connections already open
	// Probes are the pod's health probes, which stay the pod's; Nodes are the addresses that they come from, as far as
	// the session knows them (the agent adds the pod's gateways and, for HTTP and gRPC, the pod itself).
	Probes []Probe      `json:"probes,omitempty"`
	Nodes  []netip.Addr `json:"nodes,omitempty"`
}

// Probe is one health probe of the pod's spec. Kind is "http", "grpc", "tcp" or "exec"; "https" is known, too, and goes
// by what of a TLS greeting can be read.
type Probe struct {
	Kind    string `json:"kind"`
	Port    uint16 `json:"port,omitempty"`    // exec: 0 is every port
	Path    string `json:"path,omitempty"`    // http: path and query; "" is "/"
	Service string `json:"service,omitempty"` // grpc: the service asked for
}

// MaxProbes and MaxNodes bound a Steal: a container has three probes, a node a handful of addresses.
const (
	MaxProbes = 64
	MaxNodes  = 64
)

// Port is one port of the pod. Network is "tcp" or "udp".
type Port struct {
	Network  string `json:"network"`
	Port     uint16 `json:"port"`
	Loopback bool   `json:"loopback,omitempty"` // only callers from within the pod
}

// Filter chooses HTTP requests. An empty list matches everything.
type Filter struct {
	Header []string `json:"header,omitempty"`
	Path   []string `json:"path,omitempty"`
	Method []string `json:"method,omitempty"`
	Any    bool     `json:"any,omitempty"` // one match suffices; else all must match
}

// Incoming announces a flow that the agent took for the session. Errno ECONNREFUSED in the reply sends it to the
// pod's own process.
type Incoming struct {
	Network string         `json:"network"`
	Client  netip.AddrPort `json:"client"` // the true client
	Local   netip.AddrPort `json:"local"`  // the address it called
	Steal   uint32         `json:"steal"`  // the number of the steal's stream
}

// Mirrored is what a mirror's stream tells, each as one JSON value, when it has changed: counts since the mirror began, and
// lines for the developer. Each byte that clients sent, as far as frames of it were seen, is in Bytes, in Lost, or waits.
type Mirrored struct {
	Flows     uint64 `json:"flows,omitempty"`     // connections that were copied, or should have been
	LostFlows uint64 `json:"lostFlows,omitempty"` // those of them that were not handed over, or not whole
	Bytes     uint64 `json:"bytes,omitempty"`     // handed over
	Lost      uint64 `json:"lost,omitempty"`      // bytes
	Dropped   uint64 `json:"dropped,omitempty"`   // frames that the pod's kernel had no room for, over all mirrors of the agent
	Text      string `json:"text,omitempty"`
}

// Watch asks for small volumes, whole and kept current.
type Watch struct {
	Paths []string `json:"paths"`
}

// Snapshot precedes a volume's content on a Watch stream: a chunked tar until an empty ChunkData. An Errno says that
// the volume cannot be sent whole (EFBIG: it is not small).
type Snapshot struct {
	Path  string `json:"path"`
	Errno uint16 `json:"errno,omitempty"`
}

// Path names a file of the pod: absolute and clean. Own marks what the session asks of itself, not the debuggee.
type Path struct {
	Path Name `json:"path"`
	Own  bool `json:"own,omitempty"`
}

// Link answers KindReadlink.
type Link struct {
	Target Name `json:"target"`
}

// Attr is a file's status (stat(2)). Mode holds type and permission bits as Linux has them; times are nanoseconds
// since 1970.
type Attr struct {
	Ino   uint64 `json:"ino"`
	Mode  uint32 `json:"mode"`
	Nlink uint32 `json:"nlink"`
	UID   uint32 `json:"uid"`
	GID   uint32 `json:"gid"`
	Rdev  uint32 `json:"rdev,omitempty"`
	Size  uint64 `json:"size"`
	Mtime int64  `json:"mtime"`
	Ctime int64  `json:"ctime"`
	Atime int64  `json:"atime"`
}

// DirEntry is one name of a directory with its attributes, and a symlink's target.
type DirEntry struct {
	Name   Name `json:"name"`
	Attr   Attr `json:"attr"`
	Target Name `json:"target,omitempty"`
}

// Opened answers KindOpen. Head bytes of the file follow at once; a file that is not longer is then complete.
type Opened struct {
	Attr Attr   `json:"attr"`
	Head uint32 `json:"head"`
}

// HeadLen is the most that comes with an open: the file systems' usual read-ahead.
const HeadLen = 128 << 10

// ReadRequest asks for a part of an opened file: 8 bytes offset, 4 bytes length, big-endian. The answer is chunks
// until an empty ChunkData, or a ChunkErrno.
type ReadRequest struct {
	Off int64
	Len uint32
}

// MaxRead bounds one ReadRequest (FUSE asks for at most 1 MiB).
const MaxRead = 1 << 20

// ReadRequestLen is the length of a ReadRequest on the wire.
const ReadRequestLen = 12

// Append appends r's bytes to b.
func (r ReadRequest) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(r.Off))
	return binary.BigEndian.AppendUint32(b, r.Len)
}

// ParseReadRequest reads a ReadRequest from exactly ReadRequestLen bytes; ok is false where it asks for the impossible.
func ParseReadRequest(b []byte) (r ReadRequest, ok bool) {
	if len(b) != ReadRequestLen {
		return r, false
	}
	r = ReadRequest{Off: int64(binary.BigEndian.Uint64(b)), Len: binary.BigEndian.Uint32(b[8:])}
	return r, r.Off >= 0 && r.Len <= MaxRead
}

// Describe asks what the pod is, and what is at some of its paths besides: one question is one round trip.
type Describe struct {
	Lstat []Name `json:"lstat,omitempty"`
}

// Stated is a path and what is there.
type Stated struct {
	Path Name `json:"path"`
	Attr Attr `json:"attr"`
}

// Pod is what KindDescribe tells.
type Pod struct {
	Hostname string       `json:"hostname"`
	Addrs    []netip.Addr `json:"addrs"` // the pod's own, no loopback
	Env      []Name       `json:"env"`   // NAME=value, of the container's first process
	Volumes  []Volume     `json:"volumes"`
	Top      []string     `json:"top"`             // names in the pod's root directory
	Rights   []string     `json:"rights"`          // what this agent can do: "steal", "redirect", …
	Limits   []string     `json:"limits"`          // what it cannot, each one sentence
	Target   string       `json:"target"`          // the process it serves, for messages
	Resolver string       `json:"resolv"`          // the pod's resolv.conf
	Trust    []string     `json:"trust,omitempty"` // the pod's TLS trust store
	// Stated are the paths of Top and those of Describe that exist. Agents before it do not have it; then it is null.
	Stated []Stated `json:"stated"`
}

// MaxPod bounds the JSON of Pod: an environment is at most a few hundred KiB.
const MaxPod = 8 << 20

// Volume is something mounted into the pod.
type Volume struct {
	Path  string `json:"path"`
	Small bool   `json:"small,omitempty"` // changes atomically, sent whole
	File  bool   `json:"file,omitempty"`  // a single file is mounted
}

// SessionInfo is one session of the agent, for those who share it.
type SessionInfo struct {
	ID     string    `json:"id"`
	Who    string    `json:"who"`
	Since  time.Time `json:"since"` // the agent's clock
	Ports  []Port    `json:"ports"`
	Mode   string    `json:"mode,omitempty"` // what it does with them: "steal"
	Paused bool      `json:"paused,omitempty"`
	Mine   bool      `json:"mine,omitempty"` // it has the asker's token, and so may be stopped by the asker
	Lost   bool      `json:"lost,omitempty"` // its channel is lost; its ports are reserved while it reconnects
}

// ToolPrefix begins the id of a session that only lists and stops others; nobody is shown it.
const ToolPrefix = "tool-"

// Tool says that a session of this id is one of those.
func Tool(session string) bool { return strings.HasPrefix(session, ToolPrefix) }

// MaxSessionInfos bounds the JSON that answers KindSessions.
const MaxSessionInfos = 1 << 20

// Stop ends another session of the asker's token: its ports are free when it is answered.
type Stop struct {
	Session string `json:"session"`
}

// Target names a container by its runtime's ID, without a scheme. Ending says that its pod is being deleted: the
// container's end is then the pod's.
type Target struct {
	Container string `json:"container"`
	Ending    bool   `json:"ending,omitempty"`
}

// Attach asks for a debugger on the process in the pod.
type Attach struct {
	Debugger string `json:"debugger"`
}

// Reset ends a stream the hard way, as a TCP reset does: after the bytes that its sender has written before.
type Reset struct {
	Stream uint32 `json:"stream"`
	Errno  uint16 `json:"errno"`
	After  uint64 `json:"after,omitempty"` // so many bytes behind the header or the reply
}

// State tells whether the debuggee stands at a breakpoint.
type State struct {
	Paused bool `json:"paused"`
}

// Notice is a line for the developer.
type Notice struct {
	Text string `json:"text"`
}

// Bye says why the sender ends the channel. A session's Bye gives its reservations up.
type Bye struct {
	Reason  string `json:"reason,omitempty"`
	Stopped bool   `json:"stopped,omitempty"` // by its owner's wish: another agent would not do
}

// Credit gives bytes back to senders: the receiver has passed them on. Its body is binary, 8 bytes a stream:
// stream number and byte count, big-endian.
type Credit []Grant

// Grant is one stream's part of a Credit.
type Grant struct{ Stream, Bytes uint32 }

const grantLen = 8

// MaxGrants bounds one Credit so that it fits a frame.
const MaxGrants = 1024

func (c Credit) append(b []byte) []byte {
	for _, g := range c {
		b = binary.BigEndian.AppendUint32(b, g.Stream)
		b = binary.BigEndian.AppendUint32(b, g.Bytes)
	}
	return b
}

// ParseCredit reads the body of a KindCredit; ok is false where it is none.
func ParseCredit(body []byte) (c Credit, ok bool) {
	if len(body)%grantLen != 0 {
		return nil, false
	}
	for ; len(body) > 0; body = body[grantLen:] {
		c = append(c, Grant{binary.BigEndian.Uint32(body), binary.BigEndian.Uint32(body[4:])})
	}
	return c, true
}
