package steal

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// Offsets in struct bpf_sk_lookup (the kernel's include/uapi/linux/bpf.h, since 5.9).
const (
	ctxFamily     = 8
	ctxProtocol   = 12
	ctxRemoteIP4  = 16
	ctxRemoteIP6  = 20
	ctxRemotePort = 36 // 16 bits, network order
	ctxLocalIP4   = 40
	ctxLocalIP6   = 44
	ctxLocalPort  = 60 // 32 bits, host order
)

const (
	maxSockets = 2 + 2*256 // two TCP listeners, two sockets for each UDP port that lease.Table can hold
	maxBypass  = 8192      // as many as one channel has streams
	// loopbackOnly in a port's value: only callers of a loopback address are taken.
	loopbackOnly = 1 << 31
)

// lookup is the BPF program and its maps. The link, and with it the steal, lasts as long as this process holds it.
type lookup struct {
	ports   *ebpf.Map // protocol<<16 | port → index of the IPv4 socket (IPv6: the next), loopbackOnly
	sockets *ebpf.Map // index → socket
	bypass  *ebpf.Map // bypassKey → 1
	prog    *ebpf.Program
	netns   *os.File
	link    link.Link // nil while nothing is stolen
}

// bypassKey names the agent's own connections to the pod's process. By source port alone it would leak real clients
// (measured, reference sk_lookup.md).
type bypassKey struct {
	Source     [16]byte // IPv4 as ::ffff:a.b.c.d
	SourcePort uint16   // network order
	DestPort   uint16   // host order
	Protocol   uint32
}

const bypassKeyLen = 24

// newLookup loads the program and attaches it once, as a probe. An error means that this machine or these rights do
// without.
func newLookup(netns *os.File) (l *lookup, err error) {
	_ = rlimit.RemoveMemlock() // before 5.11 maps count as locked memory; where it fails the maps will say so
	l = &lookup{netns: netns}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	for _, m := range []struct {
		into **ebpf.Map
		spec ebpf.MapSpec
	}{
		{&l.ports, ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 1024}},
		{&l.sockets, ebpf.MapSpec{Type: ebpf.SockMap, KeySize: 4, ValueSize: 8, MaxEntries: maxSockets}},
		{&l.bypass, ebpf.MapSpec{Type: ebpf.Hash, KeySize: bypassKeyLen, ValueSize: 1, MaxEntries: maxBypass}},
	} {
		if *m.into, err = ebpf.NewMap(&m.spec); err != nil {
			return l, fmt.Errorf("steal: making a BPF map: bpf(BPF_MAP_CREATE): %w", plain(err))
		}
	}
	l.prog, err = ebpf.NewProgram(&ebpf.ProgramSpec{Name: "stepin", Type: ebpf.SkLookup, AttachType: ebpf.AttachSkLookup,
		License: "Apache-2.0", Instructions: l.program()})
	if err != nil {
		return l, fmt.Errorf("steal: loading the BPF program: bpf(BPF_PROG_LOAD): %w", plain(err))
	}
	if err = l.attach(); err == nil {
		err = l.detach()
	}
	return l, err
}

// plain leaves the library's advice about MEMLOCK out, which is meant for programmers.
func plain(err error) error {
	var no syscall.Errno
	if errors.As(err, &no) {
		return no
	}
	return err
}

func (l *lookup) attach() (err error) {
	if l.link != nil {
		return nil
	}
	if l.link, err = link.AttachNetNs(int(l.netns.Fd()), l.prog); err != nil {
		return fmt.Errorf("steal: attaching to the pod's network: bpf(BPF_LINK_CREATE): %w", err)
	}
	return nil
}

func (l *lookup) detach() error {
	if l.link == nil {
		return nil
	}
	err := l.link.Close()
	l.link = nil
	return err
}

func (l *lookup) close() {
	_ = l.detach()
	if l.prog != nil {
		l.prog.Close()
	}
	for _, m := range []*ebpf.Map{l.ports, l.sockets, l.bypass} {
		if m != nil {
			m.Close()
		}
	}
}

