package road

import (
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// handle speaks to the kernel in the end's namespace, where the device is then.
func handle(end End, l netlink.Link) (*netlink.Handle, error) {
	if end.Netns == nil {
		return netlink.NewHandle()
	}
	if err := netlink.LinkSetNsFd(l, int(end.Netns.Fd())); err != nil {
		return nil, err
	}
	return netlink.NewHandleAt(netns.NsHandle(end.Netns.Fd()))
}
