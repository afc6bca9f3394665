// Package road lies between two network namespaces of one machine and can be long, narrow or cut. It is a pair of TUN
// devices with a relay between them in this process, for kernels without netem; an address at either end is led over it
// by a route of its own. The devices and so the routes go with the process, however it ends. It must never be on the
// way when nothing is asked of it: measurements without it are the veth pair's.
package road

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// biggest is a whole segment that the kernel has not cut up yet, behind a struct virtio_net_hdr of 10 bytes.
	biggest = 10 + 65535

	// queue bounds what is under way in one direction; what comes when it is full is lost, as on any road.
	queue = 4096
)

// State is what a road is like; the zero State is a plain one.
type State struct {
	RoundTrip time.Duration // added, half of it each way
	Loss      float64       // the part of the packets that is lost, 0 to 1, each way
	Rate      float64       // bytes a second each way, 0 for all there is
}

// End is one end: an address to be reached from the other end, in a namespace.
type End struct {
	Device  string   // the name of the TUN device
	Address net.IP   // has it already, on whatever device
	Netns   *os.File // nil for this process's
}

// Road is one that is open.
//
// Goroutines: for each direction one that reads a device and one that writes the other; both end with Close.
type Road struct {
	state atomic.Pointer[State]
	files [2]*os.File
}

// Open makes the devices and leads each end's traffic for the other over them.
func Open(ends [2]End, s State) (*Road, error) {
	r := &Road{}
	r.Set(s)
	for i, end := range ends {
		f, err := device(end.Device)
		if err != nil {
			r.Close()
			return nil, err
		}
		r.files[i] = f
		if err := lead(end, ends[1-i].Address); err != nil {
			r.Close()
			return nil, err
		}
	}
	for i := range r.files {
		packets := make(chan packet, queue)
		go r.read(r.files[i], packets)
		go write(r.files[1-i], packets)
	}
	return r, nil
}

// Set changes what packets meet that come from now on.
func (r *Road) Set(s State) { r.state.Store(&s) }

// Close removes the road; what is on it is lost.
func (r *Road) Close() {
	for _, f := range r.files {
		if f != nil {
			f.Close()
		}
	}
}

// packet is one that arrives at a time.
type packet struct {
	data []byte
	due  time.Time
}

func (r *Road) read(from *os.File, to chan<- packet) {
	defer close(to)
	buffer := make([]byte, biggest)
	var free time.Time // when the road's beginning is free again
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		s, now := r.state.Load(), time.Now()
		if s.Loss > 0 && rand.Float64() < s.Loss {
			continue
		}
		if free.Before(now) {
			free = now
		}
		if s.Rate > 0 {
			free = free.Add(time.Duration(float64(n) / s.Rate * float64(time.Second)))
		}
		select {
		case to <- packet{append([]byte(nil), buffer[:n]...), free.Add(s.RoundTrip / 2)}:
		default:
		}
	}
}

func write(to *os.File, packets <-chan packet) {
	for p := range packets {
		time.Sleep(time.Until(p.due))
		if _, err := to.Write(p.data); errors.Is(err, os.ErrClosed) {
			return
		}
	}
}

// device makes a TUN device that is gone when the file is closed. Packets carry the kernel's own notes on checksums and
// segments (linux/virtio_net.h), so that large ones pass whole.
func device(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("road: /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("road: %w", err)
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	if err == nil {
		err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("road: making %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// lead moves a device into its end's namespace and routes the other end's address over it.
func lead(end End, other net.IP) error {
	l, err := netlink.LinkByName(end.Device)
	if err != nil {
		return fmt.Errorf("road: %s: %w", end.Device, err)
	}
	h, err := handle(end, l)
	if err != nil {
		return fmt.Errorf("road: %s: %w", end.Device, err)
	}
	defer h.Close()
	if l, err = h.LinkByName(end.Device); err != nil { // its number may be another there
		return fmt.Errorf("road: %s: %w", end.Device, err)
	}
	if err := h.LinkSetUp(l); err != nil {
		return fmt.Errorf("road: %s: %w", end.Device, err)
	}
	route := &netlink.Route{
		LinkIndex: l.Attrs().Index, Dst: netlink.NewIPNet(other), Src: end.Address, Scope: netlink.SCOPE_LINK,
	}
	if err := h.RouteReplace(route); err != nil {
		return fmt.Errorf("road: leading to %s: %w", other, err)
	}
	return nil
}
