package wire

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/vectors.txt anew (only with a new Version, or for a new line)")

// vectors name every message that a peer of this Version may meet, those of later work included.
func vectors() []struct {
	name string
	kind Kind
	body any
} {
	addr := netip.MustParseAddrPort
	return []struct {
		name string
		kind Kind
		body any
	}{
		{"hello", KindHello, &Hello{Features: []string{"steal"}, Release: "0.1.0", Token: "t0ken", Session: "5e55", Who: "ada@engine"}},
		{"hello resume", KindHello, &Hello{Token: "t0ken", Session: "5e55", Resume: "a9a1n"}},
		{"welcome", KindReply, &Reply{Body: []byte(`{"resume":"a9a1n","resumed":true,"since":"2026-11-23T10:00:00Z"}`)}},
		{"refused", KindReply, &Reply{Errno: uint16(syscall.ECONNREFUSED), Message: "connection refused"}},
		{"describe", KindDescribe, &Describe{Lstat: []Name{"/etc/hosts"}}},
		{"dial tcp", KindDial, &Dial{Network: "tcp", Addr: addr("10.96.0.10:80"), Source: addr("10.244.0.7:40000")}},
		{"dial tcp v6", KindDial, &Dial{Network: "tcp", Addr: addr("[fd00::10]:80")}},
		{"associate udp", KindAssociate, &Dial{Network: "udp", Addr: addr("10.96.0.10:123")}},
		{"lookup", KindLookup, &Lookup{Queries: [][]byte{{1, 2}, {3}}, Own: []bool{false, true}}},
		{"steal", KindSteal, &Steal{Ports: []Port{{Network: "tcp", Port: 8080}, {Network: "udp", Port: 53, Loopback: true}}, Existing: "close"}},
		{"steal filter", KindSteal, &Steal{Ports: []Port{{Network: "tcp", Port: 80}}, Filter: &Filter{Header: []string{"x-user: alice"}, Any: true}}},
		{"mirror filter", KindMirror, &Steal{Ports: []Port{{Network: "tcp", Port: 80}}, Filter: &Filter{Path: []string{"/v1/*"}, Method: []string{"GET"}}}},
		{"incoming tcp", KindIncoming, &Incoming{Network: "tcp", Client: addr("192.0.2.7:51000"), Local: addr("10.244.0.7:8080"), Steal: 5}},
		{"incoming udp", KindIncomingDG, &Incoming{Network: "udp", Client: addr("[2001:db8::7]:51000"), Local: addr("[fd00::7]:53"), Steal: 7}},
		{"copy", KindCopy, &Incoming{Network: "tcp", Client: addr("192.0.2.7:51000"), Local: addr("10.244.0.7:8080"), Steal: 9}},
		{"watch", KindWatch, &Watch{Paths: []string{"/etc/config"}}},
		{"open", KindOpen, &Path{Path: "/data/a", Own: true}},
		{"lstat, not UTF-8", KindLstat, &Path{Path: "/data/caf\xe9"}},
		{"attach", KindAttach, &Attach{Debugger: "dlv"}},
		{"steal with probes", KindSteal, &Steal{Ports: []Port{{Network: "tcp", Port: 80}}, Probes: []Probe{{Kind: "http", Port: 80, Path: "/healthz"},
			{Kind: "grpc", Port: 9000, Service: "live"}, {Kind: "tcp", Port: 81}, {Kind: "exec"}}, Nodes: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}},
		{"sessions", KindSessions, &struct{}{}},
		{"stop", KindStop, &Stop{Session: "5e55"}},
		{"target", KindTarget, &Target{Container: "4c01db0b339c"}},
		{"heartbeat", KindHeartbeat, &struct{}{}},
		{"credit", KindCredit, Credit{{Stream: 3, Bytes: 65536}, {Stream: 5, Bytes: 1}}},
		{"reset", KindReset, &Reset{Stream: 3, Errno: uint16(syscall.ECONNRESET)}},
		{"reset-after", KindReset, &Reset{Stream: 3, Errno: uint16(syscall.ECONNRESET), After: 65537}},
		{"paused", KindState, &State{Paused: true}},
		{"running", KindState, &State{}},
		{"notice", KindNotice, &Notice{Text: "one line"}},
		{"bye", KindBye, &Bye{Reason: "done"}},
	}
}

func chunks() []struct {
	name  string
	bytes []byte
	want  Chunk
} {
	return []struct {
		name  string
		bytes []byte
		want  Chunk
	}{
		{"chunk data", AppendData(nil, []byte("abc")), Chunk{Type: ChunkData, Data: []byte("abc")}},
		{"chunk errno", AppendErrno(nil, syscall.ECONNREFUSED), Chunk{Type: ChunkErrno, Errno: syscall.ECONNREFUSED}},
		{"chunk gap", AppendGap(nil, 1<<40), Chunk{Type: ChunkGap, Gap: 1 << 40}},
	}
}

// TestVectors holds today's bytes against those written when Version was new.
func TestVectors(t *testing.T) {
	var got strings.Builder
	for _, v := range vectors() {
		b, err := Append(nil, v.kind, v.body)
		if err != nil {
			t.Fatal(v.name, err)
		}
		fmt.Fprintf(&got, "%s\t%s\t%s\n", v.name, hex.EncodeToString(b[:headerLen]), printable(b[headerLen:]))
	}
	for _, c := range chunks() {
		fmt.Fprintf(&got, "%s\t%s\n", c.name, hex.EncodeToString(c.bytes))
	}
	const file = "testdata/vectors.txt"
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("the wire has changed; this needs a new Version\ngot:\n%s\nwant:\n%s", got.String(), want)
	}
}

