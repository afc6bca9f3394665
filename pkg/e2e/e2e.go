// Package e2e is what the end-to-end tests have in their hands: a real Kubernetes (the cluster of package cluster, or
// the one that KUBECONFIG names), objects in it, its users, its node, the road between machine and API server, and
// stepin as its users have it. The tests lie beside it. It must never be imported by the product, of whose module it is
// no part, nor assert anything itself but that its own work has been done.
package e2e

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/stepin-dev/stepin/pkg/e2e/cluster"
	"github.com/stepin-dev/stepin/pkg/e2e/road"
)

const (
	// Patience bounds every wait of these tests: a cold build on a busy machine takes tens of seconds.
	Patience = 2 * time.Minute

	// pace is how often a state is asked for while it is waited for.
	pace = 100 * time.Millisecond

	// unlimited is a rate of requests that client-go never reaches: tests are not to wait for themselves.
	unlimited = 10000
)

// Keep names the variable that, if set, has namespaces stay after their tests, for a look at what is in them.
const Keep = "STEPIN_E2E_KEEP"

// Cluster is the one under test, as its administrator sees it.
type Cluster struct {
	// Kubeconfig is the administrator's.
	Kubeconfig string
	Config     *rest.Config
	Client     kubernetes.Interface

	dynamic dynamic.Interface
	mapper  meta.ResettableRESTMapper
	own     *cluster.Cluster // nil for one that KUBECONFIG names

	road struct { // see Road
		sync.Mutex
		open *road.Road
	}
}

// open is done once per test binary.
var open = sync.OnceValues(func() (*Cluster, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	own, err := cluster.At(filepath.Join(root, "pkg", "e2e"), slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return nil, err
	}
	named := os.Getenv("KUBECONFIG")
	if named != "" && named != own.Kubeconfig() {
		return connect(named, nil)
	}
	if pid, err := own.Pid(); err != nil {
		return nil, err
	} else if pid == 0 {
		cmd := exec.Command(filepath.Join(root, ".ci", "cluster"), "up")
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return nil, errors.New("no cluster, and none could be started: " + err.Error())
		}
	}
	return connect(own.Kubeconfig(), own)
})

// Up returns the cluster that KUBECONFIG names, else the one that runs on this machine, else starts that one, which then
// stays up (./just cluster-down). ./just e2e ends what it has started.
func Up(t testing.TB) *Cluster {
	t.Helper()
	c, err := open()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func connect(kubeconfig string, own *cluster.Cluster) (*Cluster, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = unlimited, unlimited
	c := &Cluster{Kubeconfig: kubeconfig, Config: config, own: own}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	c.Client = client
	c.mapper = restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery()))
	c.dynamic, err = dynamic.NewForConfig(config)
	return c, err
}

// Root is the repository's folder, found from the test's own.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "pkg", "e2e", "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("e2e: not within the repository")
}

// Limit is a context that ends with Patience, and with the test.
func Limit(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	t.Cleanup(cancel)
	return ctx
}

// Eventually polls for what another process brings about.
func Eventually(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !ok(); time.Sleep(pace) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}
