package preload

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// vectors is what preload/test/vectors.c prints, made of the Go structures.
func vectors() []struct {
	name string
	kind Kind
	body any
} {
	address := func(n uint16) Address {
		a := Address{Family: familyV6, Port: n, Scope: uint32(n + 1)}
		for i := range a.IP {
			a.IP[i] = byte(0xa0 + i)
		}
		return a
	}
	a, b := address(1), address(3)
	hello := HelloQuestion{Flags: HelloMusl | HelloBrief, Parent: 9}
	copy(hello.Token[:], strings.Repeat("f", TokenLen))
	greeted := HelloAnswer{Serve: ServeTCP | ServeUDP | ServeNames | ServeHostname | ServeFiles | ServeExec, Lost: LostHost, Table: 3, Reserved: 4}
	copy(greeted.Hostname[:], "orders-0")
	return []struct {
		name string
		kind Kind
		body any
	}{
		{"sp_hello", KindHello, hello},
		{"sp_hello_answer", KindHello | KindAnswer, greeted},
		{"sp_table", 0, TableHead{TableMagic, 2, 3, 4}},
		{"sp_rule", 0, TableRule{1, 2, 3, 4, PathHidden, 6, 30}},
		{"sp_connect", KindConnect, ConnectQuestion{UDP, LateMS, ConnectNonblock | ConnectV6Only, 4, 5, a, b}},
		{"sp_connect_answer", KindConnect | KindAnswer, ConnectAnswer{VerdictLater, 2, a}},
		{"sp_why", KindWhy, WhyQuestion{1}},
		{"sp_why_answer", KindWhy | KindAnswer, WhyAnswer{113, 2}},
		{"sp_closing", KindClosing, ClosingQuestion{1}},
		{"sp_bind", KindBind, BindQuestion{TCP, BindTaken | BindV6Only | BindReusePort, 98, 4, 5, a}},
		{"sp_bind_answer", KindBind | KindAnswer, BindAnswer{VerdictPod, 2, a}},
		{"sp_bound", KindBound, BoundQuestion{TCP, 2, 3, a, b}},
		{"sp_listen", KindListen, ListenQuestion{TCP, 128, 3, a}},
		{"sp_who", KindWho, WhoQuestion{TCP, 2, a, b}},
		{"sp_who_answer", KindWho | KindAnswer, WhoAnswer{1, 2, a, b}},
		{"sp_datagram", KindDatagram, DatagramQuestion{1, 2, 3, a, b}},
		{"sp_lookup", KindLookup, LookupQuestion{2, LookupCanonical | LookupConfigured}},
		{"sp_lookup_answer", KindLookup | KindAnswer, LookupAnswer{LookupAskHost, 2, 3, 4}},
		{"sp_reverse", KindReverse, ReverseQuestion{a}},
		{"sp_resolve", KindResolve, ResolveQuestion{ResolveSearch, 2}},
		{"sp_resolve_answer", KindResolve | KindAnswer, ResolveAnswer{LookupTryAgain, 2}},
		{"sp_fetch", KindFetch, FetchQuestion{1, 2}},
		{"sp_path", KindStat, PathQuestion{PathNoFollow, 2}},
		{"sp_stat_answer", KindStat | KindAnswer, StatAnswer{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}},
		{"sp_list_answer", KindList | KindAnswer, ListAnswer{1, 2}},
		{"sp_entry", 0, Entry{1, 2, 3, [5]byte{4, 5, 6, 7, 8}}},
		{"sp_exec", KindExec, ExecQuestion{1, 2}},
		{"sp_exec_answer", KindExec | KindAnswer, ExecAnswer{ExecHost, 2}},
		{"sp_notice", KindNotice, Notice{NoticeError, 2}},
		{"sp_lookup", KindLink, LookupQuestion{}},
		{"sp_lookup", KindList, LookupQuestion{}},
		{"sp_head", KindLater, nil},
	}
}

// TestVectors has the C compiler lay out each message and compares it with Go's, both ways.
func TestVectors(t *testing.T) {
	program := filepath.Join(t.TempDir(), "vectors")
	if out, err := exec.Command("gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-o", program, "../../preload/test/vectors.c").CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	out, err := exec.Command(program).Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	all := vectors()
	if len(lines) != len(all) {
		t.Fatalf("C has %d messages, Go %d", len(lines), len(all))
	}
	for i, v := range all {
		name, digits, _ := strings.Cut(lines[i], " ")
		fromC, err := hex.DecodeString(digits)
		if err != nil || name != v.name {
			t.Fatalf("line %d is %q, want %s (%v)", i, lines[i], v.name, err)
		}
		fromGo, err := encodeVector(v.kind, v.body)
		if err != nil || !bytes.Equal(fromC, fromGo) {
			t.Errorf("%s: %v\nC  %x\nGo %x", v.name, err, fromC, fromGo)
		}
	}
}

func encodeVector(kind Kind, body any) ([]byte, error) {
	if kind == 0 {
		return binary.Append(nil, binary.LittleEndian, body)
	}
	return Encode(Head{Kind: kind, PID: 77, Error: -5}, body, nil)
}

func TestAddress(t *testing.T) {
	for _, text := range []string{"10.1.2.3:80", "[2001:db8::1]:443", "[::ffff:10.0.0.1]:1", "0.0.0.0:0", "[::]:0"} {
		want := netip.MustParseAddrPort(text)
		if got := AddressOf(want).AddrPort(); got != want {
			t.Errorf("%s comes back as %s", want, got)
		}
	}
	if got := (Address{Family: 1}).AddrPort(); got.IsValid() {
		t.Errorf("an address of an unknown family is %s", got)
	}
	if got := AddressOf(netip.AddrPort{}); got != (Address{}) {
		t.Errorf("no address is %v", got)
	}
}

func TestDecodeRefuses(t *testing.T) {
	good, err := Encode(Head{Kind: KindConnect}, ConnectQuestion{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(good) {
		if _, _, err := DecodeHead(good[:n]); err == nil {
			t.Errorf("%d of %d bytes are taken for a message", n, len(good))
		}
	}
	if _, err := DecodeBody(good[HeadLen:len(good)-1], new(ConnectQuestion)); err == nil {
		t.Error("a body without its last byte is taken for one")
	}
	if _, err := Encode(Head{Kind: KindNotice}, Notice{}, make([]byte, MessageMax)); err == nil {
		t.Error("a message over the limit is made")
	}
}