func printable(b []byte) string {
	if len(b) > 0 && b[0] == '{' {
		return string(b)
	}
	return "0x" + hex.EncodeToString(b)
}

func TestVectorsDecode(t *testing.T) {
	for _, v := range vectors() {
		b, _ := Append(nil, v.kind, v.body)
		b = append(b, "rest"...)
		r := bytes.NewReader(b)
		kind, body, err := Read(r)
		if err != nil || kind != v.kind {
			t.Fatalf("%s: kind %d, %v", v.name, kind, err)
		}
		if r.Len() != len("rest") {
			t.Errorf("%s: read beyond its frame", v.name)
		}
		if c, ok := v.body.(Credit); ok {
			if back, ok := ParseCredit(body); !ok || !reflect.DeepEqual(back, c) {
				t.Errorf("%s: %v", v.name, back)
			}
			continue
		}
		back := reflect.New(reflect.TypeOf(v.body).Elem())
		if err := Decode(body, back.Interface()); err != nil || !reflect.DeepEqual(back.Interface(), v.body) {
			t.Errorf("%s: %v, %v", v.name, back.Elem(), err)
		}
	}
	for _, c := range chunks() {
		got, err := NewChunkReader(bytes.NewReader(c.bytes)).Read()
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, %v", c.name, got, err)
		}
	}
}

func TestUnknownFieldsAreSkipped(t *testing.T) {
	var d Dial
	err := Decode([]byte(`{"network":"tcp","later":{"x":[1]},"addr":"10.0.0.1:80"}`), &d)
	if err != nil || d.Addr != netip.MustParseAddrPort("10.0.0.1:80") {
		t.Fatal(d, err)
	}
}

func TestReadRefuses(t *testing.T) {
	frame, _ := Append(nil, KindHeartbeat, nil)
	with := func(at int, b byte) []byte {
		c := bytes.Clone(frame)
		c[at] = b
		return c
	}
	for _, c := range []struct {
		name string
		in   []byte
		want string
	}{
		{"nothing", nil, "EOF"},
		{"half a header", frame[:5], "unexpected EOF"},
		{"no body", frame[:headerLen], "unexpected EOF"},
		{"not ours", []byte("GET / HTTP/1.1\r\n\r\n"), ErrMagic.Error()},
		{"another version", with(2, 9), "wire: the other side speaks version 9, this one 1"},
		{"too long", with(5, 2), ErrTooLong.Error()},
	} {
		if _, _, err := Read(bytes.NewReader(c.in)); err == nil || err.Error() != c.want {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
	if _, err := Append(nil, KindLookup, Lookup{Queries: [][]byte{make([]byte, MaxBody)}}); err != ErrTooLong {
		t.Errorf("a body too long to send: %v", err)
	}
}

func TestErrnoOf(t *testing.T) {
	for _, c := range []struct {
		err  error
		want syscall.Errno
	}{
		{fmt.Errorf("x: %w", syscall.ENETUNREACH), syscall.ENETUNREACH},
		{os.ErrDeadlineExceeded, syscall.ETIMEDOUT},
		{fmt.Errorf("plain"), syscall.EIO},
		{&Refusal{Errno: syscall.EACCES}, syscall.EACCES},
	} {
		if got := ErrnoOf(c.err, syscall.EIO); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
	if Errno(5000) != syscall.EIO {
		t.Error("an impossible errno was passed on")
	}
	long := Refuse(fmt.Errorf("a\nb %s", strings.Repeat("ä", 2000)))
	if strings.Contains(long.Message, "\n") || len(long.Message) > 1000 {
		t.Error("a refusal must stay one short line")
	}
}

func TestDataReader(t *testing.T) {
	var b bytes.Buffer
	data := bytes.Repeat([]byte("0123456789"), 20000)
	if err := WriteData(&b, data, true); err != nil {
		t.Fatal(err)
	}
	b.Write(AppendErrno(nil, syscall.EACCES))
	c := NewChunkReader(&b)
	var got bytes.Buffer
	if _, err := got.ReadFrom(NewDataReader(c)); err != nil || !bytes.Equal(got.Bytes(), data) {
		t.Fatal(got.Len(), err)
	}
	if _, err := got.ReadFrom(NewDataReader(c)); err != syscall.EACCES {
		t.Fatal(err)
	}
}

func TestReadRequest(t *testing.T) {
	r := ReadRequest{Off: 1 << 40, Len: MaxRead}
	if back, ok := ParseReadRequest(r.Append(nil)); !ok || back != r {
		t.Fatal(back, ok)
	}
	for _, bad := range []ReadRequest{{Off: -1, Len: 1}, {Len: MaxRead + 1}} {
		if _, ok := ParseReadRequest(bad.Append(nil)); ok {
			t.Errorf("%v accepted", bad)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, v := range vectors() {
		b, _ := Append(nil, v.kind, v.body)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, body, err := Read(bytes.NewReader(b))
		if err != nil {
			return
		}
		ParseCredit(body)
		ParseReadRequest(body)
		for _, v := range []any{new(Hello), new(Welcome), new(Dial), new(Lookup), new(Steal), new(Incoming), new(Reply), new(Reset), new(Stop), new(Target), new([]SessionInfo), new(Pod), new(Opened), new(Mirrored)} {
			_ = Decode(body, v)
		}
		if len(body) > MaxBody {
			t.Fatalf("kind %d: body of %d bytes", kind, len(body))
		}
	})
}

func FuzzChunks(f *testing.F) {
	for _, c := range chunks() {
		f.Add(c.bytes)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewChunkReader(bytes.NewReader(b))
		for range 1000 {
			if _, err := r.Read(); err != nil {
				return
			}
		}
	})
}
