package preload

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/stepin-dev/stepin/pkg/mux"
)

// pod is a Server whose Handler is a pod made up for the library's tests: what it does can be read off an address. Ports
// of TCP: 80 accepts, 81 refuses, 82 is out of reach, 83 stays silent; 2080 and its like do so 200 ms later. Datagrams come
// back with their destination in front; port 7009 refuses them, 7008 and 7007 the first of each socket, and 7007
// ends with it; 7006 refuses them unread.
type pod struct {
	*Server
	t        *testing.T
	variable string
	leaks    bool // the sanitized library reports them

	mu       sync.Mutex
	routes   []string // the destinations asked about
	notices  []string
	moved    []string
	executed []string
	unread   int                     // associations of port 7006
	refused  map[netip.AddrPort]bool // the sockets whose first datagram has been
}

const (
	soon      = 200 * time.Millisecond
	podIP     = "10.1.2.3"
	podIP6    = "fd00::1:2:3"
	podName   = "orders-7d9f"
	clientIP  = "192.0.2.7"
	lateBase  = 2000
	accepting = 80
	refusing  = 81
	faraway   = 82
	silent    = 83
)

// shortDir is a directory with a path short enough for a socket in it: t.TempDir holds the test's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "stepin")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func newPod(t *testing.T) *pod {
	t.Helper()
	p := &pod{t: t}
	var err error
	p.Server, err = New(Config{Dir: shortDir(t), Serve: ServeTCP | ServeUDP | ServeNames | ServeHostname, Hostname: podName, Handler: p})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	p.variable = Variable + "=" + p.Value()
	return p
}

func (p *pod) Greet(int, string) bool { return true }

func (p *pod) Route(network string, dst netip.AddrPort) (bool, netip.AddrPort, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.routes = append(p.routes, network+" "+dst.String())
	return dst.Addr().IsLoopback(), netip.AddrPort{}, nil
}

func (p *pod) DialTCP(ctx context.Context, _, dst netip.AddrPort) (func(mux.End), error) {
	how, wait := dst.Port(), time.Duration(0)
	if how >= lateBase {
		how, wait = how-lateBase, soon
	}
	ended := time.After(wait)
	if how == silent {
		ended = nil
	}
	select {
	case <-ended:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	switch how {
	case refusing:
		return nil, syscall.ECONNREFUSED
	case faraway:
		return nil, syscall.EHOSTUNREACH
	}
	return func(end mux.End) {
		fmt.Fprintf(end, "pod %s\n", dst)
		io.Copy(end, end)
	}, nil
}

func (p *pod) ServeUDP(_ context.Context, a *Association) {
	if a.LocalAddr().Port() == 7006 {
		p.mu.Lock()
		p.unread++
		p.mu.Unlock()
		a.Refuse(syscall.ENETUNREACH)
		return
	}
	buf := make([]byte, 1<<16)
	for {
		n, err := a.Read(buf)
		if err != nil {
			return
		}
		if port := a.LocalAddr().Port(); port == 7009 || (port == 7008 || port == 7007) && p.first(a.RemoteAddr()) {
			a.Refuse(syscall.ECONNREFUSED)
			if port == 7007 {
				return
			}
			continue
		}
		out := append([]byte(a.LocalAddr().String()+" "), buf[:n]...)
		if a.LocalAddr().Port() == 53 {
			out = dns(p.t, buf[:n], false)
		}
		a.Write(out)
	}
}

// first says once of a socket that nothing has been refused it.
func (p *pod) first(debuggee netip.AddrPort) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refused == nil {
		p.refused = map[netip.AddrPort]bool{}
	}
	was := p.refused[debuggee]
	p.refused[debuggee] = true
	return !was
}

func (p *pod) Own(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.MustParseAddr(podIP)
	}
	return netip.MustParseAddr(podIP6)
}

func (p *pod) Lookup(_ context.Context, name string, family uint32) (f Found) {
	all, result := lookup(name)
	for _, a := range all {
		if family == 0 || (family == familyV4) == a.Is4() {
			f.Addrs = append(f.Addrs, a)
		}
	}
	f.Result = result
	if result == LookupFound {
		f.Canonical = fullName
		if len(f.Addrs) == 0 {
			f.Result = LookupNoData
		}
	}
	return f
}

func (p *pod) Reverse(_ context.Context, a netip.Addr) Found {
	if a.String() == "10.96.7.8" {
		return Found{Canonical: fullName}
	}
	return Found{Result: LookupNoName}
}

func (p *pod) Resolve(_ context.Context, query []byte, search bool) ([]byte, uint32) {
	return dns(p.t, query, search), LookupFound
}

func (p *pod) Exec(_ int, program string) (uint32, []string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.executed = append(p.executed, program)
	return ExecSame, nil, nil
}

func (p *pod) Notice(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notices = append(p.notices, line)
}

func (p *pod) Moved(network string, asked, _ netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.moved = append(p.moved, network+" "+asked.String())
}

// seen returns the destinations that the library has asked about, and which ports were moved.
func (p *pod) seen() (routes, moved []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.routes, p.moved
}

// greeter answers the first greeting of a connection as it likes, or not at all (nil), and nothing else.
func greeter(t *testing.T, answer func() (HelloAnswer, syscall.Errno)) (variable string, l *net.UnixListener) {
	t.Helper()
	path := filepath.Join(shortDir(t), "s")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			if answer == nil {
				t.Cleanup(func() { c.Close() })
				continue
			}
			buf, oob := make([]byte, MessageMax), make([]byte, 128)
			n, oobn, flags, _, err := c.ReadMsgUnix(buf, oob)
			if q, perr := parse(buf[:n], oob[:oobn], flags); err == nil && perr == nil {
				if h, no := answer(); no != 0 {
					q.fail(no)
				} else {
					q.answer(h, nil)
				}
			}
			c.Close()
		}
	}()
	return fmt.Sprintf("%s=%d:-:%s:%s", Variable, Version, hex.EncodeToString(make([]byte, TokenLen/2)), path), l
}

const fullName = "payments.shop.svc.cluster.local"

// The pod's names.
func lookup(name string) (out []netip.Addr, result uint32) {
	switch strings.TrimSuffix(name, ".") {
	case "payments", fullName:
		return []netip.Addr{netip.MustParseAddr("10.96.7.8"), netip.MustParseAddr("fd00::7:8")}, LookupFound
	case "slow":
		return nil, LookupTryAgain
	case "localhost":
		return nil, LookupAskHost
	}
	return nil, LookupNoName
}

// dns answers a query for addresses or texts; search stands for the pod's search list.
func dns(t *testing.T, query []byte, search bool) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) != 1 {
		t.Errorf("a query that is none (%v): %x", err, query)
		return nil
	}
	q := m.Questions[0]
	name := q.Name.String()
	all, result := lookup(name)
	if !search && !strings.Contains(name, "svc") {
		all, result = nil, LookupNoName
	}
	out := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions}
	if result == LookupNoName {
		out.RCode = dnsmessage.RCodeNameError
	}
	head := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, Type: q.Type, TTL: 5}
	for _, a := range all {
		switch {
		case q.Type == dnsmessage.TypeA && a.Is4():
			out.Answers = append(out.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: a.As4()}})
		case q.Type == dnsmessage.TypeAAAA && a.Is6():
			out.Answers = append(out.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	packed, err := out.Pack()
	if err != nil {
		t.Error(err)
	}
	return packed
}
