package podlet

import (
	"encoding/binary"
	"runtime"
)

// waiterPath is where the program of a pod that has none is in the image.
const waiterPath = "/waiter"

// The waiter's machine code: wait for a signal, for ever.
var waiterCode = map[string]string{
	"amd64": "\xb8\x22\x00\x00\x00" + // mov eax, 34 (pause)
		"\x0f\x05" + // syscall
		"\xeb\xf7", // jmp to the beginning
	"arm64": "\x00\x00\x80\xd2\x01\x00\x80\xd2\x02\x00\x80\xd2\x03\x00\x80\xd2" + // mov x0, 0 … mov x3, 0
		"\x28\x09\x80\xd2" + // mov x8, 73 (ppoll of nothing, without end)
		"\x01\x00\x00\xd4" + // svc 0
		"\xfa\xff\xff\x17", // b to the beginning
}

// waiter makes the smallest program that stays: a static ELF executable of one segment (elf(5)). The program that a Go test
// is cannot be it, since the race detector makes it a dynamic one.
func waiter() string {
	const base, header, segment = 0x10000, 64, 56
	machine := map[string]uint16{"amd64": 62, "arm64": 183}[runtime.GOARCH] // EM_X86_64, EM_AARCH64
	code := waiterCode[runtime.GOARCH]
	size := uint64(header + segment + len(code))
	le := binary.LittleEndian
	b := []byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00") // 64 bits, little-endian, System V
	b = le.AppendUint16(b, 2)                                              // ET_EXEC
	b = le.AppendUint16(b, machine)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, base+header+segment) // entry
	b = le.AppendUint64(b, header)              // where the segment's header is
	b = le.AppendUint64(b, 0)                   // no sections
	b = le.AppendUint32(b, 0)
	for _, v := range []uint16{header, segment, 1, 0, 0, 0} {
		b = le.AppendUint16(b, v)
	}
	b = le.AppendUint32(b, 1) // PT_LOAD
	b = le.AppendUint32(b, 5) // read, execute
	for _, v := range []uint64{0, base, base, size, size, 0x10000} {
		b = le.AppendUint64(b, v)
	}
	return string(b) + code
}
