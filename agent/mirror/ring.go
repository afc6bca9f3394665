package mirror

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// The ring is memory that the kernel writes frames to, whole, however large receive offload has made them: 64 KiB, and
// more with BIG TCP. A socket's own buffer is 208 KiB where the agent may not enlarge it (net.core.rmem_max).
const (
	blockSize = 512 << 10
	blocks    = 32
	frameSize = 2048 // a divisor of blockSize; what frames need is as long as they are
	// retireWait is when a block is handed over that is not full. Blocks times this is how long we may get no time of a
	// busy node's processors before frames are dropped, however few they are.
	retireWait = 20 * time.Millisecond
)

// frame is one frame. Its data is valid during the call that it is given to.
type frame struct {
	data     []byte // from the IP header on
	at       time.Time
	outgoing bool // the pod sent it
	lo       bool // by the loopback interface
	checked  bool // the kernel has seen to the checksum, or there is none yet
}

// ring owns its socket and memory. read belongs to one goroutine; close may be called by another, and read then ends.
type ring struct {
	file   *os.File
	raw    syscall.RawConn
	mem    []byte
	at     int // the block that comes next
	closed atomic.Bool
	frames []frame
}

// newRing takes the socket over.
func newRing(socket *os.File) (r *ring, err error) {
	defer socket.Close()
	fd := -1
	raw, err := socket.SyscallConn()
	if err == nil {
		var derr error
		if err = raw.Control(func(from uintptr) { fd, derr = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0) }); err == nil {
			err = derr
		}
	}
	if err != nil {
		return nil, fmt.Errorf("mirror: adopting the socket: %w", err)
	}
	_ = unix.SetNonblock(fd, true) // so that Go's poller waits for it
	r = &ring{file: os.NewFile(uintptr(fd), "packets")}
	defer func() {
		if err != nil {
			r.file.Close()
		}
	}()
	if r.raw, err = r.file.SyscallConn(); err != nil {
		return nil, err
	}
	if err := r.filter(0, nil); err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V3); err != nil {
		return nil, fmt.Errorf("mirror: %w", os.NewSyscallError("setsockopt PACKET_VERSION", err))
	}
	req := unix.TpacketReq3{Block_size: blockSize, Block_nr: blocks, Frame_size: frameSize, Frame_nr: blockSize / frameSize * blocks,
		Retire_blk_tov: uint32(retireWait.Milliseconds())}
	if err := unix.SetsockoptTpacketReq3(fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &req); err != nil {
		return nil, fmt.Errorf("mirror: %w", os.NewSyscallError("setsockopt PACKET_RX_RING", err))
	}
	all := unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL)} // of every interface, those that come later included
	if err := unix.Bind(fd, &all); err != nil {
		return nil, fmt.Errorf("mirror: %w", os.NewSyscallError("bind", err))
	}
	if r.mem, err = unix.Mmap(fd, 0, blockSize*blocks, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("mirror: %w", os.NewSyscallError("mmap", err))
	}
	return r, nil
}

func htons(n uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n)) }

// close ends read, whose caller then unmaps.
func (r *ring) close() {
	r.closed.Store(true)
	r.file.Close()
}

// unmap gives the memory back.
func (r *ring) unmap() { _ = unix.Munmap(r.mem) }

// filter replaces the socket's filter.
func (r *ring) filter(mark uint32, ports map[uint16]bool) error {
	raw, err := bpf.Assemble(program(mark, ports))
	if err != nil {
		return fmt.Errorf("mirror: the filter: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, in := range raw {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	var serr error
	if err := r.raw.Control(func(fd uintptr) {
		serr = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	}); err != nil {
		return err
	}
	if serr != nil {
		return fmt.Errorf("mirror: %w", os.NewSyscallError("setsockopt SO_ATTACH_FILTER", serr))
	}
	return nil
}

// dropped is how many frames found no room since it was asked last.
func (r *ring) dropped() (n uint64) {
	_ = r.raw.Control(func(fd uintptr) {
		if stats, err := unix.GetsockoptTpacketStatsV3(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			n = uint64(stats.Drops)
		}
	})
	return n
}

// Offsets of linux/if_packet.h: struct tpacket_block_desc, tpacket3_hdr and, behind that, sockaddr_ll.
const (
	blockStatus, blockPackets, blockFirst = 8, 12, 16
	frameNext, frameSec, frameNsec        = 0, 4, 8
	frameSnap, frameStatus, frameNet      = 12, 20, 26
	frameAddr                             = 48
	addrIndex, addrType                   = 4, 10
	frameHeader                           = frameAddr + 20
	loopbackIndex                         = 1 // of every network namespace's lo (include/net/flow.h, LOOPBACK_IFINDEX)
)

// read waits for a block until deadline, gives its frames to use and the block back to the kernel. After close it fails
// with os.ErrClosed.
func (r *ring) read(deadline time.Time, use func([]frame)) error {
	block := r.mem[r.at*blockSize:][:blockSize]
	status := (*uint32)(unsafe.Pointer(&block[blockStatus]))
	err := r.file.SetReadDeadline(deadline)
	if err == nil {
		err = r.raw.Read(func(uintptr) bool { return atomic.LoadUint32(status)&unix.TP_STATUS_USER != 0 })
	}
	if r.closed.Load() {
		return os.ErrClosed
	}
	if err != nil {
		return err
	}
	r.frames = frames(r.frames[:0], block)
	use(r.frames)
	atomic.StoreUint32(status, unix.TP_STATUS_KERNEL)
	r.at = (r.at + 1) % blocks
	return nil
}

// frames lists a block's.
func frames(list []frame, block []byte) []frame {
	u32 := func(b []byte, at int) int { return int(binary.NativeEndian.Uint32(b[at:])) }
	at := u32(block, blockFirst)
	for range u32(block, blockPackets) {
		if at < 0 || at+frameHeader > len(block) {
			break
		}
		h := block[at:]
		net, snap := int(binary.NativeEndian.Uint16(h[frameNet:])), u32(h, frameSnap)
		if net+snap > len(h) {
			break
		}
		kind, status := h[frameAddr+addrType], u32(h, frameStatus)
		list = append(list, frame{data: h[net : net+snap], at: time.Unix(int64(u32(h, frameSec)), int64(u32(h, frameNsec))),
			outgoing: kind == unix.PACKET_OUTGOING, lo: u32(h, frameAddr+addrIndex) == loopbackIndex,
			checked: status&(unix.TP_STATUS_CSUM_VALID|unix.TP_STATUS_CSUMNOTREADY) != 0})
		next := u32(h, frameNext)
		if next == 0 {
			break
		}
		at += next
	}
	return list
}
