package kube

import (
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	_ "k8s.io/client-go/plugin/pkg/client/auth/oidc" // the one kind of credentials that is neither a file nor an exec plugin
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/klog/v2"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
)

const (
	// callTimeout bounds one call that answers at once: the API server gives up after 60 s itself, but nobody who
	// pressed F5 waits that long, and a cluster 100 ms away with a list of thousands of pods needs 2 s.
	callTimeout = 15 * time.Second

	// qps and burst let a start's dozen of calls through at once; client-go's own limit of 5 a second is meant for
	// controllers, and would be most of a cold start.
	qps   = 50
	burst = 100
)

const clusterHint = `name a file by "kubeconfig", or set KUBECONFIG; local/PID needs no cluster`

// Open reads the configuration. It makes no round trip and starts no exec plugin; it may start the login shell once, to
// ask where a plugin is. Errors: fail.ClusterConfig, fail.ClusterContext, fail.ClusterCredentials (no such plugin).
func Open(o Options) (*Cluster, error) {
	if o.Said == nil {
		o.Said = func(string) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	silenceClient()
	rules, err := loading(o.Kubeconfig)
	if err != nil {
		return nil, err
	}
	overrides := &clientcmd.ConfigOverrides{CurrentContext: o.Context}
	overrides.Context.Namespace = o.Namespace
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
	raw, err := loader.RawConfig()
	if err != nil {
		return nil, unreadable(err, o.Kubeconfig)
	}
	name := o.Context
	if name == "" {
		name = raw.CurrentContext
	}
	if err := knownContext(&raw, name, o.Context != ""); err != nil {
		return nil, err
	}
	rc, err := loader.ClientConfig()
	if err != nil {
		return nil, unreadable(err, o.Kubeconfig)
	}
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, unreadable(err, o.Kubeconfig)
	}
	c := &Cluster{config: rc, namespace: namespace, contextName: name, said: o.Said, log: o.Log, sent: map[string]sent{}}
	rc.QPS, rc.Burst, rc.Timeout = qps, burst, 0 // each call has its own deadline; a watch has none
	rc.UserAgent = "stepin/" + o.Version
	rc.WarningHandlerWithContext = rest.NoWarnings{}
	if rc.ExecProvider != nil {
		if c.plugin, err = newPlugin(rc.ExecProvider, o.Said); err != nil {
			return nil, err
		}
		rc.ExecProvider = c.plugin.provider
	}
	client, err := rest.HTTPClientFor(rc)
	if err != nil {
		return nil, unreadable(err, o.Kubeconfig)
	}
	if c.plugin != nil {
		client.Transport = retrying{client.Transport, c.plugin}
	}
	client.Transport = tracing{client.Transport, o.Log}
	c.http = client
	if c.client, err = kubernetes.NewForConfigAndClient(rc, client); err != nil {
		return nil, unreadable(err, o.Kubeconfig)
	}
	return c, nil
}

// silenceClient silences client-go's own log, which is the process's and would go to standard error, where an editor shows it.
// What it says that matters comes back as an error, too. Setting it twice would race with who logs.
var silenceClient = sync.OnceFunc(func() { klog.SetSlogLogger(slog.New(slog.DiscardHandler)) })

// loading says which files are read: one that was named, or what kubectl would read.
func loading(file string) (*clientcmd.ClientConfigLoadingRules, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.WarnIfAllMissing = false
	rules.Warner = func(error) {}
	if file == "" {
		return rules, nil
	}
	if rest, ok := strings.CutPrefix(file, "~/"); ok {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, fail.Wrap(fail.ClusterConfig, err, "write an absolute path", "the kubeconfig %s cannot be found", file)
		}
		file = filepath.Join(home, rest)
	}
	rules.ExplicitPath = file
	return rules, nil
}

// unreadable says in one sentence why there is no configuration.
func unreadable(err error, file string) error {
	where := "the kubeconfig"
	if file != "" {
		where += " " + file
	} else if list := os.Getenv("KUBECONFIG"); list != "" {
		where += " (KUBECONFIG=" + list + ")"
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail.New(fail.ClusterConfig, clusterHint, "%s does not exist", where)
	case clientcmd.IsEmptyConfig(err) && file == "":
		return fail.New(fail.ClusterConfig, clusterHint, "there is no kubeconfig: %s names no cluster", files())
	case clientcmd.IsEmptyConfig(err):
		return fail.New(fail.ClusterConfig, "kubectl config view --kubeconfig "+file, "%s names no cluster", where)
	}
	return fail.Wrap(fail.ClusterConfig, err, "kubectl config view", "%s cannot be used", where)
}

// files are where a kubeconfig was looked for.
func files() string {
	if list := os.Getenv("KUBECONFIG"); list != "" {
		return "KUBECONFIG=" + list
	}
	return clientcmd.RecommendedHomeFile
}

// knownContext refuses a context that does not exist or leads nowhere; client-go would say "context was not found" and
// no more.
func knownContext(raw *clientcmdapi.Config, name string, asked bool) error {
	names := slices.Sorted(maps.Keys(raw.Contexts))
	if name == "" {
		if len(names) == 0 {
			return nil // perhaps a pod's own account
		}
		return fail.New(fail.ClusterContext, `write "context": one of `+offer(names),
			"the kubeconfig has no current context")
	}
	found := raw.Contexts[name]
	if found == nil {
		if !asked && len(names) == 0 {
			return fail.New(fail.ClusterConfig, clusterHint, "the kubeconfig's current context %q does not exist", name)
		}
		near, what := config.Nearest(name, names), ""
		if near != "" {
			what = "; did you mean \"" + near + "\"?"
		}
		return fail.New(fail.ClusterContext, "the contexts are "+offer(names), "the kubeconfig has no context %q%s", name, what)
	}
	if raw.Clusters[found.Cluster] == nil {
		return fail.New(fail.ClusterConfig, "kubectl config view", "the kubeconfig's context %q names the cluster %q, which is not in it", name, found.Cluster)
	}
	return nil
}

// mostOffered bounds a list of names in a hint: a person reads a dozen.
const mostOffered = 12

// offer lists names for a hint.
func offer(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	if len(names) > mostOffered {
		return strings.Join(names[:mostOffered], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}
