package session

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/policy"
	"github.com/stepin-dev/stepin/pkg/preload"
)

// What the pod's libc would make of a name, for the library in the debuggee: the pod's hosts file, then its search list,
// each question answered by the session's resolver.

const (
	hostsFile = "/etc/hosts"
	maxHosts  = 1 << 20 // bytes of a hosts file
	usualDots = 1       // ndots of resolv.conf(5)
	maxDots   = 15      // likewise
)

// hostsOf reads the names and addresses of a hosts file (hosts(5)).
func hostsOf(raw []byte) (byName map[string][]netip.Addr, byAddr map[netip.Addr]string) {
	byName, byAddr = map[string][]netip.Addr{}, map[netip.Addr]string{}
	for line := range bytes.Lines(raw) {
		text, _, _ := strings.Cut(string(line), "#")
		f := strings.Fields(text)
		if len(f) < 2 {
			continue
		}
		a, err := netip.ParseAddr(f[0])
		if err != nil {
			continue
		}
		a = a.Unmap().WithZone("")
		for _, name := range f[1:] {
			name = strings.ToLower(name)
			if !slices.Contains(byName[name], a) {
				byName[name] = append(byName[name], a)
			}
		}
		if byAddr[a] == "" {
			byAddr[a] = f[1]
		}
	}
	return byName, byAddr
}

// hosts is the pod's hosts file, or this machine's where that stays; what cannot be read is empty. It is small and asked
// for seldom, and kubelet may change it.
func (f *preloaded) hosts(ctx context.Context) (map[string][]netip.Addr, map[netip.Addr]string) {
	raw, err := f.headOf(ctx, hostsFile)
	if errors.Is(err, syscall.ELOOP) {
		raw, _, err = f.tree.ReadFile(ctx, hostsFile, maxHosts)
	}
	if err != nil {
		f.s.log.Debug("the pod's hosts file", "err", err)
	}
	return hostsOf(raw)
}

// headOf reads a file of at most wire.HeadLen bytes in one round trip; ELOOP: it is a link.
func (f *preloaded) headOf(ctx context.Context, path string) ([]byte, error) {
	file, err := f.s.source().Open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return file.Head(), nil
}

// dots is ndots of the pod's resolv.conf.
func dots(conf []byte) int {
	n := usualDots
	for line := range bytes.Lines(conf) {
		w := strings.Fields(string(line))
		if len(w) == 0 || w[0] != "options" {
			continue
		}
		for _, o := range w[1:] {
			if v, ok := strings.CutPrefix(o, "ndots:"); ok {
				if d, err := strconv.Atoi(v); err == nil && d >= 0 {
					n = min(d, maxDots)
				}
			}
		}
	}
	return n
}

// candidates are the names that libc asks for, in order.
func candidates(name string, search []string, ndots int) []string {
	if strings.HasSuffix(name, ".") {
		return []string{name}
	}
	var out []string
	for _, s := range search {
		if s = strings.Trim(s, "."); s != "" {
			out = append(out, name+"."+s+".")
		}
	}
	if strings.Count(name, ".") >= ndots {
		return append([]string{name + "."}, out...)
	}
	return append(out, name+".")
}

// Lookup answers getaddrinfo and gethostbyname.
func (f *preloaded) Lookup(ctx context.Context, name string, family uint32) preload.Found {
	s := f.s
	if name == "" || len(name) > preload.NameMax {
		return preload.Found{Result: preload.LookupNoName}
	}
	if s.outgoing.Name(strings.TrimSuffix(name, ".")).Where == policy.Host {
		return preload.Found{Result: preload.LookupAskHost}
	}
	wanted := func(a netip.Addr) bool {
		return family == 0 || family == unix.AF_INET && a.Is4() || family == unix.AF_INET6 && a.Is6()
	}
	byName, _ := f.hosts(ctx)
	if all := byName[strings.ToLower(strings.TrimSuffix(name, "."))]; all != nil {
		if fit := slices.DeleteFunc(slices.Clone(all), func(a netip.Addr) bool { return !wanted(a) }); len(fit) > 0 {
			return preload.Found{Addrs: fit, Canonical: name}
		}
	}
	var types []dnsmessage.Type
	if family != unix.AF_INET6 {
		types = append(types, dnsmessage.TypeA)
	}
	if family != unix.AF_INET {
		types = append(types, dnsmessage.TypeAAAA)
	}
	result := preload.LookupNoName
	for _, full := range candidates(name, s.conf.Search, dots([]byte(s.pod.Resolver))) {
		found := f.ask(ctx, full, types)
		switch found.Result {
		case preload.LookupFound:
			return found
		case preload.LookupTryAgain: // libc goes on, and says so where nothing else is found
			result = preload.LookupTryAgain
		case preload.LookupNoData:
			if result == preload.LookupNoName {
				result = preload.LookupNoData
			}
		}
	}
	return preload.Found{Result: result}
}

