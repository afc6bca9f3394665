package mirror

import (
	"maps"
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// MaxPorts bounds the ports of all takers: a classic filter has at most 4096 instructions (BPF_MAXINSNS).
const MaxPorts = 512

// whole is how much of a frame is wanted.
const whole = 1 << 20

// Where the headers of IP have what.
const (
	ip4Fragment, ip4Protocol       = 6, 9
	ip6Next, ip6Header             = 6, 40
	tcpSource, tcpTarget, tcpFlags = 0, 2, 13
	flagFIN, flagSYN, flagRST      = 1, 2, 4
	flagACK                        = 16
)

// program is the filter: it lets through what comes to one of ports, once even on the loopback interface, where each
// frame is shown twice, and resets from one of ports; nothing with mark. The text begins with the header of IP.
func program(mark uint32, ports map[uint16]bool) []bpf.Instruction {
	drop := bpf.RetConstant{Val: 0}
	p := []bpf.Instruction{}
	if len(ports) == 0 {
		return append(p, drop)
	}
	if mark != 0 {
		p = append(p, bpf.LoadExtension{Num: bpf.ExtMark}, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: mark, SkipTrue: 1}, drop)
	}
	// M[0] is what the two ports and the flags are found by: X, the length of the header of IP.
	ip4 := []bpf.Instruction{
		bpf.LoadAbsolute{Off: ip4Protocol, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_TCP, SkipTrue: 1}, drop,
		bpf.LoadAbsolute{Off: ip4Fragment, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: 0x1fff, SkipTrue: 1}, drop, // what is behind a first fragment has no ports
		bpf.LoadMemShift{Off: 0},
	}
	ip6 := []bpf.Instruction{ // headers between those of IP and TCP are not known: clients do not send any
		bpf.LoadAbsolute{Off: ip6Next, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_TCP, SkipTrue: 1}, drop,
		bpf.LoadConstant{Dst: bpf.RegX, Val: ip6Header},
	}
	p = append(p, bpf.LoadAbsolute{Off: 0, Size: 1}, bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 4, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 6, SkipTrue: uint8(2 + len(ip4))}, drop)
	p = append(p, ip4...)
	p = append(p, bpf.Jump{Skip: uint32(len(ip6))})
	p = append(p, ip6...)
	sorted := slices.Sorted(maps.Keys(ports))
	// To one of the ports: what this host receives, and not what it sends.
	to := match(bpf.LoadIndirect{Off: tcpTarget, Size: 2}, sorted, []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_HOST, SkipTrue: 1}, drop,
		bpf.RetConstant{Val: whole},
	})
	from := match(bpf.LoadIndirect{Off: tcpSource, Size: 2}, sorted, []bpf.Instruction{
		bpf.LoadIndirect{Off: tcpFlags, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: flagRST, SkipTrue: 1}, drop,
		bpf.RetConstant{Val: whole},
	})
	return append(append(append(p, to...), from...), drop)
}

// match does then where what load loads is one of ports; else it goes on behind.
func match(load bpf.Instruction, ports []uint16, then []bpf.Instruction) []bpf.Instruction {
	p := []bpf.Instruction{load}
	for i, port := range ports {
		rest := len(ports) - 1 - i
		p = append(p, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(port), SkipTrue: 1}, bpf.Jump{Skip: uint32(2*rest + 1)})
	}
	return append(append(p, bpf.Jump{Skip: uint32(len(then))}), then...)
}
