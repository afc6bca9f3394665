package cluster

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/stepin-dev/stepin/pkg/e2e/node"
	"github.com/stepin-dev/stepin/pkg/e2e/pki"
)

// servers are the certificates that are shown to clients, by file name.
func servers() map[string]pki.Leaf {
	loopback, address := net.ParseIP("127.0.0.1"), net.ParseIP(node.Address)
	return map[string]pki.Leaf{
		"apiserver": {Name: "kube-apiserver", Addrs: []net.IP{address, net.ParseIP(node.FirstService), loopback},
			Hosts: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + node.Domain}},
		"kubelet-serving": {Name: node.Name, Addrs: []net.IP{address, loopback}, Hosts: []string{node.Name}},
	}
}

// clients are those that are shown to the API server or by it; each but front-proxy has a kubeconfig.
func clients() map[string]pki.Leaf {
	masters := []string{"system:masters"}
	return map[string]pki.Leaf{
		"admin":              {Name: "admin", Groups: masters},
		"apiserver-kubelet":  {Name: "kube-apiserver-kubelet-client", Groups: masters},
		"controller-manager": {Name: "system:kube-controller-manager"},
		"scheduler":          {Name: "system:kube-scheduler"},
		"proxy":              {Name: "system:kube-proxy"},
		"kubelet":            {Name: "system:node:" + node.Name, Groups: []string{"system:nodes"}},
		"front-proxy":        {Name: "front-proxy-client"},
	}
}

// ensureKeys makes all of them if there are none, at once or not at all.
func (c *Cluster) ensureKeys() error {
	dir := filepath.Join(c.State, node.PKI)
	if _, err := os.Stat(dir); err == nil {
		return nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cluster: %w", err)
	}
	half := dir + ".new"
	if err := os.RemoveAll(half); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	if err := os.Mkdir(half, 0o700); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	if err := c.makeKeys(half); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(half, "admin.conf"), c.Kubeconfig()); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	if err := os.Rename(half, dir); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	return nil
}

func (c *Cluster) makeKeys(dir string) error {
	authority, own, err := pki.New("stepin-e2e")
	if err != nil {
		return err
	}
	if err := own.Write(dir, "ca"); err != nil {
		return err
	}
	_, key, err := pki.NewKey() // of service accounts' tokens
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "sa.key"), key, 0o600); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	issue := func(name string, leaf pki.Leaf) (*pki.Pair, error) {
		leaf.Life = pki.Forever
		pair, err := authority.Issue(leaf)
		if err != nil {
			return nil, err
		}
		return pair, pair.Write(dir, name)
	}
	for name, leaf := range servers() {
		if _, err := issue(name, leaf); err != nil {
			return err
		}
	}
	for name, leaf := range clients() {
		pair, err := issue(name, leaf)
		if err != nil {
			return err
		}
		text, err := pki.Access{Server: c.Server(), CA: authority.PEM, Client: pair}.Kubeconfig()
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name+".conf"), text, 0o600); err != nil {
			return fmt.Errorf("cluster: %w", err)
		}
	}
	return nil
}
