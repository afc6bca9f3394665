// Package probe tells a kubelet's health probes from other connections by their first bytes. It reads what comes from
// outside, so it is for the agent's child only, and it must never decide by more than it is given: whose connection it
// is, and to which port, is its caller's to know.
package probe

import (
	"bytes"
	"net/url"
	"strings"
)

// Verdict is what the bytes so far say.
type Verdict int

const (
	More  Verdict = iota // too few to say
	Probe                // a kubelet's
	Other                // anybody's
)

// MaxHead bounds what is looked at: kubelet's requests are some 200 bytes, and a head that is longer is somebody's with
// cookies.
const MaxHead = 8 << 10

// agent begins the User-Agent of kubelet's probes, HTTP and gRPC (its pkg/probe).
const agent = "kube-probe/"

// Target is the request target that kubelet makes of a spec's path (its formatURL, then Go's client).
func Target(path string) string {
	u, err := url.Parse(path)
	if err != nil {
		u = &url.URL{Path: path}
	}
	if !strings.HasPrefix(u.Path, "/") {
		u.Path = "/" + u.Path
	}
	return (&url.URL{Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery, ForceQuery: u.ForceQuery}).RequestURI()
}

// HTTP1 looks for GET of one of the targets by kubelet (RFC 9112). It says Other as soon as that cannot be any more.
func HTTP1(b []byte, targets []string) Verdict {
	line, rest, whole := cutLine(b)
	found := false
	for _, target := range targets {
		want := "GET " + target + " HTTP/1."
		if !whole && len(line) < len(want)+1 && strings.HasPrefix(want, string(line)) {
			return tooLong(b)
		}
		version, ok := strings.CutPrefix(string(line), want)
		found = found || ok && (version == "1" || version == "0" || !whole && version == "")
	}
	if !found {
		return Other
	}
	for whole {
		if line, rest, whole = cutLine(rest); whole && len(line) == 0 {
			return Other // the head's end
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if whole && ok && strings.EqualFold(string(name), "User-Agent") {
			if strings.HasPrefix(string(bytes.TrimLeft(value, " \t")), agent) {
				return Probe
			}
			return Other
		}
	}
	return tooLong(b)
}

func tooLong(b []byte) Verdict {
	if len(b) >= MaxHead {
		return Other
	}
	return More
}

// cutLine takes the first line; whole says that it has its end.
func cutLine(b []byte) (line, rest []byte, whole bool) {
	line, rest, whole = bytes.Cut(b, []byte("\n"))
	return bytes.TrimSuffix(line, []byte("\r")), rest, whole
}

// TLS looks for a greeting without a server name, as kubelet's is, which calls an address (RFC 8446 §4.1.2, RFC 6066
// §3). More than that is not to be seen, so it is for connections that come from a node only: somebody who calls the
// node's address by number looks the same.
func TLS(b []byte) Verdict {
	const handshake, clientHello, recordHeader, nameExtension = 22, 1, 5, 0
	if len(b) > 0 && b[0] != handshake {
		return Other
	}
	if len(b) < recordHeader {
		return More
	}
	n := int(b[3])<<8 | int(b[4])
	if b[1] != 3 || n > MaxHead-recordHeader {
		return Other
	}
	if len(b) < recordHeader+n {
		return More
	}
	r := reader(b[recordHeader : recordHeader+n])
	if kind := r.take(1); len(kind) == 0 || kind[0] != clientHello {
		return Other
	}
	r = reader(r.vector(3))
	r.take(2 + 32) // version, random
	r.vector(1)    // session
	r.vector(2)    // cipher suites
	if r.vector(1) == nil {
		return Other // no compression methods: not TLS
	}
	extensions := reader(r.vector(2))
	for len(extensions) > 0 {
		kind := extensions.take(2)
		if kind == nil {
			return Other
		}
		if extensions.vector(2); int(kind[0])<<8|int(kind[1]) == nameExtension {
			return Other
		}
	}
	return Probe
}

// reader takes from the front of bytes; nil is what it gives when there are too few.
type reader []byte

func (r *reader) take(n int) []byte {
	if len(*r) < n {
		*r = nil
		return nil
	}
	b := (*r)[:n:n]
	*r = (*r)[n:]
	return b
}

// vector takes what a length of so many bytes precedes.
func (r *reader) vector(lengthBytes int) []byte {
	n := 0
	length := r.take(lengthBytes)
	if length == nil {
		return nil
	}
	for _, c := range length {
		n = n<<8 | int(c)
	}
	return r.take(n)
}