// ask asks for a full name's addresses, all families at once.
func (f *preloaded) ask(ctx context.Context, full string, types []dnsmessage.Type) preload.Found {
	n, err := dnsmessage.NewName(full)
	if err != nil {
		return preload.Found{Result: preload.LookupNoName}
	}
	answers := make([]preload.Found, len(types))
	var wg sync.WaitGroup
	for i, t := range types {
		wg.Go(func() {
			m := dnsmessage.Message{Header: dnsmessage.Header{RecursionDesired: true},
				Questions: []dnsmessage.Question{{Name: n, Type: t, Class: dnsmessage.ClassINET}}}
			raw, err := m.Pack()
			if err != nil {
				answers[i].Result = preload.LookupNoName
				return
			}
			answers[i] = addresses(f.s.names.Resolve(ctx, raw, false))
		})
	}
	wg.Wait()
	out := preload.Found{Result: preload.LookupNoName}
	for _, a := range answers {
		out.Addrs = append(out.Addrs, a.Addrs...)
		if out.Canonical == "" {
			out.Canonical = a.Canonical
		}
		if a.Result == preload.LookupTryAgain || a.Result == preload.LookupNoData && out.Result == preload.LookupNoName {
			out.Result = a.Result
		}
	}
	if len(out.Addrs) > 0 {
		out.Result = preload.LookupFound
	}
	return out
}

// addresses reads those of an answer.
func addresses(raw []byte) preload.Found {
	var m dnsmessage.Message
	if raw == nil || m.Unpack(raw) != nil {
		return preload.Found{Result: preload.LookupTryAgain}
	}
	switch m.RCode {
	case dnsmessage.RCodeSuccess:
	case dnsmessage.RCodeNameError:
		return preload.Found{Result: preload.LookupNoName}
	default:
		return preload.Found{Result: preload.LookupTryAgain}
	}
	out := preload.Found{Result: preload.LookupNoData}
	for _, a := range m.Answers {
		switch body := a.Body.(type) {
		case *dnsmessage.AResource:
			out.Addrs = append(out.Addrs, netip.AddrFrom4(body.A))
		case *dnsmessage.AAAAResource:
			out.Addrs = append(out.Addrs, netip.AddrFrom16(body.AAAA))
		default:
			continue
		}
		if out.Canonical == "" {
			out.Canonical = strings.TrimSuffix(a.Header.Name.String(), ".")
		}
	}
	if len(out.Addrs) > 0 {
		out.Result = preload.LookupFound
	}
	return out
}

// Reverse answers getnameinfo and gethostbyaddr.
func (f *preloaded) Reverse(ctx context.Context, a netip.Addr) preload.Found {
	if _, byAddr := f.hosts(ctx); byAddr[a] != "" {
		return preload.Found{Canonical: byAddr[a]}
	}
	n, err := dnsmessage.NewName(reverseName(a))
	if err != nil {
		return preload.Found{Result: preload.LookupNoName}
	}
	m := dnsmessage.Message{Header: dnsmessage.Header{RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: n, Type: dnsmessage.TypePTR, Class: dnsmessage.ClassINET}}}
	raw, err := m.Pack()
	if err != nil {
		return preload.Found{Result: preload.LookupNoName}
	}
	answer := f.s.names.Resolve(ctx, raw, false)
	if answer == nil || m.Unpack(answer) != nil {
		return preload.Found{Result: preload.LookupTryAgain}
	}
	for _, r := range m.Answers {
		if p, ok := r.Body.(*dnsmessage.PTRResource); ok {
			return preload.Found{Canonical: strings.TrimSuffix(p.PTR.String(), ".")}
		}
	}
	return preload.Found{Result: preload.LookupNoName}
}

// reverseName is the name that an address's name is found under (RFC 1035, 3.5; RFC 3596, 2.5).
func reverseName(a netip.Addr) string {
	var b strings.Builder
	raw := a.AsSlice()
	for _, x := range slices.Backward(raw) {
		if a.Is4() {
			b.WriteString(strconv.Itoa(int(x)) + ".")
			continue
		}
		const hex = "0123456789abcdef"
		b.Write([]byte{hex[x&15], '.', hex[x>>4], '.'})
	}
	if a.Is4() {
		return b.String() + "in-addr.arpa."
	}
	return b.String() + "ip6.arpa."
}

// Resolve answers res_query and res_search.
func (f *preloaded) Resolve(ctx context.Context, query []byte, search bool) ([]byte, uint32) {
	var m dnsmessage.Message
	if !search || m.Unpack(query) != nil || len(m.Questions) != 1 {
		return resolved(f.s.names.Resolve(ctx, query, false))
	}
	var first []byte
	name := strings.TrimSuffix(m.Questions[0].Name.String(), ".") // res_search has no other way to write it
	for _, full := range candidates(name, f.s.conf.Search, dots([]byte(f.s.pod.Resolver))) {
		n, err := dnsmessage.NewName(full)
		if err != nil {
			continue
		}
		m.Questions[0].Name = n
		raw, err := m.Pack()
		if err != nil {
			continue
		}
		answer := f.s.names.Resolve(ctx, raw, false)
		var a dnsmessage.Message
		if answer != nil && a.Unpack(answer) == nil && a.RCode == dnsmessage.RCodeSuccess && len(a.Answers) > 0 {
			return answer, preload.LookupFound
		}
		if first == nil {
			first = answer
		}
	}
	return resolved(first)
}

func resolved(answer []byte) ([]byte, uint32) {
	if answer == nil {
		return nil, preload.LookupTryAgain
	}
	return answer, preload.LookupFound
}
