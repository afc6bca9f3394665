// Command kubernetes is a whole Kubernetes node in one file: each of its components is a subcommand, called with the
// component's own flags. It exists because one static binary of pinned versions, built from Go modules, needs neither a
// registry nor a download server. It is a module of its own so that these 2800 packages are compiled once, whatever
// the tests beside it come to need; it holds no code but the choice of the component, and must never be imported.
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // the components' own metrics
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	manager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// component makes os.Args the component's own and returns its exit status.
type component func() int

// components are the subcommands.
func components() map[string]component {
	return map[string]component{
		"apiserver":          command(apiserver.NewAPIServerCommand),
		"controller-manager": command(manager.NewControllerManagerCommand),
		"scheduler":          command(func() *cobra.Command { return scheduler.NewSchedulerCommand() }),
		"kubelet":            command(func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) }),
		"proxy":              command(proxy.NewProxyCommand),
		"kubectl":            client,
		"etcd":               etcd,
		"coredns":            coreDNS,
	}
}

func main() {
	all := components()
	names := strings.Join(slices.Sorted(maps.Keys(all)), "|")
	if run, ok := all[filepath.Base(os.Args[0])]; ok { // by a link of that name
		os.Exit(run())
	}
	if len(os.Args) < 2 {
		fmt.Fprintf(os.Stderr, "usage: kubernetes %s [FLAG...]\n", names)
		os.Exit(2)
	}
	run, ok := all[os.Args[1]]
	if !ok {
		fmt.Fprintf(os.Stderr, "kubernetes: no component %q; there are %s\n", os.Args[1], names)
		os.Exit(2)
	}
	os.Args = os.Args[1:]
	os.Exit(run())
}

// command is a component that is a cobra command; it is made when it is chosen, for its making registers flags and
// metrics that the others register as well.
func command(make func() *cobra.Command) component {
	return func() int { return cli.Run(make()) }
}

// client is kubectl, whose errors are sentences for people already.
func client() int {
	if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
	return 0
}

// etcd exits by itself.
func etcd() int {
	etcdmain.Main(os.Args)
	return 0
}
