// Command cluster is the test cluster's command line, called by the recipes through .ci/cluster. It must never hold
// more than the choice of the command.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/stepin-dev/stepin/pkg/e2e/cluster"
	"github.com/stepin-dev/stepin/pkg/e2e/node"
)

const usage = `usage: cluster [--source DIR] COMMAND
  up                  start the cluster, or mend it
  down                end it and remove all that it has left
  running             exit status 0 if there is a node
  build               build and cache the Kubernetes binary, if it is not cached, and no more
  image [ARCHIVE...]  build the tests' images anew, or import these OCI archives
  kubeconfig          print the path of the administrator's kubeconfig
  kubectl ARGUMENT... the cluster's own kubectl, as administrator
`

// errNotRunning is an answer, not a mishap.
var errNotRunning = errors.New("no cluster is running")

func main() {
	source := flag.String("source", ".", "the folder pkg/e2e")
	flag.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *source, flag.Args())
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
		flag.Usage()
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, source string, args []string) error {
	if len(args) == 0 {
		return flag.ErrHelp
	}
	c, err := cluster.At(source, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return err
	}
	switch args[0] {
	case "node": // hidden: what Up starts
		if len(args) != 2 {
			return flag.ErrHelp
		}
		return node.Main(args[1])
	case "up":
		if err := c.Up(ctx); err != nil {
			return err
		}
		fmt.Printf("export KUBECONFIG=%s\n", c.Kubeconfig())
		return nil
	case "down":
		return c.Down(ctx)
	case "running":
		pid, err := c.Pid()
		if err == nil && pid == 0 {
			err = errNotRunning
		}
		return err
	case "build":
		return c.Build(ctx)
	case "image":
		return c.Images(ctx, args[1:]...)
	case "kubeconfig":
		fmt.Println(c.Kubeconfig())
		return nil
	case "kubectl":
		if err := os.Setenv("KUBECONFIG", c.Kubeconfig()); err != nil {
			return err
		}
		return syscall.Exec(c.Kubectl(), append([]string{"kubectl"}, args[1:]...), os.Environ())
	}
	return flag.ErrHelp
}
