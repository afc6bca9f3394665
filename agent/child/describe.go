package child

import (
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"os"

	"github.com/stepin-dev/stepin/agent/files"
	"github.com/stepin-dev/stepin/agent/pod"
	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

func (c *Child) describe(r *mux.Request) {
	var ask wire.Describe
	if !decode(r, &ask) {
		return
	}
	raw, err := json.Marshal(c.pod(r.Context(), ask.Lstat))
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
func (c *Child) pod(ctx context.Context, asked []wire.Name) wire.Pod {
	root, _, rootErr := c.view.wait(ctx)
	c.view.mu.Lock()
	p := wire.Pod{Hostname: hostname(), Env: c.view.env, Rights: c.rights, Limits: append([]string{}, c.limits...),
		Target: c.view.target, Volumes: []wire.Volume{}, Addrs: []netip.Addr{}, Stated: []wire.Stated{}}
	c.view.mu.Unlock()
	said := func(what string, err error) {
		if err != nil {
			p.Limits = append(p.Limits, what+": "+err.Error())
		}
	}
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
	if rootErr != nil {
		if !c.view.never { // else a limit says so already
			said("the pod's files cannot be read", rootErr)
		}
		return p
	}
	said("the pod's files cannot be read", c.onFiles(ctx, func() error {
		c.podFiles(root, &p, said)
		for _, name := range p.Top {
			asked = append(asked, wire.Name("/"+name))
		}
		p.Stated = append(p.Stated, c.stated(root, asked)...)
		return nil
	}))
	return p
}

// podFiles is the part of pod that asks the pod's files.
func (c *Child) podFiles(root *files.Root, p *wire.Pod, said func(string, error)) {
	var err error
	p.Trust = root.Trust()
	p.Top, err = root.Top()
	said("the pod's root directory cannot be read", err)
	points, err := c.volumes()
	said("the pod's mounts cannot be read", err)
	for _, v := range points {
		c.trace.note("lstat", v, true)
		p.Volumes = append(p.Volumes, root.Volume(v))
	}
	conf, err := root.ReadFile(resolvConf, maxConf)
	c.trace.note("open", resolvConf, true)
	if err != nil && !os.IsNotExist(err) {
		said("the pod's resolv.conf cannot be read", err)
	}
	p.Resolver = string(conf)
}

// stated are those of the paths that exist.
func (c *Child) stated(root *files.Root, paths []wire.Name) (out []wire.Stated) {
	for _, path := range paths {
		c.trace.note("lstat", string(path), true)
		if a, err := root.Lstat(string(path)); err == nil {
			out = append(out, wire.Stated{Path: path, Attr: a})
		}
	}
	return out
}

func (c *Child) volumes() ([]string, error) {
	c.view.mu.Lock()
	theirs, err := readAll(c.view.mounts)
	c.view.mu.Unlock()
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
