// Command bench is package bench's command line, called by the recipe through .ci/bench. It must never hold more than
// the reading of its flags.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/runtime"

	"github.com/stepin-dev/stepin/pkg/e2e/bench"
)

const usage = `usage: bench [FLAG...] [ROW...]
  A ROW is a name or a pattern, as in 'stolen-*'; with a round trip added '*@50ms', with and without 'f5-warm@*'. Without any
  all rows are measured.
`

func main() {
	o := bench.Options{Out: os.Stdout, Log: os.Stderr}
	flag.StringVar(&o.Break, "break", "", "slow stepin's side of this row on purpose, to see it reported")
	flag.IntVar(&o.Rounds, "rounds", 0, "rounds of each row (default 5, with a round trip added 3)")
	flag.DurationVar(&o.Slice, "slice", time.Second, "how long each side of a round is asked")
	flag.StringVar(&o.Raw, "raw", os.TempDir(), "folder for the file of raw rows")
	list := flag.Bool("list", false, "print the rows' names and end")
	flag.Usage = func() {
		fmt.Fprint(os.Stderr, usage)
		flag.PrintDefaults()
	}
	flag.Parse()
	o.Rows = flag.Args()
	if *list {
		for _, r := range bench.Rows() {
			fmt.Printf("%-16s %s\n", r.Name, r.What)
		}
		return
	}
	runtime.ErrorHandlers = nil // client-go's port-forward prints its own end to standard error
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := bench.Run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
