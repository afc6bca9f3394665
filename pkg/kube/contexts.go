package kube

import (
	"maps"
	"slices"

	"k8s.io/client-go/tools/clientcmd"
)

// Context is one of a kubeconfig's.
type Context struct {
	Name      string `json:"name"`
	Cluster   string `json:"cluster"`             // the kubeconfig's name for it
	Namespace string `json:"namespace,omitempty"` // "" means default
	Current   bool   `json:"current,omitempty"`
}

// Contexts lists those of a kubeconfig, by name; "" is what kubectl would read. It asks no cluster.
// Error: fail.ClusterConfig.
func Contexts(file string) ([]Context, error) {
	rules, err := loading(file)
	if err != nil {
		return nil, err
	}
	raw, err := rules.Load()
	if err == nil && len(raw.Contexts) == 0 {
		err = clientcmd.ErrEmptyConfig
	}
	if err != nil {
		return nil, unreadable(err, file)
	}
	out := []Context{}
	for _, name := range slices.Sorted(maps.Keys(raw.Contexts)) {
		c := raw.Contexts[name]
		out = append(out, Context{name, c.Cluster, c.Namespace, name == raw.CurrentContext})
	}
	return out, nil
}