// program takes a connection or datagram for a port in ports, unless it is in bypass:
//
//	not TCP or UDP, port not in ports, loopbackOnly and not to loopback, in bypass, no socket → pass
//	else assign the socket
//
// The key of bypass is built on the stack at -32, that of the other maps at -4.
func (l *lookup) program() asm.Instructions {
	const pass, ipv4, key, known = "pass", "ipv4", "key", "known"
	const ctx, value, index, isLoop = asm.R6, asm.R7, asm.R8, asm.R9
	stack := func(offset int32) asm.Instructions {
		return asm.Instructions{asm.Mov.Reg(asm.R2, asm.R10), asm.Add.Imm(asm.R2, offset)}
	}
	find := func(m *ebpf.Map, offset int32) asm.Instructions {
		return append(append(asm.Instructions{asm.LoadMapPtr(asm.R1, m.FD())}, stack(offset)...), asm.FnMapLookupElem.Call())
	}
	join := func(parts ...asm.Instructions) (all asm.Instructions) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	return join(
		asm.Instructions{
			asm.Mov.Reg(ctx, asm.R1),
			asm.LoadMem(asm.R3, ctx, ctxProtocol, asm.Word),
			asm.StoreMem(asm.R10, -12, asm.R3, asm.Word),
			asm.JEq.Imm(asm.R3, unix.IPPROTO_TCP, known),
			asm.JNE.Imm(asm.R3, unix.IPPROTO_UDP, pass),
			asm.LoadMem(asm.R4, ctx, ctxLocalPort, asm.Word).WithSymbol(known),
			asm.StoreMem(asm.R10, -14, asm.R4, asm.Half),
			asm.LSh.Imm(asm.R3, 16),
			asm.Or.Reg(asm.R3, asm.R4),
			asm.StoreMem(asm.R10, -4, asm.R3, asm.Word),
		},
		find(l.ports, -4),
		asm.Instructions{
			asm.JEq.Imm(asm.R0, 0, pass),
			asm.LoadMem(value, asm.R0, 0, asm.Word),
			asm.Mov.Reg(index, value),
			asm.And.Imm(index, loopbackOnly-1),
			asm.Mov.Imm(isLoop, 0),
			asm.LoadMem(asm.R3, ctx, ctxRemotePort, asm.Half),
			asm.StoreMem(asm.R10, -16, asm.R3, asm.Half),
			asm.LoadMem(asm.R3, ctx, ctxFamily, asm.Word),
			asm.JEq.Imm(asm.R3, unix.AF_INET, ipv4),
		},
		l.address6(isLoop, key),
		asm.Instructions{asm.Add.Imm(index, 1).WithSymbol("index6"), asm.Ja.Label(key)},
		l.address4(isLoop, key),
		asm.Instructions{
			asm.RSh.Imm(value, 31).WithSymbol(key),
			asm.JEq.Imm(value, 0, "anyone"),
			asm.JEq.Imm(isLoop, 0, pass),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("anyone"),
		},
		find(l.bypass, -32),
		asm.Instructions{
			asm.JNE.Imm(asm.R0, 0, pass),
			asm.StoreMem(asm.R10, -4, index, asm.Word),
		},
		find(l.sockets, -4),
		asm.Instructions{
			asm.JEq.Imm(asm.R0, 0, pass),
			asm.Mov.Reg(value, asm.R0),
			asm.Mov.Reg(asm.R1, ctx),
			asm.Mov.Reg(asm.R2, value),
			asm.Mov.Imm(asm.R3, 0),
			asm.FnSkAssign.Call(),
			asm.Mov.Reg(asm.R1, value),
			asm.FnSkRelease.Call(),
			asm.Mov.Imm(asm.R0, 1).WithSymbol(pass), // SK_PASS: with a socket assigned it gets the packet
			asm.Return(),
		})
}

// address6 stores the remote address and finds out whether the local one is ::1.
func (l *lookup) address6(isLoop asm.Register, _ string) asm.Instructions {
	var all asm.Instructions
	for i := int16(0); i < 4; i++ {
		all = append(all, asm.LoadMem(asm.R3, asm.R6, ctxRemoteIP6+4*i, asm.Word), asm.StoreMem(asm.R10, -32+4*i, asm.R3, asm.Word))
	}
	for i := int16(0); i < 3; i++ {
		all = append(all, asm.LoadMem(asm.R3, asm.R6, ctxLocalIP6+4*i, asm.Word), asm.JNE.Imm(asm.R3, 0, "index6"))
	}
	return append(all,
		asm.LoadMem(asm.R3, asm.R6, ctxLocalIP6+12, asm.Word),
		asm.JNE.Imm(asm.R3, 1<<24, "index6"), // 1 in network order, read by a little-endian machine
		asm.Mov.Imm(isLoop, 1))
}

// address4 does the same for IPv4: any of 127.0.0.0/8.
func (l *lookup) address4(isLoop asm.Register, key string) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Imm(asm.R3, 0).WithSymbol("ipv4"),
		asm.StoreMem(asm.R10, -32, asm.R3, asm.Word),
		asm.StoreMem(asm.R10, -28, asm.R3, asm.Word),
		asm.LoadImm(asm.R3, 0xffff0000, asm.DWord), // bytes 00 00 ff ff
		asm.StoreMem(asm.R10, -24, asm.R3, asm.Word),
		asm.LoadMem(asm.R3, asm.R6, ctxRemoteIP4, asm.Word),
		asm.StoreMem(asm.R10, -20, asm.R3, asm.Word),
		asm.LoadMem(asm.R3, asm.R6, ctxLocalIP4, asm.Word),
		asm.And.Imm(asm.R3, 0xff),
		asm.JNE.Imm(asm.R3, 127, key),
		asm.Mov.Imm(isLoop, 1),
	}
}

// portKey is a port's key in the map.
func portKey(k Port) uint32 { return uint32(k.protocol())<<16 | uint32(k.Number) }

// keyOf makes the bypass entry of a socket bound to source that will reach dest.
func keyOf(network string, source, dest netip.AddrPort) bypassKey {
	p := source.Port()
	return bypassKey{Source: source.Addr().As16(), SourcePort: p<<8 | p>>8, DestPort: dest.Port(),
		Protocol: uint32(Port{Network: network}.protocol())}
}

func (l *lookup) put(k Port, index uint32, loopback bool) error {
	if loopback {
		index |= loopbackOnly
	}
	if err := l.ports.Put(portKey(k), index); err != nil {
		return fmt.Errorf("steal: entering port %d: %w", k.Number, err)
	}
	return nil
}

func (l *lookup) remove(k Port) error {
	if err := l.ports.Delete(portKey(k)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("steal: removing port %d: %w", k.Number, err)
	}
	return nil
}
