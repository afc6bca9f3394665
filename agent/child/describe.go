package child

import (
	"encoding/json"
	"io"
	"net"
	"net/netip"
	"os"

	"github.com/stepin-dev/stepin/agent/files"
	"github.com/stepin-dev/stepin/agent/pod"
	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

func (c *Child) describe(r *mux.Request) {
	raw, err := json.Marshal(c.pod())
	if err != nil {
		r.Refuse(err)
		return
	}
	stream, err := r.Accept(nil)
	if err != nil {
		return
	}
	defer stream.Close()
	_, _ = stream.Write(raw)
}

// pod tells what can be told; what cannot be read is left empty and said.
func (c *Child) pod() wire.Pod {
	p := wire.Pod{Hostname: hostname(), Env: c.env, Rights: c.start.Rights, Limits: append([]string{}, c.limits...),
		Target: c.start.Target, Trust: files.Trust(), Volumes: []wire.Volume{}, Addrs: []netip.Addr{}}
	said := func(what string, err error) {
		if err != nil {
			p.Limits = append(p.Limits, what+": "+err.Error())
		}
	}
	var err error
	p.Top, err = files.Top()
	said("the pod's root directory cannot be read", err)
	addrs, err := net.InterfaceAddrs()
	said("the pod's addresses cannot be read", err)
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			ip, _ := netip.AddrFromSlice(n.IP)
			if ip = ip.Unmap(); ip.IsGlobalUnicast() {
				p.Addrs = append(p.Addrs, ip)
			}
		}
	}
	points, err := c.volumes()
	said("the pod's mounts cannot be read", err)
	for _, v := range points {
		c.trace.note("lstat", v, true)
		p.Volumes = append(p.Volumes, files.Volume(v))
	}
	conf, err := readConf()
	c.trace.note("open", resolvConf, true)
	if err != nil && !os.IsNotExist(err) {
		said("the pod's resolv.conf cannot be read", err)
	}
	p.Resolver = string(conf)
	return p
}

func (c *Child) volumes() ([]string, error) {
	theirs, err := readAll(c.mounts)
	if err != nil {
		return nil, err
	}
	mounts, err := pod.ParseMountinfo(theirs)
	if err != nil {
		return nil, err
	}
	mine, err := readAll(c.ours)
	if err != nil {
		return nil, err
	}
	ours, err := pod.ParseMountinfo(mine)
	return pod.Volumes(mounts, ours), err
}

const (
	resolvConf = "/etc/resolv.conf"
	maxConf    = 64 << 10
)

// readConf reads the pod's resolv.conf, which may be a link.
func readConf() ([]byte, error) {
	f, err := os.Open(resolvConf)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxConf))
}
